"""The U-GENOT loss and its training loop, against closed forms."""

from dataclasses import replace
from functools import partial

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
from scipy.integrate import quad
from scipy.stats import norm

from morphkit.experiment.train import build_networks
from morphkit.interfaces import VelocityField
from morphkit.morph import Morph, load
from morphkit.training import loop
from morphkit.training.flow import Networks, Noise, Reweighting, flow_loss
from morphkit.training.loop import Training
from morphkit.training.scaling import Scaling
from morphkit.training.validation import KeptSampler, hold_out, validation_loss
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


class Condition(VelocityField):
    """v = x."""

    source_dim: int = eqx.field(static=True)
    target_dim: int = eqx.field(static=True)

    def __call__(
        self, t: Scalar, y: Float[Array, " q"], x: Float[Array, " p"]
    ) -> Float[Array, " q"]:
        return x


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


@pytest.mark.parametrize(("s", "sigma"), [(1.0, 0.5), (0.7, 2.0)])
def test_loss_where_time_is_drawn_otherwise(s, sigma):
    """The integrand of the test above under the density of t, by quadrature, and at t = 0."""
    x, y = gaussian_batch(s, sigma, 200_000)
    field, key = GaussianField(2, 2, s, sigma), jax.random.key(1)

    def integrand(u):
        t = 1 / (1 + np.exp(-u))
        return norm.pdf(u) * sigma**2 * s**2 / (t**2 * sigma**2 + (1 - t) ** 2 * s**2)

    expected = 2 * quad(integrand, -12, 12)[0]
    np.testing.assert_allclose(flow_loss(field, x, y, key, s, "logit_normal"), expected, rtol=1e-2)
    at_zero = flow_loss(field, x, y, key, s, "uniform", 1.0)
    np.testing.assert_allclose(at_zero, 2 * sigma**2, rtol=1e-2)
    half = flow_loss(field, x, y, key, s, "uniform", 0.5)
    np.testing.assert_allclose(half, sigma**2 + sigma * s * np.pi / 2, rtol=1e-2)


def test_dropout_keeps_the_mean_of_the_condition():
    """v = x at y = 0: E|x_d + z|² = x² / (1 - p) + 1 for a coordinate that is kept with 1 - p."""
    x = jnp.full((200_000, 2), 3.0)
    loss = flow_loss(Condition(2, 2), x, 0 * x, jax.random.key(0), dropout=0.25)
    np.testing.assert_allclose(loss, 2 * (9 / 0.75 + 1), rtol=1e-2)


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


@pytest.mark.parametrize(("s", "sigma"), [(1.0, 0.5), (0.7, 2.0)])
def test_the_expected_value_and_the_spread_of_the_optimal_velocity(s, sigma):
    """For each z, not on average: E[y | x] = x, in units that are scaled and shifted."""
    networks = Networks(GaussianField(2, 2, s, sigma), None, None)
    scaling = Scaling(jnp.zeros(2), jnp.ones(2), jnp.array([5.0, -1.0]), jnp.array(3.0))
    morph = Morph(networks, scaling, s)
    x = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    expected = 3 * x + np.array([5, -1])
    for draws in (None, 1, 3):
        found = morph(x, reduce="expected", draws=draws)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(morph.expected(x), morph(x, reduce="expected", draws=8))
    std = morph(x, reduce="std", draws=2000)
    np.testing.assert_allclose(std, np.full((20, 2), 3 * sigma), rtol=0.1)
    with pytest.raises(ValueError, match="draws = 1 must be at least 2"):
        morph(x, reduce="std")


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
        np.testing.assert_allclose(morph.expected(point[None])[0], expected, atol=0.12)


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


BEYOND = {
    "weight_decay": 0.1, "clip": 1.0, "ema": 0.9, "dropout": 0.2, "time": "logit_normal",
    "at_zero": 0.2, "validation": 0.3, "evaluate_every": 15,
}  # fmt: skip
"""Everything that the paper does not do."""


@pytest.mark.parametrize("options", [{}, {"decay": True}, BEYOND])
def test_a_killed_training_resumes_to_the_same_result(paired, tmp_path, options):
    sampler = TrueAlignment().sampler(paired, BridgeCost(), Sinkhorn())
    scaling = Scaling.fit(paired.x.points, paired.y.points, "each")
    training = Training(
        steps=50, batch_size=16, steps_per_dispatch=10, checkpoint_seconds=0, **options
    )
    held = None
    if training.validation:
        held = hold_out(paired, sampler, 0.3, "pairs", 16, jax.random.key(2))
    whole = training.fit(small_networks(), scaling, sampler, key=jax.random.key(0), held=held)
    stops = [20, 30, 40, 50] if not options.get("validation") else [15, 25, 30, 40, 45, 50]

    def kill(step, total, metrics):
        if step == 30:
            raise Killed

    with pytest.raises(Killed):
        training.fit(
            small_networks(), scaling, sampler, key=jax.random.key(0),
            tell=kill, checkpoint=tmp_path / "checkpoint", held=held,
        )  # fmt: skip
    steps = []
    resumed = training.fit(
        small_networks(), scaling, sampler, key=jax.random.key(0),
        checkpoint=tmp_path / "checkpoint", held=held,
        tell=lambda step, total, metrics: steps.append(step),
    )  # fmt: skip
    assert steps == stops[stops.index(30) :]
    for one, other in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


def fitted(paired, sampler, rate, **options):
    """Networks after training on `sampler` without what is held out, and what was told."""
    told = []
    training = Training(
        steps=60, batch_size=32, learning_rate=rate, steps_per_dispatch=20, validation=0.3,
        evaluate_every=10, **options,
    )  # fmt: skip
    held = hold_out(paired, sampler, 0.3, training.hold_out, 32, jax.random.key(2))
    scaling = Scaling.fit(paired.x.points, paired.y.points, "each")
    networks = training.fit(
        small_networks(), scaling, KeptSampler(sampler, held.mask), key=jax.random.key(0),
        held=held, tell=lambda step, total, metrics: told.append((step, metrics)),
    )  # fmt: skip
    return networks, told, validation_loss(networks.field, scaling, held, Noise())[0]


@pytest.mark.parametrize("of", ["pairs", "sources"])
def test_the_networks_that_are_kept_have_the_least_validation_loss(paired, of):
    sampler = GlobalAlignment().sampler(paired, BridgeCost(), BridgeSinkhorn(epsilon=0.05))
    _, told, loss = fitted(paired, sampler, 1e-2, hold_out=of)
    assert [step for step, _ in told] == [0, 10, 20, 30, 40, 50, 60]
    curve = [metrics["validation"] for _, metrics in told]
    assert min(curve) < 0.8 * curve[0]
    assert float(loss) == pytest.approx(min(curve), rel=1e-6)


def test_a_lower_loss_is_not_enough_where_expected_values_are_worse(paired, monkeypatch):
    """Step 20 has the least loss, and a larger error than the start; step 10 is kept."""
    found = iter([(5.0, 1.0), (4.0, 0.9), (3.0, 1.2), (4.5, 0.5)])
    monkeypatch.setattr(loop, "validation_loss", lambda *_: map(jnp.float32, next(found)))
    sampler = TrueAlignment().sampler(paired, BridgeCost(), Sinkhorn())
    held = hold_out(paired, sampler, 0.3, "pairs", 32, jax.random.key(2))
    scaling = Scaling.fit(paired.x.points, paired.y.points, "each")
    training = Training(30, 32, 1e-2, steps_per_dispatch=10, validation=0.3, evaluate_every=10)
    seen = []
    kept = training.fit(
        small_networks(), scaling, sampler, key=jax.random.key(0), held=held,
        watch=lambda networks: seen.append(leaves(networks)) or {},
    )  # fmt: skip
    assert len(seen) == 4
    for one, other in zip(leaves(kept), seen[1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(seen[1][0] - seen[2][0]).max() > 0


def test_the_validation_error_is_that_of_expected_values(paired):
    """GaussianField is exact: its E[y | x] is x, whatever the noise."""
    sampler = TrueAlignment().sampler(paired, BridgeCost(), Sinkhorn())
    held = hold_out(paired, sampler, 0.3, "pairs", 32, jax.random.key(2))
    held = replace(held, x=held.x[:, :3])
    scaling = Scaling.fit(held.x, held.y, "none")
    _, error = validation_loss(GaussianField(3, 3, 0.7, 2.0), scaling, held, Noise(0.7))
    np.testing.assert_allclose(error, np.mean((held.x - held.y) ** 2), rtol=1e-5)


def test_training_that_only_hurts_keeps_the_start_and_ends(paired):
    sampler = TrueAlignment().sampler(paired, BridgeCost(), Sinkhorn())
    networks, told, _ = fitted(paired, sampler, 1.0, patience=2)
    assert [step for step, _ in told] == [0, 10, 20]
    for one, other in zip(leaves(networks), leaves(small_networks()), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("of", ["pairs", "sources"])
@pytest.mark.parametrize("aligner", [GlobalAlignment(), LocalAlignment()])
def test_what_is_held_out_is_not_trained_on(paired, of, aligner):
    sampler = aligner.sampler(paired, BridgeCost(), BridgeSinkhorn(epsilon=0.05))
    held = hold_out(paired, sampler, 0.3, of, 32, jax.random.key(2))
    mask = np.asarray(held.mask)
    assert mask.sum() == {"pairs": 3, "sources": 18}[of]
    assert mask[np.asarray(held.i)].all()
    np.testing.assert_array_equal(held.x, paired.x.points[held.i])
    if of == "pairs":
        np.testing.assert_array_equal(held.y, paired.y.points[held.i])  # pair k joins k and k
    draw = eqx.filter_jit(lambda s, key: s(key, 32))
    for key in jax.random.split(jax.random.key(0), 5):
        whole, batch = draw(sampler, key), draw(KeptSampler(sampler, held.mask), key)
        assert mask[whole.i].any() or of == "pairs"
        assert not mask[batch.i].any()
        np.testing.assert_array_equal(batch.x, paired.x.points[batch.i])
        known = {(int(i), *map(float, y)) for i, y in zip(whole.i, whole.y, strict=True)}
        drawn = {(int(i), *map(float, y)) for i, y in zip(batch.i, batch.y, strict=True)}
        assert drawn == {pair for pair in known if not mask[pair[0]]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 0.2}, r"validation = 0.2 needs Training.evaluate_every"),
        ({"watch": True}, r"watch = True needs Training.evaluate_every"),
        ({"patience": 3}, r"patience = 3 waits for Training.validation"),
        ({"dropout": 1.0}, r"Training.dropout = 1.0 must be less than 1"),
    ],
)
def test_options_that_cannot_work_are_explained(options, message):
    with pytest.raises(ValueError, match=message):
        Training(**options)


def test_holding_out_everything_is_explained(paired):
    sampler = TrueAlignment().sampler(paired, BridgeCost(), Sinkhorn())
    with pytest.raises(ValueError, match=r"0.99 of 9 source points leaves none to train on"):
        hold_out(paired, sampler, 0.99, "pairs", 32, jax.random.key(0))


def test_the_moving_average_is_that_of_the_weights_of_every_step(paired):
    sampler = TrueAlignment().sampler(paired, BridgeCost(), Sinkhorn())
    scaling = Scaling.fit(paired.x.points, paired.y.points, "each")

    def after(steps, ema=0.0):
        training = Training(steps, 16, 1e-2, steps_per_dispatch=1, ema=ema)
        return leaves(training.fit(small_networks(), scaling, sampler, key=jax.random.key(0)))

    expected = leaves(small_networks())
    for step in range(3):
        decay = min(0.15, (1 + step) / (10 + step))
        now = after(step + 1)
        expected = [decay * a + (1 - decay) * b for a, b in zip(expected, now, strict=True)]
    for one, other in zip(after(3, ema=0.15), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_reweighting_learns_the_marginals_of_an_unbalanced_coupling(paired):
    solver = BridgeSinkhorn(epsilon=0.05, tau_x=0.8, tau_y=0.8)
    sampler = GlobalAlignment().sampler(paired, BridgeCost(), solver)
    scaling = Scaling.fit(paired.x.points, paired.y.points, "each")
    training = Training(steps=1000, batch_size=128, learning_rate=2e-3, reweight=True)
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


def test_networks_of_one_request_are_compiled_once_and_others_by_themselves():
    made = []

    class Noted(MLP):
        def __init__(self, *args, **kwargs):
            made.append(kwargs.get("hidden"))
            super().__init__(*args, **kwargs)

    def build(seed, **arguments):
        field = partial(Noted, **arguments)
        return build_networks(field, 3, 2, False, jax.random.key(seed)).field  # pyright: ignore

    first, second = build(0, hidden=8), build(1, hidden=8)
    assert len(made) == 1
    assert any(
        not jnp.array_equal(a, b) for a, b in zip(leaves(first), leaves(second), strict=True)
    )
    again = build(0, hidden=8)
    assert all(jnp.array_equal(a, b) for a, b in zip(leaves(first), leaves(again), strict=True))
    assert build(0, hidden=16).hidden == 16
    assert made == [8, 16]


def test_without_steps_networks_stay_as_they_start(paired):
    sampler = TrueAlignment().sampler(paired, BridgeCost(), Sinkhorn())
    scaling = Scaling.fit(paired.x.points, paired.y.points, "each")
    start = small_networks()
    before = [np.asarray(leaf) for leaf in leaves(start)]
    told = []
    found = Training(steps=0, decay=True).fit(
        start, scaling, sampler, key=jax.random.key(0), tell=lambda *args: told.append(args)
    )
    for a, b in zip(before, leaves(found), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not told


def test_processes_that_find_different_checkpoints_do_not_train(paired, tmp_path, monkeypatch):
    """As where each has a folder of its own: all of them say so, and none waits for the others."""
    monkeypatch.setattr(loop, "told", lambda step: step + 10)
    sampler = TrueAlignment().sampler(paired, BridgeCost(), Sinkhorn())
    scaling = Scaling.fit(paired.x.points, paired.y.points, "each")
    with pytest.raises(ValueError, match=r"checkpoint is of step 0 for this process, and of ano"):
        Training(steps=20, batch_size=16).fit(
            small_networks(), scaling, sampler, key=jax.random.key(0),
            checkpoint=tmp_path / "checkpoint",
        )  # fmt: skip
