"""Points that see the others of their side alike, which needs no pair."""

from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from morphkit.checks import Count
from morphkit.interfaces import FusedCost
from morphkit.transport.geometry import PointGeometry
from morphkit.types import Cloud, PairedData

from .coordinates import Features, coordinates

QUANTILES = 200
"""Of a distribution of similarities, from the least to the largest."""

BLOCK = 2**22
"""Similarities that are held at once."""


class LocalDistributionCost(FusedCost):
    """c(x, y) = ∫ (F_x⁻¹(t) - F_y⁻¹(t))² dt: the squared Wasserstein distance between how similar x
    is to the other points of its side, and y to those of its own.

    Their mean under a coupling is the third lower bound of Gromov-Wasserstein, from the local
    distributions of distances (Mémoli 2011, Sec. 6); as the start of an unsupervised alignment the
    sorted similarities are Artetxe, Labaka and Agirre's (2018). It takes no pair. No more than a
    start is to be expected of it: `RefinedAlignment.start` takes it, and a cost that learns.

    Similarities are inner products of `features_x` and `features_y` as `CanonicalCost` has them,
    "unit" (centred, of unit length) or "identity", in units of their standard deviation over a
    side. Of a side with more than `points` points they are those to a random part of it.
    """

    features_x: Literal["unit", "identity"] = eqx.field(static=True, default="unit")
    features_y: Literal["unit", "identity"] = eqx.field(static=True, default="unit")
    points: Count = eqx.field(static=True, default=5000)
    needs_pairs: ClassVar[bool] = False

    def prepare(self, data: PairedData) -> PointGeometry:
        """See `FusedCost.prepare`. Raises ValueError for a side of fewer than three points, or
        without spread."""
        a = self._quantiles("source", data.x, self.features_x)
        b = self._quantiles("target", data.y, self.features_y)
        return PointGeometry(a, b, "sqeuclidean")

    def _quantiles(self, side: str, cloud: Cloud, features: Features) -> Float[Array, "n q"]:
        """Those of the similarities of each point to the others, standardised, over the root of
        their number."""
        if cloud.size < 3:
            raise ValueError(
                f"LocalDistributionCost: the {side} side has {cloud.size} points; how similar they "
                "are to one another tells them apart from three on"
            )
        _, points = coordinates(features, cloud)
        weights = np.asarray(cloud.weights, np.float64)
        random = np.random.default_rng(0)
        others = np.sort(random.permutation(cloud.size)[: self.points])
        levels = np.linspace(0, 1, QUANTILES)
        found = np.empty((cloud.size, QUANTILES))
        step = max(1, BLOCK // len(others))
        for start in range(0, cloud.size, step):
            rows = np.arange(start, min(start + step, cloud.size))
            similar = points[rows] @ points[others].T
            for row, values in zip(rows, similar, strict=True):
                there = others != row
                found[row] = _weighted_quantiles(values[there], weights[others[there]], levels)
        mean = found.mean()
        spread = np.sqrt(np.mean((found - mean) ** 2))
        if not spread > 0:
            raise ValueError(f"LocalDistributionCost: the {side} points are all alike")
        return jnp.asarray((found - mean) / spread / np.sqrt(QUANTILES), jnp.float32)


def _weighted_quantiles(
    values: Float[np.ndarray, " k"],
    weights: Float[np.ndarray, " k"],
    levels: Float[np.ndarray, " q"],
) -> Float[np.ndarray, " q"]:
    """The quantiles of `values`, linear between the middles of their `weights`."""
    order = np.argsort(values)
    values, weights = values[order], weights[order]
    middle = np.cumsum(weights) - weights / 2
    return np.interp(levels * weights.sum(), middle, values)
