"""Features of ImageNet's images, and of the names of their classes (Sec. 5.1 of the paper)."""

from pathlib import Path
from typing import Literal

import equinox as eqx
import numpy as np

from ..checks import Count
from ..files import open_npz
from ..interfaces import Data
from ..types import Dataset, Split
from .arrays import data_folder

ARRAYS = (
    "train_features", "train_label", "val_features", "val_label", "text_features", "class_name",
)  # fmt: skip


class ImageNetFeatures(Data):
    """Features that a vision and a language model gave: every image goes with its class's text.

    The .npz file `path` (default: $MORPHKIT_DATA/tiny_imagenet/tiny_imagenet.npz) has
    `train_features` (n, p) and `val_features` (k, p) of images, their classes `train_label` (n,)
    and `val_label` (k,), and for the c classes `text_features` (c, q) and `class_name` (c,). The
    training images are the source; target point i is the text of image i's class, so that
    targets coincide. The first `test` validation images evaluate; the others are for choosing
    settings, and evaluate with `evaluate` = "validation". Raises FileNotFoundError if there is no
    such file, and ValueError, naming the array, if it does not hold what it should, or if there
    are no others.
    """

    path: str | None = eqx.field(static=True, default=None)
    test: Count = eqx.field(static=True, default=4000)
    evaluate: Literal["test", "validation"] = eqx.field(static=True, default="test")

    def load(self) -> Dataset:
        file = Path(self.path or data_folder() / "tiny_imagenet" / "tiny_imagenet.npz")
        if not file.is_file():
            raise FileNotFoundError(
                f"there is no file {file}: ImageNetFeatures.path names an .npz file with "
                f"{', '.join(ARRAYS)}"
            )
        with open_npz(file) as arrays:
            if missing := [name for name in ARRAYS if name not in arrays]:
                raise ValueError(f"{file} has no array {missing[0]}, only {list(arrays)}")
            found = {name: arrays[name] for name in ARRAYS}
            for name in ARRAYS:
                kind = "whole numbers" if name.endswith("label") else "real numbers"
                allowed = "iu" if name.endswith("label") else "fiu"
                if name != "class_name" and found[name].dtype.kind not in allowed:
                    raise ValueError(f"{file}: {name} is {found[name].dtype}, not {kind}")
        texts, names = found["text_features"].astype(np.float32), found["class_name"]
        if texts.ndim != 2 or names.shape != texts.shape[:1]:
            raise ValueError(
                f"{file}: text_features is {texts.shape} and class_name {names.shape}, not (c, q) "
                "and (c,)"
            )

        def split(side: str, rows: slice = slice(None)) -> Split:
            images, labels = found[f"{side}_features"], found[f"{side}_label"]
            if images.ndim != 2 or labels.shape != images.shape[:1]:
                raise ValueError(
                    f"{file}: {side}_features is {images.shape} and {side}_label {labels.shape}, "
                    "not (n, p) and (n,)"
                )
            images, labels = images[rows].astype(np.float32), labels[rows]
            if not np.isfinite(images).all() or not np.isfinite(texts).all():
                raise ValueError(f"{file}: {side}_features or text_features has NaN or infinities")
            if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(texts):
                raise ValueError(f"{file}: {side}_label must be in 0 to {len(texts) - 1}")
            labels = labels.astype(np.int32)
            pairs = np.stack([np.arange(len(images))] * 2, 1)
            return Split(images, texts[labels], pairs, labels, labels)

        judged = slice(self.test)
        if self.evaluate == "validation":
            if found["val_label"].size <= self.test:
                raise ValueError(
                    f"ImageNetFeatures.test = {self.test} leaves none of {file}'s "
                    f"{found['val_label'].size} validation images to choose settings by"
                )
            judged = slice(self.test, None)
        train, judged = split("train"), split("val", judged)
        return Dataset("imagenet", None, train, judged, class_names=tuple(map(str, names)))
