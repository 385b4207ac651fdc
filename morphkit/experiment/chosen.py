"""From a contest to the run that follows from it."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..features.cache import fingerprint
from ..files import write_json
from ..folder import RunFolder
from ..interfaces import Baseline, LatentMap, Sampler, Scene
from ..loggers import Log
from ..training.anchor import settled
from ..transport.entropic import Reading
from ..transport.matching import Matcher
from ..types import PairedData, distinct
from ..wiring.records import arguments, as_gin, record
from .choice import Candidate, Choice, Way, kinds
from .contest import Contestant, clearly_behind, contest, standard_error
from .experiment import Experiment

OWN = "the run's own"
"""What tables call the way to couple that a run would go without a choice."""


COUNTED = 50
"""Held-out points that it takes for R@1 to decide: of fewer, nearly all are as often right."""


class Chosen(NamedTuple):
    """The `experiment` as chosen. Targets of a point are ranked by `ranking` or, where that is
    None, by what the coupling of the experiment says of new points, as `reading` says. `said` is
    the table of all candidates, as JSON; None where nothing was chosen."""

    experiment: Experiment
    ranking: Way | None = None
    reading: Reading | None = None
    said: dict[str, Any] | None = None

    def matcher(self, base: LatentMap | None, sampler: Sampler, scene: Scene) -> Matcher | None:
        """What ranks the targets of the training data of `scene`, `sampler` being that of the
        experiment and `base` what its morph starts from; None if nothing knows new points. Its rows
        are those of the arrays that the data came from."""
        data, way = scene.train, self.ranking
        reading = self.reading or self.experiment.reading
        temperature = reading.temperature
        if base is not None and _recorded(way or "coupling") == _recorded(self.experiment.anchor):
            new = None
            if way is None or isinstance(way, Candidate):
                temperature /= self.experiment.reading.temperature  # at which the base is read
        elif isinstance(way, Baseline):
            new = settled(way.fit(data))
        elif isinstance(way, Candidate):
            found = way.aligner.sampler(data, way.cost, way.solver).map
            new = replace(reading, temperature=1.0).of(found)
        elif (new := replace(reading, temperature=1.0).of(sampler.map)) is None:
            return None
        found = Matcher.of(new, data.y, temperature)
        rows = None if scene.inputs is None else scene.inputs.target_rows
        return found if rows is None else replace(found, rows=jnp.asarray(rows)[found.rows])

    @property
    def metrics(self) -> dict[str, float]:
        """What the candidates came to on held-out pairs, as choice/NAME/METRIC."""
        found = {}
        for row in (self.said or {"rows": []})["rows"]:
            name = "_".join(row["name"].replace(",", "").replace("'", "").split())
            for metric in ("log_posterior", "recall_at_1", "r2"):
                if row.get(metric) is not None and not row["out"]:
                    found[f"choice/{name}/{metric}"] = row[metric]
        return found

    def bindings(self) -> list[str]:
        """What was chosen, as bindings of a run without a choice."""
        experiment, scopes = self.experiment, itertools.count(1)
        lines = ["run.choice = None"]
        for name in ("cost", "aligner", "solver"):
            lines += as_gin(f"run.{name}", getattr(experiment, name), scopes)
        anchor = experiment.anchor
        lines += (
            as_gin("run.anchor", anchor, scopes) if isinstance(anchor, Baseline)
            else [f"run.anchor = {anchor!r}"]
        )  # fmt: skip
        lines += [f"run.spread = {experiment.spread!r}", "run.reading = @Reading()"]
        for name, part in (("Reading", experiment.reading), ("Training", experiment.training)):
            lines += [
                f"{name}.{argument} = {value!r}" for argument, value in arguments(part).items()
            ]
        return lines


def choose(experiment: Experiment, data: PairedData, folder: RunFolder, log: Log) -> Chosen:
    """What `experiment` becomes by its choice, if it asks for one, judged on the pairs of `data`.

    The coupling is that of the best candidate that knows new points. The flow starts from its map
    or, where that is better, from the best baseline. Better is what has the right target first more
    often where targets repeat or their classes are judged, a baseline by more than a standard
    error. Of couplings within a standard error of the best it is the one that was named first, if
    the probability of the right target is not clearly behind. Of fewer than COUNTED held-out points
    it is the one with the best log posterior, and a baseline is better only if its own is, too.
    Where targets repeat and many have no pair, held-out points tell little: a candidate that suits
    this is taken, read without its potential, unless another is right clearly more often. A map is
    read at temperature 1 at most then, since blurred answers are not more often right. Elsewhere
    better is the larger R², and draws are spread as held-out targets are about what the flow starts
    from. Targets are ranked by what has the best log posterior of all. The table is kept in
    `folder`, where a run that goes on finds it; `log` shows the progress. Raises ValueError without
    pairs.
    """
    choice = experiment.choice
    if choice is None:
        return Chosen(experiment)
    asked = Candidate(experiment.cost, experiment.aligner, experiment.solver, OWN)
    ways: dict[str, Way] = {row.partition("/")[2]: b for row, b in experiment.rows.items()}
    ways |= {candidate.name: candidate for candidate in (*choice.asked, asked)}
    if data.pairs.size == 0:
        raise ValueError(
            "Choice: there are no pairs to judge by; name gin/unpaired.gin in the place of "
            "gin/auto.gin, or set run.choice = None"
        )
    if len(distinct(np.asarray(data.pairs.source))[0]) < 2:
        known_as = kinds(choice, data)
        first = next((way for way in choice.asked if way.suits in known_as), asked)
        log.warn(
            "the pairs of a single source point cannot be held out, so nothing is chosen: the "
            f"first candidate that suits them is taken ({first.name}), and Training.validation is 0"
        )
        training = replace(experiment.training, validation=0.0, patience=None)
        experiment = replace(experiment, training=training)
        usual = Reading(balanced=first.suits != "scarce")
        return Chosen(_coupled(experiment, first, usual, "coupling"))
    request = [
        [name, _recorded(way), way.suits if isinstance(way, Candidate) else None]
        for name, way in ways.items()
    ]
    settings = (choice.folds, choice.budget, choice.points, choice.classes)
    identity = fingerprint(request, settings, *map(np.asarray, jax.tree.leaves(data)))
    said = folder.kept_choice(identity)
    if said is None:
        with log.progress("choose") as tell:
            said = summary(contest(choice, ways, data, tell), data, choice)
        write_json(folder.choice, {"identity": identity} | said)
    for row in said["rows"]:
        if row["out"]:
            log.info(f"{row['name']}: {row['out']}")
    log.info(said["advice"])
    rows = {row["name"]: row for row in said["rows"]}

    def reading(name: str) -> Reading:
        return Reading(**{k: rows[name][k] for k in ("balanced", "temperature", "estimate")})

    anchor = ways[said["anchor"]] if said["anchor"] else None
    anchor = anchor.tuned(data) if isinstance(anchor, Baseline) else anchor and "coupling"
    if said["coupling"]:
        way = ways[said["coupling"]]
        assert isinstance(way, Candidate)
        experiment = _coupled(experiment, way, Reading(**said["reading"]), anchor)
    else:
        experiment = replace(experiment, anchor=anchor)
    experiment = replace(experiment, spread=said.get("spread"))
    if said["ranking"] == said["coupling"]:
        return Chosen(experiment, None, reading(said["ranking"]), said)
    ranking = ways[said["ranking"]]
    ranking = ranking.tuned(data) if isinstance(ranking, Baseline) else ranking
    return Chosen(experiment, ranking, reading(said["ranking"]), said)


def _coupled(experiment: Experiment, way: Candidate, reading: Reading, anchor: Any) -> Experiment:
    return replace(
        experiment, cost=way.cost, aligner=way.aligner, solver=way.solver, reading=reading,
        anchor=anchor,
    )  # fmt: skip


def _recorded(way: Way | str | None) -> Any:
    if isinstance(way, Candidate):
        return [record(part) for part in (way.cost, way.aligner, way.solver)]
    return record(way) if isinstance(way, Baseline) else way


def summary(field: Sequence[Contestant], data: PairedData, choice: Choice) -> dict[str, Any]:
    """What the contest of `field`, sorted, on `data` by `choice` came to, as JSON: the `rows` of
    its table, the names of the `coupling` that is taken (of those that know new points), of what
    the flow is to start from, the `anchor`, and of what ranks targets, the `ranking`; the `reading`
    of the coupling's map as a point estimate; the `spread` of the anchor's residuals, where targets
    do not repeat; and `advice`."""
    by_hits = "repeated" in kinds(choice, data)
    judged = [c for c in field if c.best is not None and c.everywhere]
    known = [c for c in judged if not c.out]

    def best(of: Sequence[Contestant], by: Callable[[Contestant], float]) -> Contestant | None:
        return max(of, key=by, default=None)

    by = Contestant.recall_at_1 if by_hits else Contestant.r2
    couplings = [c for c in judged if isinstance(c.way, Candidate)]
    # Of equals max takes the first, and they are sorted by the log posterior.
    left = [c for c in couplings if not c.out]
    coupling = _first_as_good(left) if by_hits and left else best(left or couplings, by)
    baselines = [c for c in known if isinstance(c.way, Baseline)]
    coupled = [coupling] if coupling and (not coupling.out or not baselines) else []
    anchor = best([*coupled, *baselines], by)
    if by_hits and anchor and coupled and not _clearly_righter(anchor, coupled[0]):
        anchor = coupled[0]
    ranking = best(known or couplings, Contestant.log_posterior)
    if ranking is None:
        raise ValueError(
            "Choice: no candidate that knows new points could be judged: "
            + "; ".join(f"{c.name}: {c.out}" for c in field)
        )
    names = {"coupling": coupling, "anchor": anchor, "ranking": ranking}
    return {
        "rows": [c.row for c in field],
        **{role: c.name if c else None for role, c in names.items()},
        "spread": None if by_hits or anchor is None else anchor.spread,
        "reading": coupling and arguments(_estimating(coupling.reading, by_hits)),
        "advice": advice(coupling, best(baselines, Contestant.log_posterior)),
    }


def _first_as_good(couplings: Sequence[Contestant]) -> Contestant:
    """Of those that have the right target first as often as the best, within a standard error, and
    give it a probability that is not clearly behind, the one that was named first; of fewer than
    COUNTED held-out points, the best by its log posterior.

    But one that is for scarce pairs is taken where it is not clearly less often right: many
    held-out targets have no other pair, so that all candidates are seldom right, and probability is
    led by what gives such targets a little more."""
    often = max(couplings, key=Contestant.recall_at_1)
    for c in sorted(couplings, key=lambda c: c.place):
        if c.for_scarce and not clearly_behind(often.verdict.hits, c.verdict.hits):
            return c
    best = max(couplings, key=Contestant.log_posterior)
    if len(best.verdict.hits) < COUNTED:
        return best
    # Not the logarithm: a few targets that it takes for impossible say little of all others.
    surest = max((c.verdict.probability for c in couplings), key=np.mean)
    good = [
        c for c in couplings
        if _as_often_right(c, often) and not clearly_behind(surest, c.verdict.probability)
    ]  # fmt: skip
    return min(good, key=lambda c: c.place) if good else often


def _estimating(reading: Reading, by_hits: bool) -> Reading:
    """`reading` for point estimates: what is blurred is not more often right."""
    return replace(reading, temperature=min(1.0, reading.temperature)) if by_hits else reading


def _clearly_righter(baseline: Contestant, coupling: Contestant) -> bool:
    """Whether `baseline` has the right target first more often than `coupling`, by more than a
    standard error, or clearly if that is for scarce pairs; of fewer than COUNTED held-out points
    also whether its log posterior is better."""
    few = len(baseline.verdict.hits) < COUNTED
    if few and baseline.log_posterior() <= coupling.log_posterior():
        return False
    if coupling.for_scarce:
        return clearly_behind(baseline.verdict.hits, coupling.verdict.hits)
    return not _as_often_right(coupling, baseline)


def _as_often_right(contestant: Contestant, best: Contestant) -> bool:
    behind = best.verdict.hits - contestant.verdict.hits
    return bool(behind.mean() <= standard_error(behind))


def advice(coupling: Contestant | None, baseline: Contestant | None) -> str:
    """Says in words how the `coupling` that is taken and the best `baseline` compare on held-out
    pairs."""
    if coupling is None:
        only = f"{baseline.name} is taken" if baseline else "nothing is taken"
        return f"{only}, with no coupling to compare it with"
    if baseline is None:
        return f"the coupling ({coupling.name}) is taken, with no baseline to compare it with"
    a, b = coupling.verdict, baseline.verdict
    heard = min(len(a.log_posterior), len(b.log_posterior))  # by both: one may have dropped out
    gain = a.log_posterior[:heard] - b.log_posterior[:heard]
    error = standard_error(gain)
    numbers = (
        f"{a.recall_at_1:.2f} against {b.recall_at_1:.2f} of {len(gain)} held-out points have "
        f"their target first, R² {coupling.r2():.2f} against {baseline.r2():.2f}"
    )
    if gain.mean() > 2 * error:
        return (
            f"the coupling ({coupling.name}) is better than the best baseline, "
            f"{baseline.name}: {numbers}"
        )
    if gain.mean() < -2 * error:
        return f"{baseline.name} is better than the coupling ({coupling.name}): {numbers}"
    return f"{baseline.name} is as good here as the coupling ({coupling.name}): {numbers}"
