"""A cost that rotates one space onto the other before it measures distances."""

import equinox as eqx
import jax.numpy as jnp

from morphkit import hookimpl
from morphkit.checks import Metric
from morphkit.interfaces import FusedCost
from morphkit.transport.geometry import PointGeometry
from morphkit.types import PairedData


class ProcrustesCost(FusedCost):
    """Distance after the orthogonal map that best fits the pairs (Schönemann, 1966).

    c_ij = d((x_i - x̄) W, y_j - ȳ), where x̄, ȳ are the means of the l paired points and
    W (p, q) minimises Σ_p |(x_p - x̄) W - (y_p - ȳ)|² among matrices with orthonormal rows or
    columns, whichever are fewer. `metric` names d: "cosine", "sqeuclidean" or
    "correlation". Never n × m in memory.
    """

    metric: Metric = eqx.field(static=True, default="cosine")

    def prepare(self, data: PairedData) -> PointGeometry:
        """Raises ValueError with fewer than two pairs, which fix no rotation."""
        if data.pairs.size < 2:
            raise ValueError("ProcrustesCost needs at least 2 pairs; raise run.paired_fraction")
        x_mean, y_mean = data.x_paired.mean(0), data.y_paired.mean(0)
        u, _, vt = jnp.linalg.svd(
            (data.x_paired - x_mean).T @ (data.y_paired - y_mean), full_matrices=False
        )
        return PointGeometry(
            (data.x.points - x_mean) @ (u @ vt), data.y.points - y_mean, self.metric
        )


@hookimpl
def morphkit_register(registry) -> None:
    registry.add(ProcrustesCost)
