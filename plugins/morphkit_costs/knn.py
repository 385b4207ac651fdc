"""The k-nearest-neighbour cost (App. F)."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Scalar

from morphkit.checks import Count, Positive
from morphkit.interfaces import FusedCost
from morphkit.transport.geometry import Geometry
from morphkit.types import Cloud, PairedData

from .graphs import heat, neighbour_graph


class HeatGeometry(Geometry):
    """-log of heat, c_ij = -log Σ_p left_ip right_jp: O((n + m) l) memory, and n × m when asked."""

    left: Float[Array, "n l"]
    right: Float[Array, "m l"]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.left), len(self.right)

    def take(self, rows: Int[Array, " r"], cols: Int[Array, " c"]) -> "HeatGeometry":
        return HeatGeometry(self.left[rows], self.right[cols])

    def matrix(self) -> Float[Array, "n m"]:
        # No heat arrives from another component: as far as float32 can tell.
        return -jnp.log(jnp.maximum(self.left @ self.right.T, jnp.finfo(jnp.float32).tiny))

    def mean(self, mu: Float[Array, " n"], nu: Float[Array, " m"]) -> Scalar:
        return mu @ self.matrix() @ nu


class KNNCost(FusedCost):
    """Geodesic distance in the k-nearest-neighbour graphs of both spaces, joined by the pairs.

    Eq. 13-16: an edge of a graph weighs |x_i - x_j|² (Eq. 14), or 1 without `weighted`; a known
    pair is an edge of weight 1. The distance comes from the heat that one implicit Euler step
    of length t carries from x_i to y_j (Crane et al. 2013):

        c_ij = -log ((I + t L)^-1)_ij,  L the Laplacian of the joint graph.

    Weights of each graph are divided by their mean, so that a pair is an average edge and the
    unit of the features does not matter. All heat crosses by the pairs, so the block of the
    inverse between the spaces has rank l: with G_X = (I + t L_X + t D)^-1, D the pairs at each
    point, and E_X the paired columns,

        t G_X E_X (I - t² R_Y R_X)^-1 E_Yᵀ G_Y,  R = Eᵀ G E.

    That takes l conjugate gradient solves a side; the n × m cost is only formed on demand.
    """

    k: Count = eqx.field(static=True, default=15)
    weighted: bool = eqx.field(static=True, default=True)
    time: Positive = eqx.field(static=True, default=1.0)

    def prepare(self, data: PairedData) -> HeatGeometry:
        """The heat factors; see `FusedCost.prepare`."""
        left = self._heat(data.x, np.asarray(data.pairs.source))
        right = self._heat(data.y, np.asarray(data.pairs.target))
        r_x, r_y = left[np.asarray(data.pairs.source)], right[np.asarray(data.pairs.target)]
        core = self.time * np.linalg.inv(np.eye(data.pairs.size) - self.time**2 * r_y @ r_x)
        return HeatGeometry(jnp.asarray(left @ core, jnp.float32), jnp.asarray(right, jnp.float32))

    def _heat(self, cloud: Cloud, paired: Int[np.ndarray, " l"]) -> Float[np.ndarray, "n l"]:
        """G E of the class docstring."""
        graph = neighbour_graph(cloud, self.k)
        graph.data = graph.data**2 if self.weighted else np.ones_like(graph.data)
        graph.data /= graph.data.mean()
        joint = self.time * np.bincount(paired, minlength=cloud.size)
        return heat(graph, paired, self.time, joint)
