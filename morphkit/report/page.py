"""Reports: pure functions of run directories, which they read and write HTML and PNG to."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from ..files import replace_file, write_text
from .choice import choice_notes, choice_table
from .figures import STYLE, plot_coupling, plot_overview
from .read import (
    read_choice,
    read_config,
    read_directions,
    read_figures,
    read_kept,
    read_loss,
    read_metrics,
)
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
    """A part of a page under a `title`: a `table`, `notes`, a line each, and an `image`, a PNG in
    base64, whichever there are."""

    title: str
    table: Table | None = None
    notes: list[str] = field(default_factory=list)
    image: str | None = None

    @property
    def widths(self) -> tuple[int, int]:
        """The least and the largest width of the image on a page, in CSS pixels. A picture of one
        panel, some 960 dots at 150 an inch, fits on a phone; wider ones scroll there, and their
        letters are as large."""
        assert self.image is not None
        dots = int.from_bytes(base64.b64decode(self.image[:32])[16:20])  # of the head of a PNG
        return 3 * dots // 8, 3 * dots // 4


def write_report(dir: Path | str) -> Path:
    """Writes `dir/report.html`, one file without external resources, and the pictures
    `dir/overview.png` and, of the coupling alone, `dir/coupling.png`.

    Reads `metrics.json` and, where they exist, the morph's manifest (for which values are better:
    without, none is called the best), `log.jsonl`, `figures.npz` and `config.gin`. A picture that
    cannot be drawn is left out, and the page says so. Returns the path of the HTML. Raises
    ValueError if `dir` is no run directory or, naming it, if one of its files is damaged.
    """
    dir = Path(dir)
    metrics, directions = read_metrics(dir), read_directions(dir)
    arrays, loss, config = read_figures(dir), read_loss(dir), read_config(dir)
    sections = []
    if results := results_of(metrics):
        notes = verdict(results, directions)
        sections.append(Section("Morph and baselines", results_table(results, directions), notes))
    if said := read_choice(dir):
        notes = choice_notes(said)
        sections.append(Section("Choice, on held-out pairs", choice_table(said), notes))
    found, warnings = pictured(
        "Overview", lambda: plot_overview(arrays, loss, read_kept(dir)), dir / "overview.png"
    )
    sections += found
    _, why = pictured("Coupling", lambda: plot_coupling(arrays), dir / "coupling.png")
    warnings += why
    coupling = under(metrics, "coupling/")
    if coupling:
        sections.append(Section("Coupling", _list(coupling), convergence(coupling)))
        if coupling.get("converged", 1.0) < 1:
            warnings += convergence(coupling)
    if features := under(metrics, "features/"):
        sections.append(Section("Features", _list(features)))
    if timings := under(metrics, "time/"):
        seconds = {k.removesuffix("_s"): v for k, v in timings.items()}
        sections.append(Section("Time", _list(seconds, lambda v: f"{v:,.1f} s")))
    page = render(
        title="Morph report",
        lead=", ".join(f"{k} {number(v)}" for k, v in under(metrics, "config/").items()),
        warnings=warnings,
        sections=sections,
        config=config,
    )
    write_text(dir / "report.html", page)
    return dir / "report.html"


def _list(values: Mapping[str, float], text: Callable[[float], str] | None = None) -> Table:
    rows = [Row(k.replace("_", " "), [(text or number)(v)], set()) for k, v in values.items()]
    return Table([""], rows)


def pictured(
    title: str, draw: Callable[[], Figure | None], path: Path
) -> tuple[list[Section], list[str]]:
    """What `draw` draws, also as the PNG `path`, as a section `title` of a page; or a warning why
    it cannot be drawn: whatever a picture is made of, the numbers count."""
    try:
        with rc_context(STYLE):
            if (figure := draw()) is None:
                return [], []
            replace_file(path, lambda new: figure.savefig(new, dpi=150, facecolor="white"))
    except Exception as error:
        return [], [f"{title}: this picture cannot be drawn ({type(error).__name__}: {error})."]
    return [Section(title, image=base64.b64encode(path.read_bytes()).decode())], []


def render(**values: Any) -> str:
    """The page that the template makes of `values`, by the names it knows them by."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("morphkit.report", ""), autoescape=True)
    return environment.get_template("report.html.j2").render(**values)
