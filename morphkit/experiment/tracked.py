"""What a run is called in Weights & Biases, and what it can be filtered by there."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx

import gin

from ..checks import Checked
from ..report.tables import metrics_of, results_of
from ..tracking import WandbMode
from ..wiring.records import arguments, as_asked, record
from .grid import short

if TYPE_CHECKING:
    from .experiment import Experiment

VARIABLES = {
    "project": "WANDB_PROJECT", "group": "WANDB_RUN_GROUP", "name": "WANDB_NAME",
    "tags": "WANDB_TAGS", "job_type": "WANDB_JOB_TYPE",
}  # fmt: skip
"""W&B's own, which win over what a run is called by itself."""


class Wandb(Checked):
    """How a run is logged to Weights & Biases: in gin `run.wandb = @Wandb()`.

    `mode` is "auto", "online", "offline" or "disabled", see `morphkit.loggers.Log`. `project`,
    `group`, `name`, `tags` and `job_type` are W&B's. Those that are not given are those of the
    environment (VARIABLES) or else: the project "morphkit"; as group, what the run is made of
    without its seed; as name, that with it; as tags, aligner, cost, solver, the share of the pairs
    and the seed; as type "run", in a sweep "sweep". `tags` that are given stand beside those, not
    in their place.
    """

    mode: WandbMode = eqx.field(static=True, default="auto")
    project: str | None = eqx.field(static=True, default=None)
    group: str | None = eqx.field(static=True, default=None)
    name: str | None = eqx.field(static=True, default=None)
    tags: tuple[str, ...] = eqx.field(static=True, default=(), converter=tuple)
    job_type: str | None = eqx.field(static=True, default=None)


gin.register(Wandb, module="morphkit")


class Swept(NamedTuple):
    """Which sweep a run is of, by its `name`, and the `labels` by axis of the run in it."""

    name: str
    labels: Mapping[str, str]


def labels(experiment: "Experiment", wandb: Wandb, swept: Swept | None = None) -> dict[str, Any]:
    """What the W&B run of `experiment` is called, as arguments of `wandb.init`: what `wandb` says
    or else what the environment does not say; of a run that is `swept`, the sweep is a tag."""
    parts = [experiment.aligner, experiment.cost, experiment.solver]
    names, share = [type(part).__name__ for part in parts], f"{100 * experiment.paired_fraction:g}"
    group = ", ".join([type(experiment.data).__name__, *names, f"{share} % of pairs"])
    tags = [*names, f"{share}% pairs", f"seed {experiment.seed}"]
    own = {
        "group": group, "name": f"{group}, seed {experiment.seed}",
        "tags": [*tags, swept.name] if swept else tags, "job_type": "sweep" if swept else "run",
    }  # fmt: skip
    asked = {name: value for name in VARIABLES if (value := getattr(wandb, name))}
    free = {name: value for name, value in own.items() if not os.environ.get(VARIABLES[name])}
    if "tags" in free and "tags" in asked:
        asked["tags"] = [*free["tags"], *asked["tags"]]
    return free | asked


def configuration(
    experiment: "Experiment", text: str, swept: Swept | None = None
) -> dict[str, Any]:
    """What `experiment` asks for, by what tables of runs can be filtered and grouped by: each
    component as its name and arguments; its gin file, `text`; and, of a run that is `swept`, the
    name of the sweep and the labels of its axes, by the last part of their names."""
    found: dict[str, Any] = {
        name: _flat(record(getattr(experiment, name)))
        for name in ("data", "aligner", "cost", "solver")
    }
    for name in ("source", "target", "field"):
        cls, given = as_asked(getattr(experiment, name))
        found[name] = {"name": cls.rpartition(".")[2], **given}
    anchor = experiment.anchor
    if swept:
        labelled = {short(axis): label for axis, label in swept.labels.items()}
        found["sweep"] = labelled | {"name": swept.name}
    return found | {
        "anchor": anchor if anchor is None or isinstance(anchor, str) else _flat(record(anchor)),
        "training": arguments(experiment.training), "reading": arguments(experiment.reading),
        "chosen": experiment.choice is not None, "paired_fraction": experiment.paired_fraction,
        "seed": experiment.seed, "gin": text,
    }  # fmt: skip


def _flat(told: Any) -> Any:
    """A record as its name and arguments on one level."""
    if isinstance(told, list):
        return [_flat(item) for item in told]
    if not isinstance(told, dict):
        return told
    name = str(told["component"]).rpartition(".")[2]
    return {"name": name} | {k: _flat(v) for k, v in told["arguments"].items()}


def result_table(metrics: dict[str, float]) -> tuple[list[str], list[list[Any]]]:
    """The table of morph and baselines in `metrics`: names of its columns, and its rows."""
    results = results_of(metrics)
    names = metrics_of(results)
    rows = [[name, *(values.get(metric) for metric in names)] for name, values in results.items()]
    return ["map", *names], rows
