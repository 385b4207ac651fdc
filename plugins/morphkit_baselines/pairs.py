"""The pairs a baseline learns from, and how they are parted to choose its arguments by."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from morphkit.interfaces import Baseline
from morphkit.types import PairedData

TUNING_PAIRS = 5_000
"""Arguments are chosen on so many pairs at most, a random part of more of them."""


def paired_points(data: PairedData) -> tuple[Float[np.ndarray, "l p"], Float[np.ndarray, "l q"]]:
    """Both ends of every pair of `data`, in float64. Raises ValueError if there is no pair."""
    if data.pairs.size == 0:
        raise ValueError("data.pairs: a baseline needs at least one pair, got none")
    return np.asarray(data.x_paired, np.float64), np.asarray(data.y_paired, np.float64)


def paired_classes(
    data: PairedData, weights: Float[np.ndarray, " l"] | None = None
) -> tuple[Int[np.ndarray, " l"], Float[Array, "c q"]]:
    """The class of each pair of `data`, in 0 … c - 1, and the mean of the paired targets of each
    class, a pair counting what `weights` say, above 0, or else 1.

    A class is a label of the paired targets, which is as known as the pairs are; no other label
    is read. Without labels it is a point that several pairs, or several rows of the target cloud,
    share. Raises ValueError without pairs, and where (nearly) every target is another point.
    """
    _, y = paired_points(data)
    if data.y.labels is not None:
        names = np.asarray(data.y.labels)[np.asarray(data.pairs.target)]
    else:
        names = np.unique(y, axis=0, return_inverse=True)[1].ravel()
        if len(y) > 1 and _nearly_distinct(y) and _nearly_distinct(np.asarray(data.y.points)):
            raise ValueError(
                f"data.y: a classifier needs classes, but the {len(y)} pairs end in "
                f"{names.max() + 1} different points, and no labels are given; give labels of the "
                "targets, or take a baseline that regresses, such as baseline.Ridge"
            )
    classes = np.unique(names, return_inverse=True)[1]
    means, _ = class_means(y, classes, np.ones(len(y)) if weights is None else weights)
    return classes, jnp.asarray(means, jnp.float32)


def class_means(
    points: Float[np.ndarray, "l d"],
    classes: Int[np.ndarray, " l"],
    weights: Float[np.ndarray, " l"],
) -> tuple[Float[np.ndarray, "c d"], Float[np.ndarray, " c"]]:
    """The mean of each class, and what its points weigh; point k of `points` is of the class
    `classes`[k] and counts `weights`[k]."""
    totals = np.bincount(classes, weights)
    sums = np.zeros((len(totals), points.shape[1]))
    np.add.at(sums, classes, weights[:, None] * points)
    return sums / totals[:, None], totals


def _nearly_distinct(points: np.ndarray) -> bool:
    return len(np.unique(points, axis=0)) > 0.9 * len(points)


def folds(
    size: int, classes: Int[np.ndarray, " size"] | None = None
) -> list[tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]]:
    """Of `size` rows those to fit to and those to judge by, five times, ten times for at most 100.

    A random partition, always the same, that spreads each of the `classes` as evenly as it can
    (scikit-learn's StratifiedKFold refuses classes of fewer rows than folds). Of more than
    `TUNING_PAIRS` rows, a random part. A single row makes no fold.
    """
    order = np.random.default_rng(0).permutation(size)[:TUNING_PAIRS]
    if classes is not None:
        order = order[np.argsort(classes[order], kind="stable")]
    count = min(10 if len(order) <= 100 else 5, len(order))
    if count < 2:
        return []
    fold = np.arange(len(order)) % count
    return [(order[fold != k], order[fold == k]) for k in range(count)]


def fixed(baseline: Baseline, *names: str) -> tuple[Any, ...]:
    """The values of the arguments `names` of `baseline`, one each. Raises ValueError where several
    are left to choose from."""
    for name in names:
        if len(values := getattr(baseline, name)) > 1:
            raise ValueError(
                f"{type(baseline).__name__}.{name} = {values!r} leaves a choice, which weighted "
                "pairs do not make; give one value, or take .tuned(data)"
            )
    return tuple(getattr(baseline, name)[0] for name in names)


def candidates(value: Any) -> tuple:
    """The argument `value`, one or several to choose from, as a tuple."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
