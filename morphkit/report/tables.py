"""Tables of numbers, and what they say: which map is best at what."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

MORPH = "morph"

MAP = "coupling"
"""The row of what the coupling itself says of new points, `Sampler.map`."""

Directions = Mapping[str, str]
"""Which values of a metric are better, "higher" or "lower", by its name; of one that is not there,
or "neither", no value is called the best."""

_SIGNS = {"higher": 1, "lower": -1}
_ARROWS = {"higher": " ↑", "lower": " ↓"}


@dataclass(frozen=True)
class Row:
    """One line of a table: its `name` and its `cells`, one a column; `best` are the columns in
    which it is best, and `ours` says that it is the morph's; `href` is where on a page the name
    leads to."""

    name: str
    cells: list[str]
    best: set[int]
    ours: bool = False
    href: str = ""


@dataclass(frozen=True)
class Table:
    """The `columns`, by name, and the `rows`."""

    columns: list[str]
    rows: list[Row]


def format_table(metrics: Mapping[str, float], directions: Directions) -> str:
    """The `metrics` of the morph and the baselines as text, the best by `directions` marked *, then
    a line on the coupling and a line for each metric in which a baseline beats the morph."""
    results = results_of(metrics)
    lines = []
    if results:
        lines += text_of(results_table(results, directions))
        lines += verdict(results, directions)
    if coupling := under(metrics, "coupling/"):
        numbers = [f"{k} {number(v)}" for k, v in coupling.items() if k != "converged"]
        lines.append(f"coupling: {', '.join(numbers)}. {' '.join(convergence(coupling))}".rstrip())
    return "\n".join(lines)


def text_of(table: Table) -> list[str]:
    """The lines of `table` as text, the best marked *."""
    cells = [["", *(f"{column} " for column in table.columns)]]
    for row in table.rows:
        marked = [f"{c}{'*' if k in row.best else ' '}" for k, c in enumerate(row.cells)]
        cells.append([row.name, *marked])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        texts = [line[0].ljust(widths[0])]
        texts += [t.rjust(w) for t, w in zip(line[1:], widths[1:], strict=True)]
        lines.append("   ".join(texts).rstrip())
    return lines


def under(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Those of `metrics` whose names start with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}


def results_of(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Rows of the table: `metrics` by name of map, the morph first, then the coupling's own map."""
    results: dict[str, dict[str, float]] = {}
    if ours := under(metrics, "morph/"):
        results[MORPH] = ours
    if mapped := under(metrics, "map/"):
        results[MAP] = mapped
    for key, value in under(metrics, "baseline/").items():
        name, _, metric = key.partition("/")
        results.setdefault(name, {})[metric] = value
    return results


def best_of(values: Mapping[str, float], better: str | None) -> set[str]:
    """The names of `values` with the best; several if they tie, none if neither is `better`."""
    known = {k: v for k, v in values.items() if math.isfinite(v)}
    if not known or better not in _SIGNS:
        return set()
    best = max(known.values(), key=lambda value: _SIGNS[better] * value)
    return {k for k, v in known.items() if math.isclose(v, best, rel_tol=1e-9)}


def _column(results: Mapping[str, Mapping[str, float]], metric: str) -> dict[str, float]:
    return {name: values.get(metric, math.nan) for name, values in results.items()}


def metrics_of(results: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The names of all metrics in `results`, metrics by name of map."""
    return list(dict.fromkeys(metric for values in results.values() for metric in values))


def results_table(results: Mapping[str, Mapping[str, float]], directions: Directions) -> Table:
    """The table of `results`, metrics by name of map, the best of each marked by `directions`."""
    columns = metrics_of(results)
    best = [best_of(_column(results, metric), directions.get(metric)) for metric in columns]
    rows = [
        Row(
            name.replace("_", " "),
            [number(values.get(metric, math.nan)) for metric in columns],
            {k for k, names in enumerate(best) if name in names},
            name == MORPH,
        )
        for name, values in results.items()
    ]
    return Table([m + _ARROWS.get(directions.get(m, ""), "") for m in columns], rows)


def verdict(results: Mapping[str, Mapping[str, float]], directions: Directions) -> list[str]:
    """Says in words which baselines in `results` beat the morph, metric by metric, where one value
    is better by `directions`."""
    if MORPH not in results or len(results) < 2:
        return []
    judged = [m for m in metrics_of(results) if m in results[MORPH] and directions.get(m) in _SIGNS]
    lines = []
    for metric in judged:
        morph = results[MORPH][metric]
        sign = _SIGNS[directions[metric]]
        column = {k: v for k, v in _column(results, metric).items() if math.isfinite(v)}
        better = [
            name.replace("_", " ") + f" ({number(value)})"
            for name, value in sorted(column.items(), key=lambda item: -sign * item[1])
            if not math.isfinite(morph) or sign * (value - morph) > 1e-9 * abs(morph)
        ]
        if better:
            verb = "beats" if len(better) == 1 else "beat"
            who = " and ".join(filter(None, [", ".join(better[:-1]), better[-1]]))
            lines.append(f"On {metric}, {who} {verb} the morph ({number(morph)}).")
    if judged and not lines:
        lines = ["No baseline beats the morph on any metric."]
    return lines


def convergence(coupling: Mapping[str, float]) -> list[str]:
    """Says in words how the solver ended, from the metrics `coupling`. A share below one comes from
    local alignment, which solves many small problems."""
    if "converged" not in coupling:
        return []
    share = coupling["converged"]
    if share >= 1:
        return ["The solver converged."]
    if share > 0:
        return [f"The solver converged on only {share:.0%} of the minibatches."]
    return ["The solver did NOT converge; the coupling is not the optimal one."]


def number(value: float) -> str:
    """Short text for the number `value`; a dash for NaN and infinities."""
    if not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value)}" if abs(value) > 1 else f"{value:.1f}" if value else "0"
    return f"{value:.4f}" if 0.01 <= abs(value) < 10 else f"{value:.4g}"
