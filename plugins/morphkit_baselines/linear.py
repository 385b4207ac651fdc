"""Linear maps of preprocessed source points, fitted to the pairs and chosen by cross-validation."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
import sklearn.linear_model
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field

from morphkit.checks import Count, Positive
from morphkit.interfaces import LatentMap, WeightedBaseline
from morphkit.linear import svd
from morphkit.types import PairedData

from .pairs import TUNING_PAIRS, candidates, fixed, folds, paired_points
from .preprocessing import Kind, Kinds, Preprocessing


class LinearMap(LatentMap):
    """`preprocessing`(x) @ `weight` + `offset`, with shapes (p, q) and (q,)."""

    preprocessing: Preprocessing
    weight: Float[Array, "p q"]
    offset: Float[Array, " q"]

    def __call__(
        self, x: Float[Array, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        return jnp.asarray(self.preprocessing(x)) @ self.weight + self.offset


Path = Callable[[Float[np.ndarray, "l p"], Float[np.ndarray, "l q"]], Iterator[np.ndarray]]
"""From centred points of the pairs, the weights (p, q) of one fit after the other: those of
growing rank, say. On other pairs the k-th is of the same arguments; a path may end early. Rows
count by their squares: points times √w are points that are there w times."""


def chosen(
    data: PairedData, kinds: tuple[Kind, ...], path: Callable[[Preprocessing], Path], fits: int
) -> tuple[Kind, int]:
    """The preprocessing, one of `kinds`, and the number of the fit of its `path`, which has `fits`
    at most, with the least squared error on held-out pairs of `data`; of equally good ones the
    first."""
    x, y = paired_points(data)
    best = (np.inf, kinds[0], 0)
    for kind in kinds if len(kinds) * fits > 1 else ():
        preprocessing = Preprocessing.of(kind, data.x)
        z, of_kind = np.asarray(preprocessing(x)), path(preprocessing)
        errors = np.zeros(1)
        for learned, held in folds(len(x)):
            errors = _add(errors, held_out_errors(of_kind, z, y, learned, held))
        if errors.min() < best[0]:
            best = (errors.min(), kind, int(errors.argmin()))
    return best[1:]


def fitted(
    data: PairedData,
    weights: Float[np.ndarray, " l"],
    kind: Kind,
    path: Callable[[Preprocessing], Path],
) -> LinearMap:
    """The one fit of `path`, after preprocessing of this `kind`, to the pairs of `data`, pair p
    counting `weights`[p]. The offset is that of least squares."""
    x, y = paired_points(data)
    if len(x) == 1 or np.ptp(y, axis=0).max() == 0:
        return constant(data)
    preprocessing = Preprocessing.of(kind, data.x)
    z, root = np.asarray(preprocessing(x)), np.sqrt(weights)[:, None]
    center, offset = (np.average(points, axis=0, weights=weights) for points in (z, y))
    weight = next(path(preprocessing)(root * (z - center), root * (y - offset)))
    return linear_map(preprocessing, weight, offset - center @ weight)


def held_out_errors(
    path: Path, z: np.ndarray, y: np.ndarray, learned: np.ndarray, held: np.ndarray
) -> Float[np.ndarray, " k"]:
    """The squared error of each fit of `path` to the rows `learned` of `z` and `y`, on the rows
    `held`."""
    center, offset = z[learned].mean(0), y[learned].mean(0)
    inputs, wanted = z[held] - center, y[held] - offset
    fits = path(z[learned] - center, y[learned] - offset)
    errors = [float(np.sum((inputs @ weight - wanted) ** 2)) for weight in fits]
    return np.array(errors or [float(np.sum(wanted**2))])


def _add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The sum of two paths' errors; one that ended early stays where it ended."""
    size = max(len(a), len(b))
    return sum(np.pad(errors, (0, size - len(errors)), "edge") for errors in (a, b))  # pyright: ignore[reportReturnType]


def constant(data: PairedData) -> LinearMap:
    """The mean target of the pairs of `data`, for every point."""
    x, y = paired_points(data)
    weight = np.zeros((x.shape[1], y.shape[1]))
    return linear_map(Preprocessing.of("centred", data.x), weight, y.mean(0))


def linear_map(preprocessing: Preprocessing, weight: np.ndarray, offset: np.ndarray) -> LinearMap:
    """The map of `preprocessing`, `weight` (p, q) and `offset` (q,), in float32."""
    single = (jnp.asarray(a, jnp.float32) for a in (weight, offset))
    return LinearMap(preprocessing.single(), *single)


class Ridge(WeightedBaseline):
    """Ridge regression with intercept on the preprocessed source points z of the pairs.

    ŷ(x) = W z(x) + b, minimising Σ_p |y_p - W z_p - b|² + α |W|² over the pairs. α among
    `alphas` and the `preprocessing` (see `Preprocessing.of`) are those with the least
    leave-one-out error (scikit-learn's RidgeCV); one value fixes either. z has mean square 1, so
    an α is in units of the number of pairs. A single pair gives the constant map to its target.
    Raises ValueError in `fit` without pairs.
    """

    alphas: Annotated[tuple[Positive, ...], Field(min_length=1)] = eqx.field(
        static=True, converter=candidates,
        default=(1e-3, 1e-2, 0.1, 1.0, 3.0, 10.0, 30.0, 1e2, 3e2, 1e3, 3e3, 1e4, 3e4, 1e5, 1e6),
    )  # fmt: skip
    preprocessing: Kinds = eqx.field(
        static=True, default=("centred", "standardised", "unit"), converter=candidates
    )

    def tuned(self, data: PairedData) -> Self:
        if len(self.alphas) == len(self.preprocessing) == 1 or data.pairs.size == 1:
            return replace(self, alphas=self.alphas[:1], preprocessing=self.preprocessing[:1])
        x, y = paired_points(data)
        rows = np.random.default_rng(0).permutation(len(x))[:TUNING_PAIRS]
        found: list[tuple[Any, Kind, Any]] = []
        for kind in self.preprocessing:
            preprocessing = Preprocessing.of(kind, data.x)
            model = sklearn.linear_model.RidgeCV(self.alphas).fit(preprocessing(x)[rows], y[rows])
            found.append((model.best_score_, kind, model.alpha_))
        _, kind, alpha = max(found, key=lambda fit: fit[0])
        return replace(self, alphas=(float(alpha),), preprocessing=(kind,))

    def fit_weighted(self, data: PairedData, weights: Float[np.ndarray, " l"]) -> LatentMap:
        x, y = paired_points(data)
        if len(x) == 1:
            return constant(data)
        alpha, kind = fixed(self, "alphas", "preprocessing")
        preprocessing = Preprocessing.of(kind, data.x)
        model = sklearn.linear_model.Ridge(alpha).fit(preprocessing(x), y, weights)
        # One target dimension makes scikit-learn drop an axis.
        weight = np.reshape(model.coef_, (y.shape[1], x.shape[1])).T
        return linear_map(preprocessing, weight, np.broadcast_to(model.intercept_, y.shape[1]))


class PLS(WeightedBaseline):
    """Partial least squares regression, as Brain-Score's neural predictivity has it.

    ŷ(x) = ȳ + B (z(x) - z̄), B of rank k, from the directions in which preprocessed source points
    z and target points of the pairs vary most together; by the kernel algorithm of Dayal and
    MacGregor (1997), whose fits are those of scikit-learn's PLSRegression, unscaled. k, among
    `components`, and the `preprocessing` (see `Preprocessing.of`) have the least error on held-out
    pairs; one value fixes either. k is at most the rank of the centred source points; a single
    pair gives the constant map to its target. Raises ValueError in `fit` without pairs.
    """

    components: Annotated[tuple[Count, ...], Field(min_length=1)] = eqx.field(
        static=True, converter=candidates, default=(1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40)
    )
    preprocessing: Kinds = eqx.field(
        static=True, default=("centred", "standardised", "unit"), converter=candidates
    )

    def tuned(self, data: PairedData) -> Self:
        wanted = sorted(set(self.components))
        kind, number = chosen(data, self.preprocessing, lambda _: self.path, len(wanted))
        return replace(self, components=(wanted[number],), preprocessing=(kind,))

    def fit_weighted(self, data: PairedData, weights: Float[np.ndarray, " l"]) -> LatentMap:
        _, kind = fixed(self, "components", "preprocessing")
        return fitted(data, weights, kind, lambda _: self.path)

    def path(self, z: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
        """The weights from `z` to `y` with each number of components, those of the rank where that
        is less."""
        cross = z.T @ y
        weight, enough = np.zeros_like(cross), 1e-10 * np.linalg.norm(cross)
        rotations, loadings = [], []
        wanted = sorted(set(self.components))
        while len(rotations) < wanted[-1] and np.linalg.norm(cross) > enough:
            rotation = direction = _leading(cross)
            for other, loading in zip(rotations, loadings, strict=True):
                rotation = rotation - (loading @ direction) * other
            score = z @ rotation
            size = score @ score
            if size <= 1e-12 * np.sum(z**2):
                break
            target = y.T @ score / size
            rotations.append(rotation)
            loadings.append(z.T @ score / size)
            cross = cross - size * np.outer(loadings[-1], target)
            weight = weight + np.outer(rotation, target)
            if len(rotations) in wanted:
                yield weight
        if len(rotations) not in wanted:
            yield weight


def _leading(matrix: Float[np.ndarray, "p q"]) -> Float[np.ndarray, " p"]:
    """The left singular vector of the largest singular value."""
    if min(matrix.shape) == 1:
        return svd(matrix)[0][:, 0]
    start = np.ones(min(matrix.shape))
    return np.asarray(scipy.sparse.linalg.svds(matrix, 1, v0=start)[0])[:, 0]


class Procrustes(WeightedBaseline):
    """The rotation (with `scaling`, times a scale) and translation that best fit the pairs.

    ŷ(x) = s R z(x) + t, minimising Σ_p |y_p - s R z_p - t|² over RᵀR = 1 (Schönemann 1966).
    The `preprocessing` that makes z of x (see `Preprocessing.of`) has the least error on held-out
    pairs; one value fixes it. Without `scaling` z is as large as x was. With p ≠ q the smaller
    space is padded with zeros. Directions in which the centred pairs do not vary together are
    mapped to zero: the pairs say nothing about them, and any rotation of them would be arbitrary.
    A single pair gives the constant map to its target. Raises ValueError in `fit` without pairs.
    """

    scaling: bool = eqx.field(static=True, default=True)
    preprocessing: Kinds = eqx.field(static=True, default=("centred", "unit"), converter=candidates)

    def tuned(self, data: PairedData) -> Self:
        kind, _ = chosen(data, self.preprocessing, self.path, 1)
        return replace(self, preprocessing=(kind,))

    def fit_weighted(self, data: PairedData, weights: Float[np.ndarray, " l"]) -> LatentMap:
        (kind,) = fixed(self, "preprocessing")
        return fitted(data, weights, kind, self.path)

    def path(self, preprocessing: Preprocessing) -> Path:
        """The one fit after `preprocessing`."""
        size = float(np.sqrt(np.mean(np.asarray(preprocessing.scale) ** 2)))
        return lambda z, y: iter([self.rotation(z, y, size)])

    def rotation(
        self, z: Float[np.ndarray, "l p"], y: Float[np.ndarray, "l q"], size: float
    ) -> Float[np.ndarray, "p q"]:
        """R from the centred points `z` to `y`, times s, or times `size` without scaling."""
        left, values, right = svd(z.T @ y)
        kept = values > values[0] * 1e-10
        rotation = left[:, kept] @ right[kept]
        if self.scaling and kept.any():
            size = values[kept].sum() / np.sum((z @ rotation) ** 2)
        return size * rotation
