"""One run, from data to report. Read `run` top to bottom: it is the whole story."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..features.cache import fingerprint
from ..folder import RunFolder
from ..interfaces import LatentMap, RawBaseline, RawMap, Sampler, Scene
from ..loggers import Log
from ..morph import Morph
from ..tracking import Results
from ..transport.memory import budget
from ..types import PairedData
from ..wiring.records import record
from .chosen import choose
from .diagnose import diagnose
from .evaluate import evaluate
from .experiment import Experiment
from .prepare import prepare
from .results import jsonable, with_story, write_pages, write_results
from .sharing import Shared
from .tracked import Swept, configuration, labels, result_table
from .train import anchored, build_networks, train


class Result(NamedTuple):
    """What a run leaves behind: the `morph`, its `metrics` by name, the folder `out` with
    everything else, and the `failures` on the way that did not end it, a sentence each."""

    morph: Morph
    metrics: dict[str, float]
    out: Path
    failures: tuple[str, ...] = ()


def run(
    experiment: Experiment, folder: RunFolder, gin: str = "", shared: Shared | None = None,
    swept: Swept | None = None,
) -> Result:  # fmt: skip
    """Aligns two models as `experiment` asks, and writes everything about it to the open `folder`.

    `gin` is the configuration, to be kept with the results. `shared` has what runs before it had in
    common with this one, and `swept` says which sweep it is of. Raises whatever a part of it
    raises; what was trained by then is kept, and the same request goes on from there.
    """
    budget()  # one that is no size is told before features are made
    shared = shared or Shared()
    key_field, key_train, key_eval = jax.random.split(jax.random.key(experiment.seed), 3)
    with Log(
        folder.path, wandb=experiment.tracked.mode, run_id=folder.wandb_id,
        config=configuration(experiment, gin, swept),
        labels=labels(experiment, experiment.tracked, swept),
    ) as log:  # fmt: skip
        folder.note(wandb=log.run_id)
        with log.phase("features"):
            scene = prepare(experiment, log, shared)
        with log.phase("choose"):
            chosen = choose(experiment, scene.train, folder, log)
            experiment = chosen.experiment
        with log.phase("align"):
            sampler, coupling_metrics = align(experiment, scene.train, log, shared)
        with log.phase("train"):
            morph, story = trained(experiment, scene, sampler, folder, (key_field, key_train), log)
        with log.phase("evaluate"):
            judges = experiment.evaluators
            if chosen.said and scene.x.size == 0:  # held-out pairs were the test
                judges = [judge for judge in judges if judge.subject != "map"]
            scene = replace(scene, coupling=sampler.coupling, couple=experiment.couple)
            judged, failures = evaluate(
                scene,
                ours(experiment, morph, sampler) | fitted(experiment, scene, log, shared),
                judges, key_eval, log,
            )  # fmt: skip
        if scene.train.pairs.size == 0:
            log.warn(unchecked(judged))
        metrics = (
            chosen.metrics | coupling_metrics | judged | log.times | asked(experiment, scene.train)
        )
        morph = replace(morph, matcher=chosen.matcher(morph.base, sampler, scene))
        morph = with_story(morph, story | {"metrics": jsonable(metrics), "choice": chosen.said})
        write_results(folder, morph, metrics, scene, gin)
        batch_size = experiment.training.batch_size
        write_pages(folder, morph, scene, sampler, batch_size, key_eval, log)
        found = configuration(experiment, gin, swept) | {"plugins": story["plugins"]}
        log.finish(
            Results(
                metrics, found, result_table(metrics), folder.report, folder.overview,
                folder.coupling, folder.morph,
            )
        )  # fmt: skip
    folder.finish()
    return Result(replace(morph, gin=gin), metrics, folder.path, tuple(failures))


def unchecked(judged: dict[str, float]) -> str:
    """What to think of an alignment without pairs, by the metrics in `judged`."""
    agreement, cka = (judged.get(f"coupling/{name}") for name in ("agreement", "matched_cka"))
    said = "no pair is known, so that nothing can check this alignment"
    if agreement is not None and cka is not None:
        said += (
            f"; two parts of the source points agree on {agreement:.0%} of their matches, and the "
            f"CKA of matched points is {cka:.2f}"
        )
    return f"{said}; give a few pairs, and morphkit judges by them"


def align(
    experiment: Experiment, data: PairedData, log: Log, shared: Shared | None = None
) -> tuple[Sampler, dict[str, float]]:
    """What draws training batches of `data` as the aligner of `experiment` makes it, or as `shared`
    has it, and what its coupling is like, by the name of each number; warnings go to `log`."""
    cost, solver, aligner = experiment.cost, experiment.solver, experiment.aligner
    identity = fingerprint(record(aligner), record(cost), record(solver), *contents(data))
    sampler = (shared or Shared()).once(
        "coupling", identity, lambda: jax.block_until_ready(aligner.sampler(data, cost, solver))
    )
    return sampler, diagnose(sampler, data, cost, solver, experiment.training.batch_size, log)


def contents(data: PairedData) -> list[np.ndarray]:
    """The arrays of `data`, by which it is told from other data."""
    return list(map(np.asarray, jax.tree.leaves(data)))


def trained(
    experiment: Experiment, scene: Scene, sampler: Sampler, folder: RunFolder,
    keys: tuple[jax.Array, jax.Array], log: Log,
) -> tuple[Morph, dict[str, Any]]:  # fmt: skip
    """The morph, saved whatever happens to it later, and the record of how it was made.

    The networks that `experiment` asks for are initialised by the first of `keys` and trained with
    the second on batches of `sampler`, made of the training part of `scene`. `folder` has the
    checkpoint, and then the morph; `log` shows the progress, and what evaluators of maps say on
    the way where `Training.watch` asks for it. Raises what `anchored` and `Training.fit` do.
    """
    data, training = scene.train, experiment.training
    networks = build_networks(experiment.field, data.x.dim, data.y.dim, training.reweight, keys[0])
    story = experiment.record(scene.source, scene.target, networks.field)
    story["features"] = fingerprint(*(np.asarray(c.points) for c in (data.x, data.y)))
    identity = fingerprint(story, *contents(data))
    judges = [e for e in experiment.evaluators if e.subject == "map"]

    def watch(morph: Morph) -> dict[str, float]:
        found, _ = evaluate(scene, {"": morph}, judges, keys[1], log)
        return {name.removeprefix("/"): value for name, value in found.items()}

    with log.progress("train") as tell:
        morph = train(
            data, sampler, networks, training, key=keys[1], tell=tell,
            checkpoint=folder.checkpoint(identity),
            anchor=anchored(experiment.anchor, data, experiment.reading.of(sampler.map)),
            spread=experiment.spread,
            watch=watch if training.watch else None,
        )  # fmt: skip
    with_story(morph, story).save(folder.morph)
    return morph, story


def ours(experiment: Experiment, morph: Morph, sampler: Sampler) -> dict[str, LatentMap | RawMap]:
    """The `morph` and, where `sampler` has one, the map of its coupling, read as `experiment` asks,
    by prefix."""
    found = experiment.reading.of(sampler.map)
    return {"morph": morph} | ({} if found is None else {"map": found})


def fitted(
    experiment: Experiment, scene: Scene, log: Log, shared: Shared
) -> dict[str, LatentMap | RawMap]:
    """The baselines of `experiment`, fitted on the training data of `scene`, or as `shared` has
    them, by the name of their row; `log` shows the progress. One that this data is not for
    (ValueError) is left out, and `log` says why."""
    data, inputs = scene.train, scene.inputs

    def fit() -> tuple[dict[str, LatentMap | RawMap], list[str]]:
        maps, left = {}, []
        with log.progress("baselines") as tell:
            for k, (row, baseline) in enumerate(experiment.rows.items(), 1):
                try:
                    if isinstance(baseline, RawBaseline) and inputs is not None:
                        maps[row] = baseline.fit_raw(data, inputs)
                    else:
                        maps[row] = baseline.fit(data)
                except ValueError as error:
                    left.append(f"{row} is left out: {error}")
                tell(k, len(experiment.rows), {})
        return maps, left

    identity = fingerprint([record(b) for b in experiment.baselines], *contents(data))
    maps, left = shared.once("baselines", identity, fit)
    for text in left:
        log.warn(text)
    return maps


def asked(experiment: Experiment, data: PairedData) -> dict[str, float]:
    """The numbers that tell runs of one configuration apart: what `experiment` asks for, and how
    many pairs `data` has."""
    return {
        "config/paired_fraction": experiment.paired_fraction,
        "config/pairs": data.pairs.size,
        "config/seed": experiment.seed,
    }
