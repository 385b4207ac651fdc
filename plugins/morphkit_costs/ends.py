"""The ends of bridges, and how far every point is from the nearest of each."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Scalar

from morphkit.devices import SPLIT, first_row, over_points
from morphkit.precision import in_full_precision
from morphkit.transport.geometry import factors, near_one
from morphkit.transport.half import Factor, Half, over_rows
from morphkit.types import Pairs

BLOCK = 2**24
"""Intra-space costs that are computed at once."""

ROWS = 4096
"""Points whose costs to all bridges are computed at once."""


class Ends(eqx.Module):
    """One side of `size` bridges: end k is the point `point`[k], of the bridge `bridge`[k], bridge
    by bridge."""

    point: Int[Array, " k"]
    bridge: Int[Array, " k"]
    size: int = eqx.field(static=True)

    def some(self, most: int) -> "Ends":
        """At most `most` ends of each bridge, drawn at random and the same each time."""
        bridge = np.asarray(self.bridge)
        chance = np.random.default_rng(0).random(len(bridge))
        order = np.lexsort((chance, bridge))
        rank = np.arange(len(bridge)) - np.searchsorted(bridge[order], bridge[order])
        kept = np.sort(order[rank < most])
        return Ends(self.point[kept], self.bridge[kept], self.size)


def bridges(pairs: Pairs) -> tuple[Ends, Ends]:
    """The `pairs`, source and target side, with those that share a point as one bridge.

    A pair goes with all others of its source or of its target, whichever has more. A bridge so
    has a single point on one side, and Eq. 6's minimum over its pairs is the minimum over the
    points on the other. Raises ValueError without pairs.
    """
    source, target = np.asarray(pairs.source), np.asarray(pairs.target)
    if len(source) == 0:
        raise ValueError("data.pairs is empty, and a bridge is a known pair; give at least one")
    at_target = np.bincount(target)[target] >= np.bincount(source)[source]
    shared, bridge = np.unique(np.where(at_target, target, -1 - source), return_inverse=True)

    def ends(points: Int[np.ndarray, " l"]) -> Ends:
        bridge_of, point = np.unique(np.stack([bridge, points]), axis=1)
        return Ends(jnp.asarray(point), jnp.asarray(bridge_of), len(shared))

    return ends(source), ends(target)


@partial(jax.jit, static_argnames=("metric", "half"))
@in_full_precision
def nearest(
    metric: str,
    points: Float[Array, "n d"],
    known: Float[Array, "k d"],
    ends: Ends,
    zero: tuple[Int[Array, " z"], Int[Array, " z"]],
    largest: Scalar,
    unit: Scalar,
    *,
    half: bool = False,
) -> Factor:
    """The intra-space cost `metric`, over its `unit`, of all `points` (n, d) to the nearest of the
    ends of each bridge, and 0 from point i_z to bridge p_z, (i, p) being `zero`: a point is at
    distance 0 from itself, which rounding would miss.

    End k of `ends` is `known`[k] (k, d). Points, not these, are divided as `near_one` divides what
    has `largest` as its largest entry. With `half` in half precision. By blocks of points, and of
    ends, of which there may be far more than bridges.
    """
    if len(points) == 0:
        return jnp.zeros((0, ends.size), points.dtype)

    def part(
        points: Array, known: Array, ends: Ends, zero: Any, largest: Array, unit: Array
    ) -> Factor:
        # Of one device's points; what is not an argument would stay on another mesh.
        n, count = len(points), len(known)
        zeros = zero[0] - first_row(n)
        rows = min(n, ROWS)
        step = min(count, max(1, BLOCK // rows))

        def block(start: Array) -> Float[Array, "rows size"]:
            some = near_one(jax.lax.dynamic_slice_in_dim(points, start, rows), largest)

            def fold(k: Array, best: Float[Array, "size rows"]) -> Float[Array, "size rows"]:
                # The last may come again.
                these = jnp.minimum(k * step + jnp.arange(step), count - 1)
                # Ends x points: a minimum over what is transposed takes thrice as long as that.
                left, right = factors(metric, some, known[these])
                return best.at[ends.bridge[these]].min(jnp.maximum(right @ left.T, 0))

            furthest = jnp.full((ends.size, rows), jnp.inf, points.dtype)
            found = jax.lax.fori_loop(0, -(-count // step), fold, furthest)
            here = jnp.where((zeros >= start) & (zeros < start + rows), zeros - start, rows)
            return found.at[zero[1], here].set(0, mode="drop").T / unit

        def fill(start: Array, new: Array, filled: Factor) -> Factor:
            costs = block(start)
            put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
            return jax.tree.map(put, filled, Half.of(costs) if half else costs)

        empty = jnp.zeros((n, ends.size), jnp.float16 if half else points.dtype)
        filled = Half(jnp.zeros(n, points.dtype), empty) if half else empty
        return over_rows(fill, n, rows, filled)

    out: Any = Half(SPLIT, SPLIT) if half else SPLIT  # pyright: ignore[reportArgumentType]
    return over_points(part, (points,), (known, ends, zero, largest, unit), out)
