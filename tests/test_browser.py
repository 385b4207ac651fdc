"""Pages as wide as a desk's and as a phone's: what is wide scrolls in a box of its own, and in a
real browser nothing is wider than the screen, no picture missing, no letter too small, no error."""

import csv
import json
import re
import shutil
import subprocess
from dataclasses import asdict
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from test_report import DIRECTIONS, KEY, METRICS, Linear, Matching, images, make_scene, write_run

from morphkit.experiment.picture import collect
from morphkit.paper.figure import HEAD
from morphkit.paper.index import Told, write_index
from morphkit.report.comparison import write_comparison
from morphkit.report.page import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
WIDTHS = (1280, 400)
LONG = "a_name_of_one_word_that_is_longer_than_a_phone_is_wide_and_has_no_space"

# A page is in a frame of its own, since windows of Chromium are 500 pixels wide or more.
FRAMES = """<!doctype html><body>{frames}<pre></pre><script>
addEventListener("load", () => {{
  const seen = [...document.querySelectorAll("iframe")].map((frame) => {{
    const page = frame.contentDocument, all = (what) => [...page.querySelectorAll(what)];
    all("details").forEach((one) => one.open = true);
    return {{
      title: page.title, inside: page.documentElement.clientWidth,
      wide: page.documentElement.scrollWidth,
      images: all("img").map((one) => [one.naturalWidth, one.clientWidth]),
      rows: all("table").filter((one) => one.clientWidth > one.parentElement.clientWidth)
        .map((one) => one.querySelector("td").clientWidth),
      letters: all("p, td, th, pre").map((one) => parseFloat(getComputedStyle(one).fontSize)),
    }};
  }});
  document.querySelector("pre").textContent = JSON.stringify(seen);
}});
</script>"""


def run_page(path: Path) -> Path:
    """A report of a run with every kind of section."""
    labels = np.arange(100) % 3
    scene = make_scene(images(100), images(100, 1), labels)
    drawn = Matching(jnp.arange(100)).sample(KEY, 1_000)
    path.mkdir()
    found = collect(scene, Linear(jnp.eye(16)), drawn, ("one", "two", "three"), key=KEY)
    np.savez_compressed(path / "figures.npz", **found)
    (path / "config.gin").write_text(f"run.name = '{LONG}{LONG}'\n")
    lines = [{"step": s, "metrics": {"train/loss": 1 / (s + 1)}} for s in range(50)]
    (path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    metrics = METRICS | {f"morph/{LONG}": 0.5, f"config/{LONG}": 1.0, "coupling/converged": 0.0}
    return write_report(write_run(path, metrics, directions=DIRECTIONS))


def comparison_page(path: Path) -> Path:
    """Of a sweep over shares and seeds."""
    dirs = [
        write_run(
            path / f"{aligner}-{share}-{seed}",
            {f"morph/{name}": share + seed / 10 for name in ("test_accuracy", LONG)}
            | {f"baseline/{name}/test_accuracy": 0.5 for name in ("ridge", LONG)},
            aligner=aligner, seed=seed, paired_fraction=share, directions=DIRECTIONS,
        )
        for aligner in ("global", f"local, {LONG}")
        for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) for seed in range(2)
    ]  # fmt: skip
    return write_comparison(dirs, path)[0]


def paper_page(path: Path) -> Path:
    """Two figures, one of lines and as wide as Fig. 8, one of points and as wide as Fig. 15."""
    path.mkdir()
    lines = [[p, f"{LONG} {p}", "ours", x, x / 20, 0.01, 3] for p in "ab" for x in range(20)]
    made = {"8": (6.4, [HEAD, *lines]), "15": (15, [["panel", "x", "y"], ["t = 0", 1.0, 2.0]])}
    for name, (inches, rows) in made.items():
        stem = path / f"fig{name}"
        picture = Figure(figsize=(inches, 3))
        picture.subplots().plot([0, 1])
        picture.savefig(stem.with_suffix(".png"), dpi=150)
        with stem.with_suffix(".csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        told = Told(name, f"Image to text, {LONG}", "It is so.", f"it is, by {LONG}", True,
                    "smoke", 3, [3, 3], 9.0, "a machine", f"morphkit paper {LONG}")  # fmt: skip
        stem.with_suffix(".json").write_text(json.dumps(asdict(told)))
    return write_index(path)


def seen(pages: list[Path], folder: Path) -> tuple[list[dict], list[str]]:
    """What the browser makes of `pages`, each at every width, and what its console says."""
    frames = "".join(
        f'<iframe src="{page.as_uri()}" style="border: 0; width: {width}px; height: 900px">'
        "</iframe>"
        for width in WIDTHS for page in pages
    )  # fmt: skip
    (folder / "frames.html").write_text(FRAMES.format(frames=frames))
    assert BROWSER
    done = subprocess.run(
        [
            BROWSER, "--headless=new", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
            "--no-sandbox",  # as root there is none
            "--allow-file-access-from-files", "--enable-logging=stderr",
            "--virtual-time-budget=20000", "--dump-dom", (folder / "frames.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    told = re.search("<pre>(.+?)</pre>", done.stdout, re.DOTALL)
    assert told, done.stderr[-2_000:]
    return json.loads(unescape(told[1])), re.findall(r"CONSOLE.*", done.stderr)


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pages")
    return [run_page(folder / "run"), comparison_page(folder / "sweep"),
            paper_page(folder / "paper")]  # fmt: skip


class Boxes(HTMLParser):
    """What the elements of a page are in: `inside` has a pair for each table and picture, its name
    and whether it is in a box that scrolls."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str | None] = []
        self.inside: list[tuple[str, bool]] = []

    def handle_starttag(self, tag, attrs):
        if tag in ("table", "img"):
            self.inside.append((tag, "scroll" in self.open))
        if tag == "div":
            self.open.append(dict(attrs).get("class"))

    def handle_endtag(self, tag):
        if tag == "div":
            self.open.pop()


def test_what_is_wide_is_in_a_box_that_scrolls(pages):
    """Everywhere; what a browser makes of it takes a browser, and pip has none."""
    for page in pages:
        boxes = Boxes()
        boxes.feed(page.read_text(encoding="utf-8"))
        assert {tag for tag, _ in boxes.inside} == {"table", "img"}, page
        assert all(scrolls for _, scrolls in boxes.inside), page


@pytest.mark.skipif(not BROWSER, reason=f"no browser: none of {', '.join(BROWSERS)} is installed")
def test_pages_are_readable_on_a_desk_and_on_a_phone(pages, tmp_path):
    found, console = seen(pages, tmp_path)
    assert not console
    assert len(found) == len(pages) * len(WIDTHS)
    for page, width in zip(found, (w for w in WIDTHS for _ in pages), strict=True):
        what = f"{page['title']} at {width} px"
        assert width - 20 <= page["inside"] <= width, what
        assert page["wide"] <= page["inside"], f"{what} is wider than the screen"
        assert page["images"], what
        for dots, wide in page["images"]:
            assert dots > 0, f"{what}: a picture is missing"
            # Letters of 8.5 points, at 150 dots an inch, have 6.6 pixels or more.
            assert wide >= dots * 3 // 8, f"{what}: a picture has shrunk"
        assert max(page["rows"], default=0) < width / 2, f"{what}: names hide what scrolls"
        assert min(page["letters"]) >= 12, f"{what}: small letters"
