"""Does the prediction fall into the right class? (App. H.2, image to text, and H.3)"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray
from sklearn.metrics import pairwise_distances_argmin

from morphkit.interfaces import Better, Evaluator, Scene

from .scene import Estimate, decoded, labels_of, predictions


class LabelAccuracy(Evaluator):
    """App. H.2, image to text: accuracy of the labels decoded from the predicted features.

    The mean of 1[argmax_k g(ŷ_i)_k = label of x_i], with g the decoder of the target space: it
    turns the predictions into class probabilities (n, c), column k being class k; the largest is
    compared with the class of the source point. The `estimate` ŷ is a "draw", as in the paper, or
    "expected", E[y | x]. Gives `test_accuracy`. Raises ValueError without source labels, without a
    decoder, or if it does not decode to one probability per class.
    """

    estimate: Estimate = eqx.field(static=True, default="draw")
    subject: ClassVar[Literal["map", "coupling", "features"]] = "map"
    decodes: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, Better]] = {"test_accuracy": "higher"}

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        labels = labels_of(scene.test.source_labels, "test.source_labels", self)
        found = decoded(scene, self, key=key, estimate=self.estimate)
        if found.ndim != 2 or found.shape[1] <= labels.max():
            raise ValueError(
                "LabelAccuracy: the target decoder gives arrays of shape "
                f"{found.shape}, not (n, classes) with more than {labels.max()} classes; "
                "its inputs have to be one-hot labels"
            )
        return {"test_accuracy": float(np.mean(found.argmax(1) == labels))}


class NearestTargetAccuracy(Evaluator):
    """Eq. 25–26 (App. H.3): accuracy of the class whose target point is nearest.

    The mean of 1[argmax_k cos(ŷ_i, y_k) = label of x_i]. Each class has one target point, the mean
    of its training target features (which is the point itself where all coincide, as for class
    names). `metric` is "cosine" (the paper's) or "euclidean", `estimate` of ŷ a "draw" (the
    paper's) or "expected", E[y | x]. Gives `nearest_target_accuracy`.
    Raises ValueError on another metric and without test source labels or training target labels.
    """

    metric: Literal["cosine", "euclidean"] = eqx.field(static=True, default="cosine")
    estimate: Estimate = eqx.field(static=True, default="draw")
    subject: ClassVar[Literal["map", "coupling", "features"]] = "map"
    metrics: ClassVar[Mapping[str, Better]] = {"nearest_target_accuracy": "higher"}

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        labels = labels_of(scene.test.source_labels, "test.source_labels", self)
        target_labels = labels_of(scene.train.y.labels, "train.y.labels", self)
        order = np.argsort(target_labels, kind="stable")
        classes, start, counts = np.unique(
            target_labels[order], return_index=True, return_counts=True
        )
        # Summed in float64, so that the mean of equal float32 points is that very point.
        points = np.asarray(scene.train.y.points)[order]
        means = np.add.reduceat(points, start, axis=0, dtype=np.float64) / counts[:, None]
        predicted = predictions(scene, self, key=key, estimate=self.estimate)
        nearest = pairwise_distances_argmin(predicted, means.astype(np.float32), metric=self.metric)
        return {"nearest_target_accuracy": float(np.mean(classes[nearest] == labels))}
