"""The k-nearest-neighbour cost (App. F)."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Float, Int, Scalar
from scipy.sparse.csgraph import dijkstra

from morphkit.checks import Count, NonNegative
from morphkit.interfaces import FusedCost
from morphkit.transport.geometry import BridgeGeometry, Geometry, ask_bridges, soft_row
from morphkit.types import Cloud, PairedData

from .entry import ByHeat, ByPath, Entry, FittedBridge
from .graphs import capped, distance, heat, neighbour_graph

BLOCK = 2**20
"""Costs by heat that are computed at once for their mean."""


class HeatGeometry(Geometry):
    """The cost of heat that crosses at the pairs, c_ij = -log Σ_p exp(-a_ip - b_jp), of `a` (n, l)
    and `b` (m, l): Eq. 6 with a soft minimum of temperature 1. O((n + m) l) memory, and n × m when
    asked."""

    a: Float[Array, "n l"]
    b: Float[Array, "m l"]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.a), len(self.b)

    def take(self, rows: Int[Array, " r"], cols: Int[Array, " c"]) -> "HeatGeometry":
        return HeatGeometry(self.a[rows], self.b[cols])

    def matrix(self) -> Float[Array, "n m"]:
        return jax.vmap(soft_row(self.b))(self.a)

    def mean(self, mu: Float[Array, " n"], nu: Float[Array, " m"]) -> Scalar:
        """By blocks of rows: no n × m numbers."""
        row, (n, m) = soft_row(self.b), self.shape
        block = max(1, min(n, BLOCK // m))
        return mu @ jax.lax.map(lambda a: row(a) @ nu, self.a, batch_size=block)


class KNNCost(FusedCost):
    """The shortest path from x_i to y_j in the k-nearest-neighbour graphs of both spaces, joined by
    the known pairs (Eq. 13-16).

    An edge of a graph is |x_i - x_j|² long (Eq. 14), or 1 unless `weighted`. Lengths of each graph
    are divided by their mean, so that the unit of the features does not matter; a pair's edge
    is `pair_length` of these means long. (Eq. 15 gives it 1, beside lengths in the units of the
    features.) `k` is the number of neighbours, 1 or above. `time` chooses between two ways:

    **time = 0: the shortest path itself**, by Dijkstra's algorithm. Every path enters the other
    space at a paired point, so with d the distances in the joint graph from the paired y_p

        c_ij = min_p d(x_i, y_p) + d(y_p, y_j),

    a bridge cost (Eq. 6), which needs no n × m array. Paths may go by several pairs, unlike
    `GeodesicBridgeCost`'s.

    **time > 0: its estimate by heat** (Crane et al. 2013), as in the paper's experiments. Edges
    conduct exp(-length), and one implicit Euler step of length t carries heat from x_i to y_j:

        c_ij = -log ((I + t L)^-1)_ij,  L the Laplacian of the joint graph,

    which takes all paths, the short ones most. All heat crosses by the pairs, so the block of the
    inverse between the spaces has rank l: with w = exp(-pair_length), D the pairs at each point,
    G_X = (I + t L_X + t w D)^-1, and E_X the paired columns, it is

        t w G_X E_X (I - (t w)² R_Y R_X)^-1 E_Yᵀ G_Y,  R = Eᵀ G E.

    That takes l conjugate gradient solves a side, and the n × m cost is only formed on demand.

    Points that no path joins cost no less than any that are joined, and alike: `graphs.capped`.
    The unweighted graph of the authors' code is weighted = False with pair_length = 1: all edges
    alike. Each conducts 1 / e, so heat with conductances 1 and time t is had with time e t.
    """

    k: Count = eqx.field(static=True, default=15)
    weighted: bool = eqx.field(static=True, default=True)
    pair_length: NonNegative = eqx.field(static=True, default=0.0)
    time: NonNegative = eqx.field(static=True, default=1.0)

    def prepare(self, data: PairedData) -> Geometry:
        """Paths or heat, as two factors; see `FusedCost.prepare`. Raises ValueError for a side of
        one point, RuntimeError where heat does not converge, MemoryError where there is none for
        the factors, which are found in float64."""
        return self.fit(data).geometry

    def fit(self, data: PairedData) -> FittedBridge[BridgeGeometry | HeatGeometry]:
        """See `FusedCost.fit`; raises as `prepare` does. A new point enters by its `k` nearest
        source points, see `ByPath` and `ByHeat`."""
        known = np.unique(np.stack([data.pairs.source, data.pairs.target], 1), axis=0)
        join, arrays = (self._heat, 7) if self.time > 0 else (self._paths, 5)
        bridges = len(known if self.time > 0 else np.unique(known[:, 1]))
        ask_bridges((data.x.size, data.y.size), bridges, arrays=arrays)
        (x, entry), (y, _) = self._lengths(data.x), self._lengths(data.y)
        prepared = join(x, y, *known.T)
        return FittedBridge(prepared, entry(factor=prepared.a))

    def _lengths(self, cloud: Cloud) -> tuple[sp.csr_array, Callable[..., Entry]]:
        graph, neighbours = neighbour_graph(cloud, self.k)
        power = 2.0 if self.weighted else 0.0
        graph.data **= power
        unit = float(graph.data.mean())
        graph.data /= unit
        if self.time > 0:
            return graph, partial(ByHeat, neighbours, power, unit, self.time)
        return graph, partial(ByPath, neighbours, power, unit, False)

    def _paths(
        self,
        x: sp.csr_array,
        y: sp.csr_array,
        source: Int[np.ndarray, " l"],
        target: Int[np.ndarray, " l"],
    ) -> BridgeGeometry:
        n, m = x.indptr.size - 1, y.indptr.size - 1
        lengths = np.full(len(source), self.pair_length)  # a stored zero is an edge
        pairs = sp.coo_array((lengths, (source, target)), shape=(n, m))
        joint = sp.block_array([[x, pairs], [pairs.T, y]], format="csr")
        paths = dijkstra(joint, indices=n + np.unique(target)).T
        return BridgeGeometry(*capped(paths[:n], paths[n:]))

    def _heat(
        self,
        x: sp.csr_array,
        y: sp.csr_array,
        source: Int[np.ndarray, " l"],
        target: Int[np.ndarray, " l"],
    ) -> HeatGeometry:
        crossing = self.time * np.exp(-self.pair_length)

        def side(lengths: sp.csr_array, paired: Int[np.ndarray, " l"]) -> Float[np.ndarray, "n l"]:
            graph = lengths.copy()
            graph.data = np.exp(-graph.data)
            loss = crossing * np.bincount(paired, minlength=graph.shape[0])
            return heat(graph, paired, self.time, loss)

        left, right = side(x, source), side(y, target)
        left = left @ _series(crossing**2 * right[target] @ left[source])
        # Pairs of one target are one bridge.
        _, first, bridge = np.unique(target, return_index=True, return_inverse=True)
        left = left @ sp.coo_array((np.ones(len(target)), (np.arange(len(target)), bridge)))
        return HeatGeometry(*capped(distance(crossing * left), distance(right[:, first])))


def _series(matrix: Float[np.ndarray, "l l"]) -> Float[np.ndarray, "l l"]:
    """(I - A)^-1 = (I + A) (I + A²) (I + A⁴) …, A ≥ 0 of spectral radius below 1. Nothing is
    subtracted, so small entries are as precise as large ones."""
    total, more = np.eye(len(matrix)), matrix
    while (more > np.finfo(float).eps * total).any():
        total = total + more
        matrix = matrix @ matrix
        more = matrix @ total
    return total
