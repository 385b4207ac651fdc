"""Canonical coordinates: whitened by all points, rotated by pairs and by what a coupling adds."""

from typing import Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from morphkit.checks import Count, NonNegative, Share
from morphkit.interfaces import FittedCost, FusedCost
from morphkit.linear import svd
from morphkit.transport.couplings import Coupling
from morphkit.transport.geometry import PointGeometry
from morphkit.types import Cloud, PairedData

from .coordinates import Coordinates, Features, by_blocks, coordinates, gram

NOTHING = 1e-9
"""The share of the largest canonical correlation below which one is rounding."""


class CanonicalCost(FusedCost):
    """1 - cos between canonical coordinates of both sides.

    With centred coordinates x and y of the points, all of them give the covariances S_X and S_Y,
    the l pairs the cross-covariance C = Σ_pairs x yᵀ / l. Each covariance is shrunk,
    S(λ) = (1 - λ) S + λ tr(S) / d I, and whitens: A = S_X(λ_X)^-½, B = S_Y(λ_Y)^-½. Of
    U diag(s) Vᵀ = A C B, the canonical correlations s (largest 1) and the directions of both sides,
    a = xᵀ A U s^p and b = yᵀ B V s^p, and the cost is 1 - cos(a, b).

    λ = 1 on both sides and p = 0 is Procrustes' rotation, λ = 0 canonical correlation analysis
    (Hotelling 1936); with targets that repeat, one a class, that is discriminant analysis. Few
    pairs of one-to-one data want λ near 1, targets that repeat .3 to .6 for the source side and
    .05 for the target side. The covariances are of all points, so that many unpaired points help
    already here; `morphkit_aligners` has `RefinedAlignment`, which also learns C from them.
    Memory is O((n + m) rank), and O(p² + q²) for coordinates of p and q dimensions.

    Args:
        shrinkage_x: λ of the source side, in [0, 1].
        shrinkage_y: λ of the target side, in [0, 1].
        power: p, the power of the canonical correlations that weighs each coordinate, 0 or above.
        rank: Canonical coordinates, at most.
        features_x: The coordinates of the source side, see `coordinates`: "identity", "unit"
            (unit length from the mean), "diffusion" (of a neighbour graph) or "rbf".
        features_y: The same of the target side.
        neighbours: Of a point in the graph of "diffusion".
        components: Eigenvectors of that graph.
    """

    shrinkage_x: Share = eqx.field(static=True, default=0.9)
    shrinkage_y: Share = eqx.field(static=True, default=0.9)
    power: NonNegative = eqx.field(static=True, default=0.5)
    rank: Count = eqx.field(static=True, default=200)
    features_x: Features = eqx.field(static=True, default="unit")
    features_y: Features = eqx.field(static=True, default="unit")
    neighbours: Count = eqx.field(static=True, default=15)
    components: Count = eqx.field(static=True, default=100)

    def prepare(self, data: PairedData) -> PointGeometry:
        """See `FusedCost.prepare`. Raises ValueError without pairs, for a side without spread, and
        where the pairs say nothing."""
        return self.fit(data).geometry

    def fit(self, data: PairedData) -> "FittedCanonical":
        """See `FusedCost.fit`. Without pairs it has to learn from a coupling first. Raises
        ValueError as `prepare` does."""
        size = {"neighbours": self.neighbours, "components": self.components}
        to_x, x = coordinates(self.features_x, data.x, **size)
        _, y = coordinates(self.features_y, data.y, **size)
        source, target = np.asarray(data.pairs.source), np.asarray(data.pairs.target)
        known = gram(x[source], y[target]) / data.pairs.size if len(source) else None
        left = inverse_root(_covariance(x, data.x), self.shrinkage_x)
        right = inverse_root(_covariance(y, data.y), self.shrinkage_y)
        return FittedCanonical(self, to_x, x, y, left, right, known, known)


class FittedCanonical(FittedCost):
    """`CanonicalCost`, the `asked`, as learned from data.

    `to_x` gives coordinates of source points, `x` (n, d) and `y` (m, e) are those of the clouds.
    `left` and `right` whiten them, `known` is the cross-covariance of the pairs and `cross` the one
    in use, None where there is nothing to know it from. `to_a` and `to_b` take coordinates to
    canonical ones."""

    asked: CanonicalCost
    to_x: Coordinates
    x: Float[np.ndarray, "n d"]
    y: Float[np.ndarray, "m e"]
    left: Float[np.ndarray, "d d"]
    right: Float[np.ndarray, "e e"]
    known: Float[np.ndarray, "d e"] | None
    cross: Float[np.ndarray, "d e"] | None
    to_a: Float[np.ndarray, "d k"]
    to_b: Float[np.ndarray, "e k"]

    def __init__(
        self, asked: CanonicalCost, to_x: Coordinates, x: np.ndarray, y: np.ndarray,
        left: np.ndarray, right: np.ndarray, known: np.ndarray | None, cross: np.ndarray | None,
    ) -> None:  # fmt: skip
        self.asked, self.to_x, self.x, self.y = asked, to_x, x, y
        self.left, self.right, self.known, self.cross = left, right, known, cross
        if cross is None:
            self.to_a, self.to_b = (np.zeros((z.shape[1], 0)) for z in (x, y))
            return
        u, s, vt = svd(left @ cross @ right)
        if not s[0] > 0:
            raise ValueError(
                "CanonicalCost: the pairs lie at the centre of a side and say nothing of "
                "directions; give more pairs, or use cost.BridgeCost"
            )
        kept = (s > NOTHING * s[0]).sum().clip(max=asked.rank)
        weights = (s[:kept] / s[0]) ** asked.power
        self.to_a, self.to_b = left @ u[:, :kept] * weights, right @ vt[:kept].T * weights

    @property
    def geometry(self) -> PointGeometry:
        return self._between(self.x)

    def at(self, x: Float[np.ndarray, "k p"]) -> PointGeometry:
        return self._between(self.to_x(x))

    def _between(self, x: Float[np.ndarray, "k d"]) -> PointGeometry:
        if self.cross is None:
            raise ValueError(
                "CanonicalCost: data.pairs is empty; give at least one pair, or let "
                "aligner.RefinedAlignment start from cost.LocalDistributionCost, which needs none"
            )
        return PointGeometry(_times(x, self.to_a), self._targets, "cosine")

    @property
    def _targets(self) -> Float[Array, "m k"]:
        return _times(self.y, self.to_b) if len(self.to_b) else jnp.asarray(self.y)

    def settled(self) -> Self:
        """See `FittedCost.settled`. Targets are in canonical coordinates already, and `to_b` has no
        rows: they are needed for every block of new points."""
        names, none = ("x", "left", "right", "known", "cross", "to_b"), jnp.zeros((0, 0))
        return eqx.tree_at(
            lambda f: [*(getattr(f, n) for n in names), f.y],
            super().settled(), [*[none] * len(names), self._targets],
        )  # fmt: skip

    def learn(
        self, coupling: Coupling, i: Int[Array, " r"], j: Int[Array, " c"], weight: float
    ) -> Self:
        """See `FittedCost.learn`: (1 - w) C + w Σ_ij π_ij x_i y_jᵀ, π of mass 1; without pairs the
        sum alone."""
        means = np.asarray(coupling.barycentres(jnp.asarray(self.y[np.asarray(j)], jnp.float32)))
        found = gram(self.x[np.asarray(i)], means)
        found /= float(coupling.marginal(0).sum())
        cross = found if self.known is None else (1 - weight) * self.known + weight * found
        return type(self)(
            self.asked, self.to_x, self.x, self.y, self.left, self.right, self.known, cross
        )


def _times(x: Float[np.ndarray, "n d"], to: Float[np.ndarray, "d k"]) -> Float[Array, "n k"]:
    # Of a settled cost both are on the device.
    x, to = np.asarray(x), np.asarray(to)
    return jnp.asarray(by_blocks(lambda block: block @ to, x), jnp.float32)


def inverse_root(covariance: Float[np.ndarray, "d d"], shrinkage: float) -> np.ndarray:
    """S(λ)^-½ of a `covariance` S, λ being `shrinkage`; directions without variance stay out."""
    d = len(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / d * np.eye(d)
    value, vector = np.linalg.eigh(shrunk)
    there = value > 1e-12 * value[-1]
    return (vector[:, there] / np.sqrt(value[there])) @ vector[:, there].T


def _covariance(x: Float[np.ndarray, "n d"], cloud: Cloud) -> Float[np.ndarray, "d d"]:
    weights = np.asarray(cloud.weights, np.float64)
    return gram(x, x, weights / weights.sum())
