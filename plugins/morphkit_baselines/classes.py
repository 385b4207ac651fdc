"""Classifiers whose classes are the distinct targets of the pairs (as class names are)."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from sklearn import semi_supervised
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from morphkit.interfaces import Baseline, LatentMap
from morphkit.types import PairedData

from .pairs import paired_points


class ClassifierMap(LatentMap):
    """The target (c, q) of the class that a fitted scikit-learn classifier says; not traceable."""

    classifier: Any = eqx.field(static=True)
    targets: Float[Array, "c q"]

    def __call__(
        self, x: Float[Array, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        return self.targets[self.classifier.predict(np.asarray(x, np.float64))]


class NearestClassMean(Baseline):
    """ŷ(x) = y_c with c = argmin_c |x - mean of the x_p with y_p = y_c|, over the distinct targets
    y_c of the pairs (scikit-learn's NearestCentroid). Raises ValueError in `fit` without pairs."""

    def fit(self, data: PairedData) -> LatentMap:
        return _fitted(NearestCentroid(), data)


class LogisticHead(Baseline):
    """ŷ(x) = y_c with c = argmax_c w_c·x + b_c: multinomial logistic regression on the
    standardised source points, the classes being the distinct targets y_c of the pairs.

    What a supervised classification head makes of the same features and pairs; `strength` is
    scikit-learn's C, the inverse of the penalty |w|²/2. Raises ValueError for a strength that is
    not positive, and in `fit` without pairs.
    """

    strength: float = eqx.field(static=True, default=0.01)

    def __check_init__(self):
        if not self.strength > 0:
            raise ValueError(f"LogisticHead.strength = {self.strength} must be positive")

    def fit(self, data: PairedData) -> LatentMap:
        model = LogisticRegression(C=self.strength, max_iter=1000)
        return _fitted(make_pipeline(StandardScaler(), model), data)


class LabelSpreading(Baseline):
    """ŷ(x) = y_c with the class c that spreads to x from the pairs over a graph of all points.

    F = (1 - α)(I - α S)^-1 Y, S the normalised `k`-nearest-neighbour graph (Zhou et al. 2004;
    scikit-learn's LabelSpreading, α = 0.2): the one baseline that learns from unpaired points. A
    point that is not of the training cloud gets the class of its neighbours there. Raises
    ValueError for k < 1, and in `fit` without pairs.
    """

    k: int = eqx.field(static=True, default=15)

    def __check_init__(self):
        if self.k < 1:
            raise ValueError(f"LabelSpreading.k = {self.k} must be at least 1")

    def fit(self, data: PairedData) -> LatentMap:
        classes, targets = _classes(data)
        known = np.full(data.x.size, -1)
        known[np.asarray(data.pairs.source)] = classes
        neighbours = min(self.k, data.x.size)
        model = semi_supervised.LabelSpreading(kernel="knn", n_neighbors=neighbours)
        model.fit(np.asarray(data.x.points, np.float64), known)
        return ClassifierMap(model, targets)


def _classes(data: PairedData) -> tuple[Int[np.ndarray, " l"], Float[Array, "c q"]]:
    """Which distinct target each pair ends in, and these targets."""
    targets, classes = np.unique(paired_points(data)[1], axis=0, return_inverse=True)
    return classes.ravel(), jnp.asarray(targets, jnp.float32)


def _fitted(model: Any, data: PairedData) -> ClassifierMap:
    classes, targets = _classes(data)
    if len(targets) == 1:  # nothing to tell apart, which classifiers refuse
        model = DummyClassifier()
    return ClassifierMap(model.fit(paired_points(data)[0], classes), targets)
