"""The inter-modal bridge cost (Sec. 3.3)."""

import logging
from functools import partial
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

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
        x, y = bridges(data.pairs)
        ask_bridges((data.x.size, data.y.size), x.size, arrays=ARRAYS)
        return BridgeGeometry(
            self._factor("source", data.x, self.metric_x, x),
            self._factor("target", data.y, self.metric_y, y),
            unit="median" if self.unit == "median" else "mean",
        )

    def _factor(self, side: str, cloud: Cloud, metric: str, ends: "Ends") -> Float[Array, "n l"]:
        points = cloud.points if self.unit == "none" else near_one(cloud.points)
        factor = nearest(metric, points, ends.point, ends.bridge, size=ends.size)
        if self.unit == "none":
            return factor
        space = PointGeometry(points, points, metric, unit=self.unit)
        weights = cloud.weights, cloud.weights
        if self.unit == "mean" and space.outlying(*weights):
            logger.warning(
                f"the mean {metric} cost between {side} points is above 95 % of these costs: a few "
                "points far from all others set its unit, beside which the rest seem to coincide; "
                "leave them out, or set BridgeCost.unit = 'median'"
            )
        return factor / space.scale(*weights)


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
    point: Int[Array, " k"],
    bridge: Int[Array, " k"],
    *,
    size: int,
) -> Float[Array, "n size"]:
    """The intra-space cost `metric` of all `points` to the nearest end of each of `size` bridges.

    End k is points[`point`[k]], of bridge `bridge`[k]. In blocks: there may be far more ends than
    bridges.
    """
    step = min(len(point), max(1, BLOCK // len(points)))
    blocks = -(-len(point) // step)

    def fold(k: Array, best: Float[Array, "size n"]) -> Float[Array, "size n"]:
        ends = jnp.minimum(k * step + jnp.arange(step), len(point) - 1)  # the last may come again
        costs = pairwise(metric, points, points[point[ends]])
        # A point is at distance 0 from itself, which rounding would miss.
        costs = costs.at[point[ends], jnp.arange(step)].set(0)
        return best.at[bridge[ends]].min(costs.T)

    furthest = jnp.full((size, len(points)), jnp.inf, points.dtype)
    return jax.lax.fori_loop(0, blocks, fold, furthest).T
