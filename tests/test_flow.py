"""The U-GENOT loss and its training loop, against closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Scalar
from morphkit_aligners.aligners import GlobalAlignment, LocalAlignment, TrueAlignment
from morphkit_costs.bridge import BridgeCost
from morphkit_fields.mlp import MLP
from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn
from morphkit_solvers.sinkhorn import Sinkhorn

from morphkit.interfaces import VelocityField
from morphkit.morph import Morph, load
from morphkit.training.flow import Networks, Reweighting, flow_loss
from morphkit.training.loop import Training
from morphkit.training.scaling import Scaling
from morphkit.types import Cloud, PairedData, Pairs

SCALINGS = ("each", "whole", "none")


class GaussianField(VelocityField):
    """The optimal velocity from N(0, s² I) to N(x, σ² I): E[y - z | t y + (1 - t) z, x]."""

    source_dim: int = eqx.field(static=True)
    target_dim: int = eqx.field(static=True)
    s: float
    sigma: float

    def __call__(
        self, t: Scalar, y: Float[Array, " q"], x: Float[Array, " p"]
    ) -> Float[Array, " q"]:
        variance = t**2 * self.sigma**2 + (1 - t) ** 2 * self.s**2
        gain = (t * self.sigma**2 - (1 - t) * self.s**2) / variance
        return x + gain * (y - t * x)


def gaussian_batch(s, sigma, num, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, 2))
    return jnp.asarray(x, jnp.float32), jnp.asarray(
        x + sigma * rng.normal(size=(num, 2)), jnp.float32
    )


@pytest.mark.parametrize(("s", "sigma"), [(1.0, 0.5), (0.7, 2.0)])
def test_loss_of_the_optimal_gaussian_velocity_is_the_closed_form(s, sigma):
    x, y = gaussian_batch(s, sigma, 400_000)
    loss = flow_loss(GaussianField(2, 2, s, sigma), x, y, jax.random.key(1), noise_scale=s)
    # Var(y - z | y_t) = σ² s² / (t² σ² + (1 - t)² s²) per coordinate; integrated over t it is
    # σ s π / 2 exactly, for any σ and s.
    np.testing.assert_allclose(loss, 2 * sigma * s * np.pi / 2, rtol=1e-2)


def test_any_other_velocity_has_a_larger_loss():
    x, y = gaussian_batch(1.0, 0.5, 100_000)
    best, other = (
        flow_loss(GaussianField(2, 2, 1.0, sigma), x, y, jax.random.key(1)) for sigma in (0.5, 0.8)
    )
    assert float(other) > float(best) + 0.05


def test_integrating_the_optimal_velocity_gives_the_target():
    networks = Networks(GaussianField(2, 2, 1.0, 0.5), None, None)
    scaling = Scaling.fit(jnp.zeros((1, 2)), jnp.zeros((1, 2)), "none")
    point = jnp.array([[1.5, -2.0]])
    draws = Morph(networks, scaling, 1.0)(point, draws=4000, key=jax.random.key(2))[:, 0]
    np.testing.assert_allclose(draws.mean(0), point[0], atol=4 * 0.5 / np.sqrt(4000))
    np.testing.assert_allclose(np.cov(draws.T), 0.25 * np.eye(2), atol=0.025)


@pytest.fixture(scope="module")
def toy():
    """y = R x + N(0, 0.3²) with all points paired, and a morph trained on it."""
    rng = np.random.default_rng(3)
    rotation = np.array([[0.0, -1.5], [1.0, 0.0]])
    x = rng.normal(size=(4000, 2))
    y = x @ rotation.T + 0.3 * rng.normal(size=(4000, 2)) + np.array([3.0, 0.0])
    pairs = Pairs.from_array(np.stack([np.arange(4000)] * 2, 1))
    data = PairedData(Cloud.uniform(x), Cloud.uniform(y), pairs)
    sampler = TrueAlignment().sampler(data, BridgeCost(), Sinkhorn())
    networks = Networks(MLP(2, 2, layers=2, hidden=64, key=jax.random.key(0)), None, None)
    scaling = Scaling.fit(data.x.points, data.y.points, "each")
    training = Training(steps=4000, learning_rate=2e-3, steps_per_dispatch=500)
    trained = training.fit(networks, scaling, sampler, key=jax.random.key(1))
    return Morph(trained, scaling, 1.0), rotation


def test_a_trained_morph_has_the_right_mean_and_covariance(toy):
    morph, rotation = toy
    for point in (np.array([0.5, -0.5]), np.array([-1.0, 0.7])):
        draws = np.asarray(morph(point[None], draws=3000, key=jax.random.key(5))[:, 0])
        expected = rotation @ point + np.array([3.0, 0.0])
        np.testing.assert_allclose(draws.mean(0), expected, atol=0.12)
        np.testing.assert_allclose(np.cov(draws.T), 0.09 * np.eye(2), atol=0.04)


def test_draws_and_reductions(toy):
    morph, _ = toy
    x = np.random.default_rng(0).normal(size=(5, 2))
    draws = morph(x, draws=8)
    assert draws.shape == (8, 5, 2)
    np.testing.assert_allclose(morph(x, draws=8, reduce="mean"), draws.mean(0), rtol=1e-5)
    medoid = np.asarray(morph(x, draws=8, reduce="medoid"))
    spread = np.linalg.norm(np.asarray(draws)[:, None] - np.asarray(draws)[None], axis=-1).sum(0)
    np.testing.assert_allclose(medoid, np.asarray(draws)[spread.argmin(0), np.arange(5)])
    np.testing.assert_array_equal(morph(x), morph(x))
    assert np.abs(morph(x) - morph(x, key=jax.random.key(9))).max() > 1e-3


def test_save_and_load(toy, tmp_path):
    morph, _ = toy
    again = load(morph.save(tmp_path / "m"))
    x = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_array_equal(again(x), morph(x))
    assert again.provenance == morph.provenance


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, 5)), r"shape \(3, 5\); this morph takes \(n, 2\)"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), r"NaN or infinite values, first in rows \[1\]"),
    ],
)
def test_bad_input_to_a_morph_is_explained(toy, x, message):
    with pytest.raises(ValueError, match=message):
        toy[0](x)


def small_networks(reweight=False):
    keys = jax.random.split(jax.random.key(0), 3)
    field = MLP(5, 3, layers=1, hidden=16, key=keys[0])
    if not reweight:
        return Networks(field, None, None)
    return Networks(field, Reweighting(5, key=keys[1]), Reweighting(3, key=keys[2]))


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]


@pytest.mark.parametrize("aligner", [TrueAlignment(), GlobalAlignment(), LocalAlignment()])
def test_every_alignment_trains_and_is_deterministic(paired, aligner):
    sampler = aligner.sampler(paired, BridgeCost(), BridgeSinkhorn(epsilon=0.05))
    scaling = Scaling.fit(paired.x.points, paired.y.points, "each")
    losses = []
    training = Training(steps=60, batch_size=32, learning_rate=5e-3, steps_per_dispatch=20)
    results = [
        training.fit(
            small_networks(), scaling, sampler, key=jax.random.key(0),
            tell=lambda step, total, metrics: losses.append(metrics["loss"]),
        )
        for _ in range(2)
    ]  # fmt: skip
    assert losses[2] < losses[0]
    for one, other in zip(leaves(results[0]), leaves(results[1]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_scalings_leave_unit_size_and_directions(rng):
    x = rng.normal(size=(500, 3)) * [10, 1, 0.1] + 5
    y = rng.normal(size=(400, 2)) * [3, 1]
    each, whole, none = (Scaling.fit(jnp.asarray(x), jnp.asarray(y), how) for how in SCALINGS)
    np.testing.assert_allclose(each.x(x).std(0), 1, rtol=1e-4)
    scaled = np.asarray(whole.x(x))
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-4)
    assert (scaled**2).mean() == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(scaled.std(0) / scaled.std(0)[0], x.std(0) / x.std(0)[0], rtol=1e-3)
    np.testing.assert_allclose(none.x(x), x, rtol=1e-6)
    for scaling in (each, whole):
        assert (np.asarray(scaling.y(y)) ** 2).mean() == pytest.approx(1, rel=1e-4)
        np.testing.assert_allclose(scaling.y_inverse(scaling.y(y)), y, atol=1e-4)
    still = Scaling.fit(jnp.ones((5, 3)), jnp.ones((5, 2)), "whole")
    np.testing.assert_array_equal(still.x(jnp.ones((5, 3))), 0)
    with pytest.raises(ValueError, match="standardise = 'all' must be 'each', 'whole' or 'none'"):
        Training(standardise="all")


def test_decay_is_a_cosine_over_all_steps():
    """Under a constant gradient, Adam's step is the learning rate itself."""

    def rates(decay):
        optimiser = Training(steps=20, learning_rate=1e-2, decay=decay)._optimiser()
        state, found = optimiser.init(jnp.ones(1)), []
        for _ in range(20):
            updates, state = optimiser.update(jnp.ones(1), state)
            found.append(-float(updates[0]))
        return found

    np.testing.assert_allclose(rates(False), 1e-2, rtol=1e-3)
    expected = 1e-2 * (1 + np.cos(np.pi * np.arange(20) / 20)) / 2
    np.testing.assert_allclose(rates(True), expected, rtol=1e-3)


class Killed(Exception):
    pass


@pytest.mark.parametrize("decay", [False, True])
def test_a_killed_training_resumes_to_the_same_result(paired, tmp_path, decay):
    sampler = TrueAlignment().sampler(paired, BridgeCost(), Sinkhorn())
    scaling = Scaling.fit(paired.x.points, paired.y.points, "each")
    training = Training(
        steps=50, batch_size=16, steps_per_dispatch=10, checkpoint_seconds=0, decay=decay
    )
    whole = training.fit(small_networks(), scaling, sampler, key=jax.random.key(0))

    def kill(step, total, metrics):
        if step == 30:
            raise Killed

    with pytest.raises(Killed):
        training.fit(
            small_networks(), scaling, sampler, key=jax.random.key(0),
            tell=kill, checkpoint=tmp_path / "checkpoint",
        )  # fmt: skip
    steps = []
    resumed = training.fit(
        small_networks(), scaling, sampler, key=jax.random.key(0),
        checkpoint=tmp_path / "checkpoint",
        tell=lambda step, total, metrics: steps.append(step),
    )  # fmt: skip
    assert steps == [30, 40, 50]
    for one, other in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_reweighting_learns_the_marginals_of_an_unbalanced_coupling(paired):
    solver = BridgeSinkhorn(epsilon=0.05, tau_x=0.8, tau_y=0.8)
    sampler = GlobalAlignment().sampler(paired, BridgeCost(), solver)
    scaling = Scaling.fit(paired.x.points, paired.y.points, "each")
    training = Training(steps=1500, batch_size=128, learning_rate=2e-3, reweight=True)
    trained = training.fit(small_networks(reweight=True), scaling, sampler, key=jax.random.key(0))
    eta = jax.vmap(trained.eta)(scaling.x(paired.x.points))
    expected = 60 * np.asarray(sampler.coupling.marginal(0))
    assert np.std(expected) > 0.02
    assert np.corrcoef(eta, expected)[0, 1] > 0.9
    np.testing.assert_allclose(np.mean(eta), expected.mean(), rtol=0.05)


def test_a_diverging_loss_stops_the_training(paired):
    broken = eqx.tree_at(lambda d: d.y.points, paired, paired.y.points * jnp.inf)
    sampler = TrueAlignment().sampler(broken, BridgeCost(), Sinkhorn())
    scaling = Scaling.fit(paired.x.points, paired.y.points, "each")
    with pytest.raises(FloatingPointError, match="learning_rate"):
        Training(steps=10).fit(small_networks(), scaling, sampler, key=jax.random.key(0))


def test_scaling_makes_unit_features_and_goes_back(rng):
    x, y = rng.normal(size=(50, 3)) * 7 + 2, rng.normal(size=(60, 4)) * 0.01 - 5
    scaling = Scaling.fit(jnp.asarray(x), jnp.asarray(y), "each")
    np.testing.assert_allclose(np.std(scaling.x(x), axis=0), 1, rtol=1e-4)
    np.testing.assert_allclose(np.mean(np.square(scaling.y(y))), 1, rtol=1e-3)
    np.testing.assert_allclose(scaling.y_inverse(scaling.y(y)), y, rtol=1e-5)
