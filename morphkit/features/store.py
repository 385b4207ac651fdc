"""A feature store: features of any number of inputs, made once, in constant memory."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.lib.format import open_memmap

from ..checks import Whole
from ..files import open_npz, read_json, reading, replace_file, write_json
from ..interfaces import Data, FeatureExtractor
from ..loggers import Log
from ..types import Dataset, Split
from ..wiring.records import record
from .cache import fingerprint
from .extract import EXTRACTOR_SEED, finite_features, trained

SIDES, PARTS = ("source", "target"), ("train", "test")
PART = 1024
"""How many inputs are encoded, written and ticked off at once."""
REMEDY = "delete the store and extract it again"


@dataclass
class Progress:
    """How many inputs a store has `done`, and why those that it `skipped` could not be read, by
    row."""

    done: Whole = 0
    skipped: dict[Whole, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, count: int) -> "Progress":
        """That of the `count` inputs in `folder`."""
        file = folder / "progress.json"
        found = read_json(file, cls, REMEDY) if file.exists() else cls()
        if max(found.done, *found.skipped, -1) > count:
            raise ValueError(f"{file} is damaged (there are only {count} inputs); {REMEDY}")
        return found


@dataclass(frozen=True)
class Counted:
    """What a reader wants to know of a manifest: the `count` of inputs."""

    count: Whole


def fill(
    data: Data,
    source: type[FeatureExtractor],
    target: type[FeatureExtractor],
    out: Path,
    log: Log,
) -> None:
    """Writes the features of all inputs of `data`, by extractors of the classes `source` and
    `target`, below the folder `out`; what is there stays. `log` tells how far it is.

    Each side of each split is a folder: `features.npy` (k, d), float32, of the distinct inputs,
    with `index.npy` (n,) their rows; `inputs.json` with the inputs, where they are strings;
    `manifest.json` (extractor, weights, preprocessing and a hash of the inputs) and
    `progress.json`. `splits.npz` has labels and pairs. Memory does not grow with the inputs,
    but by their paths. Inputs that cannot be read are skipped: counted, and named.

    A test split may be empty. Raises ValueError, naming what differs, if `out` was begun by another
    configuration, or if there is nothing to train on, and RuntimeError if no input of a split can
    be read.
    """
    raw = data.load()
    for side in SIDES:
        if len(getattr(raw.train, side)) == 0:
            raise ValueError(f"{raw.name} has no {side} inputs to train on")
        build = source if side == "source" else target
        extractor, _ = trained(
            build, getattr(raw.pretrain or raw.train, side), log, f"{side} extractor"
        )
        made_by = {"extractor": record(extractor), **extractor.provenance()}
        for part in PARTS:
            inputs = getattr(getattr(raw, part), side)
            _fill(out / side / part, extractor, made_by, inputs, f"{side} {part}", log)
    labels = {
        f"{part}_{name}": value
        for part in PARTS
        for name, value in getattr(raw, part)._asdict().items()
        if name not in SIDES and value is not None
    }
    if raw.class_names is not None:
        labels["class_names"] = np.array(raw.class_names)
    replace_file(out / "splits.npz", lambda new: np.savez(new, allow_pickle=False, **labels))


def _fill(
    folder: Path,
    extractor: FeatureExtractor,
    made_by: dict[str, Any],
    inputs: np.ndarray,
    label: str,
    log: Log,
) -> None:
    strings, index = inputs.dtype.kind in "US", np.arange(len(inputs))
    if strings:
        inputs, index = np.unique(inputs, return_inverse=True)
    manifest = json.loads(json.dumps({
        **made_by, "inputs": fingerprint(inputs, index), "count": len(inputs), "part": PART,
    }))  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    _agree(folder, manifest)
    replace_file(folder / "index.npy", lambda new: np.save(new, index))
    if strings:
        write_json(folder / "inputs.json", inputs.tolist(), indent=1)
    write_json(folder / "manifest.json", manifest, indent=1)
    progress = Progress.of(folder, len(inputs))
    if progress.done > len(progress.skipped):
        _features(folder, len(inputs))  # as whole as it says
    key = jax.random.key(EXTRACTOR_SEED)
    with log.progress(label) as tell:
        tell(progress.done, len(inputs), {"skipped": len(progress.skipped)})
        for start in range(progress.done, len(inputs), PART):
            batch = inputs[start : start + PART]
            found, broken = _encoded(extractor, batch, jax.random.fold_in(key, start))
            progress.skipped |= {start + k: reason for k, reason in broken.items()}
            _append(folder / "features.npy", found, start, len(inputs))
            progress.done = start + len(batch)
            write_json(folder / "progress.json", asdict(progress), indent=1)
            tell(progress.done, len(inputs), {"skipped": len(progress.skipped)})
    if len(inputs) == 0:  # of a test split: none, as wide as those that are trained on
        wide = np.load(folder.parent / "train" / "features.npy", mmap_mode="r").shape[1]
        none = np.zeros((0, wide), np.float32)
        replace_file(folder / "features.npy", lambda new: np.save(new, none))
    elif len(progress.skipped) == len(inputs):
        raise RuntimeError(
            f"{label}: none of {len(inputs)} inputs can be read: {progress.skipped[0]}"
        )
    for row, reason in progress.skipped.items():
        log.warn(f"{label}: {inputs[row]} is skipped ({reason})")


def _agree(folder: Path, manifest: dict[str, Any]) -> None:
    file = folder / "manifest.json"
    before = read_json(file, dict[str, Any], REMEDY) if file.exists() else manifest
    if differing := [name for name in manifest if before.get(name) != manifest[name]]:
        name = differing[0]
        raise ValueError(
            f"{folder} was begun with another {name}: {before.get(name)}, now {manifest[name]}; "
            "choose another folder with --out"
        )


def _encoded(
    extractor: FeatureExtractor, batch: np.ndarray, key: jax.Array
) -> tuple[Float[np.ndarray, "b d"] | None, dict[int, str]]:
    """Features of a batch, NaN for inputs that cannot be read, which are named with the reason;
    None if that is all of them. They are found by halving."""
    try:
        features = extractor.encode(batch, key=key)
    except OSError as error:
        if batch.dtype.kind not in "US":
            raise
        if len(batch) == 1:
            return None, {0: f"{type(error).__name__}: {error}"}
        middle = len(batch) // 2
        first, broken = _encoded(extractor, batch[:middle], key)
        second, more = _encoded(extractor, batch[middle:], key)
        broken |= {middle + k: reason for k, reason in more.items()}
        whole = first if first is not None else second
        if whole is None:
            return None, broken
        found = np.full((len(batch), whole.shape[1]), np.nan, np.float32)
        for half, rows in ((first, slice(middle)), (second, slice(middle, None))):
            if half is not None:
                found[rows] = half
        return found, broken
    return np.asarray(finite_features(extractor, features), np.float32), {}


def _append(path: Path, found: Float[np.ndarray, "b d"] | None, start: int, count: int) -> None:
    """Writes rows into the array file, which is made when its width is known. It is mapped anew
    each time: pages that stay mapped would count as memory."""
    if found is None:
        return
    if not path.exists():
        shape = (count, found.shape[1])
        replace_file(path, lambda new: open_memmap(new, "w+", np.float32, shape).flush())
    array = open_memmap(path, "r+")
    array[start : start + len(found)] = found
    array.flush()


class Stored(Data):
    """Features from a store that `morphkit extract` made, in the folder `path`.

    Arrays (n, d) are memory-mapped where every input was read and all are distinct; points whose
    input was skipped are left out, and their pairs. Take `extractor.Identity` for both sides.
    Raises FileNotFoundError if there is no such store, and ValueError if it is not complete.
    """

    path: str | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.path is None:
            raise ValueError("Stored.path is missing: give the folder that `morphkit extract` made")

    def load(self) -> Dataset:
        assert self.path is not None
        out = Path(self.path)
        if not out.is_dir():
            raise FileNotFoundError(
                f"Stored.path = {out} is no folder; `morphkit extract` makes one"
            )
        if not (out / "splits.npz").exists():
            raise ValueError(f"{out} is no complete store; `morphkit extract` goes on where it was")
        splits = out / "splits.npz"
        with open_npz(splits, REMEDY) as file:
            saved = dict(file)
        found = {(part, side): _read(out / side / part) for part in PARTS for side in SIDES}

        def split(part: str) -> Split:
            def labels(side: str) -> np.ndarray | None:
                known = saved.get(f"{part}_{side}_labels")
                if known is not None and known.dtype.kind not in "iu":
                    raise ValueError(f"the {side} labels of {part} are no whole numbers")
                return None if known is None else known[found[part, side][1]]

            def ends(k: int, side: str) -> np.ndarray:
                rows, kept = saved[f"{part}_pairs"][:, k], found[part, side][1]
                _check_rows(rows, len(kept))
                return np.where(kept, np.cumsum(kept) - 1, -1)[rows]

            x, y = (found[part, side][0] for side in SIDES)
            pairs = np.stack([ends(k, side) for k, side in enumerate(SIDES)], 1)
            pairs = pairs[(pairs >= 0).all(1)]
            reliability = saved.get(f"{part}_reliability")
            return Split(x, y, pairs, labels("source"), labels("target"), reliability)

        with reading(splits, REMEDY):
            train, test = map(split, PARTS)
        names = saved.get("class_names")
        return Dataset(
            out.name, None, train, test, None if names is None else tuple(map(str, names))
        )


def stored_files(out: Path) -> tuple[list[str], Float[np.ndarray, "n d"]]:
    """Every file that was read into the store `out` as a source input, and its features.

    Raises ValueError if `out` is not a complete store of files.
    """
    files: list[str] = []
    features = []
    for part in PARTS:
        folder = out / "source" / part
        if not (folder / "inputs.json").exists() or not (out / "splits.npz").exists():
            raise ValueError(f"{out} is no complete store of files, as `morphkit extract` makes")
        rows, skipped = _complete(folder)
        inputs = read_json(folder / "inputs.json", list[str], REMEDY)
        if len(inputs) != len(rows):
            raise ValueError(f"{folder}: inputs.json has not all of {len(rows)} inputs; {REMEDY}")
        kept = [k for k in range(len(inputs)) if k not in skipped]
        files += [inputs[k] for k in kept]
        features.append(rows[kept])
    return files, np.concatenate(features)


def _read(folder: Path) -> tuple[Float[np.ndarray, "n d"], Bool[np.ndarray, " n"]]:
    """Features of the inputs that could be read, and which those are."""
    features, skipped = _complete(folder)
    with reading(folder / "index.npy", REMEDY):
        index: Int[np.ndarray, " n"] = np.load(folder / "index.npy", allow_pickle=False)
        _check_rows(index, len(features))
        if len(index) < len(features):
            raise ValueError(f"{len(index)} inputs, of which {len(features)} are distinct")
    kept = ~np.isin(index, list(skipped))
    if kept.all() and np.array_equal(index, np.arange(len(features))):
        return features, kept
    return features[index[kept]], kept


def _complete(folder: Path) -> tuple[Float[np.ndarray, "k d"], dict[int, str]]:
    """The features of a part that is finished, memory-mapped, and why some rows are skipped."""
    count = read_json(folder / "manifest.json", Counted, REMEDY).count
    progress = Progress.of(folder, count)
    if progress.done < count:
        raise ValueError(
            f"{folder} has {progress.done} of {count} inputs; `morphkit extract` goes on where it "
            "was"
        )
    features = _features(folder, count)
    for start in range(0, count, PART):
        finite = np.isfinite(features[start : start + PART]).all(1)
        if bad := set(start + np.flatnonzero(~finite)) - set(progress.skipped):
            raise ValueError(
                f"{folder / 'features.npy'} is damaged (row {min(bad)} is not finite); {REMEDY}"
            )
    return features, progress.skipped


def _features(folder: Path, count: int) -> Float[np.ndarray, "k d"]:
    path = folder / "features.npy"
    with reading(path, REMEDY):
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if found.dtype != np.float32 or found.ndim != 2 or len(found) != count:
            raise ValueError(f"{found.dtype} of shape {found.shape} for {count} inputs")
        return found


def _check_rows(rows: np.ndarray, count: int) -> None:
    if rows.dtype.kind not in "iu" or rows.ndim != 1 or not ((rows >= 0) & (rows < count)).all():
        raise ValueError(f"not all row numbers are whole numbers from 0 to {count - 1}")
