"""`morphkit paper`: sweeps, and the figures that come of them."""

import os
import platform
import time
from collections.abc import Sequence
from csv import writer as csv_writer
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from ..api import search
from ..experiment.search import Trial, read_search
from ..files import read_json, replace_file, write_json
from ..folder import SweepFolder
from ..report.labels import Run, read_runs
from ..report.tables import under
from ..sweeping import Planned, Tell, plan, say, submit, sweep
from .bridges import FIGURES
from .figure import Figure, Made
from .index import write_index

Scale = Literal["smoke", "cpu", "full"]

SECONDS = "seconds.json"
"""How long a search took, in its folder."""

PLACE = "papers/bridges"
"""Where the gin files are."""


class Done(NamedTuple):
    """What became of the figure `name`: the `files` that were written, and what was `found` and
    whether the paper's claim `agrees` with it; or, without files, why there is none."""

    name: str
    files: tuple[Path, ...]
    found: str
    agrees: bool | None = None


def named(names: Sequence[str]) -> list[Figure]:
    """The figures that `names` are of: "9" is 9A and 9B, no name is all that need nothing from a
    user. Raises ValueError for one that is none."""
    if not names:
        return [figure for figure in FIGURES.values() if not figure.needs]
    found: dict[str, Figure] = {}
    for name in names:
        wanted = name.upper().removeprefix("FIG").lstrip(". 0")
        own = {k: f for k, f in FIGURES.items() if k == wanted or k.rstrip("ABCD") == wanted}
        if not own:
            raise ValueError(f"there is no figure {name!r}; the figures are {', '.join(FIGURES)}")
        found |= own
    return list(found.values())


def paper(
    names: Sequence[str] = (),
    bindings: Sequence[str] = (),
    *,
    out: str | Path,
    scale: Scale = "cpu",
    jobs: int | None = None,
    tell: Tell = say,
) -> list[Done]:
    """Makes the figures `names` of "Model alignment using inter-modal bridges", by default all that
    take nothing but what comes with the data; what `morphkit paper` calls.

    A figure is a sweep of gin files in gin/papers/bridges, at a `scale`: "smoke" to see that all
    works, "cpu" for two cores, "full" for the paper's own settings. `bindings` win over them. To
    the folder `out` go the sweeps, in folders by the name of their file, which figures share; of
    every figure a picture (PNG, SVG), its numbers (CSV), and where they come from (JSON); and
    index.html, with the picture, the numbers, what the paper claims and whether it holds here. What
    is finished stays, and the same call goes on with the rest. With `jobs`, so many parts of a
    sweep run at once. `tell` is told what is done. Raises ValueError for a figure or a scale that
    there is not, and for a wrong request, before anything is computed; what goes wrong in a single
    figure is told, and the others go on.
    """
    out, figures = Path(out), named(names)
    if scale not in get_args(Scale):
        raise ValueError(f"scale = {scale!r} must be one of {', '.join(get_args(Scale))}")
    for figure in figures:
        if figure.needs and not any(figure.needs[0] in binding for binding in bindings):
            raise ValueError(f"figure {figure.name} needs {figure.needs[1]}")
        for file in figure.files:
            plan(_asked(file, scale), bindings, out=out / file)
    done: list[Done] = []
    for figure in figures:
        tell(f"figure {figure.name}: {figure.title}")
        try:
            sources = [
                _computed(figure, file, scale, bindings, out, jobs, tell) for file in figure.files
            ]
            done.append(_made(figure, sources, scale, bindings, out))
        except Exception as error:
            done.append(Done(figure.name, (), f"{type(error).__name__}: {error}"))
        tell(f"figure {figure.name}: {done[-1].found}")
    write_index(out)
    return done


def _asked(file: str, scale: Scale) -> list[str]:
    return [f"{PLACE}/{file}.gin", f"{PLACE}/{scale}.gin"]


def _computed(
    figure: Figure, file: str, scale: Scale, bindings: Sequence[str], out: Path,
    jobs: int | None, tell: Tell,
) -> Path:  # fmt: skip
    """The folder of the sweep of `file`, in which all is finished."""
    folder = out / file
    asked: dict[str, Any] = {"files": _asked(file, scale), "bindings": bindings, "out": folder}
    if figure.searches:
        runs = plan(**asked)
        SweepFolder(folder).keep({one.cell.name: one.cell.labels for one in runs})
        for one in runs:
            _searched(one, asked, tell)
    else:
        swept = sweep(**asked, tell=tell) if jobs is None else submit(**asked, jobs=jobs, tell=tell)
        if swept.finished < swept.total:
            name, why = next(iter(swept.failed.items()), ("", "at work in another process"))
            raise RuntimeError(
                f"{swept.total - swept.finished} of {swept.total} runs of {file} are not finished: "
                f"{name} {why}"
            )
    return folder


def _searched(one: Planned, asked: dict[str, Any], tell: Tell) -> None:
    folder = one.folder.path
    if not read_search(folder):
        tell(f"search {one.cell.name}")
        start = time.monotonic()
        search(asked["files"], [*asked["bindings"], *one.cell.bindings], out=folder)
        write_json(folder / SECONDS, round(time.monotonic() - start, 1))


def _made(
    figure: Figure, sources: Sequence[Path], scale: Scale, bindings: Sequence[str], out: Path
) -> Done:
    """Draws `figure` of what the folders `sources` hold, and keeps it in `out`."""
    if figure.searches:
        material: Any = _trials(sources)
        runs, seconds = sum(map(len, material.values())), sum(map(_searching, sources))
    else:
        material = read_runs(sources)
        runs, seconds = len(material), sum(map(_running, material))
    made = figure.make(material)
    stem = out / f"fig{figure.name.lower()}"
    png, svg, table, told = (stem.with_suffix(f".{end}") for end in ("png", "svg", "csv", "json"))
    for path in (png, svg):
        replace_file(
            path,
            lambda new, path=path: made.picture.savefig(
                new, dpi=150, facecolor="white", format=path.suffix[1:], metadata=_undated(path)
            ),
        )
    replace_file(table, lambda new: _write_rows(made.rows, new))
    write_json(told, _provenance(figure, made, runs, seconds, scale, bindings))
    return Done(figure.name, (png, svg, table, told), made.found, made.agrees)


def _running(run: Run) -> float:
    """Seconds that a run took, in the call that finished it."""
    return sum(under(run.metrics, "time/").values())


def _searching(source: Path) -> float:
    return sum(read_json(path, float, "remove it") for path in source.glob(f"*/{SECONDS}"))


def _undated(path: Path) -> dict[str, Any]:
    return {"Date": None} if path.suffix == ".svg" else {}


def _trials(sources: Sequence[Path]) -> dict[str, list[Trial]]:
    return {
        folder.name: read_search(folder)
        for source in sources for folder in sorted(source.iterdir()) if folder.is_dir()
    }  # fmt: skip


def _write_rows(rows: Sequence[Sequence[Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv_writer(file).writerows(rows)


def _provenance(
    figure: Figure, made: Made, runs: int, seconds: float, scale: Scale,
    bindings: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """Where the numbers of `figure` come from, as JSON."""
    seeds = {count for line in made.lines for count in line.seeds if line.kind != "bound"}
    seeds = seeds or {made.seeds}
    return {
        "figure": figure.name, "title": figure.title, "claim": figure.claim,
        "found": made.found, "agrees": made.agrees, "scale": scale, "bindings": list(bindings),
        "gin": [_asked(file, scale)[0] for file in figure.files], "runs": runs,
        "seeds": [min(seeds), max(seeds)],
        "seconds": round(seconds, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "command": f"morphkit paper {figure.name} --scale {scale}",
        "versions": {name: version(name) for name in ("morphkit-align", "jax", "ott-jax")},
        "python": platform.python_version(),
    }  # fmt: skip
