"""Responses of recorded sites, and a model's features of the same stimuli (Sec. 5.2, App. G.3)."""

import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from ..checks import Count, Seed
from ..extras import imported
from ..features.store import stored_files
from ..files import open_npz, reading
from ..interfaces import Data
from ..precision import points_as_float32
from ..types import Dataset, Split
from .arrays import data_folder, read_array

logger = logging.getLogger("morphkit")

SHARES = (0.6, 0.2, 0.2)
"""Of the stimuli: to train, to choose settings by, and to test (Sec. 4)."""

COORDINATES = {"presentation": ("stimulus_id", "category_name", "object_name"), "site": ("region",)}
OLD_NAMES = {"image_id": "stimulus_id"}


class Recordings(Data):
    """From a model's features of stimuli to the responses of recorded sites, mean over repeats.

    `path` is a NetCDF file in the schema of Brain-Score's assemblies (dimensions `presentation`
    and `neuroid`), or an .npz file (default: $MORPHKIT_DATA/v4/v4_201025.npz) with `responses`
    (presentations, sites). Both may say of each presentation its `stimulus_id` (otherwise each
    is of a stimulus of its own), `category_name` and `object_name`, and of each site its
    `region`. `region` keeps the sites of one. Stimuli that some site has fewer than `repeats`
    finite responses to are left out. `labels` names the coordinate that classes are read from;
    where it is not there, every stimulus is a class of its own.

    `features` is an array of the .npz file, or 'FILE.npz::NAME' as in `data.Arrays`, (stimuli,
    ...): row k is of the k-th stimulus, by `stimuli` (an array of ids, in a file, too), or else
    in the order of the sorted ids (in that of the file where there are no ids). Or it is the
    folder of a store that `morphkit extract` made of image files, their names without suffix
    being the ids. `pretrain`, likewise, has features of other images, such as `extractor.PCA`
    is fitted to.

    60 % of the stimuli, chosen by `seed`, train, and the run is measured on the 20 % that
    `evaluate` names. With `standardise`, each site's responses have mean 0 and variance 1 over
    the training stimuli. Where every stimulus has repeats, the test split knows each site's
    reliability (`reliability`). Raises FileNotFoundError, ImportError if NetCDF cannot be read,
    and ValueError for files that lack something or do not fit together.
    """

    path: str | None = eqx.field(static=True, default=None)
    features: str = eqx.field(static=True, default="features")
    stimuli: str | None = eqx.field(static=True, default=None)
    pretrain: str | None = eqx.field(static=True, default=None)
    region: str | None = eqx.field(static=True, default=None)
    repeats: Count = eqx.field(static=True, default=1)
    labels: Literal["stimulus_id", "category_name", "object_name"] = eqx.field(
        static=True, default="category_name"
    )
    standardise: bool = eqx.field(static=True, default=True)
    evaluate: Literal["test", "validation"] = eqx.field(static=True, default="test")
    seed: Seed = eqx.field(static=True, default=0)

    def load(self) -> Dataset:
        file = Path(self.path or data_folder() / "v4" / "v4_201025.npz")
        recorded = averaged(_region(read_recordings(file), self.region), self.repeats, self.labels)
        source = self._features(file, recorded)
        names, labels = np.unique(recorded.classes, return_inverse=True)
        order = np.random.default_rng(self.seed).permutation(len(source))
        train, validation, test = np.split(
            order, np.round(np.cumsum(SHARES) * len(order)).astype(int)[:2]
        )
        if min(map(len, (train, validation, test))) < 2:
            raise ValueError(f"{file}: {len(order)} stimuli are too few for a 60/20/20 split")
        responses = recorded.responses
        if self.standardise:
            learned = responses[train].astype(np.float64)
            spread = np.where(np.ptp(learned, axis=0) > 0, learned.std(0), 1)
            responses = ((responses - learned.mean(0)) / spread).astype(np.float32)

        def split(rows: np.ndarray, reliability: np.ndarray | None = None) -> Split:
            rows = np.sort(rows)
            pairs, classes = np.stack([np.arange(len(rows))] * 2, 1), labels[rows].astype(np.int32)
            return Split(source[rows], responses[rows], pairs, classes, classes, reliability)

        pretrain = None
        if self.pretrain is not None:
            images = _read_features(self.pretrain)[0]
            pretrain = Split(images, responses[train], np.zeros((0, 2), int))
        judged = split(test if self.evaluate == "test" else validation, recorded.reliability)
        return Dataset(
            f"recordings in {file.name}", pretrain, split(train), judged, tuple(map(str, names))
        )

    def _features(self, file: Path, recorded: "Recorded") -> Float[np.ndarray, "n ..."]:
        """Row k for stimulus k of those that are kept."""
        name = self.features
        if name in _arrays(file):
            name = f"{file}::{name}"
        elif not Path(name.partition("::")[0]).exists():
            raise ValueError(
                f"Recordings.features = {name!r} is no array of {file} (which has "
                f"{_arrays(file)}), no file and no store; another file's array is 'FILE.npz::NAME'"
            )
        rows, ids = _read_features(name)
        if self.stimuli is not None:
            ids = _text(read_array(self.stimuli)).astype(str)
        ids = recorded.shown if ids is None else ids
        if len(ids) != len(rows):
            raise ValueError(
                f"Recordings.features = {self.features!r} has {len(rows)} rows for {len(ids)} "
                "stimuli; Recordings.stimuli has to name that of each row"
            )
        row = {stimulus: k for k, stimulus in enumerate(map(str, ids))}
        if len(row) < len(ids):
            twice = next(stimulus for k, stimulus in enumerate(map(str, ids)) if row[stimulus] != k)
            raise ValueError(f"Recordings.features = {self.features!r} has two rows of {twice!r}")
        if missing := [stimulus for stimulus in map(str, recorded.stimuli) if stimulus not in row]:
            raise ValueError(
                f"Recordings.features = {self.features!r}: {len(missing)} recorded stimuli have no "
                f"row, {missing[0]!r} first; they go by their ids, see Recordings.stimuli"
            )
        return rows[[row[stimulus] for stimulus in map(str, recorded.stimuli)]]


class Recorded(NamedTuple):
    """Mean `responses` (k, sites) to k `stimuli`, by id, and their `classes`; the ids of all that
    were `shown`, rarely or not, and the sites' `reliability` in [0, 1]."""

    responses: Float[np.ndarray, "k s"]
    stimuli: np.ndarray
    shown: np.ndarray
    classes: np.ndarray
    reliability: Float[np.ndarray, " s"] | None


def read_recordings(file: Path) -> dict[str, np.ndarray]:
    """What `file` has: `responses` (presentations, sites) and those of `COORDINATES` that are
    there.

    Raises FileNotFoundError, ImportError for NetCDF without xarray, ValueError for another file.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no file {file}: Recordings.path names a NetCDF assembly, or an .npz file "
            "with responses (presentations, sites)"
        )
    names = ("responses", *COORDINATES["presentation"], *COORDINATES["site"])
    if file.suffix == ".npz":
        with open_npz(file) as arrays:
            found = {name: _text(arrays[name]) for name in names if name in arrays}
            if "responses" not in found:
                raise ValueError(f"{file} has no array responses, only {list(arrays)}")
    elif file.suffix in (".nc", ".nc4", ".netcdf", ".h5"):
        found = _read_netcdf(file)
    else:
        raise ValueError(f"{file}: recordings are NetCDF (.nc) or .npz files")
    shape, kind = found["responses"].shape, found["responses"].dtype.kind
    if kind not in "fiu":
        raise ValueError(f"{file}: responses are {found['responses'].dtype}, not real numbers")
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{file}: responses has shape {shape}, not (presentations, sites)")
    for axis, (dimension, coordinates) in enumerate(COORDINATES.items()):
        for name in coordinates:
            if name in found and found[name].shape != shape[axis : axis + 1]:
                raise ValueError(
                    f"{file}: {name} is {found[name].shape}, for {shape[axis]} {dimension}s"
                )
    return found


def _read_netcdf(file: Path) -> dict[str, np.ndarray]:
    # The other two are what xarray reads NetCDF 4 with.
    xarray, _, _ = imported("Recordings", "neural", "xarray", "h5netcdf", "h5py")
    with reading(file), xarray.open_dataset(file, engine="h5netcdf") as assembly:
        wanted = {"presentation", "neuroid"}
        arrays = [name for name in assembly.data_vars if wanted <= set(assembly[name].dims)]
        if len(arrays) != 1:
            raise ValueError(
                f"{file} has {len(arrays)} variables over presentation and neuroid, not one"
            )
        responses = assembly[arrays[0]]
        extra = {d: responses.sizes[d] for d in responses.dims if d not in wanted}
        if any(size > 1 for size in extra.values()):
            raise ValueError(f"{file}: {arrays[0]} has {extra} besides; keep one time bin")
        values = responses.squeeze(list(extra)).transpose("presentation", "neuroid").values
        found: dict[str, Any] = {"responses": values}
        known = (*COORDINATES["presentation"], *COORDINATES["site"], *OLD_NAMES)
        for name in known:
            if name in assembly.variables:
                found.setdefault(OLD_NAMES.get(name, name), _text(assembly[name].values))
    return found


def _arrays(file: Path) -> list[str]:
    if file.suffix != ".npz":
        return []
    with open_npz(file) as arrays:
        return list(arrays)


def _text(values: np.ndarray) -> np.ndarray:
    """Bytes and objects as strings; numbers stay numbers, whose order is another."""
    return values.astype(str) if values.dtype.kind in "SO" else values


def _region(found: dict[str, np.ndarray], region: str | None) -> dict[str, np.ndarray]:
    if region is None:
        return found
    regions = found.get("region")
    if regions is None or not (kept := regions == region).any():
        there = "says no regions" if regions is None else f"has {np.unique(regions).tolist()}"
        raise ValueError(f"Recordings.region = {region!r}, but the file {there}")
    return {**found, "responses": found["responses"][:, kept], "region": regions[kept]}


def averaged(found: dict[str, np.ndarray], repeats: int, labels: str) -> Recorded:
    """Means over presentations of a stimulus, of those that `found` (`read_recordings`) has
    `repeats` times or more, with the classes `labels`; see `Recordings`."""
    values = found["responses"].astype(np.float64)
    ids = found.get("stimulus_id")
    ids = np.arange(len(values)) if ids is None else ids
    stimuli, first, group = np.unique(ids, return_index=True, return_inverse=True)
    total, count = _sums(values, group)
    kept = count.min(1) >= repeats
    if not kept.all():
        logger.info(f"{(~kept).sum()} of {len(kept)} stimuli have a site with < {repeats} repeats")
    if not kept.any():
        raise ValueError(
            f"Recordings.repeats = {repeats} leaves no stimulus: at most {count.min(1).max()} "
            f"finite responses of every site"
        )
    classes = found.get(labels)
    classes = stimuli if classes is None else classes[first].astype(str)
    reliable = None
    if count[kept].min() >= 2:
        rows = kept[group]
        renumbered = np.cumsum(kept)[group[rows]] - 1
        reliable = reliability(values[rows], renumbered).astype(np.float32)
    means = points_as_float32("responses", total[kept] / count[kept])
    shown = stimuli.astype(str)
    return Recorded(means, shown[kept], shown, classes[kept].astype(str), reliable)


def reliability(
    responses: Float[np.ndarray, "r s"], group: Int[np.ndarray, " r"], halvings: int = 20
) -> Float[np.ndarray, " s"]:
    """What share of the variance of each site's mean response is signal: split-half.

    `responses` (r, sites) are of single presentations. The presentations of each stimulus (`group`,
    0 to k - 1, at least two of each) are halved at random; ρ is the correlation, over stimuli, of
    the two halves' means, its mean over `halvings`, and the reliability of the mean of all is 2ρ /
    (1 + ρ) (Spearman-Brown). A stimulus without a finite response of a site in both halves is left
    out for that site. Non-positive ρ, and sites that never change, have none: 0.
    """
    still = np.nanmax(responses, axis=0) == np.nanmin(responses, axis=0)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(halvings):
        order = np.lexsort((rng.random(len(group)), group))
        place = np.arange(len(order)) - np.searchsorted(group[order], group[order])
        halves = [order[place % 2 == half] for half in (0, 1)]
        sums, counts = zip(*(_sums(responses[rows], group[rows]) for rows in halves), strict=True)
        known = np.minimum(*counts) > 0
        means = [total / np.maximum(count, 1) for total, count in zip(sums, counts, strict=True)]
        centres = [np.sum(mean, 0, where=known) / np.maximum(known.sum(0), 1) for mean in means]
        a, b = (np.where(known, m - c, 0) for m, c in zip(means, centres, strict=True))
        scale = np.sqrt((a**2).sum(0) * (b**2).sum(0))
        found.append((a * b).sum(0) / np.where(scale > 0, scale, 1))
    rho = np.where(still, 0, np.maximum(np.mean(found, axis=0), 0))
    return 2 * rho / (1 + rho)


def _sums(
    values: Float[np.ndarray, "r s"], group: Int[np.ndarray, " r"]
) -> tuple[Float[np.ndarray, "k s"], Int[np.ndarray, "k s"]]:
    """Sums and numbers of the finite values in each group; no group, of 0 to k - 1, is empty."""
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    finite = np.isfinite(values[order])
    total = np.add.reduceat(np.where(finite, values[order], 0), starts, axis=0)
    return total, np.add.reduceat(finite, starts, axis=0, dtype=int)


def _read_features(name: str) -> tuple[Float[np.ndarray, "n ..."], np.ndarray | None]:
    """Features, and the ids of their rows where they are known: from a store or an array."""
    if Path(name).is_dir():
        files, rows = stored_files(Path(name))
        ids = np.array([Path(file).stem for file in files])
    else:
        rows, ids = read_array(name), None
    if rows.dtype.kind not in "fiu":
        raise ValueError(f"{name} has type {rows.dtype}, but must be real numbers")
    rows = points_as_float32(name, rows)
    if rows.ndim < 2:
        raise ValueError(f"{name} has shape {rows.shape}, and features are (stimuli, ...)")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} has NaN or infinite features")
    return rows, ids
