"""Reports: pure functions of run directories, which they read and write HTML and PNG to."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from ..files import write_text
from .figures import PALETTE, STYLE
from .page import Section, pictured, render
from .read import read_directions, read_metrics, read_story
from .tables import (
    MAP,
    MORPH,
    Directions,
    Row,
    Table,
    best_of,
    number,
    results_of,
    under,
)  # fmt: skip

_PARTS = ("aligner", "cost", "solver")
_PARTS_IF_VARIED = ("field", "anchor", "training")


def write_comparison(dirs: Sequence[Path | str], out: Path | str) -> Path:
    """Compares the runs in `dirs`: one HTML file and a PNG beside it, mean ± standard deviation
    over seeds.

    `out` is the HTML file, or a directory for `comparison.html`. Runs are grouped by what their
    morph says of features, aligner, cost and solver (and field, anchor and training where these
    differ), and by paired fraction. The best are marked where the runs agree which values are
    better. A baseline that several runs of one seed fitted counts once. Returns the path of the
    HTML. Raises ValueError if a directory is no run directory.
    """
    if not dirs:
        raise ValueError("dirs: nothing to compare; pass at least one run directory.")
    runs = [(read_metrics(dir), read_story(dir)) for dir in map(Path, dirs)]
    labels = _labels([story for _, story in runs])
    directions = _directions([read_directions(Path(dir)) for dir in dirs])
    cells: dict[str, dict[str, dict[float, dict[Any, list[float]]]]] = {}
    for (metrics, story), (label, data) in zip(runs, labels, strict=True):
        named = {
            (_named(row, label, data), metric): value
            for row, values in results_of(metrics).items()
            for metric, value in values.items()
        }
        named |= {
            (label, f"coupling {name}"): value
            for name, value in under(metrics, "coupling/").items()
            if f"coupling {name}" in directions or "accuracy" in name
        }
        for (row, metric), value in named.items():
            by_fraction = cells.setdefault(metric, {}).setdefault(row, {})
            by_seed = by_fraction.setdefault(story["paired_fraction"], {})
            by_seed.setdefault(story["seed"], []).append(value)

    ours = {_named(row, label, "") for label, _ in labels for row in (MORPH, MAP)}
    means = {
        metric: {row: {f: _stats(seeds) for f, seeds in fs.items()} for row, fs in rows.items()}
        for metric, rows in cells.items()
    }
    failed = sum(metrics.get("coupling/converged", 1.0) < 1 for metrics, _ in runs)
    out = Path(out)
    page = out if out.suffix == ".html" else out / "comparison.html"
    sections = [
        Section(metric, _mean_table(rows, ours, directions.get(metric)), _note(directions, metric))
        for metric, rows in means.items()
    ]
    warnings = [f"In {failed} of {len(runs)} runs the coupling did not converge."] if failed else []
    if means:
        path = page.with_suffix(".png")
        drawn, problem = pictured(
            "By number of pairs", lambda: _plot_comparison(means, ours, directions), path
        )
        sections, warnings = drawn + sections, warnings + problem
    text = render(
        title="Comparison of runs",
        lead=f"{len(runs)} runs; mean ± standard deviation (number of seeds); best in bold.",
        warnings=warnings,
        sections=sections,
        config="",
    )
    write_text(page, text)
    return page


def _named(row: str, label: str, data: str) -> str:
    """The name here of a `row` of one run: a baseline is the same in all runs on its data."""
    return {MORPH: label, MAP: f"{label}, {MAP}"}.get(row, f"{data}{row}")


def _labels(stories: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(name of the configuration, prefix for its baselines) of every run: the components, and
    of their arguments those that differ between runs with the same component."""
    names = [[_component(s, part, stories) for s in stories] for part in _PARTS]
    extra = [[_component(s, part, stories) for s in stories] for part in _PARTS_IF_VARIED]
    names += [column for column in extra if len(set(column)) > 1]
    joined = [" · ".join(filter(None, parts)) for parts in zip(*names, strict=True)]
    features = [_features(story, stories) for story in stories]
    if len(set(features)) == 1:
        return [(name, "") for name in joined]
    return [(f"{f}: {name}", f"{f}: ") for f, name in zip(features, joined, strict=True)]


def _features(story: Mapping[str, Any], stories: Sequence[Mapping[str, Any]]) -> str:
    """What the run's points are: data and extractors, whatever their seed; if that does not tell
    apart runs on different points (a file that changed), with the start of their hash."""
    parts = ("data", "source", "target")
    seedless = [{part: _seedless(s.get(part)) for part in parts} for s in stories]
    own = {part: _seedless(story.get(part)) for part in parts}
    varied = len({json.dumps([s["source"], s["target"]]) for s in seedless}) > 1
    named = [_component(own, part, seedless) for part in (parts if varied else parts[:1])]
    text = " ".join(filter(None, named))
    hashes = {
        str(s.get("features"))
        for s, stripped in zip(stories, seedless, strict=True)
        if stripped == own and s["seed"] == story["seed"]
    }
    return text + (f" {str(story.get('features'))[:6]}" if len(hashes) > 1 else "")


def _seedless(found: Any) -> Any:
    """A record without its seed, and without the folder of a file that is named by its content
    (`morphkit.align` writes such)."""
    name, arguments = _split(found)
    kept = {
        k: re.sub(r"^.*/(arrays-[0-9a-f]{12}\.npz)", r"\1", v) if isinstance(v, str) else v
        for k, v in arguments.items()
        if k != "seed"
    }
    return {"component": name, "arguments": kept} if name else found


def _component(
    story: Mapping[str, Any], part: str, stories: Sequence[Mapping[str, Any]] = ()
) -> str:
    """A name, or a record {"component", "arguments"}, or bare arguments, as short text."""
    name, arguments = _split(story.get(part))
    peers = [args for n, args in (_split(s.get(part)) for s in stories) if n == name]
    varied = [
        f"{k}={_component({k: v}, k)}"
        for k, v in arguments.items()
        if any(peer.get(k) != v for peer in peers)
    ]
    return " ".join(filter(None, [name, ", ".join(varied)]))


def _split(found: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(found, dict):
        name = str(found.get("component", "")).rpartition(".")[2]
        arguments = found.get("arguments") if name else found
        return name, arguments if isinstance(arguments, dict) else {}
    return ("" if found is None else str(found)), {}


def _stats(seeds: Mapping[Any, Sequence[float]]) -> tuple[float, float, int]:
    """Mean, sample standard deviation and number over seeds, of each seed's mean."""
    values = [v for runs in seeds.values() if math.isfinite(v := float(np.mean(runs)))]
    if not values:
        return math.nan, math.nan, 0
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), deviation, len(values)


Stats = dict[str, dict[float, tuple[float, float, int]]]


def _ordered(rows: Stats, ours: set[str]) -> list[str]:
    return sorted(rows, key=lambda row: (row not in ours, row))


def _mean_table(rows: Stats, ours: set[str], better: str | None) -> Table:
    fractions = sorted({fraction for by_fraction in rows.values() for fraction in by_fraction})
    best = [
        best_of({name: cells[f][0] for name, cells in rows.items() if f in cells}, better)
        for f in fractions
    ]

    def cell(stats: tuple[float, float, int]) -> str:
        mean, deviation, count = stats
        spread = f" ± {number(deviation)}" if math.isfinite(deviation) else ""
        return f"{number(mean)}{spread} ({count})" if count else "–"

    return Table(
        [f"{100 * f:g} % pairs" for f in fractions],
        [
            Row(
                name if name in ours else name.replace("_", " "),
                [cell(rows[name].get(f, (math.nan, math.nan, 0))) for f in fractions],
                {k for k, names in enumerate(best) if name in names},
                name in ours,
            )
            for name in _ordered(rows, ours)
        ],
    )


def _directions(found: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all runs that say it agree on, also under the name of a coupling's metric here."""
    said: dict[str, set[str]] = {}
    for name, better in (item for run in found for item in run.items()):
        said.setdefault(name, set()).add(better)
    agreed = {name: min(b) for name, b in said.items() if b in ({"higher"}, {"lower"})}
    return agreed | {f"coupling {name}": better for name, better in agreed.items()}


def _note(directions: Directions, metric: str) -> list[str]:
    return [f"{directions[metric].capitalize()} is better."] if metric in directions else []


def _plot_comparison(means: Mapping[str, Stats], ours: set[str], directions: Directions) -> Figure:
    """One panel a metric: solid lines for morphs, dashed for baselines."""
    columns = min(2, len(means))
    lines = -(-len(means) // columns)
    names = _ordered({name: {} for rows in means.values() for name in rows}, ours)
    with rc_context(STYLE):
        figure = Figure(figsize=(5.2 * columns, 3.6 * lines + 0.5), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr]
        for k, (metric, rows) in enumerate(means.items()):
            ax = figure.add_subplot(lines, columns, k + 1)
            for index, name in enumerate(names):
                points = sorted((f, *stats) for f, stats in rows.get(name, {}).items())
                if not points:
                    continue
                f, mean, deviation, _ = np.asarray(points).T
                ax.errorbar(
                    100 * f,
                    mean,
                    yerr=np.nan_to_num(deviation),
                    color=PALETTE[index % len(PALETTE)],
                    linestyle="-" if name in ours else "--",
                    marker="os^Dvp*Xh<>"[index % 11],
                    markersize=5 if name in ours else 4,
                    linewidth=1.8 if name in ours else 1.1,
                    capsize=2.5,
                )
            ax.set_xscale("log")
            ticks = sorted({100 * f for by_fraction in rows.values() for f in by_fraction})
            ax.set_xticks(ticks, [f"{t:g} %" for t in ticks])
            ax.minorticks_off()
            better = " ".join(_note(directions, metric)).rstrip(".").lower()
            ax.set(title=metric, xlabel="pairs used", ylabel=better)
            ax.grid(axis="y", color="#eeeeee", linewidth=0.8)
        handles = [
            figure.axes[0].plot(
                [],
                [],
                color=PALETTE[k % len(PALETTE)],
                linestyle="-" if name in ours else "--",
                marker="os^Dvp*Xh<>"[k % 11],
                label=name if name in ours else name.replace("_", " "),
            )[0]
            for k, name in enumerate(names)
        ]
        widest = 6 + max(map(len, names))
        figure.legend(
            handles=handles, loc="outside lower center", ncols=max(1, 60 * columns // widest)
        )
    return figure
