"""What the folder of a run tells a report: all that `report` knows of its files."""

import contextlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, Field, ValidationError

from ..files import open_npz, read_json, read_text
from ..folder import RunFolder

REMEDY = "run it again"


def read_metrics(dir: Path) -> dict[str, float]:
    """The numbers of a run; NaN where JSON has null.

    Raises ValueError if `dir` has none, or what is there is no flat JSON object of numbers.
    """
    path = RunFolder(dir).metrics
    if not path.is_file():
        raise ValueError(
            f"dir: {dir} is no run directory, it has no metrics.json; "
            "pass the --out directory of a finished run."
        )
    found = read_json(path, dict[str, float | None], REMEDY)
    return {name: math.nan if value is None else value for name, value in found.items()}


class Story(BaseModel, extra="allow", strict=True):
    """How a run was made: its `seed` and `paired_fraction`. What else its file says is kept, as
    `extra_data`."""

    seed: int
    paired_fraction: Annotated[float, Field(gt=0, le=1)]


class Told(BaseModel):
    """The part of a morph's manifest that says how it was made, its `provenance`."""

    provenance: Story


class Directed(BaseModel):
    """What a run says of its metrics: `directions` has "higher", "lower" or "neither" by name."""

    directions: dict[str, str] = {}


class Judged(BaseModel):
    """The part of a morph's manifest that says, in its `provenance`, which values are better."""

    provenance: Directed = Directed()


class Candidates(BaseModel):
    """What a run chose from: the `rows` of the table, the names of the best `coupling`, of the
    `anchor` and of the `ranking`, and the `advice`, see `morphkit.experiment.chosen.summary`."""

    rows: list[dict[str, str | float | bool | None]]
    coupling: str | None
    anchor: str | None
    ranking: str
    advice: str


class Choosing(BaseModel):
    """What a run says of its `choice`, if it made one."""

    choice: Candidates | None = None


class Chosen(BaseModel):
    """The part of a morph's manifest that says, in its `provenance`, what it was chosen from."""

    provenance: Choosing = Choosing()


def read_choice(dir: Path) -> dict[str, Any] | None:
    """What the run in the folder `dir` chose from; None if it did not, or does not say."""
    manifest = RunFolder(dir).morph / "manifest.json"
    if not manifest.is_file():
        return None
    found = read_json(manifest, Chosen, REMEDY).provenance.choice
    return found and found.model_dump()


def read_story(dir: Path) -> dict[str, Any]:
    """How the run in `dir` was made: `seed`, `paired_fraction`, and the records of its components.

    Raises ValueError if that is not there or, naming the file, is damaged.
    """
    manifest = RunFolder(dir).morph / "manifest.json"
    if not manifest.is_file():
        raise ValueError(f"{dir} does not say how the run was made, it has no {manifest}; {REMEDY}")
    return read_json(manifest, Told, REMEDY).provenance.model_dump()


def read_directions(dir: Path) -> dict[str, str]:
    """Which values of each metric are better, "higher", "lower" or "neither"; empty where the run
    in the folder `dir` does not say."""
    manifest = RunFolder(dir).morph / "manifest.json"
    return read_json(manifest, Judged, REMEDY).provenance.directions if manifest.is_file() else {}


class Entry(BaseModel):
    """A line of the log that tells of the training: its `metrics` at a `step`, and the `time` when
    it was written, in seconds."""

    step: Annotated[int, Field(ge=0, lt=2**53)]
    metrics: dict[str, float | None]
    time: float = math.nan


def read_loss(dir: Path) -> Float[np.ndarray, "k 2"]:
    """(step, loss) of the training of the run in the folder `dir`, see `read_curve`."""
    return read_curve(dir, "train/loss")


def read_curve(dir: Path, metric: str) -> Float[np.ndarray, "k 2"]:
    """(step, value) of a `metric` from the log in the folder `dir`. A run that was started over or
    resumed in the same directory steps back: what it did again replaces what it had done. Lines of
    other things, broken ones among them, are skipped."""
    points: list[tuple[int, float]] = []
    for entry in _entries(dir):
        value = entry.metrics.get(metric)
        if value is None or not math.isfinite(value):
            continue
        while points and points[-1][0] >= entry.step:
            points.pop()
        points.append((entry.step, value))
    return np.asarray(points, float).reshape(-1, 2)


def read_pace(dir: Path) -> float:
    """Seconds of a training step of the run in the folder `dir`: the median over what its log tells
    of; NaN where that is not enough. The first entry, which paid for compilation, only begins."""
    entries = [entry for entry in _entries(dir) if "train/loss" in entry.metrics]
    paces = [
        (after.time - before.time) / (after.step - before.step)
        for before, after in itertools.pairwise(entries)
        if after.step > before.step
    ]
    return float(np.median(paces)) if paces else math.nan


def read_kept(dir: Path) -> int | None:
    """The step whose networks the run in the folder `dir` kept, by its log; None where training
    held nothing out, and kept the last."""
    kept = None
    for entry in _entries(dir):
        kept = entry.metrics.get("train/kept", kept)
    return None if kept is None else int(kept)


def _entries(dir: Path) -> Iterator[Entry]:
    path = RunFolder(dir).log
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValidationError):
            yield Entry.model_validate_json(line, strict=True)


def read_figures(dir: Path) -> dict[str, np.ndarray]:
    """The arrays that pictures of the run in `dir` are drawn from; none if there is no such
    file."""
    path = RunFolder(dir).figures
    if not path.is_file():
        return {}
    with open_npz(path, REMEDY) as arrays:
        return dict(arrays)


def read_config(dir: Path) -> str:
    """The gin configuration of the run in `dir`; empty if it was not kept."""
    path = RunFolder(dir).config
    return read_text(path, REMEDY) if path.is_file() else ""
