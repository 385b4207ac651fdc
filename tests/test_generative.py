"""Baselines that are trained end to end, against the losses of the paper written out in NumPy."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_baselines.generative import (
    VAE,
    FusedLatentVAE,
    FusedVAE,
    PerceptronVAE,
    _trained,
    fused,
    translation,
)
from morphkit_extractors.vae import VAEText
from morphkit_metrics.classes import LabelAccuracy
from morphkit_metrics.images import ClassImageMSE

import morphkit
from morphkit.api import asked
from morphkit.interfaces import Evaluator, Scene
from morphkit.types import Cloud, PairedData, Pairs, Split
from morphkit.wiring.registry import registry

FAST = {"steps": 400, "batch_size": 32, "channels": (8, 8, 16), "beta": 0.1}


@pytest.fixture(scope="module")
def images() -> tuple[PairedData, Split]:
    """300 images (8, 8, 1) of a bright quarter, and which one it is."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    x = rng.uniform(0, 0.3, (300, 8, 8, 1)).astype(np.float32)
    for image, k in zip(x, labels, strict=True):
        image[4 * (k // 2) : 4 * (k // 2) + 4, 4 * (k % 2) : 4 * (k % 2) + 4] += 0.6
    y = np.eye(4, dtype=np.float32)[labels]
    pairs = np.stack([np.arange(100)] * 2, 1)
    inputs = Split(x, y, pairs, labels, labels)
    clouds = [Cloud.uniform(a.reshape(len(a), -1)) for a in (x, y)]
    return PairedData(clouds[0], clouds[1], Pairs.from_array(pairs)), inputs


def swapped(images: tuple[PairedData, Split]) -> tuple[PairedData, Split]:
    data, inputs = images
    other = inputs._replace(source=inputs.target, target=inputs.source)
    return PairedData(data.y, data.x, data.pairs), other


def models() -> tuple[PerceptronVAE, VAEText]:
    asked = FusedLatentVAE(latent=3, width=5, layers=2)
    points = jnp.asarray(np.random.default_rng(1).normal(size=(40, 6)) * 3 + 1, jnp.float32)
    return (
        PerceptronVAE.of(points, asked, key=jax.random.key(0)),
        VAEText((4,), (5,), (5,), 3, beta=1.0, key=jax.random.key(1)),
    )


def by_hand(first, second, x, y, key) -> dict[str, float]:
    """The terms of Eq. 19 for the encoder of `first`, at a draw by `key`."""
    mean, log_variance = (np.asarray(a, np.float64) for a in first.moments(x))
    noise = np.asarray(jax.random.normal(key, mean.shape), np.float64)
    z = mean + np.exp(log_variance / 2) * noise
    divergence = 0.5 * np.sum(np.exp(log_variance) + mean**2 - 1 - log_variance, axis=1)
    return {"z": z, "kl": divergence.mean()}


def cross_entropy(model, z, y) -> float:
    logits = np.asarray(model.logits(jnp.asarray(z, jnp.float32)), np.float64)
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return float(-np.mean(np.sum(log * y, axis=1)))


def half_square(model, z, x) -> float:
    logits = np.asarray(model.logits(jnp.asarray(z, jnp.float32)), np.float64)
    target = (np.asarray(x, np.float64) - np.asarray(model.shift)) / np.asarray(model.scale)
    return float(np.mean(np.sum((logits - target) ** 2, axis=1)) / 2)


@pytest.fixture
def batch() -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(2)
    return (
        jnp.asarray(rng.normal(size=(20, 6)) * 3 + 1, jnp.float32),
        jnp.asarray(np.eye(4)[rng.integers(0, 4, 20)], jnp.float32),
    )


def test_the_loss_of_a_translation_is_its_negative_elbo(batch):
    first, second = models()
    key = jax.random.key(3)
    terms = by_hand(first, second, *batch, key)
    expected = cross_entropy(second, terms["z"], batch[1]) + 0.5 / 3 * terms["kl"]
    assert float(translation((first, second), batch, key, 0.5)) == pytest.approx(expected, rel=1e-4)


def test_the_fused_loss_is_equation_20(batch):
    """Both encoders, both reconstructions of each, and the divergence once for each."""
    first, second = models()
    key = jax.random.key(4)
    keys = jax.random.split(key)
    a = by_hand(first, second, *batch, keys[0])
    b = by_hand(second, first, batch[1], batch[0], keys[1])
    expected = 0.7 * (a["kl"] + b["kl"])
    for z in (a["z"], b["z"]):
        expected += half_square(first, z, batch[0]) + cross_entropy(second, z, batch[1])
    assert float(fused((first, second), batch, key, 0.7)) == pytest.approx(expected, rel=1e-4)


def test_without_a_key_only_the_other_side_is_reconstructed_from_the_mean(batch):
    first, second = models()
    means = [np.asarray(m.moments(b)[0]) for m, b in zip((first, second), batch, strict=True)]
    expected = cross_entropy(second, means[0], batch[1]) + half_square(first, means[1], batch[0])
    assert float(fused((first, second), batch, None, 0.7)) == pytest.approx(expected, rel=1e-4)


def test_the_fused_loss_is_the_same_whichever_side_is_the_source(batch):
    """Each divergence counts by β alone, not as the first one's loss scales it."""
    first, second = models()
    key = jax.random.key(5)
    keys = jax.random.split(key)
    a = by_hand(second, first, batch[1], batch[0], keys[0])
    b = by_hand(first, second, *batch, keys[1])
    expected = 0.7 * (a["kl"] + b["kl"])
    for z in (a["z"], b["z"]):
        expected += half_square(first, z, batch[0]) + cross_entropy(second, z, batch[1])
    found = fused((second, first), (batch[1], batch[0]), key, 0.7)
    assert float(found) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "baseline", [VAE(**FAST), FusedVAE(latent=16, **FAST)], ids=["VAE", "fused"]
)
def test_they_learn_both_ways(images, baseline):
    data, inputs = images
    found = np.asarray(baseline.fit_raw(data, inputs)(inputs.source))
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-4)
    assert np.mean(found[100:].argmax(1) == inputs.target_labels[100:]) > 0.95
    data, inputs = swapped(images)
    drawn = np.asarray(baseline.fit_raw(data, inputs)(inputs.source))
    assert drawn.shape == inputs.target.shape
    mean = np.stack([inputs.target[inputs.target_labels == k].mean(0) for k in range(4)])
    wrong = np.mean((drawn - mean.mean(0)) ** 2)
    assert np.mean((drawn - mean[inputs.source_labels]) ** 2) < 0.1 * wrong


def test_the_latent_one_learns_a_linear_map(rng):
    x = rng.normal(size=(400, 5))
    y = x @ rng.normal(size=(5, 3)) * 10 + 4
    pairs = Pairs.from_array(np.stack([np.arange(300)] * 2, 1))
    data = PairedData(Cloud.uniform(x), Cloud.uniform(y), pairs)
    asked = FusedLatentVAE(latent=16, width=64, layers=2, beta=0.01, steps=600, batch_size=64)
    found = np.asarray(asked.fit(data)(data.x.points))
    error = np.mean((found[300:] - y[300:]) ** 2) / y.var()
    assert error < 0.1


def test_beta_is_chosen_on_held_out_pairs(rng):
    """Where β is too large the posterior collapses onto the prior, and all predictions are one."""
    x = rng.normal(size=(300, 6))
    y = np.tanh(x @ rng.normal(size=(6, 3)))
    pairs = Pairs.from_array(np.stack([np.arange(200)] * 2, 1))
    data = PairedData(Cloud.uniform(x), Cloud.uniform(y), pairs)
    asked = {"latent": 8, "width": 32, "layers": 4, "steps": 600, "batch_size": 64}
    error = {}
    for beta in (30.0, 0.01, (30.0, 0.01)):
        found = np.asarray(FusedLatentVAE(**asked, beta=beta).fit(data)(data.x.points))
        error[beta] = np.mean((found[200:] - y[200:]) ** 2) / y.var()
    assert error[30.0] > 0.9
    assert error[0.01] < 0.4
    assert error[(30.0, 0.01)] == pytest.approx(error[0.01], rel=1e-5)


def test_one_program_trains_on_any_number_of_pairs(batch):
    """Held-out pairs, and the folds of a choice, make many."""
    asked = FusedLatentVAE(latent=3, width=5, layers=2, steps=50, batch_size=8, beta=0.1)
    traced, programs = [], []

    def counted(models, pairs, key, beta):
        traced.append(key is not None)
        return fused(models, pairs, key, beta)

    for count in (20, 15):
        pairs = tuple(np.asarray(side)[:count] for side in batch)
        _trained(models(), counted, pairs, asked, jax.random.key(0))
        programs.append(sum(traced))
    assert programs[0] == programs[1] > 0


def test_few_pairs_are_trained_on_for_all_steps(images):
    """Of two pairs none is held out."""
    data, inputs = images
    few = PairedData(data.x, data.y, Pairs(data.pairs.source[:2], data.pairs.target[:2]))
    found = np.asarray(VAE(**FAST).fit_raw(few, inputs)(inputs.source[:2]))
    np.testing.assert_array_equal(found.argmax(1), inputs.target_labels[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(source=s.source * 2), "source inputs are no numbers between"),
        (
            lambda s: s._replace(source=s.source * np.nan),
            "source inputs are no numbers between",
        ),
        (lambda s: s._replace(source=np.full(300, "text")), "the source inputs are no numbers"),
        (lambda s: s._replace(target=s.target / 2), "have to be one-hot"),
        (lambda s: s._replace(source=s.source[..., 0]), "have to be images or vectors"),
        (lambda s: s._replace(source=s.source[:, :7]), "divisible by 4"),
    ],
)
def test_inputs_that_it_is_not_for_are_refused_by_name(images, change, message):
    data, inputs = images
    with pytest.raises(ValueError, match=message):
        VAE(**FAST).fit_raw(data, change(inputs))


def test_raw_inputs_are_no_anchor_and_no_candidate(images):
    with pytest.raises(ValueError, match=r"VAE needs raw inputs, and gives no features"):
        VAE().fit(images[0])


def test_the_evaluators_that_decode_judge_raw_predictions(images):
    data, inputs = images
    fitted = VAE(**FAST).fit_raw(data, inputs)
    scene = Scene(
        *(None,) * 2,
        train=data,
        x=data.x,
        y=data.y,
        test=inputs,
        map=fitted,  # pyright: ignore
    )
    found = LabelAccuracy().evaluate(scene, key=jax.random.key(0))["test_accuracy"]
    expected = np.mean(np.asarray(fitted(inputs.source)).argmax(1) == inputs.source_labels)
    assert found == pytest.approx(expected)
    data, inputs = swapped(images)
    drawn = VAE(**FAST).fit_raw(data, inputs)
    scene = Scene(
        *(None,) * 2,
        train=data,
        x=data.x,
        y=data.y,
        test=inputs,
        map=drawn,  # pyright: ignore
    )
    assert 0 <= ClassImageMSE().evaluate(scene, key=jax.random.key(0))["class_image_mse"] < 0.01


def test_only_evaluators_that_decode_say_so():
    decoding = {c.name for c in registry.load() if c.kind == "eval" and c.cls.decodes is True}
    assert decoding == {"LabelAccuracy", "ClassImageMSE"}
    assert not Evaluator.decodes


def test_a_run_has_rows_of_small_and_large_and_judges_them_where_it_can(tmp_path):
    bindings = [
        "run.wandb = 'disabled'", "run.choice = None", "run.anchor = None",
        "Training.validation = 0.0", "Training.patience = None", "Training.evaluate_every = None",
        "Training.dropout = 0.0", "Training.steps = 50", "run.field = @field.MLP",
        "MLP.layers = 1", "MLP.hidden = 16", "VAEText.steps = 200",
        "run.evaluators = [@eval.LabelAccuracy(), @eval.PairedError()]",
        "run.baselines = [@small/baseline.VAE(), @large/baseline.VAE(), @baseline.Ridge()]",
        "large/VAE.latent = 128", "VAE.steps = 500", "VAE.beta = 0.1", "VAE.channels = (8, 8, 16)",
    ]  # fmt: skip
    result = morphkit.run("quickstart.gin", bindings, tmp_path / "run")
    assert not result.failures
    rows = {m[1]: m[2] for m in (re.match(r"baseline/(\w+)/(\w+)", k) for k in result.metrics) if m}
    assert set(rows) == {"vae_latent_16", "vae_latent_128", "ridge"}
    accuracy = result.metrics["baseline/vae_latent_16/test_accuracy"]
    assert 0.4 < accuracy < 1
    assert "baseline/vae_latent_16/paired_mse" not in result.metrics
    assert "baseline/ridge/paired_mse" in result.metrics
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())


def test_the_same_baseline_twice_is_refused():
    with pytest.raises(ValueError, match=r"run\.baselines has ridge twice"):
        asked(["quickstart.gin"], ["run.baselines = [@baseline.Ridge(), @baseline.Ridge()]"])


@pytest.mark.parametrize("direction", ["image_to_text", "text_to_image"])
def test_the_preset_and_the_papers_widths_go_with_both_directions(direction):
    files = [f"mnist/{direction}.gin", "mnist/end_to_end.gin"]
    quarter, _ = asked(files, [])
    assert [r for r in quarter.rows if "vae" in r] == [
        "baseline/vae_latent_16", "baseline/vae_latent_128", "baseline/fused_vae",
        "baseline/fused_latent_vae",
    ]  # fmt: skip
    paper, _ = asked([*files, "mnist/end_to_end_paper.gin"], [])
    for row, baseline in paper.rows.items():
        if isinstance(baseline, VAE | FusedVAE):
            own = quarter.rows[row].channels  # pyright: ignore
            assert [4 * c for c in own] == list(baseline.channels) == [512, 1024, 2048]
