"""Reports: pure functions of run directories, which they read and write HTML and PNG to."""

import itertools
import math
from collections.abc import Mapping, Sequence
from csv import writer as csv_writer
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from ..files import replace_file, write_text
from .figures import PALETTE, STYLE
from .labels import named, read_runs
from .page import Section, pictured, render
from .significance import compare, holm
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

FEWEST = 3
"""Seeds that a test of two configurations takes."""

LEVEL = 0.05


Stats = dict[str, dict[float, tuple[float, float, int]]]
"""Of one metric: mean, deviation and number of seeds, by row and paired fraction."""

Values = dict[str, dict[float, dict[Any, list[float]]]]
"""Of one metric: the values of each seed, by row and paired fraction."""


def write_comparison(
    dirs: Sequence[Path | str], out: Path | str, *, by: Sequence[str] = (),
    markdown: bool = False, csv: bool = False,
) -> list[Path]:  # fmt: skip
    """Compares the runs in `dirs`, folders of runs or of sweeps: an HTML file and a PNG beside it,
    mean ± standard deviation over seeds.

    `out` is the HTML file, or a directory for `comparison.html`. Runs are grouped by the bindings
    that `by` names and by paired fraction; without `by`, by the axes of their sweep or by what
    their morph says of features, aligner, cost and solver (and field, anchor and training where
    these differ). The best on each data are marked where the runs agree which values are better,
    and morphs of FEWEST seeds or more on the same data are told apart by Wilcoxon-Mann-Whitney
    tests (Holm). A baseline that several runs of one seed fitted counts once. With `markdown` the
    tables are a Markdown file too, with `csv` one CSV file, a line a row and fraction. Returns the
    paths. Raises ValueError if a directory is neither, or for a binding that no run has.
    """
    if not dirs:
        raise ValueError("dirs: nothing to compare; pass at least one run directory.")
    runs = read_runs(list(map(Path, dirs)))
    labels = named(runs, by)
    directions = _directions([run.directions for run in runs])
    cells: dict[str, Values] = {}
    rows_on: dict[str, set[str]] = {}
    for run, (label, data) in zip(runs, labels, strict=True):
        values = {
            (_named(row, label, data), metric): value
            for row, found in results_of(run.metrics).items()
            for metric, value in found.items()
        }
        values |= {
            (label, f"coupling {name}"): value
            for name, value in under(run.metrics, "coupling/").items()
            if f"coupling {name}" in directions or "accuracy" in name
        }
        for (row, metric), value in values.items():
            rows_on.setdefault(data, set()).add(row)
            by_fraction = cells.setdefault(metric, {}).setdefault(row, {})
            by_seed = by_fraction.setdefault(run.story["paired_fraction"], {})
            by_seed.setdefault(run.story["seed"], []).append(value)

    ours = {_named(row, label, "") for label, _ in labels for row in (MORPH, MAP)}
    means = {
        metric: {row: {f: stats(seeds) for f, seeds in fs.items()} for row, fs in rows.items()}
        for metric, rows in cells.items()
    }
    failed = sum(run.metrics.get("coupling/converged", 1.0) < 1 for run in runs)
    out = Path(out)
    page = out if out.suffix == ".html" else out / "comparison.html"
    alike = list(rows_on.values())
    morphs = list(dict.fromkeys(label for label, _ in labels))
    tables = [
        Section(
            metric, _mean_table(rows, ours, directions.get(metric), alike),
            [*_note(directions, metric), *_differences(cells[metric], morphs, alike)],
        )
        for metric, rows in means.items()
    ]  # fmt: skip
    warnings = [f"In {failed} of {len(runs)} runs the coupling did not converge."] if failed else []
    written = [page]
    pictures: list[Section] = []
    if means:
        path = page.with_suffix(".png")
        pictures, problem = pictured(
            "By number of pairs", lambda: _plot_comparison(means, ours, directions), path
        )
        warnings += problem
    best = "best on each data in bold" if len(alike) > 1 else "best in bold"
    lead = f"{len(runs)} runs; mean ± standard deviation (number of seeds); {best}."
    text = render(
        title="Comparison of runs", lead=lead, warnings=warnings, sections=pictures + tables,
        config="",
    )  # fmt: skip
    write_text(page, text)
    if markdown:
        written.append(page.with_suffix(".md"))
        write_text(written[-1], _markdown([lead, *warnings], tables))
    if csv:
        written.append(page.with_suffix(".csv"))
        replace_file(written[-1], lambda new: _write_csv(new, means, ours, directions))
    return written


def _markdown(lead: Sequence[str], tables: Sequence[Section]) -> str:
    lines = ["# Comparison of runs", "", *lead]
    for section in tables:
        assert section.table is not None
        columns = section.table.columns
        lines += ["", f"## {section.title}", "", f"| | {' | '.join(columns)} |"]
        lines += ["|---" * (len(columns) + 1) + "|"]
        for row in section.table.rows:
            cells = [f"**{c}**" if k in row.best else c for k, c in enumerate(row.cells)]
            lines.append(f"| {' | '.join([row.name, *cells])} |")
        lines += [part for note in section.notes for part in ("", note)]
    return "\n".join(lines) + "\n"


def _write_csv(
    path: Path, means: Mapping[str, Stats], ours: set[str], directions: Directions
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv_writer(file)
        writer.writerow(
            ["metric", "better", "row", "ours", "paired_fraction", "mean", "deviation", "seeds"]
        )
        for metric, rows in means.items():
            for row in _ordered(rows, ours):
                for fraction, stats in sorted(rows[row].items()):
                    better = directions.get(metric, "")
                    writer.writerow([metric, better, row, int(row in ours), fraction, *stats])


def _differences(rows: Values, morphs: Sequence[str], alike: Sequence[set[str]]) -> list[str]:
    """Which `morphs` differ in one metric, of which `rows` has the values, at the same fraction and
    on the same data, as sets of `alike` are."""
    fractions = sorted({f for name in morphs for f in rows.get(name, {})})
    tests, found = [], []
    for fraction, same in itertools.product(fractions, alike):
        seeds = {
            name: np.array([np.mean(v) for v in rows[name][fraction].values()])
            for name in morphs
            if name in same and fraction in rows.get(name, {})
        }
        known = {n: v for n, v in seeds.items() if len(v) >= FEWEST and np.isfinite(v).all()}
        tests += [(fraction, test) for test in compare(known)] if len(known) > 1 else []
    if not tests:
        return []
    for (fraction, test), p in zip(tests, holm([test.p for _, test in tests]), strict=True):
        if p < LEVEL:
            more, less = (test.first, test.second)[:: 1 if test.superiority > 0.5 else -1]
            found.append(f"{more} is above {less} at {100 * fraction:g} % of the pairs (p {p:.1g})")
    what = f"{len(tests)} Wilcoxon-Mann-Whitney tests over seeds, Holm"
    if not found:
        return [f"No two morphs differ at the level of {LEVEL} ({what})."]
    return [f"{'; '.join(found)} ({what})."]


def _named(row: str, label: str, data: str) -> str:
    """The name here of a `row` of one run: a baseline is the same in all runs on its data."""
    return {MORPH: label, MAP: f"{label}, {MAP}"}.get(row, f"{data}{row}")


def stats(seeds: Mapping[Any, Sequence[float]]) -> tuple[float, float, int]:
    """Mean, sample standard deviation and number over `seeds`, of each seed's mean; the deviation
    of one is NaN."""
    values = [v for runs in seeds.values() if math.isfinite(v := float(np.mean(runs)))]
    if not values:
        return math.nan, math.nan, 0
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), deviation, len(values)


def _ordered(rows: Stats, ours: set[str]) -> list[str]:
    return sorted(rows, key=lambda row: (row not in ours, row))


def _mean_table(
    rows: Stats, ours: set[str], better: str | None, alike: Sequence[set[str]]
) -> Table:
    """The table of one metric. Only rows of the same set of `alike` are on the same data, and a
    row that is alone on its data is not called the best."""
    fractions = sorted({fraction for by_fraction in rows.values() for fraction in by_fraction})

    def best_at(fraction: float) -> set[str]:
        found = set()
        for same in alike:
            there = {n: rows[n][fraction][0] for n in same & rows.keys() if fraction in rows[n]}
            if len(there) > 1 or len(alike) == 1:
                found |= best_of(there, better)
        return found

    best = list(map(best_at, fractions))

    def cell(stats: tuple[float, float, int]) -> str:
        mean, deviation, count = stats
        short = f"{deviation:.4f}" if 0.01 <= abs(mean) < 10 else number(deviation)
        spread = f" ± {short}" if math.isfinite(deviation) else ""
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
            handles=handles, loc="outside upper center", ncols=max(1, 60 * columns // widest)
        )
    return figure
