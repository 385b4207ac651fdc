"""A feature store: features of any number of inputs, made once, in constant memory."""

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.lib.format import open_memmap

from ..files import replace_file
from ..interfaces import Data, FeatureExtractor
from ..loggers import Log
from ..types import Dataset, Split
from ..wiring.records import record
from .cache import fingerprint
from .extract import EXTRACTOR_SEED, finite_features, trained

SIDES, PARTS = ("source", "target"), ("train", "test")
PART = 1024
"""How many inputs are encoded, written and ticked off at once."""


def fill(
    data: Data,
    source: type[FeatureExtractor],
    target: type[FeatureExtractor],
    out: Path,
    log: Log,
) -> None:
    """Writes the features of all inputs of `data` below the folder `out`; what is there stays.

    Each side of each split is a folder: `features.npy` (k, d), float32, of the distinct inputs,
    with `index.npy` (n,) their rows; `inputs.json` with the inputs, where they are strings;
    `manifest.json` (extractor, weights, preprocessing and a hash of the inputs) and
    `progress.json`. `splits.npz` has labels and pairs. Memory does not grow with the inputs,
    but by their paths. Inputs that cannot be read are skipped: counted, and named.

    Raises ValueError, naming what differs, if `out` was begun by another configuration, and
    RuntimeError if no input of a split can be read.
    """
    raw = data.load()
    for side in SIDES:
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
    np.save(folder / "index.npy", index)
    if strings:
        _write_json(folder / "inputs.json", inputs.tolist())
    _write_json(folder / "manifest.json", manifest)
    done, skipped = _progress(folder)
    key = jax.random.key(EXTRACTOR_SEED)
    with log.progress(label) as report:
        report(done, len(inputs), {"skipped": len(skipped)})
        for start in range(done, len(inputs), PART):
            batch = inputs[start : start + PART]
            found, broken = _encoded(extractor, batch, jax.random.fold_in(key, start))
            skipped |= {str(start + k): reason for k, reason in broken.items()}
            _append(folder / "features.npy", found, start, len(inputs))
            done = start + len(batch)
            _write_json(folder / "progress.json", {"done": done, "skipped": skipped})
            report(done, len(inputs), {"skipped": len(skipped)})
    if len(skipped) == len(inputs):
        raise RuntimeError(f"{label}: none of {len(inputs)} inputs can be read: {skipped['0']}")
    for row, reason in skipped.items():
        log.warn(f"{label}: {inputs[int(row)]} is skipped ({reason})")


def _agree(folder: Path, manifest: dict[str, Any]) -> None:
    file = folder / "manifest.json"
    before = json.loads(file.read_text()) if file.exists() else manifest
    if differing := [name for name in manifest if before.get(name) != manifest[name]]:
        name = differing[0]
        raise ValueError(
            f"{folder} was begun with another {name}: {before.get(name)}, now {manifest[name]}; "
            "choose another folder with --out"
        )


def _progress(folder: Path) -> tuple[int, dict[str, str]]:
    file = folder / "progress.json"
    if not file.exists():
        return 0, {}
    found = json.loads(file.read_text())
    return found["done"], found["skipped"]


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


def _write_json(path: Path, value: Any) -> None:
    replace_file(path, lambda partial: partial.write_text(json.dumps(value, indent=1) + "\n"))


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
        with np.load(out / "splits.npz", allow_pickle=False) as file:
            saved = {name: file[name] for name in file.files}

        def split(part: str) -> Split:
            points, labels, renumbered = {}, {}, {}
            for side in SIDES:
                points[side], kept = _read(out / side / part)
                known = saved.get(f"{part}_{side}_labels")
                labels[side] = known if known is None else known[kept]
                renumbered[side] = np.where(kept, np.cumsum(kept) - 1, -1)
            pairs = saved[f"{part}_pairs"]
            pairs = np.stack([renumbered[side][pairs[:, k]] for k, side in enumerate(SIDES)], 1)
            pairs = pairs[(pairs >= 0).all(1)]
            return Split(
                points["source"], points["target"], pairs, labels["source"], labels["target"],
                saved.get(f"{part}_reliability"),
            )  # fmt: skip

        names = saved.get("class_names")
        return Dataset(
            out.name, None, split("train"), split("test"),
            None if names is None else tuple(map(str, names)),
        )  # fmt: skip


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
        _, skipped = _progress(folder)
        inputs = json.loads((folder / "inputs.json").read_text())
        kept = [k for k in range(len(inputs)) if str(k) not in skipped]
        files += [inputs[k] for k in kept]
        features.append(np.load(folder / "features.npy", mmap_mode="r")[kept])
    return files, np.concatenate(features)


def _read(folder: Path) -> tuple[Float[np.ndarray, "n d"], Bool[np.ndarray, " n"]]:
    """Features of the inputs that could be read, and which those are."""
    done, skipped = _progress(folder)
    count = json.loads((folder / "manifest.json").read_text())["count"]
    if done < count:
        raise ValueError(
            f"{folder} has {done} of {count} inputs; `morphkit extract` goes on where it was"
        )
    features = np.load(folder / "features.npy", mmap_mode="r")
    index: Int[np.ndarray, " n"] = np.load(folder / "index.npy")
    kept = ~np.isin(index, [int(row) for row in skipped])
    if kept.all() and np.array_equal(index, np.arange(len(features))):
        return features, kept
    return features[index[kept]], kept
