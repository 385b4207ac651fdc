"""The inter-modal bridge cost (Sec. 3.3)."""

import logging
from functools import partial
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Scalar

from morphkit.checks import Metric
from morphkit.interfaces import FusedCost
from morphkit.transport.geometry import (
    BridgeGeometry,
    PointGeometry,
    ask_bridges,
    near_one,
    pairwise,
)
from morphkit.types import Cloud, PairedData, Pairs

from .entry import Entry, FittedBridge

logger = logging.getLogger("morphkit")

BLOCK = 2**24
"""Intra-space costs that are computed at once."""

ARRAYS = 2
"""How often the factors are held at once: a side is transposed, and divided by its unit."""


class BridgeCost(FusedCost):
    """The cheapest way from x_i to y_j over a known pair (Eq. 6).

    c_ij = 0 for a known pair, else min over the pairs p of c_X(x_i, x_p) + c_Y(y_p, y_j).

    `metric_x` and `metric_y` are the intra-space costs: "cosine" (the paper's choice),
    "sqeuclidean" or "correlation" (Eq. 27). Each is divided by its `unit` first, so that the units
    of the features do not matter: its "mean" over all points x all points under their weights
    (App. H.4), its "median", which a few far points do not move, or "none". Solvers divide
    the sum again, by its median where that is the unit, else by its mean.

    Pairs that share a point are one bridge, exactly: 64,000 images of 1,000 classes, given as
    pairs, are 1,000 bridges. Memory is O((n + m) bridges), time O((n + m) l).
    """

    metric_x: Metric = eqx.field(static=True, default="cosine")
    metric_y: Metric = eqx.field(static=True, default="cosine")
    unit: Literal["mean", "median", "none"] = eqx.field(static=True, default="mean")

    def prepare(self, data: PairedData) -> BridgeGeometry:
        """The two factors. Warns where a few far points set the unit of a side; raises MemoryError
        where there is none for them."""
        return self.fit(data).geometry

    def fit(self, data: PairedData) -> FittedBridge[BridgeGeometry]:
        """See `FusedCost.fit`; warns and raises as `prepare` does. New points are in the unit of
        the cloud."""
        x, y = bridges(data.pairs)
        ask_bridges((data.x.size, data.y.size), x.size, arrays=ARRAYS)
        a, entry = self._factor("source", data.x, self.metric_x, x)
        b, _ = self._factor("target", data.y, self.metric_y, y)
        unit = "median" if self.unit == "median" else "mean"
        return FittedBridge(BridgeGeometry(a, b, unit=unit), entry)

    def _factor(
        self, side: str, cloud: Cloud, metric: str, ends: "Ends"
    ) -> tuple[Float[Array, "n l"], "ToEnds"]:
        """The costs to the nearest end of each bridge, and the entry of new points."""
        one = jnp.ones((), cloud.points.dtype)
        size = one if self.unit == "none" else jnp.abs(cloud.points).max(initial=0)
        points = near_one(cloud.points, size)
        known, of = points[ends.point], (jnp.arange(len(points)), ends.point)
        factor = nearest(metric, points, known, of, ends.bridge, size=ends.size)
        unit = one if self.unit == "none" else self._unit(side, points, cloud, metric)
        entry = ToEnds(metric, known, ends.bridge, ends.size, size, unit)
        return factor / unit, entry

    def _unit(self, side: str, points: Float[Array, "n d"], cloud: Cloud, metric: str) -> Scalar:
        assert self.unit != "none"
        space = PointGeometry(points, points, metric, unit=self.unit)
        weights = cloud.weights, cloud.weights
        if self.unit == "mean" and space.outlying(*weights):
            logger.warning(
                f"the mean {metric} cost between {side} points is above 95 % of these costs: a few "
                "points far from all others set its unit, beside which the rest seem to coincide; "
                "leave them out, or set BridgeCost.unit = 'median'"
            )
        return space.scale(*weights)


class ToEnds(Entry):
    """The intra-space cost `metric` to the nearest end of each of `size` bridges.

    End k is `ends`[k] (k, p), of the bridge `bridge`[k]. Points are as large as those of a cloud
    whose largest entry was `largest` are after `near_one`, and costs are divided by `unit`.
    """

    metric: str = eqx.field(static=True)
    ends: Float[Array, "k p"]
    bridge: Int[Array, " k"]
    size: int = eqx.field(static=True)
    largest: Scalar
    unit: Scalar

    def __call__(self, x: Float[np.ndarray, "r p"]) -> Float[Array, "r l"]:
        points = near_one(jnp.asarray(x, jnp.float32), self.largest)
        both = np.concatenate([points, self.ends])
        same = np.unique(both, axis=0, return_inverse=True)[1].ravel()
        of = jnp.asarray(same[: len(points)]), jnp.asarray(same[len(points) :])
        return nearest(self.metric, points, self.ends, of, self.bridge, size=self.size) / self.unit


class Ends(NamedTuple):
    """One side of `size` bridges: end k is the point `point`[k], of the bridge `bridge`[k], bridge
    by bridge."""

    point: Int[Array, " k"]
    bridge: Int[Array, " k"]
    size: int


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


@partial(jax.jit, static_argnames=("metric", "size"))
def nearest(
    metric: str,
    points: Float[Array, "n d"],
    ends: Float[Array, "k d"],
    same: tuple[Int[Array, " n"], Int[Array, " k"]],
    bridge: Int[Array, " k"],
    *,
    size: int,
) -> Float[Array, "n size"]:
    """The intra-space cost `metric` of all `points` to the nearest end of each of `size` bridges.

    End k is `ends`[k], of bridge `bridge`[k]. Points and ends of equal numbers in `same` are the
    same. In blocks: there may be far more ends than bridges.
    """
    step = min(len(ends), max(1, BLOCK // max(1, len(points))))
    blocks = -(-len(ends) // step)

    def fold(k: Array, best: Float[Array, "size n"]) -> Float[Array, "size n"]:
        these = jnp.minimum(k * step + jnp.arange(step), len(ends) - 1)  # the last may come again
        costs = pairwise(metric, points, ends[these])
        # A point is at distance 0 from itself, which rounding would miss.
        costs = jnp.where(same[0][:, None] == same[1][these], 0, costs)
        return best.at[bridge[these]].min(costs.T)

    furthest = jnp.full((size, len(points)), jnp.inf, points.dtype)
    return jax.lax.fori_loop(0, blocks, fold, furthest).T
