"""Canonical correlation analysis as a map."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Self

import equinox as eqx
import numpy as np
from jaxtyping import Float
from pydantic import Field
from sklearn.decomposition import PCA

from morphkit.checks import Count, Positive
from morphkit.interfaces import LatentMap, WeightedBaseline
from morphkit.linear import svd
from morphkit.types import PairedData

from .linear import Path, chosen, fitted
from .pairs import candidates, fixed
from .preprocessing import Kinds, Preprocessing

EIGH = 1000
"""Dimensions up to which principal axes come from the whole covariance."""


class RidgeCCA(WeightedBaseline):
    """The target that the leading canonical coordinates of a source point predict.

    With S_X, S_Y and C the covariances and the cross-covariance of the pairs, A and B the inverse
    roots of S + r tr(S)/d · 1 (the canonical ridge, Vinod 1976) and A C B = U s Vᵀ, so that s are
    the canonical correlations: ŷ(x) = ȳ + B^-1 V_k s_k U_kᵀ A (z(x) - z̄), for the preprocessed x,
    z. With all k coordinates that is ridge regression, with r → 0 besides the CCA of Hotelling.

    r among `penalty`, k among `rank` and the `preprocessing` (see `Preprocessing.of`) have the
    least error on held-out pairs; one value fixes each. k is at most the number of coordinates.
    Both sides are first projected on the `dimensions` leading principal components of all their
    points, paired or not. A single pair gives the constant map to its target. Raises ValueError
    in `fit` without pairs.
    """

    penalty: Annotated[tuple[Positive, ...], Field(min_length=1)] = eqx.field(
        static=True, default=(0.01, 0.1, 1.0, 3.0, 10.0, 30.0), converter=candidates
    )
    dimensions: Count = eqx.field(static=True, default=200)
    preprocessing: Kinds = eqx.field(static=True, default=("centred", "unit"), converter=candidates)
    rank: Annotated[tuple[Count, ...], Field(min_length=1)] = eqx.field(
        static=True, default=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000), converter=candidates
    )

    def tuned(self, data: PairedData) -> Self:
        fits = len(self.penalty) * len(self.rank)
        kind, number = chosen(data, self.preprocessing, self._path(data), fits)
        ranks = _within(self.rank, min(self.dimensions, *data.x.points.shape, *data.y.points.shape))
        penalty, rank = self.penalty[number // len(ranks)], ranks[number % len(ranks)]
        return replace(self, penalty=(penalty,), rank=(rank,), preprocessing=(kind,))

    def fit_weighted(self, data: PairedData, weights: Float[np.ndarray, " l"]) -> LatentMap:
        _, _, kind = fixed(self, "penalty", "rank", "preprocessing")
        return fitted(data, weights, kind, self._path(data))

    def _path(self, data: PairedData) -> Callable[[Preprocessing], Path]:
        def path(preprocessing: Preprocessing) -> Path:
            points = np.asarray(preprocessing(np.asarray(data.x.points, np.float64)))
            axes_x = self.principal(points)
            axes_y = self.principal(np.asarray(data.y.points, np.float64))
            return lambda z, y: self.maps(z, y, axes_x, axes_y)

        return path

    def maps(
        self,
        z: Float[np.ndarray, "l p"],
        y: Float[np.ndarray, "l q"],
        axes_x: Float[np.ndarray, "a p"],
        axes_y: Float[np.ndarray, "b q"],
    ) -> Iterator[Float[np.ndarray, "p q"]]:
        """The weights with every penalty and, of each, every number of coordinates, for the centred
        points `z` and `y` of the pairs; `axes_x` and `axes_y` are the principal axes of either
        side."""
        a, b = z @ axes_x.T, y @ axes_y.T
        (values_a, vectors_a), (values_b, vectors_b) = (np.linalg.eigh(c.T @ c) for c in (a, b))
        cross = vectors_a.T @ (a.T @ b) @ vectors_b
        into, out = axes_x.T @ vectors_a, vectors_b.T @ axes_y
        for penalty in self.penalty:
            root_a, root_b = (
                np.sqrt(np.maximum(values, 0) + penalty * max(values.mean(), 1e-300))
                for values in (values_a, values_b)
            )
            u, s, vt = svd(cross / np.outer(root_a, root_b))
            before, after = into / root_a @ u, (s[:, None] * vt * root_b) @ out
            for rank in _within(self.rank, len(s)):
                yield before[:, :rank] @ after[:rank]

    def principal(self, points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "k d"]:
        """The leading principal axes of `points`, rows of unit length."""
        # Faster than what scikit-learn takes by itself, unless dimensions outnumber points.
        solver = "covariance_eigh" if points.shape[1] <= min(EIGH, len(points)) else "auto"
        model = PCA(min(self.dimensions, *points.shape), svd_solver=solver, random_state=0)
        model.fit(points)
        return np.asarray(model.components_)


def _within(ranks: tuple[int, ...], most: int) -> list[int]:
    """The distinct ranks among `ranks`, none above `most`."""
    return sorted({min(rank, most) for rank in ranks})
