"""Does the prediction look like the recorded responses, and does it carry what they carry?
(Sec. 5.2, App. H.5)"""

from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from morphkit.checks import Count
from morphkit.interfaces import Better, Evaluator, Scene

from .scene import Estimate, labels_of, predictions

STRENGTHS = tuple(10.0**k for k in range(-5, 2))
"""The values of C that cross-validation chooses from."""


class NeuralPrediction(Evaluator):
    """How well responses y of sites (target coordinates) to the test stimuli are predicted.

    Sites that do not vary over the training or over the test stimuli do not count.

    - `prediction_error`: the mean over stimuli and sites s of (ŷ_s - y_s)² / var(y_s), the
      variance being over the training points: 1 is what the mean response gives. ŷ is one draw
      of the map, as in Eq. 12;
    - `mean_prediction_error`: the same for E[y | x], which is what a squared error asks of a map
      that draws: `LatentMap.expected`, or the mean of `draws` draws where that is given;
    - `site_correlation`: Pearson's correlation of y_s with that mean over stimuli, the median
      over sites; a constant prediction has 0;
    - `site_correlation_corrected`: likewise, of each site's correlation over √reliability, for
      sites with one above 0, where the data has repeats (`data.Recordings`).

    Raises ValueError without test pairs, or for fewer than 1 draw.
    """

    draws: Count | None = eqx.field(static=True, default=None)
    subject: ClassVar[Literal["map", "coupling", "features"]] = "map"
    metrics: ClassVar[Mapping[str, Better]] = {
        "prediction_error": "lower",
        "mean_prediction_error": "lower",
        "site_correlation": "higher",
        "site_correlation_corrected": "higher",
    }

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        pairs = np.asarray(scene.test.pairs)
        if len(pairs) == 0:
            raise ValueError("NeuralPrediction: test.pairs is empty; give the test split pairs")
        true = np.asarray(scene.y.points)[pairs[:, 1]]
        keys = jax.random.split(key, self.draws or 1)
        drawn = [predictions(scene, self, key=k)[pairs[:, 0]] for k in keys]
        mean = np.mean(drawn, axis=0)
        if self.draws is None:
            mean = predictions(scene, self, key=key, estimate="expected")[pairs[:, 0]]
        learned = np.asarray(scene.train.y.points, np.float64)
        variance = learned.var(0)
        moving = varies(learned) & varies(true)
        if not moving.any():
            raise ValueError("NeuralPrediction: no site's response varies over the stimuli")

        def error(predicted: np.ndarray) -> float:
            return float(np.mean(((predicted - true) ** 2)[:, moving] / variance[moving]))

        correlation = correlations(mean, true)
        found = {
            "prediction_error": error(drawn[0]),
            "mean_prediction_error": error(mean),
            "site_correlation": float(np.median(correlation[moving])),
        }
        return found | corrected("site_correlation", correlation, moving, scene.test.reliability)


def varies(points: Float[np.ndarray, "n s"]) -> Bool[np.ndarray, " s"]:
    """Which columns of `points` are not constant; a variance would be that of rounding."""
    return np.ptp(points, axis=0) > 0


def correlations(
    a: Float[np.ndarray, "n s"], b: Float[np.ndarray, "n s"]
) -> Float[np.ndarray, " s"]:
    """Pearson's correlation of each column of `a` with that of `b`; 0 where one is constant."""
    moving = varies(a) & varies(b)
    a, b = (c.astype(np.float64) for c in (a, b))
    a, b = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return (a * b).sum(0) / np.where(moving & (scale > 0), scale, np.inf)


def corrected(
    name: str,
    correlation: Float[np.ndarray, " s"],
    moving: Bool[np.ndarray, " s"],
    reliability: Float[np.ndarray, " s"] | None,
) -> dict[str, float]:
    """The median of `correlation` / √`reliability` over the sites that are `moving`, under
    `name`_corrected, where it is known of the sites (and not of something that an extractor made of
    them)."""
    if reliability is None or reliability.shape != correlation.shape:
        return {}
    if not (usable := moving & (reliability > 0)).any():
        return {}
    noise_free = correlation[usable] / np.sqrt(reliability[usable])
    return {f"{name}_corrected": float(np.median(noise_free))}


def decoder(responses: Float[np.ndarray, "n s"], labels: Int[np.ndarray, " n"]) -> GridSearchCV:
    """App. H.5: a linear C-SVC (hinge loss, L2; LIBSVM's, by scikit-learn) from standardised
    `responses` to `labels`, C chosen by 5-fold cross-validation, fitted on all of them.

    Raises ValueError if a class has fewer than 5 points, or there is one class only.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2 or counts.min() < 5:
        raise ValueError(
            f"decoding needs 2 classes with 5 training points each, for 5 folds; there are "
            f"{len(classes)}, of {counts.min()} points and more"
        )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), SVC(kernel="linear"))
    return GridSearchCV(model, {"svc__C": STRENGTHS}, cv=folds).fit(responses, labels)


def _decoder(scene: Scene, metric: Evaluator) -> GridSearchCV:
    labels = labels_of(scene.train.y.labels, "train.y.labels", metric)
    points = np.asarray(scene.train.y.points)
    return _decoder_of(points.tobytes(), points.shape, labels.astype(np.int32).tobytes())


@lru_cache(maxsize=1)
def _decoder_of(points: bytes, shape: tuple[int, ...], labels: bytes) -> GridSearchCV:
    """The same one for every map of a run."""
    responses = np.frombuffer(points, np.float32).reshape(shape)
    return decoder(responses, np.frombuffer(labels, np.int32))


class CategoryDecoding(Evaluator):
    """App. H.5: is the category of the stimulus in the predicted responses?

    A linear C-SVC is fitted on all training target points and their labels (see `decoder`), and
    gives the class of each prediction ŷ: `category_decoding` is how often it is the label of x.
    The `estimate` ŷ is a "draw", as in the paper, or "expected", E[y | x]. `eval.TargetDecoding`
    has the reference. Raises ValueError without labels, or too few of a class.
    """

    estimate: Estimate = eqx.field(static=True, default="draw")
    subject: ClassVar[Literal["map", "coupling", "features"]] = "map"
    metrics: ClassVar[Mapping[str, Better]] = {"category_decoding": "higher"}

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        labels = labels_of(scene.test.source_labels, "test.source_labels", self)
        given = predictions(scene, self, key=key, estimate=self.estimate)
        found = _decoder(scene, self).predict(given)
        return {"category_decoding": float(np.mean(found == labels))}


class TargetDecoding(Evaluator):
    """App. H.5: is the category of the stimulus in the recorded responses themselves?

    1[C-SVC(y) = label of y], averaged over the test split: `target_decoding`, by the decoder of
    `eval.CategoryDecoding`. Raises ValueError without labels, or too few of a class.
    """

    subject: ClassVar[Literal["map", "coupling", "features"]] = "features"
    metrics: ClassVar[Mapping[str, Better]] = {"target_decoding": "higher"}

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        labels = labels_of(scene.test.target_labels, "test.target_labels", self)
        found = _decoder(scene, self).predict(np.asarray(scene.y.points))
        return {"target_decoding": float(np.mean(found == labels))}
