"""Lines of JSON that a killed benchmark goes on from, and what tables make of them."""

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from morphkit.experiment.sharing import forget_programs
from morphkit.paper.drawings import curves
from morphkit.paper.figure import Made
from morphkit.paper.lines import Value, lines_of
from morphkit.report.labels import Run, read_runs
from morphkit.sweeping import sweep


def runs_of(files: list[str], name: str) -> list[Run]:
    """All runs of the sweep that gin `files` describe, in runs/`name`; what is missing is run."""
    out = Path(__file__).parent.parent / "runs" / name
    swept = sweep(files, out=out)
    assert swept.finished == swept.total, swept.failed
    return read_runs([out])


def measured_by(name: str, seeds: int) -> str:
    """How a page begins."""
    return (
        f"`python benchmarks/{name}.py` ({platform.machine()}, {os.cpu_count()} cores, no GPU), "
        f"{seeds} seeds: mean ± standard deviation (the number of seeds, where fewer). "
    )


def read(path: Path) -> dict[tuple, dict]:
    """The lines of a file, if there is one, by their "cell"."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {tuple(line["cell"]): line for line in map(json.loads, lines)}


def missing(path: Path, cells: Iterable[tuple]) -> list[tuple]:
    """Those of `cells` that no line of a file has as its "cell"."""
    there = read(path)
    return [cell for cell in cells if cell not in there]


def measure(
    path: Path,
    cells: Iterable[tuple],
    run: Callable[[tuple], dict],
    write: Callable[[dict[tuple, dict]], None],
) -> None:
    """Runs those of `cells` that the file has no line of, a line after the other, and then writes
    the page of all lines."""
    for cell in missing(path, cells):
        line = run(cell)
        print(json.dumps(line)[:400], flush=True)
        append(path, line)
        forget_programs()
    write(read(path))


def apart(script: str, asked: list, **environment: str) -> dict:
    """What `script --one` says of `asked`, in a process of its own with more in its
    `environment`."""
    done = subprocess.run(
        [sys.executable, script, "--one", json.dumps(asked)], stdout=subprocess.PIPE, text=True,
        check=True, env=os.environ | environment,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def one_or_all(text: str | None, one: Callable[..., dict], others: Callable[[], None]) -> None:
    """The script of `apart`: says what `one` finds, or does the `others` if it is not asked to."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--one", help="a cell, in this process: JSON")
    asked = parser.parse_args().one
    print(json.dumps(one(*json.loads(asked)))) if asked else others()


def append(path: Path, line: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def summary(numbers: list[float], seeds: int, digits: int = 3) -> str:
    """Mean ± standard deviation, and the number of seeds where it is not the usual one."""
    if not numbers:
        return "–"
    spread = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    fewer = "" if len(numbers) == seeds else f" ({len(numbers)})"
    return f"{statistics.mean(numbers):.{digits}f}{spread}{fewer}"


def draw(name: str, values: Sequence[Value], xlabel: str, ylabel: str) -> None:
    """Curves of `values` in docs/paper/`name`.png, and their numbers in results/paper/`name`.csv,
    as those of a figure of the paper are."""
    lines = lines_of(values)
    made = Made.of(curves(lines, xlabel, ylabel), lines, None, "")
    root = Path(__file__).parent
    made.picture.savefig(root.parent / "docs" / "paper" / f"{name}.png", dpi=150)
    table = root / "results" / "paper" / f"{name}.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(made.rows)
