"""The known pairs, parted: what is told, and what is held out to judge by."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from ..transport.collapse import Groups
from ..types import PairedData, Pairs, distinct

JUDGED = 1000
"""Held-out source points of a part that are looked at, at most."""


class Part(NamedTuple):
    """The pairs that are told, as `data`, and the source points `held` out (k,); `partners` (k, c)
    says which of the c distinct targets are theirs, `hidden` (k, c) which of these nobody else is
    known to have. They are in the cloud only by being held out: a new point's target is not, and
    no point estimate is to be praised for finding it. `labels` (c,) are those of the targets, where
    all of a label are partners."""

    data: PairedData
    held: Int[np.ndarray, " k"]
    partners: Bool[np.ndarray, "k c"]
    hidden: Bool[np.ndarray, "k c"]
    labels: Int[np.ndarray, " c"] | None = None


def unseen(part: Part, groups: Groups) -> PairedData:
    """The data of `part` without the targets that are hidden in it; `groups` says which of the
    targets coincide."""
    data, gone = part.data, np.any(part.hidden, axis=0)[np.asarray(groups.index)]
    kept = jnp.asarray(np.flatnonzero(~gone))
    target = jnp.searchsorted(kept, data.pairs.target)
    return PairedData(data.x, data.y.take(kept), Pairs(data.pairs.source, target))


def parted(
    data: PairedData, folds: int, group: Int[np.ndarray, " m"], count: int,
    labels: Int[np.ndarray, " c"] | None = None,
) -> list[Part]:  # fmt: skip
    """The pairs of `data` in `folds` parts, by source point, or as many as there are: each is left
    out once. `group` (m,) says which of the `count` distinct targets each target is. With `labels`
    (c,) of the distinct targets, all of the right labels are partners. All parts are of one size,
    the rest of the points staying known, so that they share compiled programs. Raises ValueError
    for pairs of a single source point."""
    source, target = np.asarray(data.pairs.source), np.asarray(data.pairs.target)
    sources, row = distinct(source)
    if len(sources) < 2:
        raise ValueError(
            "Choice: the pairs of a single source point cannot be held out; give more pairs, or "
            "set run.choice = None"
        )
    folds = min(folds, len(sources))
    size = len(sources) // folds
    order = np.random.default_rng(0).permutation(len(sources))
    alone = np.bincount(group, minlength=count) == 1
    found = []
    for k in range(folds):
        held = order[k * size : (k + 1) * size]
        kept = ~np.isin(row, held)
        looked = held[:JUDGED]
        partners = np.zeros((len(looked), count), bool)
        place = np.full(len(sources), -1)
        place[looked] = np.arange(len(looked))
        asked = place[row] >= 0
        partners[place[row[asked]], group[target[asked]]] = True
        known = np.isin(np.arange(count), group[target[kept]])
        hidden = partners & alone & ~known
        if labels is not None:
            k_th, right = np.nonzero(partners)
            named, which = np.unique(labels, return_inverse=True)
            classes = np.zeros((len(looked), len(named)), bool)
            classes[k_th, which[right]] = True
            partners = classes[:, which]
        pairs = Pairs(data.pairs.source[kept], data.pairs.target[kept])
        found.append(
            Part(PairedData(data.x, data.y, pairs), sources[looked], partners, hidden, labels)
        )
    return found


def thinned(data: PairedData, points: int) -> PairedData:
    """`data` with a random part of its unpaired points, so that there are about `points` distinct
    ones a side, or as many distances as between so many; of more pairs than half of that, a random
    part too."""
    random = np.random.default_rng(0)
    size_y = Groups.of(data.y)[0].size
    most_y = min(size_y, points)
    most_x = max(points, points**2 // most_y)
    share = min(1.0, most_x / data.x.size)
    if share == 1 and size_y <= points:
        return data
    chosen = random.permutation(data.pairs.size)[: max(2, min(data.pairs.size, most_x // 2))]
    source, target = (np.asarray(a)[chosen] for a in (data.pairs.source, data.pairs.target))
    # Targets that repeat are few: all their rows stay, or their weights would change by chance.
    keep_x = _kept(data.x.size, source, most_x, random)
    keep_y = np.arange(data.y.size)
    if size_y > points:
        keep_y = _kept(data.y.size, target, most_y, random)
    pairs = np.stack([np.searchsorted(keep_x, source), np.searchsorted(keep_y, target)], 1)
    x, y = data.x.take(jnp.asarray(keep_x)), data.y.take(jnp.asarray(keep_y))
    return PairedData(x, y, Pairs.from_array(pairs))


def _kept(size: int, paired: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    paired = np.unique(paired)
    others = np.setdiff1d(np.arange(size), paired)
    more = random.permutation(others)[: max(0, most - len(paired))]
    return np.sort(np.concatenate([paired, more]))
