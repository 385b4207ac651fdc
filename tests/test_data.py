"""Data sets: shapes, splits, and what is said about bad files and arrays."""

import gzip
import hashlib
import re
import shutil

import numpy as np
import pytest
from conftest import DATA, needs
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

import morphkit
from morphkit.cli import main
from morphkit.data import mnist
from morphkit.data.arrays import Arrays, read_array, read_pairs, split_arrays
from morphkit.data.classes import Clustered, SomeClasses
from morphkit.data.digits import Digits
from morphkit.data.imagenet import ImageNetFeatures
from morphkit.data.images import Images
from morphkit.data.mnist import MNIST
from morphkit.data.population import Population
from morphkit.data.recordings import Recordings
from morphkit.data.swiss_roll import SwissRoll
from morphkit.interfaces import Data

HERE = DATA / "mnist"
RNG = np.random.default_rng(0)


def test_digits_are_split_without_overlap_or_loss():
    data = Digits().load()
    splits = data.pretrain, data.train, data.test
    rows = [s.source.reshape(len(s.source), -1) for s in splits]
    expected = load_digits()
    together = np.concatenate(
        [np.c_[r, s.source_labels] for r, s in zip(rows, splits, strict=True)]
    )
    original = np.c_[expected.data / 16, expected.target].astype(np.float32)
    # Equal as multisets: every digit is in exactly one split.
    np.testing.assert_array_equal(
        together[np.lexsort(together.T)], original[np.lexsort(original.T)]
    )
    for split, fraction in zip(splits, (0.3, 0.5, 0.2), strict=True):
        assert split.source.shape[1:] == (8, 8, 1)
        assert split.source.dtype == split.target.dtype == np.float32
        np.testing.assert_array_equal(split.target.argmax(1), split.source_labels)
        np.testing.assert_array_equal(split.pairs[:, 0], split.pairs[:, 1])
        counts = np.bincount(split.source_labels) / np.bincount(expected.target)
        np.testing.assert_allclose(counts, fraction, atol=0.02)


def test_digits_direction_and_seed():
    forward, back = Digits().load(), Digits(direction="text_to_image").load()
    np.testing.assert_array_equal(forward.train.source, back.train.target)
    np.testing.assert_array_equal(forward.train.target, back.train.source)
    assert not np.array_equal(
        Digits(seed=1).load().train.source_labels, forward.train.source_labels
    )
    with pytest.raises(ValueError, match="SOURCE_to_TARGET"):
        Digits(direction="image")
    with pytest.raises(ValueError, match="pretrain_fraction"):
        Digits(pretrain_fraction=0.9, test_fraction=0.2)


def test_the_spiral_is_the_swiss_roll_from_above():
    data = SwissRoll(points=300, test_points=100, noise=0).load()
    assert data.train.source.shape == (300, 3)
    assert data.test.target.shape == (100, 2)
    np.testing.assert_allclose(data.train.source[:, [0, 2]], data.train.target, rtol=1e-5)
    assert set(data.train.source_labels) == set(range(8))
    radius = np.linalg.norm(data.train.target, axis=1)
    inner, outer = (radius[data.train.target_labels == arc] for arc in (0, 7))
    assert inner.max() < outer.min()
    noisy = SwissRoll(points=300, noise=0.5).load().train
    assert 0.3 < np.std(noisy.source[:, 0] - noisy.target[:, 0]) < 1.1
    with pytest.raises(ValueError, match=r"SwissRoll\.test_points = 0"):
        SwissRoll(test_points=0)
    with pytest.raises(ValueError, match=r"SwissRoll\.noise = -1"):
        SwissRoll(noise=-1)


@needs("mnist")
def test_mnist_is_the_papers_split():
    data = MNIST(direction="text_to_image").load()
    sizes = [len(s.target) for s in (data.pretrain, data.train, data.test)]
    assert sizes == [50_000, 10_000, 10_000]
    assert data.test.target.shape == (10_000, 28, 28, 1)
    assert data.test.source.shape == (10_000, 10)
    assert set(np.unique(data.test.target)) == {0, 1}
    np.testing.assert_array_equal(data.test.target_labels[:5], [7, 2, 1, 0, 4])
    # The class counts of the 60,000 training images are well known.
    counts = sum(np.bincount(s.source_labels) for s in (data.pretrain, data.train))
    np.testing.assert_array_equal(
        counts, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    )


@needs("mnist")
def test_mnist_holds_images_out_for_choosing_settings():
    data = MNIST(pretrain=59_900, test=7).load()
    held = MNIST(pretrain=59_900, test=7, evaluate="validation").load()
    assert [len(d.test.source) for d in (data, held)] == [7, 20]
    parts = [held.train.source, held.test.source]
    train, test = ({image.tobytes() for image in part} for part in parts)
    assert (len(train), len(test)) == (80, 20)
    assert train | test == {image.tobytes() for image in data.train.source}
    np.testing.assert_array_equal(held.pretrain.source, data.pretrain.source)
    with pytest.raises(ValueError, match=r"MNIST\.pretrain = 59996 leaves 4 images"):
        MNIST(pretrain=59_996, evaluate="validation").load()


@needs("mnist")
def test_mnist_reads_plain_files_and_names_damaged_ones(tmp_path):
    for name in mnist.MD5:
        (tmp_path / name).write_bytes(gzip.decompress((HERE / f"{name}.gz").read_bytes()))
    there = MNIST(path=str(tmp_path), pretrain=59_000).load()
    assert len(there.train.source) == 1_000
    damaged = tmp_path / "t10k-labels-idx1-ubyte"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte is damaged"):
        MNIST(path=str(tmp_path)).load()
    damaged.unlink()
    shutil.copy(HERE / f"{damaged.name}.gz", tmp_path)
    packed = tmp_path / f"{damaged.name}.gz"
    packed.chmod(0o644)
    packed.write_bytes(packed.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"labels-idx1-ubyte\.gz cannot be read"):
        MNIST(path=str(tmp_path)).load()


def test_absent_mnist_says_which_files_to_put_where(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}.*train-images-idx3-ubyte"):
        MNIST(path=str(tmp_path)).load()
    monkeypatch.setenv("MORPHKIT_DATA", str(tmp_path))
    monkeypatch.setenv("MORPHKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "MIRROR", "http://127.0.0.1:9/")
    with pytest.raises(FileNotFoundError, match="t10k-images-idx3-ubyte"):
        MNIST().load()


def clouds(n=30, m=25):
    return RNG.normal(size=(n, 3)), RNG.normal(size=(m, 2))


def test_held_out_points_leave_training():
    x, y = clouds()
    pairs = np.array([(i, j) for i in range(20) for j in (i, (7 * i) % 25)])
    pairs = np.unique(pairs, axis=0)
    data = split_arrays(
        x, y, pairs, source_labels=np.arange(30), target_labels=np.arange(25), seed=3,
        hold_out="sources",
    )  # fmt: skip
    train, test = data.train, data.test
    known = {tuple(p) for p in pairs}
    held = [(test.source_labels[i], test.target_labels[j]) for i, j in test.pairs]
    assert 0.15 * len(pairs) < len(held) <= round(0.2 * len(pairs))
    assert set(held) == {(i, j) for i, j in known if i in test.source_labels}
    held_x, held_y = set(test.source_labels), set(test.target_labels)
    assert set(train.source_labels) == set(range(30)) - held_x
    shared = {j for i, j in known if i not in held_x}
    assert shared & held_y, "no target is shared: the test says nothing about that case"
    assert set(train.target_labels) == set(range(25)) - (held_y - shared)
    left = {(train.source_labels[i], train.target_labels[j]) for i, j in train.pairs}
    assert left == {(i, j) for i, j in known if i not in held_x}
    for split in (train, test):
        np.testing.assert_array_equal(split.source, x[split.source_labels].astype(np.float32))
        np.testing.assert_array_equal(split.target, y[split.target_labels].astype(np.float32))


@pytest.mark.parametrize("captions", ["target", "source"])
def test_an_image_and_its_five_captions_stay_together(captions):
    """Of 100 images with 5 captions each, 20 are held out with theirs; from either side."""
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(100, 3)), rng.normal(size=(500, 2))
    pairs = np.stack([np.arange(500) // 5, rng.permutation(500)], 1)[rng.permutation(500)]
    sides = [(images, np.arange(100)), (texts, np.arange(500))]
    if captions == "source":
        sides, pairs = sides[::-1], pairs[:, ::-1]
    (x, rows), (y, columns) = sides
    data = split_arrays(x, y, pairs, source_labels=rows, target_labels=columns, seed=1)
    train, test = data.train, data.test
    assert (len(train.pairs), len(test.pairs)) == (400, 100)
    assert sorted(map(len, (train.source, train.target))) == [80, 400]
    assert sorted(map(len, (test.source, test.target))) == [20, 100]
    for one, other in zip(train[3:5], test[3:5], strict=True):
        assert not set(one) & set(other)
    known = {tuple(p) for p in pairs}
    found = {(s.source_labels[i], s.target_labels[j]) for s in (train, test) for i, j in s.pairs}
    assert found == known


def test_groups_are_chains_of_shared_points_and_only_those_that_fit_are_held_out():
    """A chain of six pairs, one of three, and four pairs alone."""
    chain = [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 2)]
    pairs = np.array([*chain, (4, 3), (4, 4), (5, 4), (6, 5), (7, 6), (8, 7), (9, 8)])
    x, y = RNG.normal(size=(10, 2)), RNG.normal(size=(9, 2))
    short = {4: 0, 5: 0, 6: 1, 7: 2, 8: 3, 9: 4}  # the group of each source point but the chain's
    for seed in range(20):
        data = split_arrays(x, y, pairs, source_labels=np.arange(10), test_fraction=0.3, seed=seed)
        held = set(data.test.source_labels)
        assert len(data.test.pairs) in (3, 4), seed
        assert held <= set(short), "the chain has more pairs than are to be held out"
        assert (4 in held) == (5 in held)
    with pytest.raises(ValueError, match="hold_out = 'sources'"):
        split_arrays(x, y, pairs[:6])
    assert len(split_arrays(x, y, pairs[:6], hold_out="sources").train.pairs) == 5


def test_one_to_one_pairs_are_split_as_before_and_classes_are_warned_about(tmp_path, caplog):
    x, y = clouds()
    pairs = np.stack([RNG.permutation(25), RNG.permutation(25)], 1)
    order = np.sort(np.random.default_rng(4).permutation(25)[:5])
    data = split_arrays(x, y, pairs, seed=4)
    np.testing.assert_array_equal(data.test.source, x[pairs[order, 0]].astype(np.float32))
    np.testing.assert_array_equal(data.test.target, y[pairs[order, 1]].astype(np.float32))
    np.testing.assert_array_equal(data.test.pairs, np.stack([np.arange(5)] * 2, 1))

    np.savez(
        tmp_path / "classes.npz", x=RNG.normal(size=(100, 3)), y=np.eye(5),
        pairs=np.stack([np.arange(100), np.arange(100) % 5], 1),
    )  # fmt: skip
    files = [f"{tmp_path}/classes.npz::{name}" for name in ("x", "y", "pairs")]
    with caplog.at_level("WARNING", "morphkit"):
        unseen = Arrays(*files).load()
        assert "20 source points of 1 targets, none of which is trained on" in caplog.text
        caplog.clear()
        seen = Arrays(*files, hold_out="sources").load()
        assert not caplog.text
    assert (len(unseen.train.target), len(seen.train.target)) == (4, 5)
    assert len(seen.test.source) == 20


def test_no_test_fraction_and_the_smallest_one():
    x, y = clouds()
    pairs = np.array([[0, 0], [1, 1], [1, 1]])
    none = split_arrays(x, y, pairs, test_fraction=0)
    assert none.test.source.shape == (0, 3)
    assert none.test.pairs.shape == (0, 2)
    np.testing.assert_array_equal(none.train.pairs, [[0, 0], [1, 1]])
    one = split_arrays(x, y, pairs, test_fraction=1e-6)
    assert len(one.test.source) == len(one.train.pairs) == 1
    with pytest.raises(ValueError, match="test_fraction = 0"):
        split_arrays(x, y, pairs[:1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": np.zeros(3)}, "source has shape"),
        ({"target": np.zeros((0, 3))}, "target has shape"),
        ({"source": np.array([["a"]])}, "source has type"),
        ({"source": np.array([[1.0], [np.nan], [np.inf]])}, r"1 NaN and 1 infinite .* rows: 1, 2"),
        ({"target": np.array([[1e300, 0]])}, "target has 1 values beyond float32"),
        ({"pairs": np.array([[0, 25]])}, "target row 25"),
        ({"pairs": np.array([[-1, 0]])}, "source row -1"),
        ({"pairs": np.array([[0.0, 1.0]])}, "pairs has type"),
        ({"pairs": np.zeros((0, 2), int)}, "pairs has shape"),
        ({"source_labels": np.zeros(29, int)}, "source_labels"),
        ({"target_labels": np.zeros(25)}, "target_labels"),
        ({"test_source": np.zeros((2, 3))}, "together"),
        ({"test_source": np.zeros((2, 4)), "test_target": np.zeros((2, 2))}, "4 columns"),
        ({"test_source": np.zeros((2, 3)), "test_target": np.zeros((3, 2))}, "test_pairs"),
        ({"test_fraction": 1.0}, "test_fraction"),
    ],
)
def test_bad_arrays_are_named(change, message):
    x, y = clouds()
    given = {"source": x, "target": y, "pairs": np.array([[0, 0], [1, 1]])} | change
    with pytest.raises(ValueError, match=message):
        split_arrays(**given)


def imagenet(folder, **change) -> str:
    rng = np.random.default_rng(0)
    arrays = {
        "train_features": rng.normal(size=(20, 6)).astype(np.float16),
        "train_label": rng.integers(0, 3, 20),
        "val_features": rng.normal(size=(9, 6)).astype(np.float16),
        "val_label": rng.integers(0, 3, 9),
        "text_features": rng.normal(size=(3, 4)),
        "class_name": np.array(["cat", "dog", "eel"]),
    } | change
    np.savez(folder / "features.npz", **{k: v for k, v in arrays.items() if v is not None})
    return str(folder / "features.npz")


def test_imagenet_features_go_with_the_text_of_their_class(tmp_path):
    data = ImageNetFeatures(imagenet(tmp_path), test=5).load()
    with np.load(tmp_path / "features.npz") as file:
        texts, labels = file["text_features"].astype(np.float32), file["train_label"]
        np.testing.assert_array_equal(data.train.source, file["train_features"])
        np.testing.assert_array_equal(data.test.source_labels, file["val_label"][:5])
    np.testing.assert_array_equal(data.train.target, texts[labels])
    assert data.train.source.dtype == np.float32
    assert data.class_names == ("cat", "dog", "eel")


def test_imagenet_images_that_do_not_test_are_for_choosing_settings(tmp_path):
    file = imagenet(tmp_path)
    data = ImageNetFeatures(file, test=5).load()
    held = ImageNetFeatures(file, test=5, evaluate="validation").load()
    with np.load(file) as arrays:
        np.testing.assert_array_equal(data.test.source, arrays["val_features"][:5])
        np.testing.assert_array_equal(held.test.source, arrays["val_features"][5:])
        np.testing.assert_array_equal(held.test.source_labels, arrays["val_label"][5:])
    np.testing.assert_array_equal(held.train.source, data.train.source)
    with pytest.raises(ValueError, match=r"ImageNetFeatures\.test = 9 leaves none .* 9 validation"):
        ImageNetFeatures(file, test=9, evaluate="validation").load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_features": None}, "no array text_features"),
        ({"train_label": np.arange(20)}, "train_label must be in 0 to 2"),
        ({"val_label": np.zeros(8, int)}, r"val_features is \(9, 6\) and val_label \(8,\)"),
        ({"text_features": np.full((3, 4), np.nan)}, "has NaN"),
    ],
)
def test_imagenet_features_that_do_not_fit_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        ImageNetFeatures(imagenet(tmp_path, **change)).load()
    with pytest.raises(FileNotFoundError, match=r"ImageNetFeatures\.path names"):
        ImageNetFeatures(str(tmp_path / "none.npz")).load()


def test_files_of_every_kind_give_the_same_data(tmp_path):
    x, y = (c.astype(np.float32) for c in clouds())
    pairs = np.array([[0, 1], [2, 3], [4, 5]])
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "both.npz", x=x, y=y)
    np.savez(tmp_path / "single.npz", y)
    save_file({"x": x, "y": y}, tmp_path / "both.safetensors")
    np.save(tmp_path / "pairs.npy", pairs)
    (tmp_path / "pairs.csv").write_text("source,target\n0,1\n2,3\n4,5\n")
    (tmp_path / "bare.csv").write_text("0,1\n2,3\n\n4,5\n")
    for name in ("pairs.npy", "pairs.csv", "bare.csv"):
        np.testing.assert_array_equal(read_pairs(tmp_path / name), pairs)
    (tmp_path / "typo.csv").write_text("0,1x\n2,3\n")
    with pytest.raises(ValueError, match="line 1: expected two row numbers"):
        read_pairs(tmp_path / "typo.csv")
    (tmp_path / "excel.csv").write_text("0,1\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"excel\.csv cannot be read: it is no UTF-8"):
        read_pairs(tmp_path / "excel.csv")
    expected = split_arrays(x, y, pairs)
    for source, target in (
        ("x.npy", "single.npz"), ("both.npz::x", "both.safetensors::y"),
    ):  # fmt: skip
        data = Arrays(
            f"{tmp_path}/{source}", f"{tmp_path}/{target}", f"{tmp_path}/pairs.csv"
        ).load()
        np.testing.assert_array_equal(data.train.source, expected.train.source)
        np.testing.assert_array_equal(data.test.target, expected.test.target)
    explicit = Arrays(
        f"{tmp_path}/x.npy", f"{tmp_path}/single.npz", f"{tmp_path}/bare.csv",
        test_source=f"{tmp_path}/x.npy", test_target=f"{tmp_path}/single.npz",
        test_pairs=f"{tmp_path}/pairs.npy",
    ).load()  # fmt: skip
    np.testing.assert_array_equal(explicit.train.source, x)
    np.testing.assert_array_equal(explicit.test.pairs, pairs)


def test_bad_files_are_named(tmp_path):
    np.savez(tmp_path / "both.npz", x=np.eye(2), y=np.eye(3))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "pairs.csv").write_text("a,b\n0,1\n2,x\n")
    with pytest.raises(ValueError, match=r"both\.npz has 2 arrays.*'x', 'y'"):
        read_array(tmp_path / "both.npz")
    with pytest.raises(ValueError, match="no array 'z'"):
        read_array(f"{tmp_path}/both.npz::z")
    with pytest.raises(ValueError, match=r"objects\.npy cannot be read"):
        read_array(tmp_path / "objects.npy")
    with pytest.raises(ValueError, match=r"broken\.safetensors cannot be read"):
        read_array(tmp_path / "broken.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none\.npy"):
        read_array(tmp_path / "none.npy")
    with pytest.raises(ValueError, match="can be read"):
        read_array(tmp_path / "x.pkl")
    with pytest.raises(ValueError, match="line 3"):
        read_pairs(tmp_path / "pairs.csv")
    with pytest.raises(ValueError, match=r"Arrays\.target is missing"):
        Arrays(source="x.npy")


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("0.0,0.0\n1.0,2.0\n", [[0, 0], [1, 2]]),
        ("0,0\n", [[0, 0]]),
        ("\n\nsource,target\n\n3,4\n", [[3, 4]]),
        ("\ufeffa,b\r\n1, 2\r\n", [[1, 2]]),
        ("only a header\n1,2e0\n", [[1, 2]]),
    ],
)
def test_a_first_row_of_numbers_is_data(text, pairs, tmp_path):
    (tmp_path / "pairs.csv").write_text(text, encoding="utf-8")
    assert read_pairs(tmp_path / "pairs.csv").tolist() == pairs


@pytest.mark.parametrize(
    "row",
    ["nan,0", "inf,0", "0.5,1", "1,2,3", "1", ",", "1e400,0", "9" * 400 + ",1", "a,b", "1,\x00"],
)
def test_rows_that_are_no_pairs_are_named(row, tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("source,target\n")
    with pytest.raises(ValueError, match=r"pairs\.csv lists no pairs"):
        read_pairs(file)
    file.write_text(f"0,1\n{row}\n")
    with pytest.raises(ValueError, match=r"pairs\.csv(, line 2: expected two row| cannot be read)"):
        read_pairs(file)
    if row not in ("a,b", ","):  # what has numbers is no header
        file.write_text(f"{row}\n0,1\n")
        with pytest.raises(ValueError, match=r"pairs\.csv(, line 1: expected| cannot be read)"):
            read_pairs(file)


def listed(folder, content: bytes) -> Images:
    (folder / "list.csv").write_bytes(content)
    return Images(str(folder / "list.csv"), fractions=(0.5, 0.0, 0.5))


def named(folder, content: bytes) -> Images:
    (folder / "names.csv").write_bytes(content)
    (folder / "list.csv").write_text("a.png,x\nb.png,y\n")
    return Images(str(folder / "list.csv"), names=str(folder / "names.csv"))


@pytest.mark.parametrize("make", [listed, named])
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00", b"\x00" * 9, b"a,b,c\n", b'a,"' + b"x" * 200_000]
)
def test_lists_of_images_that_cannot_be_read_are_named(make, content, tmp_path):
    with pytest.raises(ValueError, match=r"(list|names)\.csv"):
        make(tmp_path, content).load()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", "half"])
@pytest.mark.parametrize("kind", [ImageNetFeatures, Recordings])
def test_archives_that_cannot_be_read_are_named(kind, content, tmp_path):
    file = tmp_path / "features.npz"
    if content == "half":
        np.savez(file, responses=np.ones((9, 9)), train_features=np.ones((9, 9)))
        content = file.read_bytes()[:-200]
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"features\.npz cannot be read: "):
        kind(str(file)).load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_label": np.arange(20) % 3 + 2**32}, "train_label must be in 0 to 2"),
        ({"train_label": np.full(20, np.nan)}, "train_label is float64, not whole numbers"),
        ({"train_features": np.array(["a"])}, "train_features is <U1, not real numbers"),
        ({"train_features": np.array(3)}, r"train_features is \(\)"),
        ({"text_features": np.zeros(3)}, r"text_features is \(3,\)"),
        ({"class_name": np.array(["cat"])}, r"class_name \(1,\)"),
    ],
)
def test_imagenet_arrays_of_another_kind_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"features\.npz: .*{message}"):
        ImageNetFeatures(imagenet(tmp_path, **change)).load()


def test_a_damaged_download_is_made_again(tmp_path, monkeypatch, caplog):
    content = gzip.compress(b"\x00\x00\x08\x01" + (3).to_bytes(4, "big") + b"\x07\x01\x02")
    digest = hashlib.md5(gzip.decompress(content)).hexdigest()
    monkeypatch.setattr(mnist, "MD5", {"labels": digest})
    served = []

    def retrieve(url, known_hash, fname, path, progressbar):
        if not (path / fname).exists():
            served.append(url)
            (path / fname).write_bytes(content)

    monkeypatch.setattr(mnist.pooch, "retrieve", retrieve)
    for damaged in (None, content[:-9], content[:20] + b"\x00" + content[21:], b""):
        if damaged is not None:
            (tmp_path / "labels.gz").write_bytes(damaged)
        caplog.clear()
        assert mnist._read_idx(mnist._download("labels", tmp_path)).tolist() == [7, 1, 2]
        assert [r.getMessage() for r in caplog.records] == (
            []
            if damaged is None
            else [f"{tmp_path / 'labels.gz'} is damaged; it is downloaded again"]
        )
    mnist._download("labels", tmp_path)
    assert len(served) == 4


@pytest.mark.parametrize("seed", [-1, 2**32, 2**40 + 3, 1.5])
def test_a_seed_that_random_numbers_would_not_tell_apart_is_named(seed):
    """The key of 2³² + 3 is that of 3, and negative ones have none."""
    points, pairs = np.random.default_rng(0).normal(size=(9, 2)), np.stack([np.arange(9)] * 2, 1)
    where = re.escape(f" = {seed} must be")
    for make in (Digits, SwissRoll, Arrays, Images, MNIST, Recordings):
        files = dict.fromkeys(("source", "target", "pairs"), "x.npy") if make is Arrays else {}
        files = {"path": "x"} if make is Images else files
        with pytest.raises(ValueError, match=rf"{make.__name__}\.seed{where}"):
            make(seed=seed, **files)
    for call in (split_arrays, morphkit.align):
        with pytest.raises(ValueError, match=rf"^seed{where}"):
            call(points, points, pairs, seed=seed)
    Digits(seed=2**32 - 1)


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_a_seed_of_predictions_is_checked(seed, capsys):
    assert main(["predict", "x", "--input", "x.npy", "--output", "y.npy", "--seed", seed]) == 2
    assert f"--seed = {seed} must be" in capsys.readouterr().err


def test_some_classes_are_nested_and_keep_their_pairs():
    whole = Digits().load()
    few, more = (SomeClasses(Digits(), number, seed=1).load() for number in (3, 5))
    kept = [np.unique(data.train.source_labels) for data in (few, more)]
    assert list(map(len, kept)) == [3, 5]
    assert set(kept[0]) < set(kept[1])
    for split, before in ((few.train, whole.train), (few.test, whole.test)):
        assert len(split.pairs) == len(split.source) == np.isin(before.source_labels, kept[0]).sum()
        for side, place in zip(("source", "target"), split.pairs.T, strict=True):
            rows = getattr(split, f"{side}_rows")
            np.testing.assert_array_equal(getattr(split, side), getattr(before, side)[rows])
            labels = getattr(split, f"{side}_labels")[place]
            assert set(labels) == set(kept[0])
        source, target = split.pairs.T
        np.testing.assert_array_equal(split.source_labels[source], split.target_labels[target])
    assert few.pretrain is not None
    np.testing.assert_array_equal(few.pretrain.source, whole.pretrain.source)


def test_without_a_number_all_classes_stay():
    whole, same = Digits().load(), SomeClasses(Digits()).load()
    np.testing.assert_array_equal(same.train.source, whole.train.source)


def test_some_classes_have_to_be_there():
    with pytest.raises(ValueError, match=r"SomeClasses\.number = 11 is more than the 10 classes"):
        SomeClasses(Digits(), 11).load()
    with pytest.raises(ValueError, match=r"SomeClasses\.of = Unlabelled has points without labels"):
        SomeClasses(Unlabelled(), 2).load()


class Unlabelled(Data):
    """Digits that nobody named."""

    def load(self):
        whole = Digits().load()
        return whole._replace(train=whole.train._replace(source_labels=None))


def test_clusters_of_one_data_set_are_the_classes_of_another():
    whole = Digits(direction="text_to_image").load()
    found = Clustered(Digits(direction="image_to_text"), Digits(direction="text_to_image"), 10)
    data = found.load()
    for split, named in ((data.train, whole.train), (data.test, whole.test)):
        assert split.source_labels is not None
        pairs = set(zip(split.source_labels.tolist(), named.source_labels.tolist(), strict=True))
        assert len(pairs) == 10  # one-hot labels are their own clusters
        np.testing.assert_array_equal(split.source_labels, split.target_labels)
    assert data.class_names is not None
    assert len(data.class_names) == 10
    other = Clustered(Digits(), Digits(pretrain_fraction=0.2), 10)
    with pytest.raises(ValueError, match=r"Clustered\.by has a split of"):
        other.load()
    with pytest.raises(ValueError, match=r"Clustered\.number = 5000 is more than"):
        Clustered(Digits(), Digits(), 5000).load()


def recorded_rates(folder, **changed):
    """Rates of 6 sites that tell object, position and trial; a trial of one site is missing."""
    rates = np.zeros((6, 3, 2, 11))
    rates += 100 * np.arange(3)[:, None, None] + 10 * np.arange(2)[:, None] + np.arange(11)
    rates *= np.arange(1, 7)[:, None, None, None]
    rates[4, 1, 0, 3] = np.nan
    arrays = {"rates": rates, "object_name": np.array(["a", "b", "c"])} | changed
    np.savez(folder / "it.npz", **arrays)
    return str(folder / "it.npz")


def test_halves_of_a_population_see_the_same_conditions(tmp_path):
    data = Population(recorded_rates(tmp_path), "rates").load()
    train, test = data.train, data.test
    assert data.class_names == ("a", "b", "c")
    assert train.source.shape == train.target.shape == (3 * 2 * 6, 3)  # 60 % of ten trials
    assert test.source.shape == (3 * 2 * 2, 3)
    both = np.concatenate([train.source, train.target], 1)
    assert np.isfinite(both).all()
    np.testing.assert_allclose(both.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(both.std(0), 1, atol=1e-5)
    # Every site's rate is its gain times one number: standardised, that number says the object.
    by_class = np.stack([both[train.source_labels == c].mean(0) for c in range(3)])
    assert (np.diff(by_class, axis=0) > 0.5).all()
    assert np.ptp(by_class, axis=1).max() < 0.2  # both halves agree
    again = Population(recorded_rates(tmp_path), "rates", seed=1).load()
    assert not np.array_equal(again.train.source, train.source)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rates": np.zeros((6, 3, 11))}, r"rates is \(6, 3, 11\), not \(sites, 3 objects"),
        ({"object_name": np.array(["a"])}, r"not \(sites, 1 objects"),
        ({"rates": np.full((2, 3, 1, 2), np.nan)}, r"has 0 trials of a condition, too few"),
    ],
)
def test_a_population_that_is_none_is_refused(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        Population(recorded_rates(tmp_path, **changed), "rates").load()


def test_a_population_names_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="has no array rate_100_500ms"):
        Population(recorded_rates(tmp_path)).load()
    with pytest.raises(FileNotFoundError, match=r"Population\.path names an .npz file"):
        Population(str(tmp_path / "none.npz")).load()
