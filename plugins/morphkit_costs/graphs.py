"""Neighbour graphs on the points of one space, and the distances in them."""

import logging

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Float, Int
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import cg
from sklearn.neighbors import NearestNeighbors

from morphkit.transport.geometry import embed
from morphkit.types import Cloud

logger = logging.getLogger("morphkit")

RTOL = 1e-14
"""The relative error that conjugate gradients end at, near what float64 can do."""

KEPT = 1e-10
"""The least value of a solve that is kept, of a source of norm 1: RTOL is 1e-4 of it."""

TINY = 1e-300
"""The least heat there is."""


class Neighbours(eqx.Module):
    """The `k` nearest (fewer, if there are no more) of the `points` (n, d) of a cloud to any point,
    in the space that `metric` sees; those nearer than `least` coincide."""

    points: Float[Array | np.ndarray, "n d"]
    k: int = eqx.field(static=True)
    metric: str = eqx.field(static=True)
    least: float = eqx.field(static=True)

    def __call__(
        self, x: Float[np.ndarray, "r p"]
    ) -> tuple[Int[np.ndarray, "r k"], Float[np.ndarray, "r k"]]:
        """Which they are for points `x` (r, p), the nearest first, and how far: 0 where they
        coincide."""
        points = np.asarray(self.points, np.float64)
        x = np.asarray(embed(self.metric, jnp.asarray(x, jnp.float32)), np.float64)
        search = NearestNeighbors(n_neighbors=min(self.k, len(points))).fit(points)
        index = search.kneighbors(x, return_distance=False)
        # The search's own distances are rounded where it takes them by inner products.
        distance = np.linalg.norm(x[:, None] - points[index], axis=2)
        return index, np.where(distance < self.least, 0, distance)


def neighbour_graph(
    cloud: Cloud, k: int, metric: str = "sqeuclidean"
) -> tuple[sp.csr_array, Neighbours]:
    """Symmetric n × n Euclidean distances of each point of `cloud` to its `k` nearest (fewer, if n
    ≤ k), taken in the space that `metric` sees: for "cosine", the unit sphere. And what finds the
    nearest of new points."""
    points = np.asarray(embed(metric, cloud.points), np.float64)
    if len(points) < 2:
        raise ValueError("a neighbour graph needs at least 2 points a side; use cost.BridgeCost")
    search = NearestNeighbors(n_neighbors=min(k, len(points) - 1)).fit(points)
    graph = sp.csr_array(search.kneighbors_graph(mode="distance"))
    # A sparse zero is no edge, but points that coincide are neighbours.
    least = float(1e-6 * (graph.data.mean() or 1))
    graph.data = np.maximum(graph.data, least)
    return sp.csr_array(graph.maximum(graph.T)), Neighbours(points, k, metric, least)


def capped(
    a: Float[np.ndarray, "n l"], b: Float[np.ndarray, "m l"]
) -> tuple[Float[Array, "n k"], Float[Array, "m k"]]:
    """The factors of a bridge cost, `a` (n, l) and `b` (m, l), infinite where no path leads to a
    paired point, with a cap: c_ij = min(min_p a_ip + b_jp, far), far = max a + max b over the paths
    that there are.

    So two points that no pair joins cost `far`, no less than any others, and once. A stand-in for
    ∞ on each side would be added up: with two clusters A, B a side and pairs in A alone, B to B
    and A to A would cost 2 far + 0, and A to B and B to A far + far, the same. Capped, it is
    far + 0 against 2 far: points that no pair reaches go to each other, and beyond that to
    whom the others leave.

    The cap is one more bridge, a = b = far / 2 at every point, added where there is an ∞ at all. ∞
    becomes 2 far, which adds nothing to a soft minimum either.
    """
    finite = np.isfinite(a), np.isfinite(b)
    if finite[0].all() and finite[1].all():
        return jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
    far = sum(
        side.max(where=joined, initial=0) for side, joined in zip((a, b), finite, strict=True)
    )

    def side(values: Float[np.ndarray, "n l"], joined: np.ndarray) -> Float[Array, "n k"]:
        cap = np.full((len(values), values.shape[1] + 1), far / 2, np.float32)
        cap[:, :-1] = 2 * far
        np.copyto(cap[:, :-1], values, where=joined, casting="same_kind")
        return jnp.asarray(cap)

    return side(a, finite[0]), side(b, finite[1])


def distance(warmth: Float[np.ndarray, "n l"]) -> Float[np.ndarray, "n l"]:
    """-log of the heat `warmth`, infinite where there is none."""
    with np.errstate(divide="ignore"):
        logarithm = np.log(warmth)
    return np.negative(logarithm, out=logarithm)


def heat(
    graph: sp.csr_array,
    sources: Int[np.ndarray, " l"],
    time: float,
    loss: Float[np.ndarray, " n"] | float = 0.0,
) -> Float[np.ndarray, "n l"]:
    """The columns `sources` of (I + t L + diag(`loss`))^-1, L the Laplacian of a `graph` whose
    weights are conductances: the heat at every node after one implicit Euler step of length t, the
    `time` (Crane et al. 2013). 0 where no path leads.

    Heat is small far from its source and its logarithm the distance, so small values need their
    digits too. A conjugate gradient solve has an error in proportion to its source. Values well
    above it are kept, and the others solved for again with these as their boundary, as often
    as it takes. Raises RuntimeError where a solve does not converge, and warns where more than one
    value in a thousand is below what float64 can hold.
    """
    flow = sp.csr_array(time * graph)
    system = sp.csr_array(sp.diags_array(1 + flow.sum(1) + loss) - flow)
    points, column_of = np.unique(sources, return_inverse=True)
    component = connected_components(graph)[1]
    found = np.zeros((len(component), len(points)))
    for column, point in zip(found.T, points, strict=True):
        unknown = np.flatnonzero(component == component[point])
        source = np.where(unknown == point, 1.0, 0.0)
        while len(unknown) and (scale := np.linalg.norm(source)) > TINY:
            part = system[unknown][:, unknown] if len(unknown) < len(component) else system
            values = _solve(part, source / scale)
            kept = values > KEPT
            if not kept.any():
                break
            column[unknown[kept]] = scale * values[kept]
            unknown = unknown[~kept]
            source = flow[unknown] @ column
        column[unknown] = TINY
    if (lost := np.mean(found == TINY)) > 1e-3:
        logger.warning(
            f"{lost:.1%} of the distances to paired points are beyond what heat can tell, about "
            f"{-np.log(TINY):.0f}; raise the cost's .time or .k, or take shortest paths (time = 0)"
        )
    return found[:, column_of]


def _solve(system: sp.csr_array, source: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The heat under a `source` of norm 1, to an error of RTOL: no eigenvalue of the `system` is
    below 1, so that its residual bounds its error."""
    inverse = sp.diags_array(1 / system.diagonal())
    values, failed = cg(system, source, rtol=RTOL, M=inverse, maxiter=10_000)
    if failed:
        raise RuntimeError(
            "heat from a paired point did not converge in 10,000 iterations; lower the cost's .time"
        )
    return values
