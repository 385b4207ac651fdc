"""Anybody's own features: arrays in files or in memory, and a list of known pairs."""

import logging
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int, Num
from pydantic import Field
from safetensors import safe_open
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..checks import Seed, check_seed
from ..files import read_csv, reading
from ..interfaces import Data
from ..precision import fits_int32, points_as_float32
from ..types import Dataset, Split, distinct

logger = logging.getLogger("morphkit")

Unit = Literal["groups", "sources"]
"""What is held out whole, see `split_arrays`."""

NONE = np.zeros((0, 2), np.int32)
"""No pairs."""

MAPPED = 2**30
"""Bytes of a file of features above which it is mapped, and not read."""


class Arrays(Data):
    """Features in files: `source` (n, p) and `target` (m, q), and `pairs` of their rows.

    A file is .npy, .npz or .safetensors; 'file.npz::name' names one array of several. `pairs`
    is a .csv file with two columns of row numbers from 0 (a header is allowed), or an
    (l, 2) array; without it nothing is known to correspond. `source_labels` (n,) and
    `target_labels` (m,) are files of integers, one per row, and only evaluate. Nothing is
    normalised.

    The test split is `test_source`, `test_target` and `test_pairs` (default: row i with row
    i), or else a share `test_fraction` in [0, 1) of the pairs, drawn by `seed`, as `split_arrays`
    says: `hold_out` "groups" for one image with several captions, "sources" where targets are
    classes that many source points share. Raises FileNotFoundError and, for files and arrays that
    do not fit, ValueError.
    """

    source: str | None = eqx.field(static=True, default=None)
    target: str | None = eqx.field(static=True, default=None)
    pairs: str | None = eqx.field(static=True, default=None)
    source_labels: str | None = eqx.field(static=True, default=None)
    target_labels: str | None = eqx.field(static=True, default=None)
    test_source: str | None = eqx.field(static=True, default=None)
    test_target: str | None = eqx.field(static=True, default=None)
    test_pairs: str | None = eqx.field(static=True, default=None)
    test_fraction: Annotated[float, Field(ge=0, lt=1)] = eqx.field(static=True, default=0.2)
    hold_out: Unit = eqx.field(static=True, default="groups")
    seed: Seed = eqx.field(static=True, default=0)

    def __check_init__(self):
        for name in ("source", "target"):
            if getattr(self, name) is None:
                raise ValueError(f"Arrays.{name} is missing: give the path of a file")

    def load(self) -> Dataset:
        def optional(path: str | None, read: Any = read_array) -> np.ndarray | None:
            return None if path is None else read(path)

        assert self.source is not None
        assert self.target is not None
        data = split_arrays(
            read_array(self.source),
            read_array(self.target),
            optional(self.pairs, read_pairs),
            source_labels=optional(self.source_labels),
            target_labels=optional(self.target_labels),
            test_source=optional(self.test_source),
            test_target=optional(self.test_target),
            test_pairs=optional(self.test_pairs, read_pairs),
            test_fraction=self.test_fraction,
            hold_out=self.hold_out,
            seed=self.seed,
        )
        many = len(data.test.source) >= 10 * len(data.test.target) > 0
        if many and self.test_source is None and self.hold_out == "groups":
            logger.warning(
                f"the test split has {len(data.test.source)} source points of "
                f"{len(data.test.target)} targets, none of which is trained on; if targets are "
                "classes, set Arrays.hold_out = 'sources'"
            )
        return data


def split_arrays(
    source: Num[np.ndarray, "n p"],
    target: Num[np.ndarray, "m q"],
    pairs: Int[np.ndarray, "l 2"] | None,
    *,
    source_labels: Int[np.ndarray, " n"] | None = None,
    target_labels: Int[np.ndarray, " m"] | None = None,
    test_source: Num[np.ndarray, "a p"] | None = None,
    test_target: Num[np.ndarray, "b q"] | None = None,
    test_pairs: Int[np.ndarray, "k 2"] | None = None,
    test_fraction: float = 0.2,
    hold_out: Unit = "groups",
    seed: int = 0,
    name: str = "arrays",
) -> Dataset:
    """A data set called `name` of two arrays, `source` (n, p) and `target` (m, q), and the `pairs`
    (l, 2) of their rows, from 0, None where none is known; no pretrain split. `source_labels` (n,)
    and `target_labels` (m,) are integers, if known. `test_source` (a, p) and `test_target` (b, q),
    given together, are the test split, with `test_pairs` (k, 2), by default row i with row i.

    Without test arrays, `test_fraction` of the pairs is held out: at most that many and at least
    one whole unit, chosen by `seed`. With `hold_out` "groups" a unit is a group of pairs that share
    points, such as an image with all of its captions (a connected component of the graph whose
    edges are the pairs), and no point is on both sides. With "sources" it is a source point with
    its pairs; its targets stay in training where another source point has them, too, as those of
    classes do. The test split has the points of the held-out pairs, each once. With
    test_fraction = 0 it has none. A pair that is listed twice counts once.

    Features become float32; labels that need more than 32 bits are numbered from 0.

    Raises ValueError, naming the argument, for arrays that are not 2-D, empty or not finite, or
    that float32 cannot hold (see `morphkit.precision`), for pairs out of range, for labels of
    another length, for a seed below 0 or of more than 32 bits, and if nothing is left to train
    on.
    """
    check_seed("seed", seed)
    source, target = _features("source", source), _features("target", target)
    known = NONE if pairs is None else _pairs("pairs", pairs, len(source), len(target))
    source_labels, target_labels = _numbered(
        _labels("source_labels", source_labels, len(source)),
        _labels("target_labels", target_labels, len(target)),
    )
    everything = Split(source, target, known, source_labels, target_labels)
    if test_source is None and test_target is None and test_pairs is None:
        if pairs is None:  # nothing to hold out
            none = NONE[:, 0]
            return Dataset(name, None, everything, _take(everything, none, none, NONE))
        return Dataset(name, None, *_hold_out(everything, test_fraction, hold_out, seed))
    if test_source is None or test_target is None:
        raise ValueError("test_source and test_target must be given together")
    test_x, test_y = _features("test_source", test_source), _features("test_target", test_target)
    for side, train, test in (("source", source, test_x), ("target", target, test_y)):
        if train.shape[1] != test.shape[1]:
            raise ValueError(
                f"test_{side} has {test.shape[1]} columns, but {side} has {train.shape[1]}"
            )
    if test_pairs is None:
        if len(test_x) != len(test_y):
            raise ValueError(
                f"test_source has {len(test_x)} rows and test_target {len(test_y)}: row i goes "
                "with row i only if they are as many; give test_pairs"
            )
        test_pairs = _row_by_row(len(test_x))
    test_pairs = _pairs("test_pairs", test_pairs, len(test_x), len(test_y))
    return Dataset(name, None, everything, Split(test_x, test_y, test_pairs))


def data_folder() -> Path:
    """Where data sets are that need files: $MORPHKIT_DATA, or ../shared/data."""
    return Path(os.environ.get("MORPHKIT_DATA", "../shared/data"))


def read_array(path: str | Path) -> np.ndarray:
    """The array of `path`, a .npy, .npz or .safetensors file; 'FILE::NAME' names one of several.
    A .npy file above MAPPED bytes is mapped, and must not be written to while it is in use.

    Raises FileNotFoundError, and ValueError for a file of another kind, an unknown or missing
    name, and pickled objects, which are never loaded.
    """
    file, _, name = str(path).partition("::")
    suffix = Path(file).suffix
    if suffix not in (".npy", ".npz", ".safetensors"):
        raise ValueError(f"{file}: only .npy, .npz and .safetensors files can be read")
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    with reading(file):
        if suffix == ".npy":
            mapped = "r" if Path(file).stat().st_size > MAPPED else None
            return np.load(file, mmap_mode=mapped, allow_pickle=False)
        if suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return arrays[_choose(file, name, arrays.files)]
        with safe_open(file, "numpy") as tensors:
            return tensors.get_tensor(_choose(file, name, list(tensors.keys())))


def read_pairs(path: str | Path) -> np.ndarray:
    """Pairs (l, 2) from `path`, a .csv file of two columns of whole numbers, or as `read_array`.

    The first row may be a header: no cell of it is a number. Raises ValueError, naming file and
    line, for anything else.
    """
    path = Path(path)
    if path.suffix != ".csv":
        return read_array(path)
    rows = read_csv(path)
    if rows and not any(map(_is_number, rows[0][1])):
        rows = rows[1:]
    if not rows:
        raise ValueError(f"{path} lists no pairs")
    return np.array([_pair(path, *row) for row in rows], np.int64)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _pair(path: Path, line: int, row: list[str]) -> tuple[int, int]:
    """Of whole numbers, which other programs may have written as 3.0 or 3e0."""
    try:
        i, j = (int(cell) if cell.isdecimal() else float(cell) for cell in row)
        if i == int(i) and j == int(j) and max(abs(i), abs(j)) < 2**53:
            return int(i), int(j)
    except (ValueError, OverflowError):  # no numbers, not two, not finite
        pass
    raise ValueError(f"{path}, line {line}: expected two row numbers, found {row}")


def _choose(file: str, name: str, names: list[str]) -> str:
    if name in names:
        return name
    if not name and len(names) == 1:
        return names[0]
    problem = f"no array {name!r}" if name else f"{len(names)} arrays"
    raise ValueError(f"{file} has {problem}; write '{file}::NAME' with NAME one of {names}")


def _features(name: str, values: np.ndarray) -> Float[np.ndarray, "n d"]:
    values = np.asarray(values)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(
            f"{name} has shape {values.shape}, but must be 2-D and not empty: one row per point"
        )
    if not (np.issubdtype(values.dtype, np.floating) or np.issubdtype(values.dtype, np.integer)):
        raise ValueError(f"{name} has type {values.dtype}, but must be real numbers")
    rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(rows):
        bad = values[rows]
        first = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
        raise ValueError(
            f"{name} has {np.isnan(bad).sum()} NaN and {np.isinf(bad).sum()} infinite values "
            f"in {len(rows)} of {len(values)} rows: {first}; remove or fill them"
        )
    return points_as_float32(name, values)


def _pairs(name: str, pairs: np.ndarray, n: int, m: int) -> Int[np.ndarray, "l 2"]:
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) == 0:
        raise ValueError(
            f"{name} has shape {pairs.shape}, but must be (l, 2) with l ≥ 1: a row of source and "
            "a row of target in each"
        )
    if not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(f"{name} has type {pairs.dtype}, but must be integers: row numbers from 0")
    for column, (side, size) in enumerate((("source", n), ("target", m))):
        wrong = np.flatnonzero((pairs[:, column] < 0) | (pairs[:, column] >= size))
        if len(wrong):
            raise ValueError(
                f"{name}[{wrong[0]}] names {side} row {pairs[wrong[0], column]}, but {side} has "
                f"rows 0 to {size - 1} ({len(wrong)} such pairs)"
            )
    first = np.unique(pairs, axis=0, return_index=True)[1]
    return pairs[np.sort(first)].astype(np.int64)


def _labels(name: str, labels: np.ndarray | None, size: int) -> Int[np.ndarray, " n"] | None:
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape != (size,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name} is {labels.dtype} of shape {labels.shape}, but must be integers, ({size},)"
        )
    if len(labels) and labels.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} has labels above 2⁶³; number the classes from 0")
    return labels.astype(np.int64)


def _numbered(*sides: np.ndarray | None) -> tuple[np.ndarray | None, ...]:
    """Labels as they are, or, where some need more than 32 bits, all classes numbered from 0."""
    given = [labels for labels in sides if labels is not None]
    classes = np.unique(np.concatenate(given)) if given else np.zeros(0, int)
    if fits_int32(classes):
        return sides
    return tuple(None if side is None else np.searchsorted(classes, side) for side in sides)


def _row_by_row(size: int) -> Int[np.ndarray, "l 2"]:
    return np.stack([np.arange(size)] * 2, axis=1)


def _hold_out(data: Split, fraction: float, unit: Unit, seed: int) -> tuple[Split, Split]:
    """Train and test split: a fraction of the pairs is held out, with all of their points."""
    if not 0 <= fraction < 1:
        raise ValueError(f"test_fraction = {fraction} must be at least 0 and below 1")
    count = max(1, round(fraction * len(data.pairs))) if fraction > 0 else 0
    chosen = _choose_units(_units(data.pairs, unit), count, seed)
    held, kept = data.pairs[chosen], data.pairs[~chosen]
    if len(kept) == 0:
        raise ValueError(
            f"test_fraction = {fraction} holds out {count} of {len(data.pairs)} pairs, and their "
            "points touch all others: no pair is left to train on; set test_fraction = 0, "
            "hold_out = 'sources' (if many source points share a target), or give test arrays"
        )
    keep_source, keep_target = np.ones(len(data.source), bool), np.ones(len(data.target), bool)
    keep_source[held[:, 0]] = False
    keep_target[np.setdiff1d(held[:, 1], kept[:, 1])] = False
    renumbered = np.stack(
        [(np.cumsum(keep_source) - 1)[kept[:, 0]], (np.cumsum(keep_target) - 1)[kept[:, 1]]], axis=1
    )
    train = _take(data, np.flatnonzero(keep_source), np.flatnonzero(keep_target), renumbered)
    (source, row), (target, column) = distinct(held[:, 0]), distinct(held[:, 1])
    return train, _take(data, source, target, np.stack([row, column], axis=1))


def _units(pairs: Int[np.ndarray, "l 2"], unit: Unit) -> Int[np.ndarray, " l"]:
    """The number of each pair's unit, from 0 in order of appearance."""
    if unit == "sources":
        return distinct(pairs[:, 0])[1]
    n, m = pairs.max(0) + 1
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], n + pairs[:, 1])), shape=(n + m, n + m))
    return distinct(connected_components(graph, directed=False)[1][pairs[:, 0]])[1]


def _choose_units(units: Int[np.ndarray, " l"], count: int, seed: int) -> Bool[np.ndarray, " l"]:
    """Which pairs are of units chosen at random: at most `count` pairs and, unless it is 0, at
    least one unit."""
    sizes = np.bincount(units)
    order = np.random.default_rng(seed).permutation(len(sizes))
    left, chosen = count, []
    for k in order:
        if sizes[k] <= left:
            chosen.append(k)
            left -= sizes[k]
    if count > 0 and not chosen:
        chosen = [order[sizes[order].argmin()]]
    return np.isin(units, chosen)


def _take(data: Split, source: np.ndarray, target: np.ndarray, pairs: np.ndarray) -> Split:
    x_labels = None if data.source_labels is None else data.source_labels[source]
    y_labels = None if data.target_labels is None else data.target_labels[target]
    return Split(
        data.source[source], data.target[target], pairs, x_labels, y_labels,
        source_rows=source, target_rows=target,
    )  # fmt: skip
