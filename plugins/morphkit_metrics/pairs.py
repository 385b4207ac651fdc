"""Is the prediction close to the true partner? For arrays with or without labels."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray
from sklearn.metrics import pairwise_distances_argmin, r2_score

from morphkit.interfaces import Better, Evaluator, Scene
from morphkit.types import distinct

from .scene import Estimate, predictions


class PairedError(Evaluator):
    """Predictions ŷ against the paired targets y, over all pairs of the test split.

    ŷ is the `estimate`: "expected", E[y | x], or one "draw".
    Gives `paired_mse` (mean over points and dimensions), `paired_cosine` (mean cosine
    similarity), `paired_r2` (1 − Σ‖ŷ − y‖² / Σ‖y − ȳ‖²: dimensions weigh by their variance)
    and `retrieval_at_1`: for how many source points x the test target nearest to ŷ by cosine is
    one that x is paired with (any of its captions, say), or coincides with one. A single test pair
    has no `paired_r2`. Raises ValueError without test pairs.
    """

    estimate: Estimate = eqx.field(static=True, default="expected")
    subject: ClassVar[Literal["map", "coupling", "features"]] = "map"
    metrics: ClassVar[Mapping[str, Better]] = {
        "paired_mse": "lower",
        "paired_cosine": "higher",
        "paired_r2": "higher",
        "retrieval_at_1": "higher",
    }

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        pairs = np.asarray(scene.test.pairs)
        if len(pairs) == 0:
            raise ValueError(
                "PairedError: test.pairs is empty; give the test split known pairs, or use a "
                "metric on labels"
            )
        targets = np.asarray(scene.y.points)
        sources, row = distinct(pairs[:, 0])
        answers = predictions(scene, self, key=key, estimate=self.estimate)[sources]
        predicted = answers[row]
        true = targets[pairs[:, 1]]
        norms = np.linalg.norm(predicted, axis=1) * np.linalg.norm(true, axis=1)
        cosine = np.sum(predicted * true, 1) / np.maximum(norms, 1e-12)
        nearest = targets[pairwise_distances_argmin(answers, targets, metric="cosine")]
        right = np.bincount(row, np.all(nearest[row] == true, axis=1)) > 0
        found = {
            "paired_mse": float(np.mean((predicted - true) ** 2)),
            "paired_cosine": float(np.mean(cosine)),
            "retrieval_at_1": float(np.mean(right)),
        }
        if len(pairs) > 1:
            r2 = r2_score(true, predicted, multioutput="variance_weighted")
            found["paired_r2"] = float(r2)
        return found
