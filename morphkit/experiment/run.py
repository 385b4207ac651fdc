"""One run, from data to report. Read `run` top to bottom: it is the whole story."""

import functools
import json
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Int

import gin

from ..features.cache import fingerprint
from ..features.extract import extract
from ..interfaces import (
    Aligner,
    Baseline,
    Data,
    Evaluator,
    FeatureExtractor,
    FusedCost,
    LatentMap,
    OTSolver,
    Scene,
    VelocityField,
)
from ..loggers import Log, finite
from ..morph import Morph
from ..report.page import write_report
from ..training.flow import Networks, Reweighting
from ..training.loop import Training
from ..training.scaling import Scaling
from ..types import PairedData, Pairs
from ..wiring.discovery import installed_plugins
from ..wiring.records import arguments, record
from .diagnose import diagnose
from .evaluate import check_evaluators, directions, evaluate
from .picture import collect

gin.register(Training, module="morphkit")


class Result(NamedTuple):
    """What a run leaves behind: the morph, its numbers, and the folder with everything else."""

    morph: Morph
    metrics: dict[str, float]
    out: Path


@functools.partial(gin.register, module="morphkit")
def run(
    data: Data,
    source: type[FeatureExtractor],
    target: type[FeatureExtractor],
    aligner: Aligner,
    cost: FusedCost,
    solver: OTSolver,
    field: type[VelocityField],
    training: Training,
    evaluators: Sequence[Evaluator],
    baselines: Sequence[Baseline],
    paired_fraction: float = 1.0,
    seed: int = 0,
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto",
    out: str | Path = "runs/latest",
    configuration: Callable[[], str] = str,
) -> Result:
    """Aligns two models on `data` and writes everything about it to the folder `out`.

    `paired_fraction` of the known pairs, at least one, chosen by `seed`, are used; `seed` also
    sets initialisation and training. `source`, `target` and `field` are classes (in gin:
    references without parentheses), built here since only the data tells their shapes.
    `configuration` returns the configuration in force, to be kept with the results.
    """
    if not 0 < paired_fraction <= 1:
        raise ValueError(f"run.paired_fraction = {paired_fraction} must be in (0, 1]")
    if seed < 0:
        raise ValueError(f"run.seed = {seed} must not be negative")
    rows = [f"baseline/{snake(type(baseline).__name__)}" for baseline in baselines]
    if twice := [row for row in rows if rows.count(row) > 1]:
        raise ValueError(f"run.baselines has two that are called {twice[0]!r}; use one a run")
    check_evaluators(evaluators)
    out = Path(out)
    clock = Clock()
    raw = data.load()
    key_field, key_train, key_eval = jax.random.split(jax.random.key(seed), 3)
    with Log(out, wandb=wandb, config=configuration()) as log:
        features = extract(raw, source, target, log)
        clock.lap("features")

        pairs = choose_pairs(raw.train.pairs, paired_fraction, seed)
        paired = PairedData(features.x, features.y, Pairs.from_array(pairs))
        log.info(
            f"{raw.name}: {paired.x.size} source points ({paired.x.dim}-d), {paired.y.size} target "
            f"points ({paired.y.dim}-d), {paired.pairs.size} pairs, {features.x_test.size} to test"
        )

        sampler = jax.block_until_ready(aligner.prepare(paired, cost, solver))
        clock.lap("align")
        metrics = diagnose(sampler, paired, training.batch_size, log)

        networks = build_networks(field, paired.x.dim, paired.y.dim, training.reweight, key_field)
        scaling = Scaling.fit(paired.x.points, paired.y.points, training.standardise)
        identity = fingerprint(configuration(), *map(np.asarray, jax.tree.leaves(paired)))
        with log.progress("train") as report:
            networks = training.fit(
                networks, scaling, sampler, key=key_train, report=report,
                checkpoint=out / "checkpoints" / identity,
            )  # fmt: skip
        clock.lap("train")

        morph = Morph(networks, scaling, training.noise_scale)
        morph.save(out / "morph")  # whatever happens to the evaluation
        maps: dict[str, LatentMap] = {"morph": morph}
        maps |= {row: baseline.fit(paired) for row, baseline in zip(rows, baselines, strict=True)}
        scene = Scene(
            features.source, features.target, paired, features.x_test, features.y_test, raw.test,
            coupling=sampler.coupling,
            couple=lambda data: aligner.prepare(data, cost, solver).coupling,
        )  # fmt: skip
        found, failures = evaluate(scene, maps, evaluators, key_eval, log)
        metrics |= found
        clock.lap("evaluate")
        metrics |= clock.laps | {
            "config/paired_fraction": paired_fraction,
            "config/pairs": paired.pairs.size,
            "config/seed": seed,
        }

        story = {
            "data": record(data), "features": features.fingerprint(),
            "source": record(features.source), "target": record(features.target),
            "aligner": record(aligner), "cost": record(cost), "solver": record(solver),
            "field": record(networks.field), "training": arguments(training),
            "paired_fraction": paired_fraction, "seed": seed, "plugins": plugin_versions(),
            "metrics": {k: finite(v) for k, v in metrics.items()},
            "directions": directions(evaluators),
        }  # fmt: skip
        morph = replace(morph, provenance=json.dumps(story), gin=configuration())
        morph.save(out / "morph")
        (out / "config.gin").write_text(configuration())
        (out / "run.json").write_text(json.dumps(story, indent=2) + "\n")
        if raw.train.source.dtype.kind in "US":  # files: which of them did what
            split = {"train": raw.train.source.tolist(), "test": raw.test.source.tolist()}
            (out / "split.json").write_text(json.dumps(split, indent=1) + "\n")
        (out / "metrics.json").write_text(json.dumps(story["metrics"], indent=2) + "\n")
        drawn = sampler.pairs(key_eval, 20_000, training.batch_size)
        figures = collect(scene, morph, drawn, raw.class_names, key=key_eval)
        np.savez_compressed(out / "figures.npz", **figures)  # pyright: ignore[reportArgumentType]
        page = write_report(out)  # the last file: a folder that has it holds a finished run
        log.finish(metrics, page, config=story | {"gin": configuration()})
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    if failures:
        raise ValueError(f"{'; '.join(failures)} (everything else is in {out})")
    return Result(morph, metrics, out)


class Clock:
    """Wall-clock seconds of the phases of a run."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[f"time/{name}_s"] = round(now - self._last, 3)
        self._last = now


def choose_pairs(
    pairs: Int[np.ndarray, "k 2"], fraction: float, seed: int
) -> Int[np.ndarray, "l 2"]:
    """A random `fraction` of the known pairs, at least one; nested for growing fractions."""
    if len(pairs) == 0:
        raise ValueError("the data has no known pairs, and an alignment needs at least one")
    order = np.random.default_rng(seed).permutation(len(pairs))
    return pairs[np.sort(order[: max(1, round(fraction * len(pairs)))])]


def build_networks(
    field: type[VelocityField], p: int, q: int, reweight: bool, key: jax.Array
) -> Networks:
    # One compiled call, since a dispatch per weight would take seconds; a closure of its own,
    # since bindings are no arguments and another configuration must not find this one's result.
    @eqx.filter_jit
    def build(key: jax.Array) -> Networks:
        key_field, key_eta, key_xi = jax.random.split(key, 3)
        return Networks(
            field(source_dim=p, target_dim=q, key=key_field),  # pyright: ignore[reportCallIssue]
            Reweighting(p, key=key_eta) if reweight else None,
            Reweighting(q, key=key_xi) if reweight else None,
        )

    return build(key)


def plugin_versions() -> dict[str, str]:
    return {p.distribution: p.version for p in installed_plugins() if p.enabled}


def snake(name: str) -> str:
    """NearestAnchor → nearest_anchor, PLS → pls."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
