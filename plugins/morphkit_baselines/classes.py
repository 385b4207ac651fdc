"""Linear classifiers, whose classes are the labels of the paired targets, or else these targets
themselves where several pairs share them (as they do class names)."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, ClassVar, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field
from sklearn.linear_model import LogisticRegression

from morphkit.checks import Positive, Share
from morphkit.interfaces import LatentMap, WeightedBaseline
from morphkit.types import PairedData, Pairs

from .pairs import candidates, class_means, fixed, folds, paired_classes, paired_points
from .preprocessing import Kind, Kinds, Preprocessing, by_rows, to_unit

LARGE = 1_000_000
"""Logistic regression is chosen on so many folds only that pairs times classes times folds are no
more, for time, but on one at least."""

KINDS: tuple[Kind, ...] = ("unit", "standardised", "centred")


class LinearClassifier(LatentMap):
    """The one of `targets` (c, q) of the class argmax_c (`preprocessing`(x) @ `weight` + `bias`)_c,
    with `weight` (p, c) and `bias` (c,)."""

    preprocessing: Preprocessing
    weight: Float[Array, "p c"]
    bias: Float[Array, " c"]
    targets: Float[Array, "c q"]

    def __call__(
        self, x: Float[Array, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        points = jnp.asarray(self.preprocessing(x))
        best = by_rows(
            lambda row: jnp.argmax(row @ self.weight + self.bias), points, len(self.bias)
        )
        return self.targets[best]


Scores = tuple[Float[np.ndarray, "p c"], Float[np.ndarray, " c"]]
Path = Callable[
    [Float[np.ndarray, "l p"], Int[np.ndarray, " l"], Float[np.ndarray, " l"], Preprocessing],
    Iterator[Scores],
]
"""From preprocessed points, their classes 0 … c - 1, all there, and their weights, above 0, one fit
after the other."""


def chosen(
    data: PairedData, kinds: tuple[Kind, ...], path: Path, fits: int, most: int | None = None
) -> tuple[Kind, int]:
    """The preprocessing, one of `kinds`, and the number of the fit of its `path`, which has `fits`,
    that name most classes of held-out pairs of `data`. A preprocessing has to be better by a
    standard error than those before it, since few pairs tell them apart badly. `most` limits the
    number of folds."""
    x, _ = paired_points(data)
    classes, _ = paired_classes(data)
    parts = folds(len(x), classes)[:most]
    judged = max(1, sum(len(held) for _, held in parts))
    enough, best_kind, best = -1.0, kinds[0], 0
    for kind in kinds if len(kinds) * fits > 1 else ():
        preprocessing = Preprocessing.of(kind, data.x)
        z = np.asarray(preprocessing(x))
        right = np.zeros(1, int)
        for learned, held in parts:
            present, renumbered = np.unique(classes[learned], return_inverse=True)
            right = right + np.array([
                np.sum(present[np.argmax(z[held] @ weight + bias, axis=1)] == classes[held])
                for weight, bias in path(
                    z[learned], renumbered, np.ones(len(learned)), preprocessing
                )
            ])  # fmt: skip
        if (most_right := int(right.max())) > enough:
            enough = most_right + np.sqrt(most_right * (1 - most_right / judged))
            best_kind, best = kind, int(right.argmax())
    return best_kind, best


def fitted(
    data: PairedData, weights: Float[np.ndarray, " l"], kind: Kind, path: Path
) -> LinearClassifier:
    """The one fit of `path`, after preprocessing of this `kind`, to the pairs of `data`, pair p
    counting `weights`[p]."""
    kept = np.flatnonzero(weights > 0)  # a class that counts nothing is none
    pairs = Pairs(data.pairs.source[kept], data.pairs.target[kept])
    data, weights = replace(data, pairs=pairs), weights[kept]
    x, _ = paired_points(data)
    classes, targets = paired_classes(data, weights)
    preprocessing = Preprocessing.of(kind, data.x)
    weight, bias = next(path(np.asarray(preprocessing(x)), classes, weights, preprocessing))
    return LinearClassifier(
        preprocessing.single(),
        jnp.asarray(weight, jnp.float32),
        jnp.asarray(bias, jnp.float32),
        targets,
    )


class NearestClassMean(WeightedBaseline):
    """ŷ(x) = y_c with c = argmin_c |z(x) - mean of the z_p of class c|: the nearest centroid of
    the preprocessed source points z of the pairs.

    A class is a label of the paired targets, y_c the mean of its paired targets; without labels
    it is a target that pairs share (see `paired_classes`). The `preprocessing` (see
    `Preprocessing.of`) names most classes of held-out pairs; one value fixes it. With "unit" the
    means have one length, too (cosine). Raises ValueError in `fit` without pairs, or classes.
    """

    classifies: ClassVar[bool] = True

    preprocessing: Kinds = eqx.field(static=True, default=KINDS, converter=candidates)

    def tuned(self, data: PairedData) -> Self:
        kind, _ = chosen(data, self.preprocessing, self.path, 1)
        return replace(self, preprocessing=(kind,))

    def fit_weighted(self, data: PairedData, weights: Float[np.ndarray, " l"]) -> LatentMap:
        (kind,) = fixed(self, "preprocessing")
        return fitted(data, weights, kind, self.path)

    def path(
        self, z: np.ndarray, classes: np.ndarray, weights: np.ndarray, used: Preprocessing
    ) -> Iterator[Scores]:
        """The one fit to `z` and its `classes`, which count `weights`; `used` is how `z` was
        preprocessed."""
        means, _ = class_means(z, classes, weights)
        means = np.asarray(to_unit(means)) if used.unit else means
        yield means.T, -0.5 * np.sum(means**2, axis=1)


class ShrinkageLDA(WeightedBaseline):
    """Linear discriminant analysis with a shrunk covariance, of the preprocessed source points z.

    ŷ(x) = y_c with c = argmax_c w_c·z - w_c·m_c / 2 + log π_c, w_c = S(λ)^-1 m_c, over the
    classes' means m_c and shares π_c; S(λ) = (1 - λ) S + λ tr(S)/p · 1 of the covariance S within
    classes (as scikit-learn's LinearDiscriminantAnalysis, solver "lsqr"; where no class has two
    points, S = 1). Classes and y_c are those of `NearestClassMean`.

    λ among `shrinkage` and the `preprocessing` (see `Preprocessing.of`) name most classes of
    held-out pairs; one value fixes either. Raises ValueError in `fit` without pairs, or classes.
    """

    classifies: ClassVar[bool] = True

    shrinkage: Annotated[tuple[Annotated[Share, Field(gt=0)], ...], Field(min_length=1)] = (
        eqx.field(static=True, default=(0.3, 0.1, 0.03, 0.6, 0.9), converter=candidates)
    )
    preprocessing: Kinds = eqx.field(static=True, default=KINDS, converter=candidates)

    def tuned(self, data: PairedData) -> Self:
        kind, number = chosen(data, self.preprocessing, self.path, len(self.shrinkage))
        return replace(self, shrinkage=(self.shrinkage[number],), preprocessing=(kind,))

    def fit_weighted(self, data: PairedData, weights: Float[np.ndarray, " l"]) -> LatentMap:
        _, kind = fixed(self, "shrinkage", "preprocessing")
        return fitted(data, weights, kind, self.path)

    def path(
        self, z: np.ndarray, classes: np.ndarray, weights: np.ndarray, used: Preprocessing
    ) -> Iterator[Scores]:
        """Fits to `z` and its `classes`, which count `weights`, with each shrinkage; `used` is how
        `z` was preprocessed."""
        means, totals = class_means(z, classes, weights)
        within = np.sqrt(weights)[:, None] * (z - means[classes])
        covariance = within.T @ within / weights.sum()
        spread = np.trace(covariance) / len(covariance)
        for shrinkage in self.shrinkage:
            shrunk = (1 - shrinkage) * covariance + shrinkage * spread * np.eye(len(covariance))
            weight = np.linalg.solve(shrunk, means.T) if spread > 1e-12 else means.T
            yield weight, np.log(totals / weights.sum()) - 0.5 * np.sum(means.T * weight, axis=0)


class LogisticHead(WeightedBaseline):
    """ŷ(x) = y_c with c = argmax_c w_c·z + b_c: multinomial logistic regression on the preprocessed
    source points z of the pairs, as a supervised classification head is.

    Classes and y_c are those of `NearestClassMean`. The penalty is |w|² / 2C (scikit-learn's C);
    C among `strength` and the `preprocessing` (see `Preprocessing.of`) name most classes of
    held-out pairs; one value fixes either. z has mean square 1 over points and coordinates: of
    unit-length points of p dimensions, C is p times as much. Raises ValueError for a strength
    that is not positive, and in `fit` without pairs, or classes.
    """

    classifies: ClassVar[bool] = True

    strength: Annotated[tuple[Positive, ...], Field(min_length=1)] = eqx.field(
        static=True, default=(0.003, 0.01, 0.1, 1.0), converter=candidates
    )
    preprocessing: Kinds = eqx.field(static=True, default=KINDS[:2], converter=candidates)

    def tuned(self, data: PairedData) -> Self:
        size, fits = data.pairs.size * len(paired_classes(data)[1]), len(self.strength)
        most = max(1, LARGE // size)
        kind, number = chosen(data, self.preprocessing, self.path, fits, most)
        return replace(self, strength=(sorted(self.strength)[number],), preprocessing=(kind,))

    def fit_weighted(self, data: PairedData, weights: Float[np.ndarray, " l"]) -> LatentMap:
        _, kind = fixed(self, "strength", "preprocessing")
        return fitted(data, weights, kind, self.path)

    def path(
        self, z: np.ndarray, classes: np.ndarray, weights: np.ndarray, used: Preprocessing
    ) -> Iterator[Scores]:
        """Fits to `z` and its `classes`, which count `weights`, of falling penalty, each from where
        the one before ended; `used` is how `z` was preprocessed."""
        number = classes.max() + 1
        model = LogisticRegression(max_iter=1000, tol=1e-3, warm_start=True)
        for strength in sorted(self.strength):
            if number == 1:  # nothing to tell apart, which scikit-learn refuses
                yield np.zeros((z.shape[1], 1)), np.zeros(1)
                continue
            model.set_params(C=strength).fit(z.astype(np.float32), classes, weights)
            weight, bias = np.asarray(model.coef_).T, np.asarray(model.intercept_)
            if number == 2:  # scikit-learn's scores are those of the second class
                weight, bias = np.pad(weight, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
            yield weight, bias
