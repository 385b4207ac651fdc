"""How high does the true partner rank among all others?"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray

from morphkit.interfaces import Better, Evaluator, Scene
from morphkit.transport.collapse import Groups, collapse
from morphkit.types import PairedData, Pairs

from .scene import predictions

logger = logging.getLogger("morphkit")

WITHIN = (1, 5, 10)
"""The k of R@k."""

WAYS = ("", "reverse_")
"""How names of metrics begin: of source points as queries, and of targets."""

BLOCK = 2**24
"""Scores that are held at once."""

ROUNDING = 1e-12
"""The share of a score within which another is tied with it: of float64, since the cosines of
points in nearly one direction differ by less than float32 could tell."""

Scores = Callable[[int, int], Float[np.ndarray, "b m"]]
"""The scores of the source points from one index to another, the latter left out, with all
targets."""


class Side(NamedTuple):
    """Of each point of a side, whether it is `asked` about, and a `candidate` for the other's."""

    asked: Bool[np.ndarray, " n"]
    candidate: Bool[np.ndarray, " n"]


class Ranks(NamedTuple):
    """Of every query the `rank` of its best partner, 1 for the highest score, and how many `others`
    it is ranked among: candidates that are no partners. A tie counts half."""

    rank: Float[np.ndarray, " q"]
    others: Int[np.ndarray, " q"]

    def numbers(self, prefix: str) -> dict[str, float]:
        """R@k and the mean reciprocal rank, their names after `prefix`; nothing without queries."""
        if len(self.rank) == 0:
            return {}
        found = {f"{prefix}recall_at_{k}": float(np.mean(self.rank <= k)) for k in WITHIN}
        return found | {f"{prefix}mrr": float(np.mean(1 / self.rank))}

    def closer(self) -> Float[np.ndarray, " r"]:
        """The share of the others that score above the partner, of queries that have others."""
        return ((self.rank - 1) / np.maximum(self.others, 1))[self.others > 0]


def names(prefix: str) -> dict[str, Better]:
    """The metrics that `summary` gives with `prefix`."""
    merits = [*(f"recall_at_{k}" for k in WITHIN), "mrr"]
    found: dict[str, Better] = {f"{prefix}{way}{m}": "higher" for way in WAYS for m in merits}
    found[f"{prefix}foscttm"] = "lower"
    return found


def summary(ranks: tuple[Ranks, Ranks], prefix: str) -> dict[str, float]:
    """R@k and MRR of the `ranks` of both ways, and FOSCTTM, the mean of both; names begin with
    `prefix`. A way without queries has no numbers."""
    found: dict[str, float] = {}
    for way, one in zip(WAYS, ranks, strict=True):
        found |= one.numbers(prefix + way)
    if shares := [np.mean(closer) for r in ranks if len(closer := r.closer())]:
        found[f"{prefix}foscttm"] = float(np.mean(shares))
    return found


def ranked(scores: Scores, pairs: Int[np.ndarray, "k 2"], x: Side, y: Side) -> tuple[Ranks, Ranks]:
    """The ranks of the targets of source points, and of the source points of targets, by the same
    `scores` (n, m), which are asked for twice, block by block.

    `pairs` has every true pair once, `x` and `y` say who is asked and who is a candidate. Whoever
    is asked has a pair, and the ends of all pairs are candidates.
    """
    n, m = len(x.asked), len(y.asked)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    size = max(1, BLOCK // m)
    blocks = [(start, min(start + size, n)) for start in range(0, n, size)]

    def within(start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        part = pairs[slice(*np.searchsorted(pairs[:, 0], [start, end]))]
        return part[:, 0] - start, part[:, 1]

    best = np.full(n, -np.inf), np.full(m, -np.inf)
    for start, end in blocks:
        i, j = within(start, end)
        if len(i):
            found = scores(start, end)[i, j]
            np.maximum.at(best[0], start + i, found)
            np.maximum.at(best[1], j, found)
    best_x, best_y = (np.where(np.isfinite(b), b, 0) for b in best)  # who has none, is not asked
    above_x, above_y = np.zeros(n), np.zeros(m)
    for start, end in blocks:
        table, wrong = scores(start, end), np.ones((end - start, m), bool)
        wrong[within(start, end)] = False
        beats = _beats(table, best_x[start:end, None])
        above_x[start:end] = np.sum(beats, 1, where=wrong & y.candidate)
        others = wrong & x.candidate[start:end, None]
        above_y += np.sum(_beats(table, best_y), 0, where=others)

    def ranks(side: int, asked: np.ndarray, above: np.ndarray, candidates: np.ndarray) -> Ranks:
        partners = np.bincount(pairs[:, side], minlength=len(asked))
        return Ranks(1 + above[asked], candidates.sum() - partners[asked])

    return (
        ranks(0, x.asked, above_x, y.candidate),
        ranks(1, y.asked, above_y, x.candidate),
    )


def _beats(scores: Float[np.ndarray, "b m"], best: np.ndarray) -> Float[np.ndarray, "b m"]:
    """1 where a score is above the best of a partner, ½ where it is tied with it."""
    tie = ROUNDING * np.abs(best)
    return ((scores > best + tie) + (scores >= best - tie).astype(np.float32)) / 2


class Retrieval(Evaluator):
    """Predictions ŷ as queries among all test targets, and targets among all predictions.

    The score is cos(ŷ_i, y_j). Of a source point with several targets the one that ranks highest
    counts. Points of a side that coincide are one, with all of their pairs (a class name is one
    candidate, however many images it has), and a tie with another counts half. Gives

    - `recall_at_1`, `recall_at_5`, `recall_at_10` (R@k): how many source points have their target
      among the k highest scores; `mrr`: the mean of 1 / rank;
    - `reverse_recall_at_1` and so on: the same of test targets among the predictions;
    - `foscttm`, the fraction of samples closer than the true match (Liu et al. 2019): the mean,
      over both ways, of the share of the others that score above the partner. 0 is perfect, .5
      chance.

    Raises ValueError without test pairs.
    """

    subject: ClassVar[Literal["map", "coupling", "features"]] = "map"
    metrics: ClassVar[Mapping[str, Better]] = names("")

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        if len(scene.test.pairs) == 0:
            raise ValueError(
                "Retrieval: test.pairs is empty; give the test split known pairs, or use a "
                "metric on labels"
            )
        data = PairedData(scene.x, scene.y, Pairs.from_array(np.asarray(scene.test.pairs)))
        distinct = collapse(data)
        data = data if distinct is None else distinct.data
        answers = _directions(predictions(replace(scene, x=data.x), self, key=key))
        targets = _directions(np.asarray(data.y.points))
        pairs = np.stack([data.pairs.source, data.pairs.target], axis=1)

        def side(ends: np.ndarray, size: int) -> Side:
            return Side(np.bincount(ends, minlength=size) > 0, np.ones(size, bool))

        found = ranked(
            lambda start, end: answers[start:end] @ targets.T, pairs,
            side(pairs[:, 0], data.x.size), side(pairs[:, 1], data.y.size),
        )  # fmt: skip
        return summary(found, "")


def _directions(points: Float[np.ndarray, "n q"]) -> Float[np.ndarray, "n q"]:
    points = points.astype(np.float64)
    return points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)


class UnpairedRetrieval(Evaluator):
    """The coupling on correspondences of the training data that the run was not told.

    Where `run.paired_fraction` is below 1, the truth is known of points that were coupled without a
    pair. Such source points are queries, ranked by their row of the coupling, and such targets, by
    their column. Candidates are all points but those whose every pair was known, which nobody else
    is waiting for. Points of a side that coincide are one, their mass summed, with all of their
    pairs. Gives the metrics of `Retrieval`, their names after `unpaired_`; a source point without
    mass has its targets at chance, by ties. Nothing if the run knows every pair. Raises ValueError
    without a coupling, or without the raw inputs.
    """

    subject: ClassVar[Literal["map", "coupling", "features"]] = "coupling"
    metrics: ClassVar[Mapping[str, Better]] = names("unpaired_")

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        if scene.coupling is None or scene.inputs is None:
            missing = "coupling" if scene.coupling is None else "inputs"
            raise ValueError(
                f"UnpairedRetrieval: scene.{missing} is missing; it judges a coupling by the pairs "
                "of the training split that were not used"
            )
        coupling, train = scene.coupling, scene.train
        (x, of_x), (y, of_y) = Groups.of(train.x), Groups.of(train.y)
        index_x, index_y = np.asarray(of_x.index), np.asarray(of_y.index)

        def groups(source: np.ndarray, target: np.ndarray) -> Int[np.ndarray, "k 2"]:
            return np.unique(np.stack([index_x[source], index_y[target]], axis=1), axis=0)

        known = groups(np.asarray(train.pairs.source), np.asarray(train.pairs.target))
        every = groups(*np.asarray(scene.inputs.pairs).T)
        number = np.array([y.size, 1])
        told = np.isin(every @ number, known @ number)
        hidden = every[~told]
        if len(hidden) == 0:
            logger.info("UnpairedRetrieval: the run knows every pair of the training split")
            return {}

        def side(axis: int, size: int) -> Side:
            told, waits = (np.bincount(p[:, axis], minlength=size) > 0 for p in (known, hidden))
            return Side(waits & ~told, waits | ~told)

        order_x, order_y = np.asarray(of_x.order), np.asarray(of_y.order)
        start_x, start_y = np.asarray(of_x.start), np.asarray(of_y.start)

        def scores(start: int, end: int) -> Float[np.ndarray, "b m"]:
            first, last = start_x[start], start_x[end]
            rows = np.asarray(coupling.rows(jnp.asarray(order_x[first:last])))
            if y.size < train.y.size:
                rows = np.add.reduceat(rows[:, order_y], start_y[:-1], axis=1)
            if x.size < train.x.size:
                rows = np.add.reduceat(rows, start_x[start:end] - first, axis=0)
            return rows

        return summary(ranked(scores, hidden, side(0, x.size), side(1, y.size)), "unpaired_")
