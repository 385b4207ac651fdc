"""Every evaluator on what it judges."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

import jax

from ..hosts import ends_all
from ..interfaces import Better, Evaluator, LatentMap, RawMap, Scene
from ..loggers import Log
from ..transport.couplings import DIAGNOSTICS


def check_evaluators(evaluators: Sequence[Evaluator]) -> None:
    """Raises ValueError if two of `evaluators` give one metric, if one of couplings gives a
    diagnostic (`Coupling.diagnostics`), or if one does not say what is better; asked before
    training, since `Evaluator.metrics` is known by then."""
    owners: dict[str, str] = {}
    for evaluator in evaluators:
        who = type(evaluator).__name__
        for name, better in evaluator.metrics.items():
            if better not in get_args(Better):
                wanted = ", ".join(map(repr, get_args(Better)))
                raise ValueError(f"{who}.metrics[{name!r}] = {better!r} must be one of {wanted}")
            if evaluator.subject == "coupling" and name in DIAGNOSTICS:
                raise ValueError(
                    f"{who}.metrics has {name!r}, which every coupling is told of anyway; "
                    "give it another name"
                )
            if name in owners:
                raise ValueError(
                    f"run.evaluators has two that give {name!r}, {owners[name]} and {who}; "
                    "use one a run"
                )
            owners[name] = who


def directions(evaluators: Sequence[Evaluator]) -> dict[str, Better]:
    """Which values of each metric of `evaluators` are the better ones, by its name without
    prefix."""
    return {name: b for evaluator in evaluators for name, b in evaluator.metrics.items()}


def evaluate(
    scene: Scene,
    maps: Mapping[str, LatentMap | RawMap],
    evaluators: Sequence[Evaluator],
    key: jax.Array,
    log: Log,
) -> tuple[dict[str, float], list[str]]:
    """Runs every one of `evaluators` on what it judges in `scene`, one after another, and prefixes
    its numbers accordingly. `maps` has the morph and the baselines by prefix; `key` is for
    evaluators that draw.

    Returns the metrics and, in a sentence each, what failed, of which `log` warns as well: an
    evaluator that raises, or gives a metric that it has not declared. All other numbers stand.
    """
    metrics: dict[str, float] = {}
    failures: list[str] = []
    for evaluator in evaluators:
        who, failed = type(evaluator).__name__, {}
        for prefix, view in _views(evaluator, scene, maps, log).items():
            try:
                found = _declared(evaluator, evaluator.evaluate(view, key=key))
            except Exception as error:
                if ends_all(error):
                    raise
                text = str(error).removeprefix(f"{who}: ") or type(error).__name__
                failed.setdefault(text, []).append(prefix)
            else:
                metrics |= {f"{prefix}/{name}": value for name, value in found.items()}
        for text, prefixes in failed.items():
            failures.append(f"{who} failed on {', '.join(prefixes)}: {text}")
            log.warn(failures[-1])
    return metrics, failures


def _views(
    evaluator: Evaluator, scene: Scene, maps: Mapping[str, LatentMap | RawMap], log: Log
) -> dict[str, Scene]:
    """What it is shown, by the prefix of what it judges."""
    who = type(evaluator).__name__
    if evaluator.subject == "map" and scene.x.size == 0:
        log.warn(f"{who} is left out: there are no test points")
        return {}
    if evaluator.subject == "map":
        return {
            name: replace(scene, map=fitted)
            for name, fitted in maps.items()
            if evaluator.decodes or isinstance(fitted, LatentMap)
        }
    if evaluator.subject == "coupling" and scene.coupling is None:
        log.info(f"{who} is left out: no coupling of all points")
        return {}
    return {evaluator.subject: scene}


def _declared(evaluator: Evaluator, found: dict[str, float]) -> dict[str, float]:
    if unknown := sorted(set(found) - set(evaluator.metrics)):
        raise ValueError(f"it gives {unknown[0]!r}, which is not among its metrics; declare it")
    return {name: float(value) for name, value in found.items()}
