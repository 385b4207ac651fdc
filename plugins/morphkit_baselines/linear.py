"""Linear maps fitted on the pairs: ridge, partial least squares, orthogonal Procrustes."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import RidgeCV

from morphkit.interfaces import Baseline, LatentMap
from morphkit.types import PairedData

from .pairs import paired_points


class LinearMap(LatentMap):
    """(x − center) @ weight + offset, with shapes (p,), (p, q) and (q,)."""

    center: Float[Array, " p"]
    weight: Float[Array, "p q"]
    offset: Float[Array, " q"]

    def __call__(
        self, x: Float[Array, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        return (x - self.center) @ self.weight + self.offset


def _linear_map(center: np.ndarray, weight: np.ndarray, offset: np.ndarray) -> LinearMap:
    return LinearMap(*(jnp.asarray(a, jnp.float32) for a in (center, weight, offset)))


class Ridge(Baseline):
    """Ridge regression with intercept on the standardised source points of the pairs.

    ŷ(x) = W x + b, minimising Σ_p |y_p - W x_p - b|² + α |W|² over the pairs.
    The penalty is the one among `alphas` with the least leave-one-out error (scikit-learn's
    RidgeCV). A single pair gives the constant map to its target. Raises ValueError on
    penalties that are not positive, and in `fit` without pairs.
    """

    alphas: tuple[float, ...] = eqx.field(
        static=True, default=(1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4), converter=tuple
    )

    def __check_init__(self):
        if not self.alphas or min(self.alphas) <= 0:
            raise ValueError(f"alphas: needs positive penalties, got {self.alphas}")

    def fit(self, data: PairedData) -> LatentMap:
        x, y = paired_points(data)
        center, spread = x.mean(0), x.std(0)
        if len(x) == 1:
            return _linear_map(center, np.zeros((x.shape[1], y.shape[1])), y[0])
        spread[spread == 0] = 1.0
        model = RidgeCV(alphas=self.alphas).fit((x - center) / spread, y)
        # One target dimension makes scikit-learn drop an axis.
        weight = np.asarray(model.coef_).reshape(y.shape[1], x.shape[1]).T / spread[:, None]
        return _linear_map(center, weight, np.broadcast_to(model.intercept_, y.shape[1]))


class PLS(Baseline):
    """Partial least squares regression, as Brain-Score's neural predictivity has it.

    ŷ(x) = ȳ + B (x - x̄), B of rank `components` at most, from the directions in which source and
    target points of the pairs vary most together (scikit-learn's PLSRegression, unscaled). No
    more components than the rank of the centred source points; a single pair gives the constant
    map to its target. Raises ValueError for fewer than 1 component, and in `fit`
    without pairs.
    """

    components: int = eqx.field(static=True, default=25)

    def __check_init__(self):
        if self.components < 1:
            raise ValueError(f"PLS.components = {self.components} must be at least 1")

    def fit(self, data: PairedData) -> LatentMap:
        x, y = paired_points(data)
        kept = min(self.components, int(np.linalg.matrix_rank(x - x.mean(0))))
        if kept == 0 or np.ptp(y, axis=0).max() == 0:
            return _linear_map(x.mean(0), np.zeros((x.shape[1], y.shape[1])), y.mean(0))
        model = PLSRegression(kept, scale=False).fit(x, y)
        weight = np.asarray(model.coef_).reshape(y.shape[1], x.shape[1]).T
        return _linear_map(x.mean(0), weight, y.mean(0))


class Procrustes(Baseline):
    """The rotation (with `scaling`, times a scale) and translation that best fit the pairs.

    ŷ(x) = s R x + t, minimising Σ_p |y_p - s R x_p - t|² over RᵀR = 1 (Schönemann 1966).
    With p ≠ q the smaller space is padded with zeros. Directions in which the centred pairs
    do not vary together are mapped to zero: the pairs say nothing about them, and any
    rotation of them would be arbitrary. A single pair gives the constant map to its target.
    Raises ValueError in `fit` without pairs.
    """

    scaling: bool = eqx.field(static=True, default=True)

    def fit(self, data: PairedData) -> LatentMap:
        x, y = paired_points(data)
        center, offset = x.mean(0), y.mean(0)
        x, y = x - center, y - offset
        left, values, right = np.linalg.svd(x.T @ y, full_matrices=False)
        kept = values > values[0] * 1e-10
        rotation = left[:, kept] @ right[kept]
        scale = 1.0
        if self.scaling and kept.any():
            scale = values[kept].sum() / np.sum((x @ rotation) ** 2)
        return _linear_map(center, scale * rotation, offset)
