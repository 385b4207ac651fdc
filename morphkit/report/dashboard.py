"""A W&B workspace of runs, as code: what a sweep varies, and what came of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..extras import imported
from .labels import Run, read_runs

SHARE = "paired_fraction"


def rows_of(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The keys under which W&B has each metric of `runs`, by the metric's name: those of the morph,
    of the coupling's own map and of the baselines."""
    found: dict[str, dict[str, None]] = {}
    for key in (key for run in runs for key in run.metrics):
        if key.startswith(("morph/", "map/", "baseline/")):
            found.setdefault(key.rpartition("/")[2], {})[key] = None
    return {metric: list(keys) for metric, keys in found.items()}


def dashboard(dirs: Sequence[Path], entity: str, project: str, name: str) -> Any:
    """The workspace `name` of the W&B `project` of `entity`, for runs like those in `dirs`, folders
    of runs or of sweeps: a section a metric, then training and couplings.

    Runs are grouped as W&B has them by themselves, by all but their seed. A section shows the
    metric of the morph against the share of pairs, and the mean of a group of every row of the
    table, with its standard deviation over seeds. Returns wandb-workspaces' `Workspace`, of which
    nothing has been sent. Raises ImportError without wandb-workspaces, and ValueError as
    `read_runs` does.
    """
    ws, wr = imported(
        "A dashboard", "dashboard", "wandb_workspaces.workspaces", "wandb_workspaces.reports.v2"
    )
    sections = [
        ws.Section(
            name=metric, is_open=k == 0,
            panels=[
                wr.ScatterPlot(
                    title=f"morph: {metric} by pairs", x=wr.Config(SHARE),
                    y=wr.SummaryMetric(f"morph/{metric}"), log_x=True,
                ),
                wr.BarPlot(
                    title=f"{metric}, mean and deviation over seeds",
                    metrics=[wr.SummaryMetric(key) for key in keys], orientation="h",
                    groupby_aggfunc="mean", groupby_rangefunc="stddev",
                ),
            ],
        )
        for k, (metric, keys) in enumerate(rows_of(read_runs(dirs)).items())
    ]  # fmt: skip
    sections += [
        ws.Section(
            name="training",
            panels=[
                wr.LinePlot(
                    title="loss", x="step", y=["train/loss"], groupby_aggfunc="mean",
                    groupby_rangefunc="stddev",
                )
            ],
        ),
        ws.Section(
            name="coupling",
            panels=[
                wr.BarPlot(
                    title=title, metrics=[wr.SummaryMetric(f"coupling/{key}")],
                    groupby_aggfunc="mean",
                )
                for key, title in (("converged", "share that converged"), ("entropy", "entropy"))
            ],
        ),
        ws.Section(name="pictures", panels=[wr.MediaBrowser(media_keys=["overview"])]),
    ]  # fmt: skip
    shown = ("aligner.name", "cost.name", "solver.name", SHARE, "seed")
    return ws.Workspace(
        entity=entity, project=project, name=name, sections=sections,
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric("Group")], pinned_columns=[f"config:{key}" for key in shown]
        ),
    )  # fmt: skip


def definition(workspace: Any) -> dict[str, Any]:
    """What W&B would be sent of `workspace`, as JSON."""
    return json.loads(workspace._to_model().model_dump_json(by_alias=True))
