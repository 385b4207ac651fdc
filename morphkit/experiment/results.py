"""What a finished run leaves in its folder."""

import json
from dataclasses import replace

import numpy as np
from jaxtyping import PRNGKeyArray

from ..files import replace_file, write_json, write_text
from ..folder import RunFolder
from ..hosts import ends_all, writes
from ..interfaces import Sampler, Scene
from ..loggers import Log, finite
from ..morph import Morph
from ..report.page import write_report
from .picture import collect

DRAWN = 20_000
"""How many pairs of points the picture shows the coupling by."""


def write_results(
    folder: RunFolder, morph: Morph, metrics: dict[str, float], scene: Scene, gin: str
) -> None:
    """Writes to `folder` the configuration `gin`, the `morph`, the split of `scene` and the
    `metrics`."""
    write_text(folder.config, gin)
    morph.save(folder.morph)
    if scene.inputs is not None and scene.inputs.source.dtype.kind in "US":
        # Inputs that are files: which of them did what.
        files = {"train": scene.inputs.source.tolist(), "test": scene.test.source.tolist()}
        write_json(folder.split, files)
    write_json(folder.metrics, jsonable(metrics))


def write_pages(
    folder: RunFolder, morph: Morph, scene: Scene, sampler: Sampler, batch_size: int,
    key: PRNGKeyArray, log: Log,
) -> None:  # fmt: skip
    """Writes picture and report to `folder`: draws of `morph` by `key` in `scene`, and the pairs
    that batches of `batch_size` of `sampler` have. What goes wrong with them is a warning to `log`,
    a full disk apart: the numbers and the morph are there."""
    try:
        drawn = sampler.draws(key, DRAWN, batch_size)
        arrays = collect(scene, morph, drawn, scene.class_names, key=key)
        replace_file(folder.figures, lambda new: np.savez_compressed(new, **arrays))  # pyright: ignore[reportArgumentType]
        if writes():
            write_report(folder.path)
    except OSError:
        raise
    except Exception as error:
        if ends_all(error):
            raise
        log.warn(f"the report is not complete ({type(error).__name__}: {error})")


def with_story(morph: Morph, story: dict) -> Morph:
    """`morph` with `story`, JSON of how it was made, as its provenance."""
    return replace(morph, provenance=json.dumps(story))


def jsonable(metrics: dict[str, float]) -> dict[str, float | None]:
    """`metrics` for JSON, which has no NaN and no infinities: null."""
    return {name: finite(value) for name, value in metrics.items()}
