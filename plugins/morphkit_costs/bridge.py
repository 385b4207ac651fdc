"""The inter-modal bridge cost (Sec. 3.3)."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from morphkit.checks import Metric
from morphkit.interfaces import FusedCost
from morphkit.transport.geometry import BridgeGeometry, pairwise
from morphkit.types import PairedData


class BridgeCost(FusedCost):
    """The cheapest way from x_i to y_j over a known pair (Eq. 6).

    c_ij = 0 for a known pair, else min over the pairs p of c_X(x_i, x_p) + c_Y(y_p, y_j).

    `metric_x` and `metric_y` are the intra-space costs: "cosine" (the paper's choice),
    "sqeuclidean" or "correlation" (Eq. 27).
    """

    metric_x: Metric = eqx.field(static=True, default="cosine")
    metric_y: Metric = eqx.field(static=True, default="cosine")

    def prepare(self, data: PairedData) -> BridgeGeometry:
        """The two factors, O((n + m) l) time and memory."""
        return BridgeGeometry(
            _distances(self.metric_x, data.x.points, data.pairs.source),
            _distances(self.metric_y, data.y.points, data.pairs.target),
        )


@eqx.filter_jit
def _distances(
    metric: str, points: Float[Array, "n d"], paired: Int[Array, " l"]
) -> Float[Array, "n l"]:
    distances = pairwise(metric, points, points[paired])
    # A point is at distance 0 from itself, which rounding would miss.
    return distances.at[paired, jnp.arange(len(paired))].set(0)
