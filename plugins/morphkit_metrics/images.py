"""Do predicted images look like their class? (App. H.2, text to image)"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import equinox as eqx
import numpy as np
from jaxtyping import PRNGKeyArray

from morphkit.interfaces import Better, Evaluator, Scene

from .scene import decoded, labels_of


class ClassImageMSE(Evaluator):
    """Eq. 22–24 (App. H.2): squared error between pixel-wise class means of images.

    (1/C) Σ_c |mean_{i ∈ c} g(ŷ_i) - mean_{j ∈ c} image_j|² / pixels. The predictions are decoded to
    images in [0, 1]. For each class of the test split, the mean decoded image of its source points
    is compared with the mean true image of its target points; the squared differences are averaged
    over pixels, then over classes. Decoded probabilities enter as they are; with `binarize`,
    decoded and true images are first thresholded at 1/2, as Eq. 22 has x in {0, 1}. Gives
    `class_image_mse`. Raises ValueError without labels, without a decoder, if the raw target inputs
    are not what it decodes to, or if a class has no target image.
    """

    binarize: bool = eqx.field(static=True, default=False)
    subject: ClassVar[Literal["map", "coupling", "features"]] = "map"
    decodes: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, Better]] = {"class_image_mse": "lower"}

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        source_labels = labels_of(scene.test.source_labels, "test.source_labels", self)
        target_labels = labels_of(scene.test.target_labels, "test.target_labels", self)
        found = decoded(scene, self, key=key)
        true = np.asarray(scene.test.target)
        if np.prod(found.shape[1:]) != np.prod(true.shape[1:]):
            raise ValueError(
                f"ClassImageMSE: raw target images of shape {found.shape[1:]} are missing; "
                f"test.target holds inputs of shape {true.shape[1:]}"
            )
        images = [a.reshape(len(a), -1) for a in (found, true)]
        if self.binarize:
            images = [(a > 0.5).astype(np.float32) for a in images]
        errors = []
        for label in np.unique(source_labels):
            shown = images[1][target_labels == label]
            if not len(shown):
                raise ValueError(f"ClassImageMSE: test.target has no image of class {label}")
            drawn = images[0][source_labels == label]
            errors.append(np.mean((drawn.mean(0) - shown.mean(0)) ** 2))
        return {"class_image_mse": float(np.mean(errors))}
