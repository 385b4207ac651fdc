"""Retrieval: which targets a source point may go with, and which source points a target."""

from collections.abc import Iterator
from typing import NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..interfaces import LatentMap
from ..types import Cloud
from .collapse import Groups
from .entropic import BLOCK, EntropicMap, Reading
from .geometry import embed


class Matches(NamedTuple):
    """The best k rows of the other side for n points, best first: `rows` (n, k), and the
    probability of each given the point, `probability` (n, k)."""

    rows: Int[np.ndarray, "n k"]
    probability: Float[np.ndarray, "n k"]


class Matcher(eqx.Module):
    """How probable each of the `targets` (c, q) is for a source point.

    An `EntropicMap` as `map` says so itself, at the `temperature` T (`Reading`). Of any other the
    posterior is softmax(cos(ŷ - ȳ, y_j - ȳ) / T), ŷ being its point estimate and ȳ (q,) the
    `center` of the targets.
    `map` is None where it is the base of the morph that has the matcher. Targets are distinct;
    `rows` (c,) are the rows, of the cloud they were taken from, where each is first.
    """

    map: LatentMap | None
    targets: Float[Array, "c q"]
    rows: Int[Array, " c"]
    center: Float[Array, " q"]
    temperature: float = eqx.field(static=True, default=1.0)

    @classmethod
    def of(cls, map: LatentMap | None, targets: Cloud, temperature: float = 1.0) -> Self:
        """The matcher by `map`, at `temperature`, among the points of `targets`."""
        distinct, groups = Groups.of(targets)
        rows = groups.order[groups.start[:-1]]
        return cls(map, distinct.points, rows, distinct.weights @ distinct.points, temperature)

    def log_posterior(self, x: Float[Array | np.ndarray, "n p"]) -> Float[Array, "n c"]:
        """log π(y_j | x) for source points `x` (n, p), as a dense array."""
        assert self.map is not None
        if isinstance(self.map, EntropicMap):
            return Reading(temperature=self.temperature).of(self.map).log_conditional(x)
        given = self.map.expected(jnp.asarray(x, jnp.float32))
        return jax.nn.log_softmax(cosines(given, self.targets, self.center) / self.temperature, 1)

    def match(
        self, x: Float[Array | np.ndarray, "n p"], k: int = 1, *, reverse: bool = False
    ) -> Matches:
        """The `k` most probable targets of every source point of `x` (n, p), by their rows.

        In `reverse`, the k rows of `x` most probable for every target, in the order of `rows`: by
        π(y_j | x_i), each x_i having the same weight. Raises ValueError for a `k` that is not from
        1 to the number of candidates.
        """
        most, what = (len(x), "rows of x") if reverse else (len(self.targets), "distinct targets")
        if not 1 <= k <= most:
            raise ValueError(f"k = {k} must be from 1 to {most}, the number of {what}")
        size = max(1, BLOCK // len(self.targets))
        blocks = (x[start : start + size] for start in range(0, max(len(x), 1), size))
        if not reverse:
            found = [jax.lax.top_k(self.log_posterior(block), k) for block in blocks]
            log, best = (np.concatenate([np.asarray(f[a]) for f in found]) for a in (0, 1))
            return Matches(np.asarray(self.rows)[best], np.exp(log))
        return _best_rows((self.log_posterior(block).T for block in blocks), k)


def _best_rows(blocks: Iterator[Float[Array, "c b"]], k: int) -> Matches:
    first = next(blocks)
    log, rows = jax.lax.top_k(first, min(k, first.shape[1]))
    total, start = jax.nn.logsumexp(first, axis=1), first.shape[1]
    for block in blocks:
        value, index = jax.lax.top_k(block, min(k, block.shape[1]))
        value, index = jnp.concatenate([log, value], 1), jnp.concatenate([rows, index + start], 1)
        log, place = jax.lax.top_k(value, min(k, value.shape[1]))
        rows = jnp.take_along_axis(index, place, 1)
        total, start = jnp.logaddexp(total, jax.nn.logsumexp(block, axis=1)), start + block.shape[1]
    return Matches(np.asarray(rows), np.asarray(jnp.exp(log - total[:, None])))


def cosines(
    points: Float[Array, "n q"], targets: Float[Array, "c q"], center: Float[Array, " q"]
) -> Float[Array, "n c"]:
    """cos(ŷ - `center`, y - `center`) of `points` ŷ and `targets` y."""
    return embed("cosine", points - center) @ embed("cosine", targets - center).T
