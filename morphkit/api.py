"""The public entry points: `run`, `extract` and `search` for gin files, `align` for arrays."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

import gin

from .data.arrays import split_arrays
from .experiment.chosen import choose as choose_way
from .experiment.experiment import Experiment
from .experiment.prepare import prepare
from .experiment.run import Result
from .experiment.run import run as run_experiment
from .experiment.search import Trial, search_grid, write_search
from .experiment.suggest import suggest as suggest_points
from .features.cache import fingerprint
from .features.extract import features_of
from .features.store import fill
from .files import replace_file, write_text
from .folder import RunFolder
from .hosts import first_only, several
from .loggers import Log
from .morph import Morph, load
from .precision import in_float32
from .types import PairedData, Pairs
from .wiring.configuration import SEARCH, build, built, configured, text

METHODS = {"true": "TrueAlignment", "global": "GlobalAlignment", "local": "LocalAlignment"}
"""The paper's alignments by their short names; "auto" is a choice made on the pairs."""


@in_float32
def run(
    files: str | Path | Sequence[str | Path],
    bindings: Sequence[str] = (),
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
) -> Result:
    """Runs the experiment that gin `files` describe, one or several; what `morphkit run` calls.

    `bindings` such as "run.paired_fraction = 0.01" win over the files. Results go to `out`, by
    default runs/NAME-TIME; a run that was killed there goes on from its last checkpoint.
    Raises ConfigurationError for a wrong request, before anything is computed, also when
    `out` holds a finished run already and `overwrite` is not set.
    """
    names = names_of(files)
    experiment, gin = asked(names, bindings)
    folder = RunFolder.unique(Path(names[-1]).stem) if out is None else RunFolder(out)
    with folder.opened(overwrite):
        return run_experiment(experiment, folder, gin)


def names_of(files: str | Path | Sequence[str | Path]) -> list[str | Path]:
    """`files`, one or several, as a list."""
    return [files] if isinstance(files, str | Path) else list(files)


def asked(files: Sequence[str | Path], bindings: Sequence[str]) -> tuple[Experiment, str]:
    """What gin `files` and `bindings` ask for, and the whole of it as the text of one gin file.
    Raises ConfigurationError for a wrong request."""
    with configured(files, bindings):
        return build(), text()


@in_float32
def extract(
    files: str | Path | Sequence[str | Path], bindings: Sequence[str] = (), *, out: str | Path
) -> Path:
    """Makes a feature store of the inputs of a run; what `morphkit extract` calls.

    The gin `files` and the `bindings` that win over them give run.data, run.source and run.target,
    and may be those of a whole run: with run.data = @data.Stored(), Stored.path = `out`, and
    @extractor.Identity for both sides it reads from the store. A store that was not finished goes
    on where it was. Raises ConfigurationError for a wrong request; see
    `morphkit.features.store.fill` for more.
    """
    out = Path(out)
    with configured(names_of(files), bindings):
        found = built(["data", "source", "target"])
    with Log(out, wandb="disabled") as log:
        fill(found["data"], found["source"], found["target"], out, log)
    return out


@in_float32
def search(
    files: str | Path | Sequence[str | Path],
    bindings: Sequence[str] = (),
    *,
    out: str | Path,
    **grid: Any,
) -> list[Trial]:
    """Tries τ_X, τ_Y, ε and paired fractions on the data, cost and solver of the run that gin
    `files` and `bindings` describe (App. L.2); what `morphkit search` calls.

    Nothing is trained. The points are those that the run would be measured on: choose on a
    validation part, as by Recordings.evaluate = 'validation'. `grid` has taus, epsilons,
    fractions and seeds, see `morphkit.experiment.search.search_grid`; what it leaves out is bound
    in gin, as in search.taus = (0.9, 1.0), or its default. Writes trials.csv and
    search.png (Fig. 19 and 20) to `out`, over older ones, and log.jsonl; a picture that cannot be
    drawn is left out, with a warning. Raises ConfigurationError for a wrong request, and ValueError
    for data that has no labels or points to judge.
    """
    out = Path(out)
    with configured(names_of(files), bindings, SEARCH):
        grid = gin.get_bindings(SEARCH) | grid
    with configured(names_of(files), bindings):
        found = built(["data", "source", "target", "cost", "solver"])
    raw = found["data"].load()
    if len(raw.test.pairs) == 0:
        raise ValueError("the data has no pairs to judge a coupling by, beside those it trains on")
    with Log(out, wandb="disabled") as log:
        features = features_of(raw, found["source"], found["target"], log)
        judged = PairedData(features.x_test, features.y_test, Pairs.from_array(raw.test.pairs))
        with log.progress("search") as tell:
            trials = search_grid(judged, found["cost"], found["solver"], tell=tell, **grid)
        for warning in write_search(trials, out):
            log.warn(warning)
    return trials


@in_float32
def choose(
    files: str | Path | Sequence[str | Path], bindings: Sequence[str] = (), *, out: str | Path
) -> dict[str, Any]:
    """Chooses how to align on the known pairs, and trains nothing; what `morphkit choose` calls.

    The gin `files`, and the `bindings` that win over them, describe a run; where they ask for no
    choice, it is that of auto.gin. The table of the candidates goes to choice.json in the folder
    `out`, and is returned; chosen.gin, beside it, has the winner's bindings, to be named after the
    files of a run. Raises ConfigurationError for a wrong request, and ValueError for pairs of a
    single source point.
    """
    names = names_of(files)
    experiment, gin = asked(names, bindings)
    if experiment.choice is None:
        experiment, gin = asked([*names, "auto.gin"], bindings)
    folder = RunFolder(out)
    with folder.opened(), Log(folder.path, wandb="disabled", config=gin) as log:
        chosen = choose_way(experiment, prepare(experiment, log).train, folder, log)
        if chosen.said is None:
            raise ValueError("the pairs are of a single source point; give more to choose by")
        write_text(folder.chosen, "\n".join(chosen.bindings()) + "\n")
    return chosen.said


@in_float32
def suggest(directory: str | Path, k: int = 10) -> Int[np.ndarray, " k"]:
    """The `k` source points that are worth pairing next, by their rows in the source data of the
    finished run in `directory`, the most telling first; see `morphkit.experiment.suggest`.

    Reads the data of that run again. Raises FileNotFoundError without a run, ValueError for a `k`
    beyond the points without a pair, and for a run that says nothing of new points.
    """
    folder = RunFolder(directory)
    if not folder.config.is_file():
        raise FileNotFoundError(f"{directory} holds no finished run: there is no config.gin in it")
    matcher = load(folder.path).known_targets
    experiment, _ = asked([folder.config], ["run.wandb = 'disabled'"])
    with (
        tempfile.TemporaryDirectory(prefix="morphkit-") as place,
        Log(place, wandb="disabled", quiet=True) as log,
    ):
        return suggest_points(prepare(experiment, log).train, matcher, k)


def alignment(
    method: str | None, config: str | Path | None, paired: bool
) -> tuple[list[str | Path], list[str]]:
    """The gin files and bindings that ask for an alignment: `config`, or align.gin, by the
    `method`, a key of METHODS or "auto", which needs no pairs to test on. None is "auto", or with a
    `config` what that says. Where nothing is `paired`, "auto" is unpaired.gin. Raises ValueError
    for another method, and for one that needs pairs without any."""
    files: list[str | Path] = [config or "align.gin"]
    if not paired and config is None:
        if method not in (None, "auto"):
            raise ValueError(f"method = {method!r} needs pairs; give some, or no method")
        return ["unpaired.gin"], []
    if method == "auto" or (method is None and config is None):
        return [*files, "auto.gin"], ["data.Arrays.test_fraction = 0.0"]
    if method is None:
        return files, []
    if method not in METHODS:
        known = ", ".join(["auto", *METHODS])
        raise ValueError(f"method = {method!r} is unknown; choose one of {known}")
    return files, [f"run.aligner = @aligner.{METHODS[method]}()"]


@in_float32
def align(
    x: Float[np.ndarray, "n p"],
    y: Float[np.ndarray, "m q"],
    pairs: Int[np.ndarray, "l 2"] | None = None,
    *,
    method: str | None = None,
    config: str | Path | None = None,
    bindings: Sequence[str] = (),
    seed: int | None = None,
    test_fraction: float | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
) -> Morph:
    """Learns a morph from source features `x` to target features `y`.

    `pairs` lists known correspondences: x[pairs[k, 0]] goes with y[pairs[k, 1]]. With `method`
    "auto", the default, couplings and baselines are judged on pairs that are held out in turn; the
    best is fitted again to all pairs, and `morph.report()` has the table. "true", "global" and
    "local" are the paper's alignments (Sec. 3.2). Without `pairs` the two sides are aligned by how
    alike points see the others of their side (gin/unpaired.gin). Nothing can check that: a warning
    says how far two parts of the source points agree (`eval.Agreement`). `config` is a gin file,
    in place of align.gin, which comes with morphkit; it decides where no method is given. A share
    `test_fraction` of the pairs is kept for a test with their points, by default none with "auto"
    and else .2; what morph and baselines do there is in `morph.metrics`. `method`, `seed`, by
    default 0, and `bindings` win over it. With `out`, the whole run is kept there with the arrays,
    as by `morphkit.run`: `morphkit run out/config.gin` does it again. `overwrite` replaces a
    finished run there. Without `out`, the arrays pass through a temporary file.

    Raises ValueError for arrays that do not fit together or hold NaN, for an unknown method, for
    one that needs pairs or a `test_fraction` without any, for a seed below 0 or of more than 32
    bits, and for a wrong configuration.
    """
    files, chosen = alignment(method, config, pairs is not None)
    x, y, pairs = np.asarray(x), np.asarray(y), None if pairs is None else np.asarray(pairs)
    if pairs is None and test_fraction:
        raise ValueError(
            f"test_fraction = {test_fraction} is of the pairs, and there are none; leave it out"
        )
    # Only for its errors; Arrays.hold_out, which may be bound, can find more.
    split_arrays(x, y, pairs, test_fraction=test_fraction or 0, hold_out="sources", seed=seed or 0)
    if test_fraction is not None:
        chosen.append(f"data.Arrays.test_fraction = {float(test_fraction)}")
    if seed is not None:
        chosen += [f"run.seed = {seed}", f"data.Arrays.seed = {seed}"]
    chosen += bindings
    if out is not None:
        return _align(RunFolder(out), files, chosen, overwrite, x, y, pairs)
    if several():
        raise ValueError(
            "several processes align together: name a folder `out` that all of them see"
        )
    with tempfile.TemporaryDirectory(prefix="morphkit-") as folder:
        chosen.append("run.wandb = 'disabled'")
        found = _align(RunFolder(folder), files, chosen, False, x, y, pairs)
        return replace(found, gin="")


def _align(
    folder: RunFolder, files: Sequence[str | Path], bindings: Sequence[str],
    overwrite: bool, x: np.ndarray, y: np.ndarray, pairs: np.ndarray | None,
) -> Morph:  # fmt: skip
    arrays = {"source": x, "target": y} | ({} if pairs is None else {"pairs": pairs})
    # Named by content: a run that is overwritten, or put back, keeps its own.
    file = folder.arrays(fingerprint(*arrays.values())[:12]).resolve()
    names = {name: f"{file}::{name}" for name in arrays}
    experiment, gin = asked(files, [*data_bindings(**names), *bindings])
    with folder.opened(overwrite):
        with first_only():
            replace_file(file, lambda new: np.savez(new, **arrays))  # pyright: ignore[reportArgumentType]
        return run_experiment(experiment, folder, gin).morph


def data_bindings(**files: str) -> list[str]:
    """The bindings that read arrays from `files`, paths by the name of the argument of `Arrays`
    (source, target, pairs); absolute, as seen from anywhere."""
    paths = {name: os.path.abspath(file) for name, file in files.items()}
    return [
        "run.data = @data.Arrays()",
        *(f"data.Arrays.{name} = {path!r}" for name, path in paths.items()),
    ]
