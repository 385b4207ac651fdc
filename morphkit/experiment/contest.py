"""Ways to map, each asked of held-out pairs."""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from ..hosts import any_of_all, told
from ..interfaces import Baseline, Tell, silent
from ..loggers import finite
from ..transport.collapse import Groups
from ..transport.entropic import EntropicMap, Reading
from ..transport.matching import cosines
from ..types import Cloud, PairedData
from ..wiring.records import arguments
from ..wiring.structure import structure
from .choice import Candidate, Choice, Way, described, kinds
from .parts import Part, parted, thinned, unseen
from .verdict import Answers, Verdict, judge

logger = logging.getLogger("morphkit")

BEHIND = 2.0
"""Standard errors by which a candidate may lie behind the best and still be asked again."""

SUITED = {"repeated": "targets that repeat", "scarce": "targets that repeat, many of them unpaired"}
"""What data a candidate is for, in words, by what it suits."""

ENOUGH = 5
"""Held-out source points that a standard error takes."""


@dataclass
class Contestant:
    """One line of the table: a `way` by its `name`, entered at its `place`, what it `said` of each
    part of the pairs, read with its potential and without, and the `seconds` that took. `out` is
    why it was not asked, or asked no further; `best` is its best reading, and how good."""

    name: str
    way: Way
    place: int = 0
    said: dict[bool, list[Answers]] = field(default_factory=dict)
    seconds: float = 0.0
    out: str = ""
    best: tuple[bool, Verdict] | None = None

    @property
    def everywhere(self) -> bool:
        """Whether it knows new points: a baseline does, and a map, which is read in two ways."""
        return isinstance(self.way, Baseline) or False in self.said

    @property
    def for_scarce(self) -> bool:
        """Whether it is for pairs that are scarce, of which held-out ones tell little."""
        return isinstance(self.way, Candidate) and self.way.suits == "scarce"

    def conclude(self) -> None:
        """Judges both readings by what was said so far, and keeps that with the potential unless
        the other is better by more than the standard error. Of one for scarce pairs the usual one
        is without, and the other has to have the right target first clearly more often: by
        probability a potential is better that gives targets without a pair their share."""
        verdicts = {balanced: judge(parts) for balanced, parts in self.said.items()}
        usual = not (self.for_scarce and False in verdicts)
        self.best, other = (usual, verdicts[usual]), verdicts.get(not usual)
        if other is not None:
            gain = other.log_posterior - self.verdict.log_posterior
            if (
                clearly_behind(other.hits, self.verdict.hits) if self.for_scarce
                else gain.mean() > standard_error(gain)
            ):  # fmt: skip
                self.best = not usual, other

    @property
    def reading(self) -> Reading:
        """How its map is best read: balanced or not, at the most probable temperature, and by the
        point estimate with the larger R²."""
        assert self.best is not None
        own = self.verdict.other_r2 > self.verdict.r2
        return Reading(self.best[0], self.verdict.temperature, "cost" if own else "mean")

    def log_posterior(self) -> float:
        """The mean over the held-out points."""
        return float(self.verdict.log_posterior.mean())

    def recall_at_1(self) -> float:
        return self.verdict.recall_at_1

    def r2(self) -> float:
        """R² of the better of its point estimates; -inf where targets do not vary."""
        found = float(np.fmax(self.verdict.r2, self.verdict.other_r2))
        return found if np.isfinite(found) else -np.inf

    @property
    def spread(self) -> float | None:
        """The root mean square, per coordinate, of what its better point estimate leaves over; None
        where that is nothing, or targets do not vary."""
        found = self.verdict.residual
        return found if np.isfinite(found) and found > 0 else None

    @property
    def verdict(self) -> Verdict:
        assert self.best is not None
        return self.best[1]

    @property
    def row(self) -> dict[str, Any]:
        """Its line of the table, as JSON."""
        found: dict[str, Any] = {
            "name": self.name, "kind": "baseline" if isinstance(self.way, Baseline) else "coupling",
            "made_of": self.way.made_of if isinstance(self.way, Candidate) else described(self.way),
            "seconds": round(self.seconds, 2), "out": self.out,
        }  # fmt: skip
        if self.best is not None:
            log, count = self.verdict.log_posterior, len(self.verdict.log_posterior)
            numbers = {
                "log_posterior": log.mean(), "standard_error": standard_error(log),
                "recall_at_1": self.verdict.recall_at_1, "confidence": self.verdict.confidence,
                "r2": self.r2(),
            }  # fmt: skip
            found |= {name: finite(float(value)) for name, value in numbers.items()}
            found |= {"held_out": count} | arguments(self.reading)
        return found


def contest(
    choice: Choice, ways: Mapping[str, Way], data: PairedData, tell: Tell = silent
) -> list[Contestant]:
    """All `ways` to map `data`, by name, with what each said of held-out pairs, the best first, as
    `choice` asks them. `tell` is told how many were heard. Raises ValueError for pairs of a single
    source point, which cannot be held out, for `Choice.classes` without labels, and where no way
    can be judged."""
    if choice.classes and data.y.labels is None:
        raise ValueError(
            "Choice.classes = True needs labels of the targets; give them, or set it to False"
        )
    known = kinds(choice, data)
    by_hits = "repeated" in known
    entered = [Contestant(name, way, k) for k, (name, way) in enumerate(ways.items())]
    for contestant in entered:
        if isinstance(contestant.way, Candidate) and contestant.way.suits not in known:
            contestant.out = f"not tried: it is for {SUITED[contestant.way.suits]}"
    data = thinned(data, choice.points)
    targets, groups = Groups.of(data.y)
    labels = np.asarray(targets.labels) if choice.classes else None
    parts = parted(data, choice.folds, np.asarray(groups.index), targets.size, labels)
    asking = [c for c in entered if not c.out]
    done, total, last = 0, len(asking) * len(parts), 0.0
    for k, part in enumerate(parts):
        begun = _seconds(entered)
        # The first part also compiles, and so does not tell what the next will take.
        if k and begun + (last if k > 1 else 0.0) > choice.budget:
            break
        for contestant in asking:
            spent = _seconds(entered) > choice.budget and isinstance(contestant.way, Candidate)
            if k == 0 and spent and _heard_one(entered):
                contestant.out = f"not tried: Choice.budget = {choice.budget:g} seconds were spent"
            else:
                _hear(contestant, part, targets, groups)
            done += 1
            tell(done, total, {})
        last = _seconds(entered) - begun
        asking = _left(asking, by_hits) if any(not c.out for c in asking) else []
        done = total - len(asking) * (len(parts) - k - 1)
    if not by_hits:
        _reconsider([c for c in entered if c.best is not None and c.everywhere], parts, groups)
    heard = [c for c in entered if c.best is not None]
    if not heard:
        raise ValueError(
            "Choice: no candidate could be judged: " + "; ".join(c.out for c in entered)
        )
    heard.sort(key=lambda c: (bool(c.out), -c.log_posterior()))
    return heard + [c for c in entered if c.best is None]


def _reconsider(field: list[Contestant], parts: list[Part], groups: Groups) -> None:
    """Of the one in `field` with the largest R², if that is of predictions which its coupling has
    taught: what it would predict without the held-out targets, and so on until the largest R² is
    such a one."""
    asked: set[str] = set()
    while left := [c for c in field if not c.out]:
        best = max(left, key=Contestant.r2)
        taught = isinstance(best.way, Candidate) and best.verdict.other_r2 > best.verdict.r2
        if best.name in asked or not taught:
            return
        asked.add(best.name)
        with _heard(best):
            for k, part in enumerate(parts[: len(best.said[True])]):
                if part.hidden.any():
                    other = _predicted(best.way, unseen(part, groups), part.held)
                    for said in best.said.values():
                        said[k] = said[k]._replace(other=other)
            best.conclude()


def _predicted(way: Way, data: PairedData, held: Int[np.ndarray, " k"]) -> Float[np.ndarray, "k q"]:
    """What the cost of `way`, taught by the coupling of `data`, predicts of its points `held`."""
    assert isinstance(way, Candidate)
    new = way.aligner.sampler(data, way.cost, way.solver).map
    assert isinstance(new, EntropicMap)
    return np.asarray(new.cost.predict(np.asarray(data.x.points)[held]))


def _hear(contestant: Contestant, part: Part, targets: Cloud, groups: Groups) -> None:
    with _heard(contestant):
        said = _answers(contestant.way, part, targets, groups)
        for balanced, answers in said.items():
            contestant.said.setdefault(balanced, []).append(answers)
        contestant.conclude()


@contextlib.contextmanager
def _heard(contestant: Contestant) -> Iterator[None]:
    """Counts the seconds of `contestant`, who is out where it fails; without what it tells of its
    rounds: many are heard."""
    start, level, failed = time.monotonic(), logger.level, None
    logger.setLevel(logging.WARNING)
    try:
        # Idle threads of BLAS and OpenMP spin on the cores that XLA's work on.
        with threadpool_limits(1):
            yield
    except (ValueError, ArithmeticError, MemoryError, np.linalg.LinAlgError) as error:
        failed = error
    finally:
        logger.setLevel(level)
    if any_of_all(failed is not None):  # memory may be short for one of several processes
        contestant.out, contestant.best = f"not possible: {failed or 'in another process'}", None
    contestant.seconds += told(time.monotonic() - start)


def _heard_one(entered: list[Contestant]) -> bool:
    """Whether a coupling that knows new points was judged: there has to be one."""
    return any(c.everywhere and isinstance(c.way, Candidate) for c in entered)


def _seconds(field: list[Contestant]) -> float:
    """What the couplings in `field` took."""
    return sum(c.seconds for c in field if isinstance(c.way, Candidate))


def clearly_behind(best: Float[np.ndarray, " k"], other: Float[np.ndarray, " k"]) -> bool:
    """Whether the mean of `other` (k,) is less than that of `best` (k,), of the same points, by
    more than BEHIND standard errors of the difference."""
    behind = best - other
    return bool(behind.mean() > BEHIND * standard_error(behind))


def _left(asking: list[Contestant], by_hits: bool) -> list[Contestant]:
    """Those that are not clearly behind; `by_hits`, neither in these. The two best baselines and
    the two best couplings that know new points are kept, by whatever measure: a table without a
    baseline says nothing, and what has the best probabilities need not have the best estimates."""
    asking = [c for c in asking if not c.out]
    leader = max(asking, key=Contestant.log_posterior)
    oftenest = max(asking, key=Contestant.recall_at_1)
    known = [c for c in asking if c.everywhere]
    kept = [
        contestant
        for kind in (Baseline, Candidate)
        for measure in (Contestant.log_posterior, Contestant.recall_at_1, Contestant.r2)
        for contestant in sorted(
            (c for c in known if isinstance(c.way, kind)), key=measure, reverse=True
        )[:2]
    ]
    for contestant in asking:
        log, hits = contestant.verdict.log_posterior, contestant.verdict.hits
        clearly = clearly_behind(leader.verdict.log_posterior, log) and (
            not by_hits or clearly_behind(oftenest.verdict.hits, hits)
        )
        if clearly and not any(contestant is c for c in kept):
            contestant.out = f"clearly behind after {len(log)} held-out points"
    return [c for c in asking if not c.out]


def standard_error(values: Float[np.ndarray, " k"]) -> float:
    """That of the mean of `values` (k,); infinite for fewer than ENOUGH."""
    if len(values) < ENOUGH:
        return float("inf")
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _answers(way: Way, part: Part, targets: Cloud, groups: Groups) -> dict[bool, Answers]:
    data, partners, points = part.data, part.partners, np.asarray(targets.points)
    other = None
    if isinstance(way, Baseline):
        x, fitted = data.x.points[part.held], way.fit(data)
        structure(fitted)  # refuses what could not be saved with the morph, if it were chosen
        given = jnp.asarray(fitted.expected(x), jnp.float32)
        center = targets.weights @ targets.points
        logits = np.asarray(cosines(given, targets.points, center), np.float64)
        i, j = np.nonzero(part.hidden)
        if np.any(np.all(np.asarray(given)[i] == points[j], axis=1)):  # it looks targets up
            given = way.fit(unseen(part, groups)).expected(x)
        return {True: Answers(logits, partners, points, np.asarray(given), labels=part.labels)}
    sampler = way.aligner.sampler(data, way.cost, way.solver)
    if isinstance(sampler.map, EntropicMap):
        x, new = np.asarray(data.x.points)[part.held], sampler.map
        logits = {b: np.asarray(Reading(b).of(new).log_conditional(x)) for b in (True, False)}
        other = new.cost.predict(x)
    elif sampler.coupling is None:
        raise ValueError("its minibatches say nothing of single points")
    else:
        rows = np.asarray(sampler.coupling.rows(jnp.asarray(part.held)), np.float64)
        mass = np.add.reduceat(rows[:, groups.order], np.asarray(groups.start)[:-1], axis=1)
        mass = mass / np.where(mass.sum(1, keepdims=True) > 0, mass.sum(1, keepdims=True), 1)
        logits = {True: np.log(np.maximum(mass, 1e-30))}
    if not all(np.isfinite(found).all() for found in logits.values()):
        raise ArithmeticError("its coupling is not finite")
    other = None if other is None else np.asarray(other)
    rest = None, other, part.hidden, part.labels
    return {b: Answers(found, partners, points, *rest) for b, found in logits.items()}
