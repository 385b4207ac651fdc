"""scikit-learn's 8 × 8 digits and their labels: an image–text data set that needs no download."""

from typing import Annotated, Any, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int
from pydantic import Field
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ..checks import Seed, Share
from ..interfaces import Data
from ..types import Dataset, Split

Direction = Annotated[
    Literal["image_to_text", "text_to_image"], Field(description="SOURCE_to_TARGET")
]


class Digits(Data):
    """1,797 handwritten digits as images, their one-hot labels as text (Sec. 4 in small).

    Images are (n, 8, 8, 1) in [0, 1], text is (n, 10), both float32; `direction` says which of
    them is the source. Image i and text i are a pair. The splits are disjoint and stratified
    by class, chosen by `seed`; the morph trains on what `pretrain_fraction` and
    `test_fraction` leave. Raises ValueError if they leave too little for every class.
    """

    direction: Direction = eqx.field(static=True, default="image_to_text")
    pretrain_fraction: Share = eqx.field(static=True, default=0.3)
    test_fraction: Share = eqx.field(static=True, default=0.2)
    seed: Seed = eqx.field(static=True, default=0)

    def __check_init__(self):
        parts = self.pretrain_fraction, self.test_fraction
        if not (min(parts) >= 0.01 and sum(parts) <= 0.99):
            raise ValueError(
                f"Digits.pretrain_fraction = {parts[0]} and test_fraction = {parts[1]} must be at "
                "least 0.01 each and leave 0.01 for training"
            )

    def load(self) -> Dataset:
        raw: Any = load_digits()
        images = (raw.images[..., None] / 16).astype(np.float32)
        labels = raw.target.astype(np.int32)

        def split(index: np.ndarray, fraction: float) -> Any:
            return train_test_split(
                index, train_size=fraction, stratify=labels[index], random_state=self.seed
            )

        pretrain, rest = split(np.arange(len(labels)), self.pretrain_fraction)
        test, train = split(rest, self.test_fraction / (1 - self.pretrain_fraction))
        splits = (
            image_text_split(images[i], labels[i], self.direction) for i in (pretrain, train, test)
        )
        return Dataset("digits", *splits, class_names=DIGIT_NAMES)


DIGIT_NAMES = tuple("0123456789")


def image_text_split(
    images: Float[np.ndarray, "n ..."], labels: Int[np.ndarray, " n"], direction: Direction
) -> Split:
    """`images` and their one-hot `labels`, 0 to 9, paired row by row; `direction` says which of
    them are the source."""
    text = np.eye(len(DIGIT_NAMES), dtype=np.float32)[labels]
    source, target = (images, text) if direction == "image_to_text" else (text, images)
    index = np.arange(len(labels))
    return Split(source, target, np.stack([index, index], axis=1), labels, labels)
