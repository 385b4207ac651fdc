"""The ends of bridges, and how far every point is from the nearest of each."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Scalar

from morphkit.transport.geometry import near_one, pairwise
from morphkit.transport.half import Factor, Half, over_rows
from morphkit.types import Pairs

BLOCK = 2**24
"""Intra-space costs that are computed at once."""

ROWS = 4096
"""Points whose costs to all bridges are computed at once."""


class Ends(NamedTuple):
    """One side of `size` bridges: end k is the point `point`[k], of the bridge `bridge`[k], bridge
    by bridge."""

    point: Int[Array, " k"]
    bridge: Int[Array, " k"]
    size: int

    def some(self, most: int) -> "Ends":
        """At most `most` ends of each bridge, drawn at random and the same each time."""
        bridge = np.asarray(self.bridge)
        chance = np.random.default_rng(0).random(len(bridge))
        order = np.lexsort((chance, bridge))
        rank = np.arange(len(bridge)) - np.searchsorted(bridge[order], bridge[order])
        kept = np.sort(order[rank < most])
        return self._replace(point=self.point[kept], bridge=self.bridge[kept])


def bridges(pairs: Pairs) -> tuple[Ends, Ends]:
    """The `pairs`, source and target side, with those that share a point as one bridge.

    A pair goes with all others of its source or of its target, whichever has more. A bridge so
    has a single point on one side, and Eq. 6's minimum over its pairs is the minimum over the
    points on the other.
    """
    source, target = np.asarray(pairs.source), np.asarray(pairs.target)
    at_target = np.bincount(target)[target] >= np.bincount(source)[source]
    shared, bridge = np.unique(np.where(at_target, target, -1 - source), return_inverse=True)

    def ends(points: Int[np.ndarray, " l"]) -> Ends:
        bridge_of, point = np.unique(np.stack([bridge, points]), axis=1)
        return Ends(jnp.asarray(point), jnp.asarray(bridge_of), len(shared))

    return ends(source), ends(target)


class Known(NamedTuple):
    """Ends as points: end k is `points`[k] (k, d), of the bridge `bridge`[k] of `size`. Equal
    numbers in `same`, of the points that are asked about and of the ends, are the same point."""

    points: Float[Array, "k d"]
    bridge: Int[Array, " k"]
    same: tuple[Int[Array, " n"], Int[Array, " k"]]


@partial(jax.jit, static_argnames=("metric", "size", "half"))
def nearest(
    metric: str,
    points: Float[Array, "n d"],
    known: Known,
    largest: Scalar,
    unit: Scalar,
    own: tuple[Int[Array, " l"], Int[Array, " l"]] | None,
    *,
    size: int,
    half: bool = False,
) -> Factor:
    """The intra-space cost `metric`, over its `unit`, of all `points` (n, d) to the nearest of the
    `known` ends of each of `size` bridges; 0 from point own[0][k] to bridge own[1][k], where `own`
    is given.

    Points, not the ends, are divided as `near_one` divides what has `largest` as its largest entry.
    With `half` in half precision. By blocks of points, and of ends, of which there may be far more
    than bridges.
    """
    n, ends = len(points), len(known.points)
    rows = min(n, ROWS)
    step = min(ends, max(1, BLOCK // rows))

    def block(start: Array) -> Float[Array, "rows size"]:
        some = near_one(jax.lax.dynamic_slice_in_dim(points, start, rows), largest)
        same = jax.lax.dynamic_slice_in_dim(known.same[0], start, rows)

        def fold(k: Array, best: Float[Array, "size rows"]) -> Float[Array, "size rows"]:
            these = jnp.minimum(k * step + jnp.arange(step), ends - 1)  # the last may come again
            costs = pairwise(metric, some, known.points[these])
            # A point is at distance 0 from itself, which rounding would miss.
            costs = jnp.where(same[:, None] == known.same[1][these], 0, costs)
            return best.at[known.bridge[these]].min(costs.T)

        furthest = jnp.full((size, rows), jnp.inf, points.dtype)
        found = jax.lax.fori_loop(0, -(-ends // step), fold, furthest)
        if own is not None:
            here = jnp.where((own[0] >= start) & (own[0] < start + rows), own[0] - start, rows)
            found = found.at[own[1], here].set(0, mode="drop")
        return found.T / unit

    def fill(start: Array, new: Array, filled: Factor) -> Factor:
        costs = block(start)
        part = Half.of(costs) if half else costs

        def put(whole: Array, part: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(whole, part, start, 0)

        return jax.tree.map(put, filled, part)

    empty = jnp.zeros((n, size), jnp.float16 if half else points.dtype)
    filled = Half(jnp.zeros(n, points.dtype), empty) if half else empty
    return over_rows(fill, n, rows, filled)
