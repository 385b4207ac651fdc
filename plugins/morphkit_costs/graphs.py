"""Neighbour graphs on the points of one space."""

import logging

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import cg
from sklearn.neighbors import NearestNeighbors

from morphkit.transport.geometry import embed
from morphkit.types import Cloud

logger = logging.getLogger("morphkit")

RTOL = 1e-14
"""The relative error that conjugate gradients end at, near what float64 can do: far from its source
heat is small, and its logarithm the distance, so every digit counts."""


def check_neighbours(name: str, k: int) -> None:
    """Raises ValueError, naming the argument, unless k is a number of neighbours."""
    if k < 1:
        raise ValueError(f"{name} = {k} must be at least 1; the paper takes 15")


def neighbour_graph(cloud: Cloud, k: int, metric: str = "sqeuclidean") -> sp.csr_array:
    """Symmetric n × n Euclidean distances of each point to its k nearest (fewer, if n ≤ k), taken
    in the space that `metric` sees: for "cosine", the unit sphere."""
    points = np.asarray(embed(metric, cloud.points), np.float64)
    if len(points) < 2:
        raise ValueError("a neighbour graph needs at least 2 points a side; use cost.BridgeCost")
    search = NearestNeighbors(n_neighbors=min(k, len(points) - 1)).fit(points)
    graph = sp.csr_array(search.kneighbors_graph(mode="distance"))
    # A sparse zero is no edge, but points that coincide are neighbours.
    graph.data = np.maximum(graph.data, 1e-6 * graph.data.mean() + np.finfo(float).tiny)
    return sp.csr_array(graph.maximum(graph.T))


def unit_mean(costs: Float[np.ndarray, "n l"]) -> Float[np.ndarray, "n l"]:
    """Divided by its mean, so that costs of two spaces have one unit."""
    mean = costs.mean()
    return costs / mean if mean > 0 else costs


def heat(
    graph: sp.csr_array,
    sources: Int[np.ndarray, " l"],
    time: float,
    loss: Float[np.ndarray, " n"] | float = 0.0,
) -> Float[np.ndarray, "n l"]:
    """The columns `sources` of (I + t L + diag(loss))^-1, L the Laplacian of the weighted `graph`:
    the heat at every node after one implicit Euler step of length t (Crane et al. 2013).

    One conjugate gradient solve a source. Raises RuntimeError where one does not converge, and
    warns where heat is too small to tell distances.
    """
    diagonal = 1 + time * graph.sum(1) + loss
    system = sp.diags_array(diagonal) - time * graph
    inverse = sp.diags_array(1 / diagonal)
    points, column_of = np.unique(sources, return_inverse=True)
    found = np.empty((len(diagonal), len(points)))
    for column, point in enumerate(points):
        unit = np.zeros(len(diagonal))
        unit[point] = 1
        found[:, column], failed = cg(system, unit, rtol=RTOL, M=inverse, maxiter=10_000)
        if failed:
            raise RuntimeError(
                f"the heat of paired point {point} did not converge in 10,000 iterations; lower "
                f"the cost's time = {time}"
            )
    component = connected_components(graph)[1]
    reached = component[:, None] == component[points]
    if (lost := np.mean(reached & (found < 100 * RTOL))) > 0:
        logger.warning(
            f"{lost:.1%} of the distances to paired points are beyond what heat can tell, about "
            f"{-np.log(100 * RTOL):.0f}; raise the cost's .time or .k, or take shortest "
            "paths (cost.GeodesicBridgeCost)"
        )
    return np.maximum(found, 0)[:, column_of]
