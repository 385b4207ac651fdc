"""The bridge cost with distances along the data instead of straight ones."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.sparse.csgraph import dijkstra
from sklearn.metrics import pairwise_distances

from morphkit.checks import Count, Metric, NonNegative, Positive
from morphkit.interfaces import FusedCost
from morphkit.transport.geometry import BridgeGeometry, embed
from morphkit.types import Cloud, PairedData

from .graphs import heat, neighbour_graph, unit_mean


class GeodesicBridgeCost(FusedCost):
    """Eq. 6 with shortest paths through the k-nearest-neighbour graph of each space.

    c_ij = min over the pairs p of d_X(x_i, x_p) + d_Y(y_p, y_j), where d is the length of the
    shortest path over the edges of the graph, or with `squared` its square, divided by its mean
    over all points and pairs. Unpaired points so carry information along the manifold. Only the
    distances from paired points enter: l runs of Dijkstra's algorithm a side, O(l n log n), and
    O((n + m) l) memory. A point in another component than the paired one is put beyond all
    that can be reached, by its straight distance.

    An edge is as long as the Euclidean distance of its ends to the `power`: 1 gives geodesics as
    in Isomap (Tenenbaum et al. 2000), 2 the edges of Eq. 14; the larger, the more a path is
    drawn through dense regions (Fermat distances, Groisman et al. 2022). `metric_x` and
    `metric_y` say where edges are measured, see `neighbour_graph`. Not in the paper.

    With a `time` t > 0, d comes from heat instead (Crane et al. 2013), which takes all paths:
    d = -log ((I + t L)^-1)_ip, L the Laplacian of the graph with weights exp(-d²/median²) over
    their mean. The soft minimum of Eq. 6 at temperature 1 is then the heat that reaches y_j from
    x_i over all pairs, and its classes those of label propagation. Not divided by its mean,
    since e is its unit on both sides; `power` and `squared` have no part in it.
    """

    k: Count = eqx.field(static=True, default=15)
    power: Positive = eqx.field(static=True, default=2.0)
    squared: bool = eqx.field(static=True, default=False)
    time: NonNegative = eqx.field(static=True, default=0.0)
    metric_x: Metric = eqx.field(static=True, default="sqeuclidean")
    metric_y: Metric = eqx.field(static=True, default="sqeuclidean")

    def prepare(self, data: PairedData) -> BridgeGeometry:
        """The two factors; see `FusedCost.prepare`."""
        return BridgeGeometry(
            self._factor(data.x, data.pairs.source, self.metric_x),
            self._factor(data.y, data.pairs.target, self.metric_y),
        )

    def _factor(self, cloud: Cloud, paired: Int[Array, " l"], metric: str) -> Float[Array, "n l"]:
        graph = neighbour_graph(cloud, self.k, metric)
        if self.time > 0:
            graph.data = np.exp(-((graph.data / np.median(graph.data)) ** 2))
            graph.data /= graph.data.mean()
            reached = heat(graph, np.asarray(paired), self.time)
            # Nothing arrives from another component: as far as float32 can tell.
            return jnp.asarray(-np.log(np.maximum(reached, np.finfo(np.float32).tiny)), jnp.float32)
        sources, column_of = np.unique(np.asarray(paired), return_inverse=True)
        graph.data **= self.power
        paths = dijkstra(graph, directed=False, indices=sources).T
        apart = ~np.isfinite(paths)
        if apart.any():
            points = np.asarray(embed(metric, cloud.points), np.float64)
            straight = pairwise_distances(points, points[sources]) ** self.power
            paths = np.where(apart, paths[~apart].max() + straight, paths)
        paths = paths[:, column_of]
        return jnp.asarray(unit_mean(paths**2 if self.squared else paths), jnp.float32)
