"""A W&B workspace of runs, as code: what a sweep varies, and what came of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..extras import imported
from .labels import Run, read_runs

SHARE = "paired_fraction"


class Part(NamedTuple):
    """A section of a report: its `title`, the folders of the `sweeps` whose runs it shows, and what
    it says before them, `text`, a paragraph each."""

    title: str
    sweeps: Sequence[Path]
    text: Sequence[str] = ()


def rows_of(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The keys under which W&B has each metric of `runs`, by the metric's name: those of the morph,
    of the coupling's own map and of the baselines."""
    found: dict[str, dict[str, None]] = {}
    for key in (key for run in runs for key in run.metrics):
        if key.startswith(("morph/", "map/", "baseline/")):
            found.setdefault(key.rpartition("/")[2], {})[key] = None
    return {metric: list(keys) for metric, keys in found.items()}


def dashboard(shown: Sequence[Path | Part], entity: str, project: str, name: str) -> Any:
    """What W&B shows, called `name`, in the `project` of `entity`, of runs like those in `shown`.

    Of one folder, of a run or of a sweep, it is a workspace: a section a metric, then training,
    couplings and pictures. Runs are grouped as W&B has them by themselves, by all but their seed.
    Of several folders, or of parts, it is a report with a section each, of its own runs, such as
    the figures of a paper: a set of runs a sweep, grouped by the axes of that sweep without the
    seed. A metric is shown of the morph against the share of pairs, and of every row of the table
    as the mean of a group, with its standard deviation over seeds. Returns wandb-workspaces'
    `Workspace` or `Report`, of which nothing has been sent. Raises ImportError without
    wandb-workspaces, and ValueError as `read_runs` does, or for several folders that are not all of
    sweeps.
    """
    ws, wr = imported(
        "A dashboard", "dashboard", "wandb_workspaces.workspaces", "wandb_workspaces.reports.v2"
    )
    first, *more = shown
    if more or isinstance(first, Part):
        parts = [p if isinstance(p, Part) else Part(p.resolve().name, [p]) for p in shown]
        blocks = [wr.TableOfContents(), *(block for part in parts for block in _section(part, wr))]
        return wr.Report(project=project, entity=entity, title=name, blocks=blocks, width="fluid")
    sections = [
        ws.Section(name=metric, is_open=k == 0, panels=_panels(metric, keys, wr))
        for k, (metric, keys) in enumerate(rows_of(read_runs([first])).items())
    ]
    sections += [
        ws.Section(name="training", panels=[_loss(wr)]),
        ws.Section(
            name="coupling",
            panels=[_coupling(key, title, wr) for key, title in COUPLING.items()],
        ),
        ws.Section(
            name="pictures",
            panels=[wr.MediaBrowser(media_keys=[key]) for key in ("overview", "coupling_picture")],
        ),
    ]
    columns = ("aligner.name", "cost.name", "solver.name", SHARE, "seed")
    return ws.Workspace(
        entity=entity, project=project, name=name, sections=sections,
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric("Group")], pinned_columns=[f"config:{key}" for key in columns]
        ),
    )  # fmt: skip


def _section(part: Part, wr: Any) -> list[Any]:
    """The blocks of `part` in a report."""
    blocks = [wr.H2(text=part.title), *(wr.P(text=text) for text in part.text)]
    if not part.sweeps:
        return blocks
    runs, sets = [], []
    for dir in part.sweeps:
        own, sweep = read_runs([dir]), dir.resolve().name
        if not own[0].labels:
            raise ValueError(f"{dir} is of no sweep; of several folders, all have to be of sweeps")
        axes = [axis.rpartition(".")[2] for axis in own[0].labels]
        said = f"{len(own)} runs over {', '.join(axes)}"
        blocks.append(wr.P(text=said if sweep == part.title else f"{sweep}: {said}"))
        sets.append(
            wr.Runset(
                name=sweep,  # of the report's own project
                filters=f"Tags in ['{sweep}']",
                groupby=[f"config.sweep.{axis}" for axis in axes if axis.lower() != "seed"],
            )
        )
        runs += own
    panels = [p for metric, keys in rows_of(runs).items() for p in _panels(metric, keys, wr)]
    panels += [_coupling(key, title, wr) for key, title in COUPLING.items()]
    if any("coupling/matching_accuracy" in run.metrics for run in runs):
        panels.append(_coupling("matching_accuracy", "matching accuracy", wr))
    return [*blocks, wr.PanelGrid(runsets=sets, panels=[*panels, _loss(wr)])]


COUPLING = {"converged": "share that converged", "entropy": "entropy"}
"""What is shown of couplings, and what that is called."""


def _panels(metric: str, keys: Sequence[str], wr: Any) -> list[Any]:
    return [
        wr.ScatterPlot(
            title=f"morph: {metric} by pairs", x=wr.Config(SHARE),
            y=wr.SummaryMetric(f"morph/{metric}"), log_x=True,
        ),
        wr.BarPlot(
            title=f"{metric}, mean and deviation over seeds",
            metrics=[wr.SummaryMetric(key) for key in keys], orientation="h",
            groupby_aggfunc="mean", groupby_rangefunc="stddev",
        ),
    ]  # fmt: skip


def _loss(wr: Any) -> Any:
    return wr.LinePlot(
        title="loss", x="step", y=["train/loss"], groupby_aggfunc="mean", groupby_rangefunc="stddev"
    )


def _coupling(key: str, title: str, wr: Any) -> Any:
    metric = wr.SummaryMetric(f"coupling/{key}")
    return wr.BarPlot(title=title, metrics=[metric], groupby_aggfunc="mean")


def definition(made: Any) -> dict[str, Any]:
    """What W&B would be sent of what `dashboard` has `made`, as JSON."""
    return json.loads(made._to_model().model_dump_json(by_alias=True))
