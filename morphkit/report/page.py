"""Reports: pure functions of run directories, which they read and write HTML and PNG to."""

import base64
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.figure import Figure

from .figures import STYLE, draw_overview
from .tables import (
    Row,
    Table,
    convergence,
    number,
    results_of,
    results_table,
    under,
    verdict,
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    title: str
    table: Table | None = None
    notes: list[str] = field(default_factory=list)
    image: str | None = None


def write_report(dir: Path | str) -> Path:
    """Writes `dir/report.html`, one file without external resources, and `dir/overview.png`.

    Reads `metrics.json` and, where they exist, `run.json` (for which values are better: without,
    none is called the best), `log.jsonl`, `figures.npz` and `config.gin`.
    Returns the path of the HTML. Raises ValueError if `dir` is no run directory.
    """
    dir = Path(dir)
    metrics, directions = read_metrics(dir), read_directions(dir)
    arrays: dict[str, np.ndarray] = {}
    if (dir / "figures.npz").is_file():
        with np.load(dir / "figures.npz", allow_pickle=False) as file:
            arrays = dict(file)
    config = dir / "config.gin"

    sections = []
    if results := results_of(metrics):
        notes = verdict(results, directions)
        sections.append(Section("Morph and baselines", results_table(results, directions), notes))
    if overview := draw_overview(arrays, _loss_curve(dir / "log.jsonl")):
        image = save_figure(overview, dir / "overview.png")
        sections.append(Section("Overview", image=image))
    coupling = under(metrics, "coupling/")
    if coupling:
        sections.append(Section("Coupling", _list(coupling), convergence(coupling)))
    if features := under(metrics, "features/"):
        sections.append(Section("Features", _list(features)))
    if timings := under(metrics, "time/"):
        seconds = {k.removesuffix("_s"): v for k, v in timings.items()}
        sections.append(Section("Time", _list(seconds, lambda v: f"{v:,.1f} s")))
    page = render(
        title="Morph report",
        lead=", ".join(f"{k} {number(v)}" for k, v in under(metrics, "config/").items()),
        warnings=convergence(coupling) if coupling.get("converged", 1.0) < 1 else [],
        sections=sections,
        config=config.read_text(encoding="utf-8") if config.is_file() else "",
    )
    (dir / "report.html").write_text(page, encoding="utf-8")
    return dir / "report.html"


def read_metrics(dir: Path) -> dict[str, float]:
    path = dir / "metrics.json"
    if not path.is_file():
        raise ValueError(
            f"dir: {dir} is no run directory, it has no metrics.json; "
            "pass the --out directory of a finished run."
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {k: math.nan if v is None else float(v) for k, v in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"dir: {path} is not a flat JSON object of numbers: {error}") from None


def read_directions(dir: Path) -> dict[str, str]:
    """Which values of each metric are better, by the run's record; empty where it does not say."""
    try:
        found = json.loads((dir / "run.json").read_text(encoding="utf-8"))["directions"]
        return {str(name): str(better) for name, better in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _loss_curve(path: Path) -> Float[np.ndarray, "k 2"]:
    """(step, loss) from the log. A run that was started over or resumed in the same directory
    steps back: what it did again replaces what it had done. Broken lines are skipped."""
    points: list[tuple[int, float]] = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        loss = entry.get("metrics", {}).get("train/loss")
        if loss is None or entry.get("step") is None:
            continue
        while points and points[-1][0] >= entry["step"]:
            points.pop()
        points.append((entry["step"], loss))
    return np.asarray(points, float).reshape(-1, 2)


def _list(values: Mapping[str, float], text: Callable[[float], str] | None = None) -> Table:
    rows = [Row(k.replace("_", " "), [(text or number)(v)], set()) for k, v in values.items()]
    return Table([""], rows)


def save_figure(figure: Figure, path: Path) -> str:
    """Writes the PNG and returns it in base64."""
    with rc_context(STYLE):
        figure.savefig(path, dpi=150, facecolor="white")
    return base64.b64encode(path.read_bytes()).decode()


def render(**values: Any) -> str:
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("morphkit.report", ""), autoescape=True)
    return environment.get_template("report.html.j2").render(**values)
