"""Images in files, and the names of their classes as texts (Sec. 5.1 of the paper)."""

from pathlib import Path
from typing import Literal

import equinox as eqx
import numpy as np

from ..checks import Seed, Share
from ..files import read_csv
from ..interfaces import Data
from ..types import Dataset, Split, distinct

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")


class Images(Data):
    """Image files and the names of their classes: every image goes with its class's text.

    `path` is a folder of one folder a class, as ImageNet's, each searched to its bottom; a plain
    folder of images, each then a class of its own that is called like the file; or a .csv file
    of (image file, class name) rows, files as seen from its folder. Class folders are called
    what they are called, unless `names`, a .csv file with a header, has a column that holds the
    folders' names (wnids): then the last column has the classes'. A file that is listed several
    times, as with five captions, is one source point with as many targets, and has no class.

    Source inputs are paths and target inputs class names, strings both, for extractors that
    read them (`extractor.ViT`, `extractor.MiniLM`). `seed` splits the images into the
    `fractions` to train (half in the paper), to choose settings by (a tenth) and to test (the
    rest); a run is measured on the part that `evaluate` names. Raises FileNotFoundError for
    what is not there, and ValueError for lists and names that do not fit.
    """

    path: str | None = eqx.field(static=True, default=None)
    names: str | None = eqx.field(static=True, default=None)
    fractions: tuple[Share, Share, Share] = eqx.field(static=True, default=(0.5, 0.1, 0.4))
    evaluate: Literal["test", "validation"] = eqx.field(static=True, default="test")
    seed: Seed = eqx.field(static=True, default=0)

    def __check_init__(self):
        if self.path is None:
            raise ValueError("Images.path is missing: give a folder of images, or a .csv list")
        if sum(self.fractions) > 1 + 1e-9:
            raise ValueError(f"Images.fractions = {self.fractions} must sum to at most 1")

    def load(self) -> Dataset:
        assert self.path is not None
        path = Path(self.path)
        files, classes = _listed(path) if path.is_file() else _found(path)
        if self.names is not None:
            classes = _named(classes, Path(self.names))
        names, labels = np.unique(classes, return_inverse=True)
        labels = labels.astype(np.int32)
        sources, row = distinct(files)
        order = np.random.default_rng(self.seed).permutation(len(sources))
        ends = np.round(np.cumsum(self.fractions) * len(sources)).astype(int)
        train, validation, test = np.split(order, ends)[:3]
        judged = test if self.evaluate == "test" else validation
        for purpose, rows in (("train on", train), (f"evaluate on ({self.evaluate})", judged)):
            if len(rows) == 0:
                raise ValueError(
                    f"Images.fractions = {self.fractions} leaves none of {len(sources)} images to "
                    f"{purpose}"
                )

        captioned = len(sources) < len(files)

        def split(part: np.ndarray) -> Split:
            rows = np.flatnonzero(np.isin(row, part))
            kept, of = distinct(files[rows])
            pairs = np.stack([of, np.arange(len(rows))], 1)
            classes = None if captioned else labels[rows]
            return Split(kept, names[labels[rows]], pairs, classes, classes)

        class_names = None if captioned else tuple(map(str, names))
        return Dataset("images", None, split(train), split(judged), class_names)


def _found(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Image files below `folder`, in order, and the folder (or file) that is each one's class."""
    if not folder.is_dir():
        raise FileNotFoundError(f"Images.path = {folder} is neither a folder nor a list of images")
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise FileNotFoundError(f"no image ({', '.join(SUFFIXES)}) anywhere in {folder}")
    inside = [f.relative_to(folder).parts for f in files]
    plain = {len(parts) == 1 for parts in inside}
    if len(plain) == 2:
        loose = next(f for f, parts in zip(files, inside, strict=True) if len(parts) == 1)
        raise ValueError(f"{folder} has class folders, and images beside them, such as {loose}")
    classes = [f.stem for f in files] if plain == {True} else [parts[0] for parts in inside]
    return np.array(list(map(str, files))), np.array(classes)


def _listed(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = []
    for line, row in read_csv(path):
        if len(row) != 2:
            raise ValueError(f"{path}, line {line}: {len(row)} cells, not (image file, class name)")
        rows.append(row)
    if rows and not rows[0][0].lower().endswith(SUFFIXES):
        rows = rows[1:]  # a header
    if not rows:
        raise ValueError(f"{path} lists no image")
    files, classes = zip(*rows, strict=True)
    return np.array([str(path.parent / file) for file in files]), np.array(classes)


def _named(classes: np.ndarray, path: Path) -> np.ndarray:
    """The classes' names, by a table with a header."""
    if not path.is_file():
        raise FileNotFoundError(f"Images.names = {path} is no file")
    rows = [row for _, row in read_csv(path)][1:]
    wanted = set(map(str, classes))
    for column in range(min(map(len, rows), default=0)):
        called = {row[column]: row[-1] for row in rows}
        if wanted <= set(called):
            return np.array([called[str(name)] for name in classes])
    raise ValueError(f"{path} has no column with all class folders, such as {min(wanted)}")
