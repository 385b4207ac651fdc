"""Neighbour graphs on the points of one space."""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from sklearn.neighbors import NearestNeighbors

from morphkit.geometry import embed
from morphkit.types import Cloud


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
