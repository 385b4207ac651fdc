"""Files of ours: written whole or not at all, and what is said about damaged ones."""

import ast
import json
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_extractors.identity import Identity
from morphkit_extractors.pca import PCA
from morphkit_fields.mlp import MLP
from safetensors.numpy import load_file, save_file

from morphkit.cli import main
from morphkit.features.extract import encoded, trained
from morphkit.features.store import Stored, fill
from morphkit.files import (
    checksum,
    load_arrays,
    read_text,
    replace_file,
    save_arrays,
    write_json,
    write_tensors,
    write_text,
)  # fmt: skip
from morphkit.interfaces import Data
from morphkit.loggers import Log
from morphkit.morph import Morph, load
from morphkit.training.flow import Networks
from morphkit.training.loop import Training, _resume, _save
from morphkit.training.scaling import Scaling
from morphkit.types import Dataset, Split
from morphkit.wiring.registry import registry

ROOT = Path(__file__).parent.parent


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "numbers.txt", "old")

    def full(path):
        path.write_text("half of the n")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        replace_file(tmp_path / "numbers.txt", full)
    assert [p.name for p in tmp_path.iterdir()] == ["numbers.txt"]
    assert read_text(tmp_path / "numbers.txt") == "old"


def test_text_without_utf8_is_written_escaped(tmp_path):
    write_text(tmp_path / "a.gin", "path = 'ε\udcff'")
    assert (tmp_path / "a.gin").read_bytes() == "path = 'ε\\udcff'".encode()
    assert ast.literal_eval(read_text(tmp_path / "a.gin").partition(" = ")[2]) == "ε\udcff"


NOT_TEXT = "Image.open", "tarfile.open"


@pytest.mark.parametrize("folder", ["morphkit", "plugins", "benchmarks"])
def test_no_text_file_is_in_the_encoding_of_the_locale(folder):
    """In Latin-1 a τ cannot be written, and what was written elsewhere reads as another text."""
    wrong = []
    for file in (ROOT / folder).rglob("*.py"):
        calls = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        for call in (node for node in calls if isinstance(node, ast.Call)):
            name, text = ast.unparse(call.func), ast.unparse(call)
            opens = re.search(r"(^open|\.open|\.read_text|\.write_text)$", name)
            binary = re.search(r"[(,] ?'[rwa][+]?b[+]?'", text)
            if opens and name not in NOT_TEXT and not binary and "encoding=" not in text:
                wrong.append(f"{file}:{call.lineno}")
    assert not wrong


@pytest.fixture(scope="module")
def networks() -> Networks:
    registry.load()
    field = MLP(source_dim=3, target_dim=2, layers=1, hidden=4, key=jax.random.key(0))
    return Networks(field, None, None)


@pytest.fixture
def saved(networks, tmp_path) -> Path:
    scaling = Scaling.fit(jnp.zeros((2, 3)), jnp.ones((2, 2)), "none")
    return Morph(networks, scaling, 1.0).save(tmp_path / "morph")


def edited(path: Path, **change) -> None:
    found = json.loads(path.read_text())
    write_json(path, {k: v for k, v in (found | change).items() if v != "gone"})


@pytest.mark.parametrize(
    "change",
    [
        {"format": 0}, {"format": -3}, {"format": "1"}, {"format": None}, {"p": -1}, {"q": 2.5},
        {"field": {}}, {"field": []}, {"field": {"component": 3}},
        {"noise_scale": float("nan")}, {"noise_scale": 0}, {"noise_scale": "big"},
        {"reweight": [True]}, {"reweight": 7}, {"provenance": []}, {"plugins": [1]},
        {"sha256": "gone"}, {"format": "gone"}, {"provenance": "gone"},
    ],
    ids=str,
)  # fmt: skip
def test_a_manifest_that_cannot_be_right_is_named(saved, change, capsys):
    edited(saved / "manifest.json", **change)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged \(.*\); copy it anew"):
        load(saved)
    assert main(["predict", str(saved), "--input", "x.npy", "--output", "y.npy"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff\xfe", b"[" * 10**5, b'{"format"'])
def test_what_is_no_manifest_is_named(saved, content):
    (saved / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        load(saved)


def altered(arrays, change):
    """With one array of weights changed."""
    name = max(arrays, key=lambda name: arrays[name].size)
    return arrays | {name: change(arrays[name])}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w * np.nan, "NaN or infinite"),
        (lambda w: w.astype(np.float16), "type float16 there, not float32"),
        (lambda w: w.astype(np.int32), "type int32 there, not float32"),
        (lambda w: w[:1], "shape"),
        (lambda w: w + 1e-3, None),
    ],
)
def test_weights_that_are_not_those_that_were_saved_are_named(saved, change, message, signed):
    """Also by somebody who writes a new checksum into the manifest."""
    weights = saved / "weights.safetensors"
    if not signed:
        save_file(altered(load_file(weights), change), weights)
        with pytest.raises(ValueError, match=r"weights\.safetensors is damaged .*checksum"):
            load(saved)
    elif message:
        write_tensors(weights, altered(load_file(weights), change))
        edited(saved / "manifest.json", sha256=checksum(weights))
        with pytest.raises(ValueError, match=rf"weights\.safetensors.*{message}"):
            load(saved)


def test_every_truncation_and_flipped_bit_of_weights_is_noticed(saved):
    weights = saved / "weights.safetensors"
    content = weights.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 40):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        for damaged in (content[:place], bytes(flipped)):
            weights.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
                load(saved)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.safetensors"):
        load(saved)


def test_a_checkpoint_is_one_file_that_is_checked(networks, tmp_path):
    moments = Training()._optimiser().init(eqx.filter(networks, eqx.is_inexact_array))
    state, file = (networks, moments), tmp_path / "here" / "checkpoint"
    assert _resume(file, 100, state) == (0, state)
    _save(file, 20, state)
    _save(file, 30, state)
    assert list(file.parent.iterdir()) == [file]
    step, found = _resume(file, 100, state)
    assert step == 30
    assert eqx.tree_equal(found, state)
    content, remedy = file.read_bytes(), "delete it to train from the start"
    arrays = load_file(file)
    for damaged in (b"", b"[]", content[:-1], content[:-1] + b"\x7f"):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"checkpoint is damaged .*{remedy}"):
            _resume(file, 100, state)
    for wrong in (10**9, -1):
        write_tensors(file, arrays | {"[0]": np.array(wrong, np.int32)})
        with pytest.raises(ValueError, match=rf"checkpoint is of step {wrong}, .*{remedy}"):
            _resume(file, 100, state)
    for change, message in (({"[0]": np.zeros(2, np.int32)}, "shape"), ({"more": arrays["[0]"]},
                            "unexpected")):  # fmt: skip
        write_tensors(file, arrays | change)
        with pytest.raises(ValueError, match=rf"checkpoint does not fit.*{message}.*{remedy}"):
            _resume(file, 100, state)


@pytest.mark.parametrize("kind", ["extractors", "features"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda f, a: f.write_bytes(b""),
        lambda f, a: f.write_bytes(f.read_bytes()[:-4]),
        lambda f, a: save_file({n: v + 1 for n, v in a.items()}, f),
        lambda f, a: write_tensors(f, {n: v * np.nan for n, v in a.items()}),
        lambda f, a: write_tensors(f, {n: v[:2] for n, v in a.items()}),
        lambda f, a: write_tensors(f, {"other": next(iter(a.values()))}),
    ],
    ids=["empty", "short", "altered", "nan", "few", "renamed"],
)
def test_cached_entries_that_are_not_sound_are_made_again(
    kind, damage, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MORPHKIT_CACHE", str(tmp_path))
    registry.load()
    inputs = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)

    def features() -> np.ndarray:
        with Log(tmp_path / "log", wandb="disabled", quiet=True) as log:
            extractor, identity = trained(PCA, inputs, log, "source")
            return np.asarray(encoded(extractor, identity, inputs, 0, log))

    first = features()
    [file] = (tmp_path / kind).iterdir()
    before = file.read_bytes()
    damage(file, load_file(file))
    capsys.readouterr()
    np.testing.assert_array_equal(features(), first)
    [warning] = capsys.readouterr().err.strip().splitlines()
    assert file.name in warning
    assert "made again" in warning
    assert file.read_bytes() == before
    np.testing.assert_array_equal(features(), first)
    assert capsys.readouterr().err == ""


class Points(Data):
    """Ten points a side with labels."""

    def load(self) -> Dataset:
        points, labels = np.random.default_rng(0).normal(size=(10, 3)), np.arange(10) % 2
        split = Split(points, points, np.stack([np.arange(10)] * 2, 1), labels, labels)
        return Dataset("points", None, split, split, ("a", "b"))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    with Log(folder, wandb="disabled", quiet=True) as log:
        fill(Points(), Identity, Identity, folder, log)
    return folder


def npz(**change):
    def write(file):
        with np.load(file) as arrays:
            found = dict(arrays) | change
        np.savez(file, **{k: v for k, v in found.items() if v is not None})

    return write


def npy(change):
    return lambda file: np.save(file, change(np.load(file)))


def cut(file):
    file.write_bytes(file.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("splits.npz", cut),
        ("splits.npz", lambda file: file.write_bytes(b"")),
        ("splits.npz", npz(train_pairs=None)),
        ("splits.npz", npz(train_pairs=np.array([[0, 10]]))),
        ("splits.npz", npz(train_pairs=np.array([[-1, 0]]))),
        ("splits.npz", npz(train_pairs=np.array([[0.0, 1.0]]))),
        ("splits.npz", npz(train_pairs=np.array([0, 1]))),
        ("splits.npz", npz(test_source_labels=np.zeros(3, int))),
        ("splits.npz", npz(test_source_labels=np.full(10, np.nan))),
        ("source/train/index.npy", cut),
        ("source/train/index.npy", npy(lambda a: a[:0])),
        ("source/train/index.npy", npy(lambda a: a - 1)),
        ("source/train/index.npy", npy(lambda a: a + 1)),
        ("source/train/index.npy", npy(lambda a: a + 0.5)),
        ("target/test/features.npy", cut),
        ("target/test/features.npy", npy(lambda a: a[:5])),
        ("target/test/features.npy", npy(lambda a: a.astype(int))),
        ("target/test/features.npy", npy(lambda a: a * np.nan)),
        ("target/test/progress.json", lambda file: write_json(file, [])),
        ("target/test/progress.json", lambda file: write_json(file, {"done": 10**9})),
        ("target/test/progress.json", lambda file: write_json(file, {"done": -1})),
        ("target/test/progress.json", lambda file: write_json(file, {"skipped": {"x": "y"}})),
        ("target/test/manifest.json", lambda file: write_json(file, {"count": "10"})),
        ("target/test/manifest.json", lambda file: file.write_bytes(b"{")),
    ],
)
def test_a_damaged_store_is_named(store, name, damage):
    file = store / name
    before = file.read_bytes()
    try:
        damage(file)
        with pytest.raises(ValueError, match=f"{file.name} is damaged .* extract it again"):
            Stored(str(store)).load()
    finally:
        file.write_bytes(before)
    assert len(Stored(str(store)).load().train.source) == 10


def test_a_store_that_lost_its_features_is_not_gone_on_with(store, tmp_path):
    file = store / "source" / "train" / "features.npy"
    file.rename(tmp_path / "aside")
    try:
        with (
            Log(tmp_path, wandb="disabled", quiet=True) as log,
            pytest.raises(FileNotFoundError, match=r"features\.npy"),
        ):
            fill(Points(), Identity, Identity, store, log)
    finally:
        (tmp_path / "aside").rename(file)


def test_arrays_know_what_they_are(tmp_path):
    tree = {"x": jnp.arange(3.0), "n": 4}
    save_arrays(tmp_path / "a", tree)
    assert eqx.tree_equal(load_arrays(tmp_path / "a", tree)["x"], tree["x"])
    with pytest.raises(ValueError, match=r"a does not fit: \['x'\] has type float32"):
        load_arrays(tmp_path / "a", tree | {"x": jnp.arange(3)})
