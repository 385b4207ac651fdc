"""What a figure shows, as numbers: means over seeds, a line a method."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from ..report.comparison import stats
from ..report.labels import Run
from ..report.tables import under

Kind = Literal["paper", "ours", "baseline", "bound"]
"""The paper's methods, what morphkit adds, what stands beside them, and what cannot be passed."""

PAIRS = "pairs known (%)"
CHOSEN = "chosen"
EXPECTED = "{}, expected value"

At = float | str
"""Where a value stands: a number, or the name of a group of bars."""


class Line(NamedTuple):
    """The line `name`, of a `kind`, of a `panel`: at each of `x` the `mean` over `seeds`, their
    number, and the sample `deviation`, NaN for a single one."""

    panel: str
    name: str
    kind: Kind
    x: tuple[At, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    seeds: tuple[int, ...]

    def at(self, x: At) -> float:
        """The mean at `x`; NaN where there is none."""
        return self.mean[self.x.index(x)] if x in self.x else math.nan


class Value(NamedTuple):
    """A number of one `seed`, `value`, of the line `name`, of a `kind`, of a `panel`, at `x`."""

    panel: str
    name: str
    kind: Kind
    x: At
    seed: int
    value: float


def lines_of(values: Iterable[Value]) -> list[Line]:
    """The lines that `values` are of, in the order in which they first come, their x rising; values
    of one seed count as their mean, and those that are not finite not at all."""
    cells: dict[tuple[str, str, Kind], dict[At, dict[int, list[float]]]] = {}
    for panel, name, kind, x, seed, value in values:
        if math.isfinite(value):
            line = cells.setdefault((panel, name, kind), {})
            line.setdefault(x, {}).setdefault(seed, []).append(value)
    found = []
    for key, line in cells.items():
        places = sorted(line) if not any(isinstance(x, str) for x in line) else list(line)
        mean, deviation, seeds = zip(*(stats(line[x]) for x in places), strict=True)
        found.append(Line(*key, tuple(places), mean, deviation, seeds))
    return found


def alignment(run: Run) -> str:
    """That of `run`; of a sweep of a single one it is local alignment."""
    return run.labels.get("alignment", "local")


def kind_of(run: Run) -> Kind:
    """Ours is what `run` chose, all else the paper's."""
    return "ours" if alignment(run) == CHOSEN else "paper"


def percent(run: Run) -> float:
    """The share of the pairs that `run` knew, in percent."""
    return round(100 * run.story["paired_fraction"], 6)


def values(
    runs: Sequence[Run],
    metric: str | Callable[[Run], float],
    name: Callable[[Run], str],
    *,
    at: Callable[[Run], At] = percent,
    panel: Callable[[Run], str] = lambda run: "",
    kind: Callable[[Run], Kind] = lambda run: "paper",
) -> list[Value]:
    """The `metric` of `runs`, by its name or as what it gives of a run; each under its `name`,
    `panel` and `kind`, `at` some place."""
    read = metric if callable(metric) else lambda run: run.metrics.get(metric, math.nan)
    return [
        Value(panel(run), name(run), kind(run), at(run), run.story["seed"], read(run))
        for run in runs
    ]


def estimates(
    runs: Sequence[Run],
    metric: str,
    expected: str,
    *,
    panel: Callable[[Run], str] = lambda run: "",
) -> list[Value]:
    """The `metric` of a draw of the morphs of `runs`, as the paper has it, by their alignment, and
    their `expected` metric, that of E[y | x], which is what baselines have; of what is chosen the
    latter alone. Each run in its `panel`."""
    drawn = [run for run in runs if alignment(run) != CHOSEN]
    ours = [run for run in runs if alignment(run) == CHOSEN]
    key = f"morph/{expected}"
    return (
        values(drawn, f"morph/{metric}", alignment, panel=panel)
        + values(drawn, key, lambda run: EXPECTED.format(alignment(run)), panel=panel)
        + values(ours, key, alignment, panel=panel, kind=kind_of)
        + baselines(runs, expected, panel=panel)
    )


def baselines(
    runs: Sequence[Run], metric: str, *, panel: Callable[[Run], str] = lambda run: ""
) -> list[Value]:
    """The `metric` of the baselines of `runs`, by the share of the pairs, each run in its
    `panel`."""
    return [
        Value(panel(run), _words(row), "baseline", percent(run), run.story["seed"], value)
        for run in runs
        for key, value in under(run.metrics, "baseline/").items()
        for row, _, found in [key.rpartition("/")]
        if found == metric
    ]


def _words(row: str) -> str:
    words = row.replace("_", " ")
    for lower, upper in (("vae", "VAE"), ("lda", "LDA"), ("cca", "CCA"), ("pls", "PLS")):
        words = words.replace(lower, upper)
    return words


def bound(lines: Sequence[Line], name: str, x: At, label: str) -> list[Line]:
    """What that of `lines` that is called `name` has at `x`, as a bound called `label`; none where
    it is not there."""
    return [
        Line(ln.panel, label, "bound", (x,), *((part[k],) for part in ln[4:]))  # pyright: ignore
        for ln in lines
        if ln.name == name and x in ln.x
        for k in [ln.x.index(x)]
    ]


def wins(
    lines: Sequence[Line], first: str, second: str, *, lower: bool = False,
    where: Callable[[At], bool] = lambda x: True,
) -> tuple[int, int]:  # fmt: skip
    """In how many cells, of how many, of `lines` that which is called `first` is above `second` (or
    `lower`), in all panels, `where` x is asked for."""
    won = total = 0
    for a in (line for line in lines if line.name == first):
        for b in (line for line in lines if (line.panel, line.name) == (a.panel, second)):
            for x in filter(where, a.x):
                if math.isfinite(other := b.at(x)):
                    won += (a.at(x) < other) if lower else (a.at(x) > other)
                    total += 1
    return won, total
