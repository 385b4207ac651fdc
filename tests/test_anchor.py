"""A flow that starts from another map: its residuals, its start, its files and its run."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_aligners.aligners import TrueAlignment
from morphkit_aligners.refined import RefinedAlignment
from morphkit_baselines.anchor import NearestAnchor
from morphkit_baselines.generative import FusedLatentVAE
from morphkit_baselines.linear import PLS, Ridge
from morphkit_costs.bridge import BridgeCost
from morphkit_costs.canonical import CanonicalCost
from morphkit_fields.adaln import AdaLN
from morphkit_fields.mlp import MLP
from morphkit_solvers.sinkhorn import Sinkhorn
from sklearn.linear_model import LinearRegression

import morphkit
from morphkit.api import asked
from morphkit.experiment.train import anchored, build_networks, train
from morphkit.interfaces import LatentMap, RawBaseline
from morphkit.morph import load
from morphkit.training.anchor import Anchor
from morphkit.training.loop import Training
from morphkit.types import Cloud, PairedData, Pairs
from morphkit.wiring.configuration import ConfigurationError
from morphkit.wiring.registry import registry

KEY = jax.random.key(0)


class Foreign(LatentMap):
    """A map that leans on another library's object."""

    model: object = eqx.field(static=True)

    def __call__(self, x, *, key=None):
        return jnp.zeros((len(x), 3))


RIDGE = Ridge(alphas=10.0, preprocessing="centred")
FAST = ["run.wandb = 'disabled'", "Training.steps = 50", "run.field = @field.MLP",
        "MLP.layers = 1", "MLP.hidden = 16", "run.evaluators = [@eval.PairedError()]",
        "run.baselines = []"]  # fmt: skip


def morph_of(data, sampler, anchor, training, spread=None):
    field = partial(MLP, layers=1, hidden=16)
    networks = build_networks(field, data.x.dim, data.y.dim, False, KEY)  # pyright: ignore
    return train(data, sampler, networks, training, key=KEY, anchor=anchor, spread=spread)


@pytest.fixture(scope="module")
def bent():
    """y = A x + 0.3 |x|² + 0.1 N(0, I), in 3 dimensions: what a ridge finds, and a bend."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 4))
    y = x @ rng.normal(size=(4, 3)) + 0.3 * (x**2).sum(1, keepdims=True)
    y += 0.1 * rng.normal(size=y.shape)
    pairs = Pairs.from_array(np.stack([np.arange(400)] * 2, 1))
    return PairedData(Cloud.uniform(x), Cloud.uniform(y), pairs)


@pytest.fixture(scope="module")
def pairs_only(bent):
    return TrueAlignment().sampler(bent, BridgeCost(), Sinkhorn())


@pytest.fixture(scope="module")
def trained(bent, pairs_only):
    training = Training(
        400, 64, 3e-3, validation=0.2, evaluate_every=50, weight_decay=0.1, steps_per_dispatch=50
    )
    return morph_of(bent, pairs_only, Anchor.fit(RIDGE, bent), training)


def test_a_target_has_no_say_in_the_prediction_that_it_is_compared_with(paired):
    """Source point 3 has two pairs: both are left out of what is said of it."""
    both = Pairs(jnp.append(paired.pairs.source, 3), jnp.append(paired.pairs.target, 20))
    for baseline in (RIDGE, NearestAnchor("euclidean")):
        for changed in (3, 20):
            moved = paired.y.points.at[changed].add(100.0)
            data = PairedData(paired.x, paired.y, both)
            other = PairedData(paired.x, Cloud.uniform(moved), both)
            one, two = (np.asarray(Anchor.fit(baseline, d).known) for d in (data, other))
            np.testing.assert_array_equal(one[3], two[3])
            if baseline is RIDGE:  # for the other, it is nobody's nearest
                assert np.abs(one[:9] - two[:9]).max() > 1
    whole = RIDGE.fit(data)(data.x.points)
    np.testing.assert_allclose(Anchor.fit(RIDGE, data).known[9:], whole[9:], atol=1e-5)


@pytest.mark.parametrize("noise_scale", [1.0, 0.5])
def test_an_untrained_morph_is_its_base_with_gaussian_noise(bent, pairs_only, noise_scale):
    """Trained on so little that nothing has moved."""
    anchor = Anchor.fit(RIDGE, bent)
    training = Training(1, 64, 1e-12, noise_scale, steps_per_dispatch=1)
    morph = morph_of(bent, pairs_only, anchor, training)
    x = bent.x.points[400:]
    base = np.asarray(RIDGE.fit(bent)(x))
    np.testing.assert_allclose(morph.expected(x), base, atol=1e-5)
    residuals = np.asarray(bent.y_paired - anchor.known[:400])
    scale = np.sqrt((residuals**2).mean())
    np.testing.assert_allclose(morph.scaling.y_scale, scale, rtol=0.1)
    noise = (np.asarray(morph(x, draws=50)) - base) / float(morph.scaling.y_scale)
    np.testing.assert_allclose(np.cov(noise.reshape(-1, 3).T), np.eye(3), atol=0.03)
    assert np.abs(noise.mean((0, 1))).max() < 0.03
    medoid = np.asarray(morph(x, draws=8, reduce="medoid"))
    drawn = np.asarray(morph(x, draws=8))
    assert (np.abs(drawn - medoid).max(-1) < 1e-4).any(0).all()
    np.testing.assert_allclose(morph(x, draws=8, reduce="std"), drawn.std(0, ddof=1), rtol=1e-3)


def test_draws_are_as_wide_as_what_is_left_over_at_new_points(bent, pairs_only):
    """Where that is known: what a coupling leaves over at its own points is less."""
    anchor = Anchor.fit(RIDGE, bent)
    training = Training(1, 64, 1e-12, steps_per_dispatch=1)
    morph = morph_of(bent, pairs_only, anchor, training, spread=2.5)
    drawn = np.asarray(morph(bent.x.points[400:], draws=50))
    assert drawn.std(0).mean() == pytest.approx(2.5, rel=0.03)
    with pytest.raises(ValueError, match=r"run\.spread = 2\.5 .*set run\.anchor"):
        asked(["quickstart.gin"], ["run.anchor = None", "run.choice = None", "run.spread = 2.5"])


@pytest.mark.parametrize("field", [MLP, AdaLN])
def test_a_field_at_rest_gives_zero_and_learns(field):
    made = field(4, 3, layers=2, hidden=8, key=KEY).at_rest()
    t, y, x = jnp.array(0.3), jnp.ones(3), jnp.arange(4.0)
    np.testing.assert_array_equal(made(t, y, x), 0)
    gradient = eqx.filter_grad(lambda f: jnp.sum((f(t, y, x) - 1) ** 2))(made)
    assert np.abs(gradient.output.weight).max() > 0


def test_a_trained_one_is_better_than_its_base(bent, trained):
    """What is left of the bend; the noise alone would be 0.01."""
    x, y = bent.x.points[400:], bent.y.points[400:]
    ridge = np.mean((np.asarray(RIDGE.fit(bent)(x)) - y) ** 2)
    ours = np.mean((np.asarray(trained.expected(x)) - y) ** 2)
    assert ours < 0.5 * ridge


def test_an_anchored_morph_is_the_same_in_another_process(bent, paired, trained, tmp_path):
    """Anchored on a baseline, and on what a coupling says, whose cost is a plugin's."""
    sampler = RefinedAlignment(rounds=2).sampler(paired, CanonicalCost(), Sinkhorn(epsilon=0.05))
    anchor = anchored("coupling", paired, sampler.map)
    np.testing.assert_allclose(anchor.known, sampler.map(paired.x.points), atol=1e-4)
    drawing = replace(sampler.map, estimate="draw")
    np.testing.assert_array_equal(drawing.expected(paired.x.points), sampler.map(paired.x.points))
    coupled = morph_of(paired, sampler, anchor, Training(5, 16, steps_per_dispatch=5))
    for name, morph, data in (("a", trained, bent), ("b", coupled, paired)):
        morph.save(tmp_path / name)
        np.save(tmp_path / f"{name}.npy", data.x.points)
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["format"] == 2
        assert manifest["field"]["component"].endswith("field.MLP")
    code = """
import sys, numpy as np, morphkit
for name in "ab":
    morph, x = morphkit.load(name), np.load(f"{name}.npy")
    np.savez(f"{name}.npz", draws=morph(x, draws=3), expected=morph.expected(x))
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    for name, morph, data in (("a", trained, bent), ("b", coupled, paired)):
        found = np.load(tmp_path / f"{name}.npz")
        np.testing.assert_array_equal(found["draws"], morph(data.x.points, draws=3))
        np.testing.assert_array_equal(found["expected"], morph.expected(data.x.points))


def test_a_base_of_a_missing_package_or_another_version_is_named(trained, tmp_path):
    path = trained.save(tmp_path / "m") / "manifest.json"
    manifest = json.loads(path.read_text())

    def changed(**base):
        path.write_text(json.dumps(manifest | {"base": manifest["base"] | base}))

    changed(**{"class": "gone_plugin.maps.Map"})
    with pytest.raises(LookupError, match=r"gone_plugin.maps.Map; install the plugin package gone"):
        load(tmp_path / "m")
    changed(**{"class": "os.path.join"})
    with pytest.raises(LookupError, match="os"):
        load(tmp_path / "m")
    for base in ({"class": "morphkit.morph.load"}, {"fields": {}}):
        changed(**base)
        with pytest.raises(ValueError, match=r"manifest.json is damaged"):
            load(tmp_path / "m")


BASELINES = [component.cls for component in registry.load() if component.kind == "baseline"]


@pytest.mark.parametrize("cls", [c for c in BASELINES if not issubclass(c, RawBaseline)])
def test_every_baseline_of_features_is_saved_with_the_morph_that_starts_from_it(cls, tmp_path):
    """Targets repeat, so that classifiers are asked, too."""
    rng, k = np.random.default_rng(0), np.arange(60) % 3
    x = 3 * rng.normal(size=(3, 4))[k] + rng.normal(size=(60, 4))
    known = Pairs.from_array(np.stack([np.arange(15)] * 2, 1))
    data = PairedData(Cloud.uniform(x), Cloud.uniform(rng.normal(size=(3, 3))[k]), known)
    baseline = cls(steps=1, width=8, beta=1.0) if cls is FusedLatentVAE else cls()
    sampler = TrueAlignment().sampler(data, BridgeCost(), Sinkhorn())
    morph = morph_of(data, sampler, anchored(baseline, data, None), Training(0))
    again = load(morph.save(tmp_path / "m"))
    np.testing.assert_array_equal(again(x), morph(x))


def test_what_cannot_be_an_anchor_is_explained(paired, bent, pairs_only):
    single = PairedData(paired.x, paired.y, Pairs(jnp.array([3, 3]), jnp.array([1, 2])))
    with pytest.raises(ValueError, match=r"run.anchor = Ridge needs pairs of two source points"):
        anchored(RIDGE, single, pairs_only.map)
    with pytest.raises(ValueError, match=r"Foreign.model is of sklearn.* cannot be saved"):
        anchored("coupling", bent, Foreign(LinearRegression()))
    with pytest.raises(ValueError, match=r"says nothing of new points; take aligner.Refined"):
        anchored("coupling", bent, pairs_only.map)
    reweighted = build_networks(MLP, 4, 3, True, KEY)
    with pytest.raises(ValueError, match=r"set Training.reweight = False or run.anchor = None"):
        train(bent, pairs_only, reweighted, Training(), key=KEY, anchor=Anchor.fit(RIDGE, bent))


def test_runs_with_an_anchor(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4))
    y = x @ rng.normal(size=(4, 3)) + 0.1 * rng.normal(size=(80, 3))
    pairs = np.stack([np.arange(60)] * 2, 1)
    refined = ["run.aligner = @aligner.RefinedAlignment()", "RefinedAlignment.rounds = 1",
               "run.cost = @cost.CanonicalCost()", "Sinkhorn.epsilon = 0.05"]  # fmt: skip
    watched = ["Training.validation = 0.2", "Training.evaluate_every = 25", "Training.watch = True"]
    for name, bindings in (
        ("ridge", ["run.anchor = @baseline.Ridge()", *watched]),
        ("coupling", ["run.anchor = 'coupling'", *refined]),
    ):
        out = tmp_path / name
        asked = [*FAST, *bindings, "run.baselines = []"]
        morph = morphkit.align(x, y, pairs, method="global", bindings=asked, out=out)
        assert morph.base is not None
        np.testing.assert_array_equal(morphkit.load(out)(x), morph(x))
        story = json.loads(morph.provenance)
        said = story["anchor"] if name == "coupling" else story["anchor"]["component"]
        assert said.endswith({"ridge": "baseline.Ridge", "coupling": "coupling"}[name])
    lines = map(json.loads, (tmp_path / "ridge" / "log.jsonl").read_text().splitlines())
    curve = [line["metrics"] for line in lines if "train/validation" in line.get("metrics", {})]
    assert len(curve) == 3
    assert all("train/paired_mse" in point for point in curve)
    with pytest.raises(ConfigurationError, match=r"run.anchor takes @baseline.NAME\(\) or 'coupl"):
        morphkit.align(x, y, pairs, method="global", bindings=[*FAST, "run.anchor = 'couplings'"])


def test_an_anchor_is_asked_for_in_gin():
    for binding, kind in (("None", type(None)), ("'coupling'", str), ("@baseline.PLS()", PLS)):
        experiment, _ = asked(["quickstart.gin"], [f"run.anchor = {binding}"])
        assert isinstance(experiment.anchor, kind)
    experiment, _ = asked(["quickstart.gin", "anchored.gin"], [])
    assert isinstance(experiment.anchor, Ridge)
    assert experiment.training.validation > 0
