"""Predictions in blocks: two programs, draws that depend on nothing else, and memory."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Scalar
from morphkit_fields.mlp import MLP
from scipy.spatial.distance import cdist
from scipy.stats import kstest

from morphkit import prediction
from morphkit.cli import main
from morphkit.interfaces import VelocityField
from morphkit.morph import Morph
from morphkit.training.flow import Networks
from morphkit.training.scaling import Scaling
from morphkit.transport import memory

TRACED = []


class Shift(VelocityField):
    """v = x, the same for all times: the draw is z + x."""

    source_dim: int = eqx.field(static=True, default=3)
    target_dim: int = eqx.field(static=True, default=3)

    def __call__(
        self, t: Scalar, y: Float[Array, " q"], x: Float[Array, " p"]
    ) -> Float[Array, " q"]:
        TRACED.append(y.shape)
        return x


def morph_of(field=None, noise_scale=1.0):
    field = Shift() if field is None else field
    zero = jnp.zeros((1, field.source_dim)), jnp.zeros((1, field.target_dim))
    return Morph(Networks(field, None, None), Scaling.fit(*zero, "none"), noise_scale)


def points(n, d=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_no_length_and_no_number_of_draws_is_compiled_for():
    morph = morph_of()
    for n in (1, 1000):
        morph(points(n))
    before = len(TRACED)
    assert before
    for n in (1, 7, 17, 300, 1000, 1001, 1030):
        assert morph(points(n)).shape == (n, 3)
    for draws in (2, 5, 400):
        assert morph(points(3), draws=draws).shape == (draws, 3, 3)
        for reduce in ("mean", "medoid"):
            assert morph(points(3), draws=draws, reduce=reduce).shape == (3, 3)
    assert len(TRACED) == before


def test_every_point_gets_its_own_draw_wherever_blocks_end(monkeypatch):
    """The noise is known: z + x less x. Whole blocks, parts of them, and of groups."""
    x, morph = points(5000), morph_of()
    noise = np.asarray(morph(x)) - x
    assert len(np.unique(noise.round(4), axis=0)) == 5000
    assert kstest(noise.ravel(), "norm").pvalue > 1e-3
    monkeypatch.setattr(prediction, "LARGE", 40)
    monkeypatch.setattr(prediction, "SMALL", 3)
    monkeypatch.setattr(prediction, "GROUP", 100)
    for part in (1, 3, 11, 99, 101, 1000):
        np.testing.assert_allclose(morph(x[:part]), (x + noise)[:part], atol=1e-6)


def test_a_draw_depends_on_the_key_its_row_and_its_number_alone():
    x, morph = points(300), morph_of()
    all_of_them = np.asarray(morph(x, draws=40))
    np.testing.assert_array_equal(morph(x[:7], draws=40), all_of_them[:, :7])
    np.testing.assert_array_equal(morph(x, draws=3), all_of_them[:3])
    np.testing.assert_array_equal(morph(x), all_of_them[0])
    noise = (all_of_them - x).reshape(-1, 3)
    assert len(np.unique(noise.round(4), axis=0)) == len(noise)
    assert np.abs(np.corrcoef(noise.reshape(40, -1)) - np.eye(40)).max() < 0.2
    assert not np.isclose(morph(x, key=jax.random.key(1)), all_of_them[0]).any(1).all()


def test_the_scale_of_the_noise_is_the_morphs():
    x = points(50)
    one, three = (np.asarray(morph_of(noise_scale=s)(x)) - x for s in (1.0, 3.0))
    np.testing.assert_allclose(three, 3 * one, atol=1e-5)


@pytest.mark.parametrize(("n", "draws"), [(1, 5000), (9, 600), (300, 17), (5, 1)])
def test_reductions_are_those_of_all_draws(n, draws):
    morph, x = morph_of(), points(n)
    y = np.asarray(morph(x, draws=draws)).reshape(draws, n, 3)
    mean = morph(x, draws=draws, reduce="mean")
    np.testing.assert_allclose(mean, y.mean(0, dtype=np.float64), atol=1e-5)
    if draws <= 600:
        medoid = np.asarray(morph(x, draws=draws, reduce="medoid"))
        for row, chosen in enumerate(medoid):
            apart = cdist(y[:, row], y[:, row]).sum(0)
            assert cdist(y[:, row], chosen[None]).sum() <= apart.min() * (1 + 1e-5)


def test_a_small_and_a_large_block_agree():
    morph = morph_of(MLP(3, 2, layers=2, hidden=64, key=jax.random.key(0)))
    x = points(1000)
    np.testing.assert_allclose(morph(x)[:10], morph(x[:10]), atol=1e-5)


def test_memory_is_that_of_the_result_whatever_the_draws(monkeypatch):
    """1,000 draws of 2,000 points are 24 MB: refused as a result, and not needed for their mean."""
    monkeypatch.setattr(memory, "available", lambda: 2**20)
    morph, x = morph_of(), points(2000)
    held = []
    integrate = prediction._integrate

    def counted(*args):
        held.append(len(args[3]))
        return integrate(*args)

    monkeypatch.setattr(prediction, "_integrate", counted)
    with pytest.raises(MemoryError, match=r"prediction of shape \(1000, 2000, 3\) .*; predict few"):
        morph(x, draws=1000)
    assert not held
    assert morph(x, draws=1000, reduce="mean").shape == (2000, 3)
    assert max(held) == prediction.LARGE
    with pytest.raises(MemoryError, match=r"fewer points at a time$"):
        morph(points(100_000))


def test_the_result_is_not_copied_at_the_end(monkeypatch):
    made = []
    empty = prediction.empty

    def kept(shape):
        made.append(empty(shape))
        return made[-1]

    monkeypatch.setattr(prediction, "empty", kept)
    y = morph_of()(points(2000))
    if jax.default_backend() == "cpu":
        assert y.unsafe_buffer_pointer() == made[0].ctypes.data


def test_the_command_line_says_so_in_one_sentence(tmp_path, monkeypatch, capsys):
    morph = morph_of(MLP(3, 2, layers=1, hidden=16, key=jax.random.key(0)))
    morph.save(tmp_path / "m")
    np.save(tmp_path / "x.npy", points(3000))
    monkeypatch.setattr(memory, "available", lambda: 2**17)
    arguments = ["--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy")]
    assert main(["predict", str(tmp_path / "m"), *arguments, "--draws", "50"]) == 1
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert "a prediction of shape (50, 3000, 2) takes" in said
    assert not (tmp_path / "y.npy").exists()


def test_a_path_goes_from_the_noise_to_the_prediction():
    """Of v = x the flow is z + t x, and at t = 0 the noise of the draw."""
    morph, x, key = morph_of(noise_scale=2.0), points(20), jax.random.key(3)
    start, middle, end = morph.path(x, (0, 0.3, 1), key=key)
    np.testing.assert_allclose(end, morph(x, key=key), atol=1e-6)
    np.testing.assert_allclose(start, np.asarray(end) - x, atol=1e-5)
    np.testing.assert_allclose(middle, start + 0.3 * x, atol=1e-5)


def test_an_anchored_path_ends_where_the_morph_predicts():
    morph = morph_of(MLP(3, 3, "small", key=jax.random.key(0)))
    morph = eqx.tree_at(lambda m: m.base, morph, lambda x: 5 * x, is_leaf=lambda leaf: leaf is None)
    x = points(1030)
    np.testing.assert_allclose(morph.path(x)[-1], morph(x), atol=1e-5)


@pytest.mark.parametrize("times", [(), (0.5, 0.1), (0, 0, 1), (-0.1, 1), (0, 1.5), (0, np.nan)])
def test_times_of_a_path_rise_from_nought_to_one(times):
    with pytest.raises(ValueError, match=r"times = .* must rise"):
        morph_of().path(points(2), times)
