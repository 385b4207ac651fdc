"""Does the coupling match points of one class? (Fig. 6)"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from morphkit.checks import Count
from morphkit.interfaces import Better, Evaluator, Scene

from .scene import labels_of


class MatchingAccuracy(Evaluator):
    """Fig. 6: the probability that a draw (i, j) of the coupling joins equal labels.

    Σ_ij π_ij 1[label of x_i = label of y_j] / Σ_ij π_ij. Gives `matching_accuracy`, estimated from
    `samples` draws as in the paper, `matching_accuracy_exact`, the sum of the coupling over all
    pairs of equal labels, and `aes` (Eq. 30), the latter over the ratio of excluded points (Eq.
    29). Raises ValueError without a coupling, or without labels of both training clouds.
    """

    samples: Count = eqx.field(static=True, default=10_000)
    subject: ClassVar[Literal["map", "coupling", "features"]] = "coupling"
    metrics: ClassVar[Mapping[str, Better]] = {
        "matching_accuracy": "higher",
        "matching_accuracy_exact": "higher",
        "aes": "higher",
    }

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        if scene.coupling is None:
            raise ValueError("MatchingAccuracy: scene.coupling is missing; it judges a coupling")
        x = jnp.asarray(labels_of(scene.train.x.labels, "train.x.labels", self))
        y = jnp.asarray(labels_of(scene.train.y.labels, "train.y.labels", self))
        match = scene.coupling.matching_accuracy
        return {
            "matching_accuracy": float(match(x, y, key=key, num=self.samples)),
            "matching_accuracy_exact": float(match(x, y)),
            "aes": float(scene.coupling.aes(x, y)),
        }
