"""Feature stores: from image files to a run, killed half-way, with broken files; image folders."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import DATA, needs
from morphkit_extractors.hub import MiniLM, ViT
from morphkit_extractors.identity import Identity
from PIL import Image

import morphkit
from morphkit.data.images import Images
from morphkit.features.store import PART, Stored, fill
from morphkit.interfaces import Data
from morphkit.loggers import Log
from morphkit.types import Dataset, Split
from morphkit.wiring.configuration import ConfigurationError

STIMULI = DATA / "v4" / "images_210224.zip"


class Numbers(Data):
    """`count` points a side, made on demand."""

    count: int = 10

    def load(self) -> Dataset:
        points = np.random.default_rng(0).normal(size=(self.count, 3))
        pairs = np.stack([np.arange(self.count)] * 2, 1)
        split = Split(points, points[:, :2], pairs)
        return Dataset("numbers", None, split, split)


def contents(folder: Path) -> dict[str, bytes]:
    names = ("features.npy", "index.npy", "manifest.json", "progress.json", "splits.npz")
    return {str(f.relative_to(folder)): f.read_bytes() for n in names for f in folder.rglob(n)}


def filled(folder: Path, data: Data, source=Identity) -> None:
    with Log(folder, wandb="disabled") as log:
        fill(data, source, Identity, folder, log)


def test_a_store_gives_the_features_back(tmp_path):
    filled(tmp_path, Numbers(2 * PART + 7))
    stored, made = Stored(str(tmp_path)).load(), Numbers(2 * PART + 7).load()
    for part in ("train", "test"):
        there, expected = getattr(stored, part), getattr(made, part)
        np.testing.assert_array_equal(there.source, expected.source.astype(np.float32))
        np.testing.assert_array_equal(there.target, expected.target.astype(np.float32))
        np.testing.assert_array_equal(there.pairs, expected.pairs)
    assert isinstance(stored.train.source, np.memmap)


class Untested(Data):
    """Points to train on, and none to test on."""

    def load(self) -> Dataset:
        train = Numbers().load().train
        none = Split(train.source[:0], train.target[:0], train.pairs[:0], reliability=np.ones(2))
        return Dataset("untested", None, train, none)


def test_a_test_split_may_be_empty(tmp_path):
    for _ in range(2):  # made, and made already
        filled(tmp_path, Untested())
    stored = Stored(str(tmp_path)).load()
    assert (stored.test.source.shape, stored.test.target.shape) == ((0, 3), (0, 2))
    assert len(stored.test.pairs) == 0 < len(stored.train.pairs) == len(stored.train.source)


def test_nothing_to_train_on_is_named(tmp_path):
    with pytest.raises(ValueError, match="numbers has no source inputs to train on"):
        filled(tmp_path, Numbers(0))


def test_a_killed_extraction_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch):
    whole, broken, data = tmp_path / "whole", tmp_path / "broken", Numbers(3 * PART)
    filled(whole, data)
    encode, starts = Identity.encode, []

    def dies(self, inputs, *, key):
        if len(starts) == 2:
            raise KeyboardInterrupt
        starts.append(len(inputs))
        return encode(self, inputs, key=key)

    with monkeypatch.context() as patched:
        patched.setattr(Identity, "encode", dies)
        with pytest.raises(KeyboardInterrupt):
            filled(broken, data)
    with pytest.raises(ValueError, match="no complete store"):
        Stored(str(broken)).load()
    again = []

    def counts(self, inputs, *, key):
        again.append(len(inputs))
        return encode(self, inputs, key=key)

    with monkeypatch.context() as patched:
        patched.setattr(Identity, "encode", counts)
        filled(broken, data)
    assert len(again) == 4 * 3 - 2
    assert contents(broken) == contents(whole)


def test_another_configuration_is_refused(tmp_path):
    filled(tmp_path, Numbers(10))
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="begun with another inputs"):
        filled(tmp_path, Numbers(11))
    assert contents(tmp_path) == before


MEMORY = """
import resource, sys
import jax.numpy as jnp
import numpy as np
import morphkit.features.store as store
from morphkit_extractors.identity import Identity

class Wide(Identity):
    def encode(self, inputs, *, key):
        return jnp.tile(jnp.asarray(inputs, jnp.float32), (1, 768))

from morphkit.wiring.registry import registry
from morphkit.loggers import Log
from morphkit.types import Dataset, Split
from morphkit.interfaces import Data

registry.load().add(Wide)

class Many(Data):
    def load(self):
        points = np.arange(count, dtype=np.float32)[:, None]
        split = Split(points, points[:1], np.zeros((1, 2), int))
        return Dataset("many", None, split, Split(points[:1], points[:1], np.zeros((1, 2), int)))

peaks = []
for count in (4 * 1024, 60 * 1024):
    with Log(f"{sys.argv[1]}/{count}", wandb="disabled", quiet=True) as log:
        store.fill(Many(), Wide, Identity, log.out, log)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(peaks[1] - peaks[0])
"""


def test_memory_does_not_grow_with_the_inputs(tmp_path):
    """172 MB more features: 15 times as many, in nearly the same memory (in MB)."""
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout.splitlines()[-1]) < 60


@pytest.fixture
def folders(tmp_path) -> Path:
    """Three classes by wnid, six images each, one of them broken."""
    rng = np.random.default_rng(0)
    for wnid in ("n01", "n02", "n03"):
        (tmp_path / "images" / wnid / "images").mkdir(parents=True)
        for k in range(6):
            image = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
            image.save(tmp_path / "images" / wnid / "images" / f"{k}.png")
    (tmp_path / "images" / "n02" / "images" / "3.png").write_bytes(b"no image")
    (tmp_path / "names.csv").write_text("index,wnid,name\n0,n01,tench\n1,n02,cat\n2,n03,dog\n")
    return tmp_path


def test_class_folders_have_names_from_a_table(folders):
    data = Images(str(folders / "images"), names=str(folders / "names.csv")).load()
    assert data.class_names == ("cat", "dog", "tench")
    assert (len(data.train.source), len(data.test.source)) == (9, 7)
    assert not set(data.train.source) & set(data.test.source)
    by_wnid = {"n01": "tench", "n02": "cat", "n03": "dog"}
    for path, text, label in zip(
        data.train.source, data.train.target, data.train.source_labels, strict=True
    ):
        assert by_wnid[Path(path).parts[-3]] == text == data.class_names[label]


def test_validation_is_neither_train_nor_test(folders):
    parts = [Images(str(folders / "images"), evaluate=e).load() for e in ("test", "validation")]
    test, validation = (set(part.test.source) for part in parts)
    assert set(parts[0].train.source) == set(parts[1].train.source)
    assert len(test | validation | set(parts[0].train.source)) == 18
    other = Images(str(folders / "images"), seed=1).load()
    assert set(other.train.source) != set(parts[0].train.source)


def test_lists_and_plain_folders(folders):
    plain = Images(str(folders / "images" / "n01" / "images")).load()
    assert plain.class_names == tuple("012345")
    (folders / "list.csv").write_text(
        "file,name\nimages/n01/images/0.png,a\nimages/n03/images/0.png,b\n"
    )
    listed = Images(str(folders / "list.csv"), fractions=(0.5, 0.0, 0.5)).load()
    assert sorted([*listed.train.target, *listed.test.target]) == ["a", "b"]
    assert all(Path(path).is_file() for path in listed.train.source)


def test_an_image_that_is_listed_with_five_captions_is_one_source_point(tmp_path):
    rows = [f"{k % 20}.png,caption {k}\n" for k in range(100)]
    (tmp_path / "list.csv").write_text("".join(rows))
    data = Images(str(tmp_path / "list.csv")).load()
    assert data.class_names is data.train.source_labels is data.test.target_labels is None
    for split, images in ((data.train, 10), (data.test, 8)):
        assert (len(split.source), len(split.target)) == (images, 5 * images)
        found = {(split.source[i], split.target[j]) for i, j in split.pairs}
        files = map(str, split.source)
        expected = {(f, f"caption {k}") for f in files for k in range(100) if k % 20 == _number(f)}
        assert found == expected
    assert not set(data.train.source) & set(data.test.source)


def _number(file: str) -> int:
    return int(Path(file).stem)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "Images.path is missing"),
        ({"path": "nowhere"}, FileNotFoundError, "nowhere"),
        ({"path": ".", "fractions": (0.9, 0.2, 0.1)}, ValueError, "at most 1"),
        ({"path": ".", "fractions": (0.9, -0.2, 0.1)}, ValueError, "greater than or equal to 0"),
        ({"path": ".", "evaluate": "train"}, ValueError, "'test' or 'validation'"),
    ],
)
def test_wrong_folders_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        Images(**arguments).load()


@pytest.fixture
def models(vit, minilm) -> dict[str, str]:
    return {"ViT.model": vit, "MiniLM.model": minilm}


def gin_file(path: Path, images: str, models: dict[str, str], **more: object) -> Path:
    bindings = {"Images.path": images, **models, **more}
    lines = [
        "run.data = @data.Images()", "run.source = @extractor.ViT",
        "run.target = @extractor.MiniLM", *(f"{k} = {v!r}" for k, v in bindings.items()),
    ]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


def test_broken_images_are_named_and_skipped(folders, models, capsys):
    file = gin_file(folders / "extract.gin", str(folders / "images"), models)
    out = morphkit.extract(file, ["Images.fractions = (0.9, 0.0, 0.1)"], out=folders / "store")
    progress = [json.loads(f.read_text()) for f in sorted(out.rglob("progress.json"))]
    skipped = [reason for found in progress for reason in found["skipped"].values()]
    assert len(skipped) == 1
    assert "n02/images/3.png" in skipped[0]
    assert "3.png is skipped" in capsys.readouterr().err
    stored = Stored(str(out)).load()
    count = len(stored.train.source) + len(stored.test.source)
    assert count == 17
    assert np.isfinite(stored.train.source).all()
    assert len(stored.train.target) == 16
    np.testing.assert_array_equal(
        stored.train.source_labels[stored.train.pairs[:, 0]],
        stored.train.target_labels[stored.train.pairs[:, 1]],
    )


def test_extract_wants_data_and_extractors(tmp_path):
    file = tmp_path / "empty.gin"
    file.write_text("run.seed = 1\n")
    with pytest.raises(ConfigurationError, match="run needs data, source, target"):
        morphkit.extract(file, out=tmp_path / "store")


def test_a_run_on_images_says_which_of_them_did_what(folders, models):
    (folders / "images" / "n02" / "images" / "3.png").unlink()  # the broken one
    bindings = [
        "run.data = @data.Images()", f"Images.path = {str(folders / 'images')!r}",
        "run.source = @extractor.ViT", "run.target = @extractor.MiniLM", "Training.steps = 5",
        "run.wandb = 'disabled'", "run.evaluators = [@eval.NearestTargetAccuracy()]",
        "run.baselines = [@baseline.NearestAnchor()]", "run.paired_fraction = 1.0",
        *(f"{name} = {value!r}" for name, value in models.items()),
    ]  # fmt: skip
    out = morphkit.run("imagenet/image_to_text.gin", bindings, folders / "run").out
    split = json.loads((out / "split.json").read_text())
    data = Images(str(folders / "images")).load()
    assert split == {"train": data.train.source.tolist(), "test": data.test.source.tolist()}


@needs("v4")
def test_the_whole_path_from_images_to_a_run(tmp_path, models):
    """The 800 stimuli of a V4 session through a random ViT, their numbers as texts."""
    with zipfile.ZipFile(STIMULI) as archive:
        archive.extractall(tmp_path / "stimuli")
    files = sorted((tmp_path / "stimuli").rglob("*.jp*g"))
    assert len(files) == 800
    rows = [f"{f.relative_to(tmp_path)},number {k % 10}" for k, f in enumerate(files)]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    file = gin_file(tmp_path / "extract.gin", str(tmp_path / "list.csv"), models)
    store = morphkit.extract(file, out=tmp_path / "store")
    bindings = [
        "run.data = @data.Stored()", f"data.Stored.path = {str(store)!r}", "Training.steps = 20",
        "run.wandb = 'disabled'", "run.evaluators = [@eval.NearestTargetAccuracy()]",
        "run.baselines = [@baseline.Ridge()]",
    ]  # fmt: skip
    result = morphkit.run("imagenet/image_to_text.gin", bindings, tmp_path / "run")
    assert result.metrics["config/pairs"] == 40
    assert {"morph/nearest_target_accuracy", "baseline/ridge/nearest_target_accuracy"} <= set(
        result.metrics
    )
    stored, images = Stored(str(store)).load(), Images(str(tmp_path / "list.csv")).load()
    key = jax.random.key(0)
    extractors = ViT((), models["ViT.model"], key=key), MiniLM((), models["MiniLM.model"], key=key)
    for name, extractor in zip(("source", "target"), extractors, strict=True):
        inputs = getattr(images.test, name)[:9]
        features = getattr(stored.test, name)[:9]
        np.testing.assert_allclose(features, extractor.encode(inputs, key=key), atol=1e-5)
