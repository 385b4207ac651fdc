"""Every evaluator on what it judges."""

from collections.abc import Sequence
from dataclasses import replace

import jax

from ..interfaces import Evaluator, LatentMap, Scene
from ..loggers import Log


def evaluate(
    scene: Scene,
    maps: dict[str, LatentMap],
    evaluators: Sequence[Evaluator],
    key: jax.Array,
    log: Log,
) -> dict[str, float]:
    """Runs every evaluator on what it judges, and prefixes its numbers accordingly."""
    metrics: dict[str, float] = {}
    for evaluator in evaluators:
        if evaluator.subject == "map" and scene.x.size == 0:
            log.warn(f"{type(evaluator).__name__} is left out: there are no test points")
            views = {}
        elif evaluator.subject == "map":
            views = {name: replace(scene, map=fitted) for name, fitted in maps.items()}
        elif evaluator.subject == "coupling":
            views = {"coupling": scene}
            if scene.coupling is None:
                log.info(f"{type(evaluator).__name__} is left out: no coupling of all points")
                views = {}
        else:
            views = {"features": scene}
        for prefix, view in views.items():
            found = evaluator.evaluate(view, key=key)
            for name, value in found.items():
                if f"{prefix}/{name}" in metrics:
                    raise ValueError(f"two evaluators give {prefix}/{name}; use one a run")
                metrics[f"{prefix}/{name}"] = value
    return metrics
