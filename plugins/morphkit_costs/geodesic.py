"""The bridge cost with distances along the data instead of straight ones."""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.sparse.csgraph import dijkstra

from morphkit.checks import Count, Metric, NonNegative, Positive
from morphkit.interfaces import FusedCost
from morphkit.transport.geometry import BridgeGeometry, ask_bridges
from morphkit.types import Cloud, PairedData

from .graphs import capped, distance, heat, neighbour_graph


class GeodesicBridgeCost(FusedCost):
    """Eq. 6 with shortest paths through the k-nearest-neighbour graph of each space.

    c_ij = min over the pairs p of d_X(x_i, x_p) + d_Y(y_p, y_j), where d is the length of the
    shortest path over the edges of the graph, or with `squared` its square, divided by its mean
    over all points and pairs (where no path leads, the longest counts). Unpaired points so carry
    information along the manifold. Only the distances from paired points enter: l runs of
    Dijkstra's algorithm a side, O(l n log n), and O((n + m) l) memory. Points that no pair joins
    cost no less than any that are joined, and alike, see `graphs.capped`.

    An edge is as long as the Euclidean distance of its ends to the `power`: 1 gives geodesics as
    in Isomap (Tenenbaum et al. 2000), 2 the edges of Eq. 14; the larger, the more a path is
    drawn through dense regions (Fermat distances, Groisman et al. 2022). `k` is the number of
    neighbours; `metric_x` and `metric_y` say where edges are measured, see
    `graphs.neighbour_graph`. Not in the paper.

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
        """The two factors; see `FusedCost.prepare`. Raises ValueError for a side of one point,
        RuntimeError where heat does not converge, MemoryError where there is none for the factors,
        which are found in float64."""
        ask_bridges((data.x.size, data.y.size), data.pairs.size, arrays=5)
        a = self._factor(data.x, data.pairs.source, self.metric_x)
        b = self._factor(data.y, data.pairs.target, self.metric_y)
        return BridgeGeometry(*capped(a, b))

    def _factor(
        self, cloud: Cloud, paired: Int[Array, " l"], metric: str
    ) -> Float[np.ndarray, "n l"]:
        """d to the paired points, infinite where no path leads."""
        graph = neighbour_graph(cloud, self.k, metric)
        if self.time > 0:
            graph.data = np.exp(-((graph.data / np.median(graph.data)) ** 2))
            graph.data /= graph.data.mean()
            return distance(heat(graph, np.asarray(paired), self.time))
        graph.data **= self.power
        sources, column_of = np.unique(np.asarray(paired), return_inverse=True)
        paths = dijkstra(graph, indices=sources).T[:, column_of]
        if self.squared:
            paths = paths**2
        finite = np.isfinite(paths)
        return paths / np.where(finite, paths, paths[finite].max()).mean()
