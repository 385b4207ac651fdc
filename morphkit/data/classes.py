"""Some of the classes of a data set: what their number does (Sec. 5.1.2, Fig. 5)."""

import equinox as eqx
import numpy as np
from jaxtyping import Int

from ..checks import Count, Seed
from ..interfaces import Data
from ..types import Dataset, Split


class SomeClasses(Data):
    """The data set `of` with only `number` of its classes, chosen at random by `seed`; all of them
    without a number.

    The classes of a larger number have those of a smaller one among them. Points of other classes
    are left out of the training and of the test split, on both sides, and pairs with them; what
    feature extractors are trained on stays whole. Raises ValueError for data without labels, and
    for more classes than there are.
    """

    of: Data
    number: Count | None = eqx.field(static=True, default=None)
    seed: Seed = eqx.field(static=True, default=0)

    def load(self) -> Dataset:
        data = self.of.load()
        if self.number is None:
            return data
        sides = [(split.source_labels, split.target_labels) for split in (data.train, data.test)]
        if any(labels is None for side in sides for labels in side):
            raise ValueError(f"SomeClasses.of = {type(self.of).__name__} has points without labels")
        known = np.unique(np.asarray(data.train.source_labels))
        if self.number > len(known):
            raise ValueError(
                f"SomeClasses.number = {self.number} is more than the {len(known)} classes of "
                f"{data.name}"
            )
        chosen = np.random.default_rng(self.seed).permutation(known)[: self.number]
        train, test = (_kept(split, chosen) for split in (data.train, data.test))
        return data._replace(train=train, test=test)


def _kept(split: Split, classes: Int[np.ndarray, " k"]) -> Split:
    """`split` without the points whose label is none of `classes`."""
    sides, places = {}, []
    for side in ("source", "target"):
        labels = getattr(split, f"{side}_labels")
        rows = np.flatnonzero(np.isin(labels, classes))
        before = getattr(split, f"{side}_rows")
        sides |= {
            side: getattr(split, side)[rows], f"{side}_labels": labels[rows],
            f"{side}_rows": rows if before is None else before[rows],
        }  # fmt: skip
        place = np.full(len(labels), -1)
        place[rows] = np.arange(len(rows))
        places.append(place)
    pairs = np.stack([place[rows] for place, rows in zip(places, split.pairs.T, strict=True)], 1)
    return split._replace(pairs=pairs[(pairs >= 0).all(1)], **sides)
