"""How good are the features themselves? (App. H.1)"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from morphkit.checks import Count
from morphkit.interfaces import Better, Evaluator, Scene
from morphkit.types import Cloud

from .scene import labels_of


class FeatureOverlap(Evaluator):
    """Eq. 21 (App. H.1): how many of a point's `k` nearest neighbours have another label.

    (1/nk) Σ_i Σ_{j ∈ kNN(i)} 1[label_j ≠ label_i]. Averaged over `repeats` random batches of
    `batch_size` training points (all of them, once, where there are no more), for each side:
    `source_overlap`, `target_overlap`. Neighbours are Euclidean, within the batch, and never the
    point itself. Raises ValueError if a side has no labels or not more than k points.
    """

    k: Count = eqx.field(static=True, default=15)
    batch_size: Count = eqx.field(static=True, default=5_000)
    repeats: Count = eqx.field(static=True, default=5)
    subject: ClassVar[Literal["map", "coupling", "features"]] = "features"
    metrics: ClassVar[Mapping[str, Better]] = {
        "source_overlap": "neither",
        "target_overlap": "neither",
    }

    def __check_init__(self):
        if self.batch_size <= self.k:
            raise ValueError(
                f"FeatureOverlap.batch_size = {self.batch_size} must be greater than k = {self.k}"
            )

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        source_key, target_key = jax.random.split(key)
        return {
            "source_overlap": self._overlap(scene.train.x, "train.x", source_key),
            "target_overlap": self._overlap(scene.train.y, "train.y", target_key),
        }

    def _overlap(self, cloud: Cloud, name: str, key: PRNGKeyArray) -> float:
        labels = labels_of(cloud.labels, f"{name}.labels", self)
        points = np.asarray(cloud.points)
        if len(points) <= self.k:
            raise ValueError(f"k: {self.k} neighbours need more points than {name}'s {len(points)}")
        size = min(self.batch_size, len(points))
        # A batch of everything is the same batch every time.
        repeats = 1 if size == len(points) else self.repeats
        overlaps = []
        for batch_key in jax.random.split(key, repeats):
            draw = np.asarray(jax.random.permutation(batch_key, len(points)))[:size]
            search = NearestNeighbors(n_neighbors=self.k).fit(points[draw])
            neighbours = search.kneighbors(return_distance=False)
            own = labels[draw]
            overlaps.append(np.mean(own[neighbours] != own[:, None]))
        return float(np.mean(overlaps))


class KNNAccuracy(Evaluator):
    """The supervised reference: a k-nearest-neighbour classifier of the source features.

    The label of x is the most frequent of its `k` nearest training points. Fitted on all training
    source points with their labels, tested on the test split. Gives `source_{k}nn_accuracy`. Raises
    ValueError without labels or with fewer than k points.
    """

    k: Count = eqx.field(static=True, default=5)
    subject: ClassVar[Literal["map", "coupling", "features"]] = "features"

    @property
    def metrics(self) -> Mapping[str, Better]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {f"source_{self.k}nn_accuracy": "higher"}

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        train = labels_of(scene.train.x.labels, "train.x.labels", self)
        test = labels_of(scene.test.source_labels, "test.source_labels", self)
        if len(train) < self.k:
            raise ValueError(f"k: {self.k} neighbours need more points than train.x's {len(train)}")
        classifier = KNeighborsClassifier(self.k).fit(np.asarray(scene.train.x.points), train)
        accuracy = classifier.score(np.asarray(scene.x.points), test)
        return {f"source_{self.k}nn_accuracy": float(accuracy)}
