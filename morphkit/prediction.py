"""Predictions in blocks of fixed sizes: two programs serve any number of points and draws."""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Scalar, UInt32

from .devices import gathered, shared_out
from .interfaces import LatentMap, VelocityField
from .training.scaling import Scaling
from .transport.memory import ask_memory, empty

LARGE, SMALL = 1024, 16
"""The sizes of a block: the larger fits a core's cache, the smaller is for what would leave three
quarters of the larger one empty."""

GROUP = 4 * LARGE
"""Draws that are held at once, all those of a point among them, where they are reduced."""

EXPECTED = 8
"""Points of noise, each with its opposite, that an expected value is averaged over."""

Reduce = Literal["mean", "medoid", "std", "expected"] | None


def predict(
    field: VelocityField,
    scaling: Scaling,
    noise_scale: float,
    base: LatentMap | None,
    x: Float[np.ndarray, "n p"],
    *,
    key: PRNGKeyArray,
    draws: int,
    reduce: Reduce,
    steps: int,
) -> Float[Array, "n q"] | Float[Array, "draws n q"]:
    """What `Morph.__call__` predicts for `x` (n, p), finite; `key`, `draws`, `reduce` and `steps`
    are its own, `field`, `scaling`, `noise_scale` and `base` the morph's. Raises MemoryError where
    there is none for the predictions."""
    n, q = len(x), field.target_dim
    shape = (n, q) if reduce else (draws, n, q)
    less = "predict fewer points at a time"
    ask_memory(
        f"a prediction of shape {shape if draws > 1 else (n, q)}",
        4 * math.prod(shape) + 4 * 3 * max(GROUP, draws) * q,
        less if reduce or draws == 1 else f"{less}, or reduce their draws",
    )
    found = empty(shape)
    at_once = max(1, GROUP // draws)
    for start in range(0, n, at_once):
        rows = np.arange(start, min(start + at_once, n), dtype=np.uint32)
        draw = np.repeat(np.arange(draws, dtype=np.uint32), len(rows))
        row = np.tile(rows, draws)
        blocks = [
            _expected(field, scaling, noise_scale, x[row[k]], key, draw[k], row[k])
            if reduce == "expected"
            else _integrate(field, scaling, noise_scale, x[row[k]], key, draw[k], row[k], steps)[
                :, 0
            ]
            for k in _blocks(len(row))
        ]
        y = np.concatenate([np.asarray(block) for block in blocks])[: len(row)]
        part = found[..., start : start + at_once, :]
        part[:] = REDUCTIONS[reduce](y.reshape(draws, len(rows), q))
        if base is not None and reduce != "std":
            # The same for all draws of a row, so every reduction moves along with it.
            part += np.concatenate(
                [np.asarray(base(jnp.asarray(x[rows[k]]))) for k in _blocks(len(rows))]
            )[: len(rows)]
    return jax.device_put(found if reduce or draws > 1 else found[0])


def path(
    field: VelocityField,
    scaling: Scaling,
    noise_scale: float,
    base: LatentMap | None,
    x: Float[np.ndarray, "n p"],
    times: tuple[float, ...],
    *,
    key: PRNGKeyArray,
    steps: int,
) -> Float[Array, "k n q"]:
    """What `Morph.path` says of `x` (n, p) at `times`; `field`, `scaling`, `noise_scale`, `base`,
    `key` and `steps` are those of `predict`. The noise is that of its first draw."""
    found = np.empty((len(times), len(x), field.target_dim), np.float32)
    rows = np.arange(len(x), dtype=np.uint32)
    for k in _blocks(len(x)):
        first = np.zeros(len(k), np.uint32)
        block = _integrate(field, scaling, noise_scale, x[k], key, first, rows[k], steps, times)
        found[:, k] = np.moveaxis(np.asarray(block), 1, 0)
        if base is not None:
            found[:, k] += np.asarray(base(jnp.asarray(x[k])))
    return jax.device_put(found)


def _blocks(count: int) -> Iterator[np.ndarray]:
    """0 … count - 1 in blocks of the two sizes; the end of the last says count - 1 once more."""
    start = 0
    while start < count:
        size = LARGE if count - start > LARGE // 4 else SMALL
        yield np.minimum(np.arange(start, start + size), count - 1)
        start += size


@eqx.filter_jit
def _integrate(
    field: VelocityField,
    scaling: Scaling,
    noise_scale: float,
    x: Float[Array | np.ndarray, "b p"],
    key: PRNGKeyArray,
    draw: UInt32[Array | np.ndarray, " b"],
    row: UInt32[Array | np.ndarray, " b"],
    steps: int,
    times: tuple[float, ...] = (),
) -> Float[Array, "b k q"]:
    """ODESolve of Eq. 12 from the noise of each draw for each row: its end, or what it is at
    `times`."""

    def velocity(t: Scalar, y: Float[Array, " q"], x: Float[Array, " p"]) -> Float[Array, " q"]:
        return field(t, y, x)

    def solve(x: Array, draw: Array, row: Array) -> Float[Array, "k q"]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),  # pyright: ignore[reportArgumentType]
            diffrax.Midpoint(),
            0.0,
            1.0,
            dt0=1 / steps,
            y0=noise_scale * _noise(key, draw, row, field.target_dim),
            args=x,
            saveat=diffrax.SaveAt(ts=jnp.asarray(times)) if times else diffrax.SaveAt(t1=True),
        )
        assert solution.ys is not None
        return solution.ys

    each = shared_out((scaling.x(jnp.asarray(x)), jnp.asarray(draw), jnp.asarray(row)))
    return gathered(scaling.y_inverse(jax.vmap(solve)(*each)))


@eqx.filter_jit
def _expected(
    field: VelocityField,
    scaling: Scaling,
    noise_scale: float,
    x: Float[Array | np.ndarray, "b p"],
    key: PRNGKeyArray,
    draw: UInt32[Array | np.ndarray, " b"],
    row: UInt32[Array | np.ndarray, " b"],
) -> Float[Array, "b q"]:
    """E[y | x] = z + v(0, z, x): at t = 0 the velocity that minimises Eq. 4 is E[y - z | z, x], and
    z says nothing of y. Of z and -z the mean: what v has not learned of that is linear, mostly."""

    def one(x: Array, draw: Array, row: Array) -> Float[Array, " q"]:
        z = noise_scale * _noise(key, draw, row, field.target_dim)
        return (field(jnp.zeros(()), z, x) + field(jnp.zeros(()), -z, x)) / 2

    each = shared_out((scaling.x(jnp.asarray(x)), jnp.asarray(draw), jnp.asarray(row)))
    return gathered(scaling.y_inverse(jax.vmap(one)(*each)))


def _noise(key: PRNGKeyArray, draw: Array, row: Array, dim: int) -> Float[Array, " q"]:
    return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, draw), row), (dim,))


def _medoid(y: Float[np.ndarray, "draws n q"]) -> Float[np.ndarray, "n q"]:
    apart = np.stack([np.linalg.norm(y - draw, axis=-1).sum(0) for draw in y])
    return y[apart.argmin(0), np.arange(y.shape[1])]


REDUCTIONS: dict[Reduce, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda y: y.mean(0), "medoid": _medoid, None: lambda y: y,
    "expected": lambda y: y.mean(0), "std": lambda y: y.std(0, ddof=1),
}  # fmt: skip
