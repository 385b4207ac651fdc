"""Other classes of a data set: some of them (Fig. 5), or such as another data set tells."""

import equinox as eqx
import numpy as np
from jaxtyping import Int
from sklearn.cluster import KMeans

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


class Clustered(Data):
    """The data set `of`, its labels replaced by what the source features of another say: those of
    `by`, a data set of the same points, in `number` clusters (k-means, by `seed`).

    For stimuli that nobody named: the groups are found in the training split, and the other points
    are of the nearest one. Raises ValueError for data sets whose splits differ in size, and for
    fewer points than clusters.
    """

    of: Data
    by: Data
    number: Count = eqx.field(static=True, default=8)
    seed: Seed = eqx.field(static=True, default=0)

    def load(self) -> Dataset:
        data, by = self.of.load(), self.by.load()
        if len(by.train.source) < self.number:
            raise ValueError(
                f"Clustered.number = {self.number} is more than the {len(by.train.source)} points"
            )
        flat = [split.source.reshape(len(split.source), -1) for split in (by.train, by.test)]
        means = KMeans(self.number, n_init=10, random_state=self.seed)  # pyright: ignore
        means.fit(flat[0])
        splits = []
        for split, points in zip((data.train, data.test), flat, strict=True):
            if not len(split.source) == len(split.target) == len(points):
                raise ValueError(
                    f"Clustered.by has a split of {len(points)} points, and Clustered.of one of "
                    f"{len(split.source)} and {len(split.target)}"
                )
            labels = np.asarray(means.predict(points), np.int32)
            splits.append(split._replace(source_labels=labels, target_labels=labels))
        names = tuple(f"group {k + 1}" for k in range(self.number))
        return data._replace(train=splits[0], test=splits[1], class_names=names)
