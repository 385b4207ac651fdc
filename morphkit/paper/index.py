"""One page of all figures in a folder."""

import base64
import math
from csv import reader
from dataclasses import dataclass
from pathlib import Path

from ..files import read_json, write_text
from ..report.page import Section, render
from ..report.tables import Row, Table, number
from .bridges import FIGURES
from .figure import HEAD

REMEDY = "remove it, and make the figure again"
ANSWERS: dict[bool | None, str] = {True: "Agrees", False: "Does not agree", None: "Undecided"}


@dataclass
class Told:
    """What the JSON file beside a figure tells, as far as pages need it.

    The `claim` of the paper about the `figure` of this `title`, what was `found`, and whether it
    `agrees` (None: undecided). It was made of so many `runs` at a `scale`, `seconds` in all, by a
    `command` on a `machine`; `seeds` are the least and the most of a line.
    """

    figure: str
    title: str
    claim: str
    found: str
    agrees: bool | None
    scale: str
    runs: int
    seeds: list[int]
    seconds: float
    machine: str
    command: str


def read_told(out: Path) -> list[Told]:
    """What is told of the figures in the folder `out`, in the order of the paper; empty where none
    is. Raises ValueError, naming it, for a file that is damaged."""
    told = [read_json(path, Told, REMEDY) for path in out.glob("fig*.json")]
    return sorted(told, key=lambda t: (int("".join(filter(str.isdigit, t.figure))), t.figure))


def headed(told: Told) -> tuple[str, list[str]]:
    """The heading of the figure that is `told` of, and what the paper claims and was found."""
    notes = [f"The paper: {told.claim}", f"{ANSWERS[told.agrees]}: {told.found}."]
    return f"Figure {told.figure}: {told.title}", notes


def write_index(out: Path) -> Path:
    """Writes `out`/index.html, a page without external resources, of the figures that are in the
    folder `out`: an index, and of each its picture, the paper's claim, whether this run agrees,
    its numbers, and where they come from. Returns its path. Raises ValueError, naming it, for a
    file that is damaged."""
    told = read_told(out)
    contents = Table(
        ["here", "runs"],
        [
            Row(f"Figure {one.figure}: {one.title}",
                [ANSWERS[one.agrees].lower(), str(one.runs)], set(),
                href=f"#figure-{one.figure.lower()}")
            for one in told
        ],
    )  # fmt: skip
    scales = ", ".join(dict.fromkeys(one.scale for one in told))
    text = render(
        title="Model alignment using inter-modal bridges: the figures",
        lead=f"{len(told)} figures at scale {scales}; lines are means over seeds, shades and "
        "numbers after ± are standard deviations.",
        warnings=[], sections=[Section("Index", contents), *(_section(out, one) for one in told)],
        config="",
    )  # fmt: skip
    write_text(out / "index.html", text)
    return out / "index.html"


def seeds_of(told: Told) -> str:
    """How many seeds the lines of a figure have, by what is `told` of it: the least and the most,
    where they differ."""
    return "–".join(dict.fromkeys(map(str, told.seeds)))


def less_of(told: Told) -> str:
    """What the figure that is `told` of has less of, at scale cpu, than others have there."""
    figure = FIGURES.get(told.figure)
    return figure.reduced if figure and told.scale == "cpu" else ""


def _section(out: Path, told: Told) -> Section:
    stem = out / f"fig{told.figure.lower()}"
    image = base64.b64encode(stem.with_suffix(".png").read_bytes()).decode()
    seconds = told.seconds
    took = f"{seconds / 60:.0f} min" if seconds > 120 else f"{seconds:.0f} s"
    seeds = seeds_of(told)
    title, notes = headed(told)
    notes.append(f"{told.command}: {told.runs} runs, {seeds} seeds, {took} ({told.machine}).")
    if less := less_of(told):
        notes.append(f"At scale cpu: {less}.")
    return Section(title, _table(stem), notes, image)


def _table(stem: Path) -> Table | None:
    """The lines in the file of numbers, if it is of lines."""
    with stem.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        head, *rows = list(reader(file))
    if head != HEAD:
        return None
    places = list(dict.fromkeys(row[3] for row in rows))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for panel, line, _, x, mean, deviation, _ in rows:
        cells.setdefault((panel, line), {})[x] = _cell(float(mean), float(deviation))
    ours = {(panel, line) for panel, line, kind, *_ in rows if kind == "ours"}
    return Table(
        [_short(x) for x in places],
        [
            Row(": ".join(filter(None, key)), [found.get(x, "–") for x in places], set(),
                key in ours)
            for key, found in cells.items()
        ],
    )  # fmt: skip


def _cell(mean: float, deviation: float) -> str:
    return number(mean) + (f" ± {number(deviation)}" if math.isfinite(deviation) else "")


def _short(x: str) -> str:
    try:
        return f"{float(x):g}"
    except ValueError:
        return x
