"""The bridge cost with distances along the data instead of straight ones."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from scipy.sparse.csgraph import dijkstra

from morphkit.checks import Count, Metric, NonNegative, Positive
from morphkit.interfaces import FusedCost
from morphkit.transport.geometry import BridgeGeometry, ask_bridges
from morphkit.types import Cloud, PairedData

from .ends import Ends, bridges
from .entry import ByHeat, ByPath, Entry, FittedBridge
from .graphs import capped, distance, heat, neighbour_graph

UNIT_POINTS = 256
"""Paired points, at most, from which the mean path is taken: enough for a unit, where a side may
have as many paired points as points."""


class GeodesicBridgeCost(FusedCost):
    """Eq. 6 with shortest paths through the k-nearest-neighbour graph of each space.

    c_ij = min over the pairs p of d_X(x_i, x_p) + d_Y(y_p, y_j), where d is the length of the
    shortest path over the edges of the graph, or with `squared` its square, divided by its mean
    from the paired points (at most UNIT_POINTS of them) to all points, where no path leads the
    longest. Unpaired points so carry information along the manifold. Pairs that share a point are
    one bridge, exactly, see `bridge.bridges`: one run of Dijkstra's algorithm for each and side,
    O(bridges n log n), and O((n + m) bridges) memory. Points that no pair joins cost no less than
    any that are joined, and alike, see `graphs.capped`.

    An edge is as long as the Euclidean distance of its ends to the `power`: 1 gives geodesics as
    in Isomap (Tenenbaum et al. 2000), 2 the edges of Eq. 14; the larger, the more a path is
    drawn through dense regions (Fermat distances, Groisman et al. 2022). `k` is the number of
    neighbours; `metric_x` and `metric_y` say where edges are measured, see
    `graphs.neighbour_graph`. Not in the paper.

    With a `time` t > 0, d comes from heat instead (Crane et al. 2013), which takes all paths:
    d = -log ((I + t L)^-1)_ip, L the Laplacian of the graph with weights exp(-d²/median²) over
    their mean. The soft minimum of Eq. 6 at temperature 1 is then the heat that reaches y_j from
    x_i over all pairs, and its classes those of label propagation; a bridge has the heat of all its
    pairs. Not divided by its mean, since e is its unit on both sides; `power` and `squared` have
    no part in it. It takes a solve and a column of memory for each paired point.
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
        return self.fit(data).geometry

    def fit(self, data: PairedData) -> FittedBridge[BridgeGeometry]:
        """See `FusedCost.fit`; raises as `prepare` does. A new point enters the graph by its `k`
        nearest source points, see `ByPath` and `ByHeat`."""
        x, y = bridges(data.pairs)
        # Heat is first found from every end of a bridge, and the unit from some.
        ends = max(len(x.point), len(y.point))
        columns = ends if self.time > 0 else x.size + min(UNIT_POINTS, ends)
        ask_bridges((data.x.size, data.y.size), columns, arrays=5)
        a, entry = self._factor(data.x, x, self.metric_x)
        b, _ = self._factor(data.y, y, self.metric_y)
        prepared = BridgeGeometry(*capped(a, b))
        return FittedBridge(prepared, entry(factor=prepared.a))

    def _factor(
        self, cloud: Cloud, ends: Ends, metric: str
    ) -> tuple[Float[np.ndarray, "n l"], Callable[..., Entry]]:
        """d to the nearest end of each bridge, infinite where no path leads, and the entry of new
        points, but for that."""
        graph, neighbours = neighbour_graph(cloud, self.k, metric)
        points = np.asarray(ends.point)
        starts = np.searchsorted(ends.bridge, np.arange(ends.size))
        if self.time > 0:
            unit = float(np.median(graph.data) ** 2)
            graph.data = np.exp(-(graph.data**2) / unit)
            mean = float(graph.data.mean())
            graph.data /= mean
            warmth = np.add.reduceat(heat(graph, points, self.time), starts, axis=1)
            return distance(warmth), partial(ByHeat, neighbours, 2.0, unit, self.time / mean)
        graph.data **= self.power
        of_bridges = np.split(points, starts[1:])
        factor = np.column_stack([
            dijkstra(graph, indices=some, min_only=True) for some in of_bridges
        ])  # fmt: skip
        if self.squared:
            factor **= 2
        unit = self._unit(graph, np.unique(points))
        factor /= unit
        unit = unit**0.5 if self.squared else unit
        return factor, partial(ByPath, neighbours, self.power, unit, self.squared)

    def _unit(self, graph: sp.csr_array, paired: np.ndarray) -> float:
        chosen = np.linspace(0, len(paired) - 1, min(len(paired), UNIT_POINTS)).round().astype(int)
        paths = dijkstra(graph, indices=paired[chosen])
        paths = paths**2 if self.squared else paths
        finite = np.isfinite(paths)
        return float(np.where(finite, paths, paths.max(where=finite, initial=0)).mean())
