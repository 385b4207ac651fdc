"""MNIST images and their labels (Sec. 4 and App. G.1.1 of the paper)."""

import gzip
import hashlib
import logging
import zlib
from pathlib import Path
from typing import Annotated, Literal

import equinox as eqx
import numpy as np
import pooch
from pydantic import Field

from ..checks import Seed
from ..features.cache import cache_folder
from ..interfaces import Data
from ..types import Dataset
from .arrays import data_folder
from .digits import DIGIT_NAMES, Direction, image_text_split

logger = logging.getLogger("morphkit")

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
"""The four files, by the md5 of their content, decompressed."""

HELD_OUT = 5
"""One in so many images that are left to align is for choosing settings."""

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"


class MNIST(Data):
    """Binarised MNIST digits as images, their one-hot labels as text.

    Images are (n, 28, 28, 1) with values 0 and 1 (1 where the pixel is above one half), text
    is (n, 10), both float32; `direction` says which of them is the source. Image i and text i
    are a pair. `pretrain` of the 60,000 training images, chosen by `seed`, train the feature
    extractors, the others the morph; the first `test` of the 10,000 test images evaluate it. With
    `evaluate` = "validation" no test image is used: a fifth of those others is held out of the
    morph's training, and evaluates it.

    The four idx files, gzipped or not, are read from the folder `path`; without it, from
    $MORPHKIT_DATA/mnist (default ../shared/data/mnist), or else they are downloaded once. Their md5
    is checked. Raises FileNotFoundError if they can be had neither way or are not in `path`,
    and ValueError if one of them is damaged, or if there is no image to hold out.
    """

    direction: Direction = eqx.field(static=True, default="image_to_text")
    path: str | None = eqx.field(static=True, default=None)
    pretrain: Annotated[int, Field(ge=1, lt=60_000)] = eqx.field(static=True, default=50_000)
    seed: Seed = eqx.field(static=True, default=0)
    test: Annotated[int, Field(ge=1, le=10_000)] = eqx.field(static=True, default=10_000)
    evaluate: Literal["test", "validation"] = eqx.field(static=True, default="test")

    def load(self) -> Dataset:
        files = self._locate()
        images, labels, test_images, test_labels = (_read_idx(files[name]) for name in MD5)
        order = np.random.default_rng(self.seed).permutation(len(images))
        first, rest = order[: self.pretrain], order[self.pretrain :]
        judged = test_images[: self.test], test_labels[: self.test]
        if self.evaluate == "validation":
            kept = len(rest) - len(rest) // HELD_OUT
            rest, held = rest[:kept], np.sort(rest[kept:])
            if len(held) == 0:
                raise ValueError(
                    f"MNIST.pretrain = {self.pretrain} leaves {len(rest)} images to align, too few "
                    "to hold a fifth out for choosing settings"
                )
            judged = images[held], labels[held]
        first, rest = np.sort(first), np.sort(rest)
        pretrain, train, test = (
            image_text_split(_binarise(x), y.astype(np.int32), self.direction)
            for x, y in ((images[first], labels[first]), (images[rest], labels[rest]), judged)
        )
        return Dataset("mnist", pretrain, train, test, class_names=DIGIT_NAMES)

    def _locate(self) -> dict[str, Path]:
        """Where each of the four files is, downloading them if need be."""
        given = self.path is not None
        folder = Path(self.path or data_folder() / "mnist")
        found = {n: p for n in MD5 for p in (folder / n, folder / f"{n}.gz") if p.is_file()}
        if len(found) == len(MD5):
            return found
        missing = [name for name in MD5 if name not in found]
        cache = cache_folder() / "mnist"
        try:
            if given:
                raise FileNotFoundError("MNIST.path is set, so nothing is downloaded")
            return {name: _download(name, cache) for name in MD5}
        except OSError as error:
            raise FileNotFoundError(
                f"MNIST is not in {folder}: {', '.join(missing)} (or the same with .gz) missing, "
                f"and no download: {error}. Put {', '.join(MD5)} into that folder, or name "
                "the folder they are in with MNIST.path"
            ) from error


def _download(name: str, folder: Path) -> Path:
    """The downloaded file; one of an earlier run that is damaged is downloaded again."""
    file = folder / f"{name}.gz"
    if file.exists():
        try:
            _read_idx(file)
        except ValueError:
            logger.warning(f"{file} is damaged; it is downloaded again")
            file.unlink()
    pooch.retrieve(
        f"{MIRROR}{name}.gz", known_hash=None, fname=file.name, path=folder, progressbar=True
    )
    return file


def _read_idx(file: Path) -> np.ndarray:
    """The uint8 array of an idx file, gzipped or not. Raises ValueError if it is damaged."""
    try:
        content = file.read_bytes()
        content = gzip.decompress(content) if file.suffix == ".gz" else content
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{file} cannot be read ({error}); delete it and get it again") from error
    expected = MD5[file.name.removesuffix(".gz")]
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(
            f"{file} is damaged: the md5 of its content is {found}, not {expected}; "
            "delete it and get it again"
        )
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _binarise(images: np.ndarray) -> np.ndarray:
    """1 where a pixel is above one half (App. G.1.1), as (n, h, w, 1) float32."""
    return (images[..., None] > 127.5).astype(np.float32)
