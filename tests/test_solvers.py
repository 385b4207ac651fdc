"""Couplings against POT in float64, and against each other."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from morphkit_costs.bridge import BridgeCost
from morphkit_solvers import gromov, scaling
from morphkit_solvers.anderson import Memory
from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn
from morphkit_solvers.gromov import FusedGromovWasserstein
from morphkit_solvers.sinkhorn import Sinkhorn
from morphkit_solvers.through_ott import OTTFusedGromovWasserstein, OTTSinkhorn
from scipy.optimize import approx_fprime, minimize
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, xlogy

from morphkit.transport import half as half_
from morphkit.transport import memory
from morphkit.transport.bridges import BridgeCoupling
from morphkit.transport.couplings import DenseCoupling
from morphkit.transport.geometry import BridgeGeometry, DenseGeometry, PointGeometry
from morphkit.transport.half import Half
from morphkit.transport.streamed import EntropicCoupling
from morphkit.types import Cloud, PairedData, Pairs


def relative(ours, reference) -> float:
    return float(np.linalg.norm(np.asarray(ours) - reference) / np.linalg.norm(reference))


def normalised(cost):
    cost = np.asarray(cost, float)
    return cost / cost.mean()


def soft_bridge(prepared: BridgeGeometry, epsilon: float):
    """The soft minimum of Eq. 6 in float64, divided by the mean of the hard one."""
    scale = np.asarray(prepared.matrix(), float).mean()
    total = (np.asarray(prepared.a, float)[:, None] + np.asarray(prepared.b, float)[None]) / scale
    return -epsilon * logsumexp(-total / epsilon, axis=-1)


def in_the_log_domain(cost, epsilon: float, taus: tuple[float, float], iterations: int = 3000):
    """Sinkhorn with Eq. 28's damping and uniform weights, in float64, until it no longer moves."""
    n, m = cost.shape
    f, g = np.zeros(n), np.zeros(m)
    for _ in range(iterations):
        last, f = f, -np.log(n) - taus[0] * logsumexp(g - cost / epsilon, axis=1)
        g = -np.log(m) - taus[1] * logsumexp(f[:, None] - cost / epsilon, axis=0)
        if np.abs(f - last).max() <= 1e-13 * np.abs(f).max():
            break
    return np.exp(f[:, None] + g - cost / epsilon)


def test_balanced_sinkhorn_is_pot(paired):
    prepared = BridgeCost().prepare(paired)
    ours = Sinkhorn(epsilon=0.05, threshold=1e-6).solve(prepared, paired.x, paired.y)
    a, b = np.full(60, 1 / 60), np.full(50, 1 / 50)
    reference = ot.sinkhorn(a, b, normalised(prepared.matrix()), 0.05, stopThr=1e-12)
    assert relative(ours.values, reference) < 1e-4
    assert bool(ours.convergence.converged)


@pytest.mark.parametrize(("tau_x", "tau_y"), [(0.9, 0.9), (0.99, 0.8)])
def test_unbalanced_sinkhorn_is_pot(paired, tau_x, tau_y):
    prepared, epsilon = BridgeCost().prepare(paired), 0.05
    ours = Sinkhorn(epsilon, tau_x, tau_y, threshold=1e-6).solve(prepared, paired.x, paired.y)
    a, b = np.full(60, 1 / 60), np.full(50, 1 / 50)
    # Eq. 28: λ = ε τ / (1 - τ).
    lambdas = tuple(epsilon * tau / (1 - tau) for tau in (tau_x, tau_y))
    reference = ot.unbalanced.sinkhorn_unbalanced(
        a, b, normalised(prepared.matrix()), epsilon, lambdas, reg_type="kl",
        stopThr=1e-12, numItermax=20_000,
    )  # fmt: skip
    assert relative(ours.values, reference) < 1e-4


@pytest.mark.parametrize("bridges", [9, 45])  # thin products, and the product of a minibatch
@pytest.mark.parametrize("taus", [(1.0, 1.0), (0.95, 0.9)])
def test_bridge_sinkhorn_is_dense_sinkhorn_on_the_soft_cost(paired, taus, bridges):
    epsilon = 0.02
    pairs = Pairs.from_array(np.stack([np.arange(bridges)] * 2, 1))
    paired = PairedData(paired.x, paired.y, pairs)
    prepared = BridgeCost().prepare(paired)
    thin = BridgeSinkhorn(epsilon, *taus, threshold=2e-6, max_iterations=5000)
    ours = thin.solve(prepared, paired.x, paired.y)
    reference = in_the_log_domain(soft_bridge(prepared, epsilon), epsilon, taus)
    assert bool(ours.convergence.converged)
    assert relative(ours.to_dense(), reference) < 1e-4
    np.testing.assert_allclose(ours.marginal(0), reference.sum(1), rtol=2e-4)
    np.testing.assert_allclose(ours.marginal(1), reference.sum(0), rtol=2e-4)


def test_the_soft_minimum_is_over_the_distinct_bridges(paired):
    """24 pairs of three target points: closer to Eq. 6 than a soft minimum over all pairs."""
    epsilon, known = 0.02, np.stack([np.arange(24), np.arange(24) % 3], 1)
    data = PairedData(paired.x, paired.y, Pairs.from_array(known))
    prepared = BridgeCost().prepare(data)
    ours = BridgeSinkhorn(epsilon, threshold=2e-6, max_iterations=5000)
    costs = [
        normalised(cdist(*[np.asarray(c.points, float)] * 2, "cosine")) for c in (data.x, data.y)
    ]
    nearest = np.stack([costs[0][:, k:24:3].min(1) for k in range(3)], 1)
    total = nearest[:, None] + costs[1][:, :3]
    total /= total.min(-1).mean()
    reference = -epsilon * logsumexp(-total / epsilon, axis=-1)
    assert (total.min(-1) - reference).max() <= epsilon * np.log(3) + 1e-9
    reference = in_the_log_domain(reference, epsilon, (1.0, 1.0))
    assert relative(ours.solve(prepared, data.x, data.y).to_dense(), reference) < 1e-3


@pytest.mark.parametrize("bridges", [9, 45])
@pytest.mark.parametrize("halvings", [0, 3])
@pytest.mark.parametrize(
    ("epsilon", "taus"), [(2e-3, (1.0, 1.0)), (1e-3, (0.9, 0.9)), (3e-4, (0.99, 0.5))]
)
def test_potentials_far_beyond_float32s_exponents(paired, epsilon, taus, halvings, bridges):
    """Kernel entries down to exp(-5000), and points that the unbalanced coupling leaves out."""
    pairs = Pairs.from_array(np.stack([np.arange(bridges)] * 2, 1))
    prepared = BridgeCost().prepare(PairedData(paired.x, paired.y, pairs))
    solver = BridgeSinkhorn(
        epsilon, *taus, threshold=1e-5, max_iterations=20_000, halvings=halvings
    )
    ours = solver.solve(prepared, paired.x, paired.y)
    reference = in_the_log_domain(soft_bridge(prepared, epsilon), epsilon, taus, 6000)
    assert bool(ours.convergence.converged)
    assert np.abs(np.asarray(ours.to_dense()) - reference).sum() < 1e-3 * reference.sum()


@pytest.mark.parametrize("cost", [jnp.zeros((60, 50)), jnp.zeros((1, 1))])
@pytest.mark.parametrize("solver", [Sinkhorn(), FusedGromovWasserstein(), OTTSinkhorn()])
def test_a_cost_of_nothing_is_the_independent_coupling(rng, cost, solver):
    n, m = cost.shape
    x, y = (Cloud.uniform(rng.normal(size=(k, 3))) for k in (n, m))
    if isinstance(solver, FusedGromovWasserstein):
        x, y = (Cloud.uniform(np.ones((k, 3))) for k in (n, m))
    coupling = solver.solve(DenseGeometry(cost), x, y)
    assert bool(coupling.convergence.converged)
    np.testing.assert_allclose(coupling.to_dense(), np.full((n, m), 1 / (n * m)), rtol=1e-4)


@pytest.mark.parametrize("solver", [Sinkhorn(), BridgeSinkhorn()])
def test_small_epsilon_stays_finite_and_balanced(paired, solver):
    coupling = solver.solve(BridgeCost().prepare(paired), paired.x, paired.y)
    assert bool(coupling.convergence.converged)
    errors = [np.abs(np.asarray(coupling.marginal(k)) - 1 / n).sum() for k, n in ((0, 60), (1, 50))]
    assert sum(errors) < 2e-3


@pytest.mark.parametrize("alpha", [0.25, 0.9, 1.0])  # 1 is Gromov-Wasserstein (Eq. 2)
def test_fused_gromov_wasserstein_is_pot(paired, alpha):
    epsilon = 0.1
    prepared = BridgeCost().prepare(paired)
    solver = FusedGromovWasserstein(
        epsilon, alpha, threshold=1e-8, max_iterations=500, inner_iterations=5000
    )
    ours = solver.solve(prepared, paired.x, paired.y)
    c_x, c_y = intra(paired.x), intra(paired.y)
    reference = ot.gromov.entropic_fused_gromov_wasserstein(
        normalised(prepared.matrix()) ** 2, c_x, c_y, alpha=alpha,
        epsilon=epsilon, tol=1e-12, max_iter=2000,
        numItermax=20_000, stopThr=1e-12,
    )  # fmt: skip
    assert relative(ours.values, reference) < 1e-4


def test_unconverged_is_said(paired):
    prepared = BridgeCost().prepare(paired)
    for solver in (Sinkhorn(max_iterations=10), BridgeSinkhorn(max_iterations=10)):
        coupling = solver.solve(prepared, paired.x, paired.y)
        assert not bool(coupling.convergence.converged)
        assert float(coupling.convergence.error) > 1e-3


def test_nan_never_counts_as_converged(paired):
    prepared = BridgeCost().prepare(paired)
    broken = BridgeGeometry(prepared.a.at[0, 0].set(jnp.nan), prepared.b)
    for solver in (Sinkhorn(max_iterations=50), BridgeSinkhorn(max_iterations=50)):
        assert not bool(solver.solve(broken, paired.x, paired.y).convergence.converged)


@pytest.mark.parametrize("solver", [Sinkhorn(), BridgeSinkhorn(), FusedGromovWasserstein(0.05)])
def test_solvers_trace(paired, solver):
    prepared = BridgeCost().prepare(paired)
    eager = solver.solve(prepared, paired.x, paired.y).marginal(0)
    jitted = jax.jit(lambda c, x, y: solver.solve(c, x, y).marginal(0))
    np.testing.assert_allclose(jitted(prepared, paired.x, paired.y), eager, rtol=1e-3)


def test_bad_arguments_are_named(paired):
    with pytest.raises(ValueError, match=r"Sinkhorn\.epsilon = -1"):
        Sinkhorn(epsilon=-1)
    with pytest.raises(ValueError, match=r"BridgeSinkhorn\.tau_x = 1\.5"):
        BridgeSinkhorn(tau_x=1.5)
    with pytest.raises(ValueError, match=r"Sinkhorn\.halvings = -1"):
        Sinkhorn(halvings=-1)
    with pytest.raises(ValueError, match=r"FusedGromovWasserstein\.alpha = 1\.5"):
        FusedGromovWasserstein(alpha=1.5)


def equation_3(pi, c, c_x, c_y, epsilon: float, alpha: float, taus: tuple[float, float]) -> float:
    """Its objective in float64, uniform weights, for a c that is squared where it is to be; H and
    KL⊗ relative to the weights, with the terms that make them divergences of any mass."""
    mass, p, q = pi.sum(), pi.sum(1), pi.sum(0)
    quadratic = p @ c_x**2 @ p + q @ c_y**2 @ q - 2 * np.sum((c_x @ pi @ c_y) * pi)
    value = alpha * quadratic + (1 - alpha) * mass * np.sum(c * pi)
    value += epsilon * (np.sum(xlogy(pi, pi * pi.size)) - mass + 1)
    for tau, marginal in zip(taus, (p, q), strict=True):
        if tau < 1:  # KL of the marginal's square against the uniform one's
            square = marginal[:, None] * marginal
            kl = np.sum(xlogy(square, square * square.size)) - mass**2 + 1
            value += epsilon * tau / (1 - tau) * kl
    return value


def intra(cloud: Cloud, metric: str = "cosine"):
    points = np.asarray(cloud.points, float)
    return normalised(cdist(points, points, metric))


@pytest.mark.parametrize(("tau_x", "tau_y", "alpha"), [(0.9, 0.9, 0.5), (1.0, 0.8, 0.3)])
def test_unbalanced_fused_gromov_wasserstein_is_a_stationary_point_of_equation_3(
    paired, tau_x, tau_y, alpha
):
    """The gradient of the objective has to vanish, except for a constant a row where the first
    marginal is fixed."""
    epsilon = 0.1
    prepared = BridgeCost().prepare(paired)
    solver = FusedGromovWasserstein(
        epsilon, alpha, tau_x, tau_y, threshold=5e-6, max_iterations=500, inner_iterations=5000
    )
    coupling = solver.solve(prepared, paired.x, paired.y)
    c = normalised(prepared.matrix()) ** 2
    c_x, c_y = intra(paired.x), intra(paired.y)

    def objective(log_pi):
        pi = np.exp(log_pi).reshape(60, 50)
        return equation_3(pi, c, c_x, c_y, epsilon, alpha, (tau_x, tau_y))

    assert bool(coupling.convergence.converged)
    pi = np.asarray(coupling.values, float)
    gradient = approx_fprime(np.log(pi).ravel(), objective, 1e-6).reshape(60, 50) / pi
    solid = pi > 1e-5  # below, the differences of the objective are rounding
    if tau_x == 1:
        gradient -= (gradient * pi).sum(1, keepdims=True) / pi.sum(1, keepdims=True)
    assert np.abs(gradient[solid]).max() < 1e-3 * epsilon
    assert abs(pi.sum() - 1) > 1e-3 or tau_x == 1


@pytest.mark.parametrize(("tau_x", "tau_y"), [(0.8, 0.6), (1.0, 0.6)])
def test_unbalanced_fused_gromov_wasserstein_is_the_best_of_a_search_of_equation_3(tau_x, tau_y):
    """On 3 × 3 points, from eight starts, over the logarithm of π."""
    rng, epsilon, alpha = np.random.default_rng(3), 0.2, 0.5
    x, y = (Cloud.uniform(rng.normal(size=(3, 2))) for _ in range(2))
    cost = rng.random((3, 3)).astype(np.float32)
    solver = FusedGromovWasserstein(
        epsilon, alpha, tau_x, tau_y, "sqeuclidean", "sqeuclidean",
        threshold=1e-6, max_iterations=500, inner_iterations=5000,
    )  # fmt: skip
    coupling = solver.solve(DenseGeometry(jnp.asarray(cost)), x, y)
    c_x, c_y = intra(x, "sqeuclidean"), intra(y, "sqeuclidean")

    def of(logits):
        logits = np.minimum(logits.reshape(3, 3), 5)
        if tau_x == 1:
            logits = logits - logsumexp(logits, axis=1, keepdims=True) - np.log(3)
        return np.exp(logits)

    def objective(logits):
        arguments = normalised(cost) ** 2, c_x, c_y, epsilon, alpha, (tau_x, tau_y)
        return equation_3(of(logits), *arguments)

    found = [minimize(objective, rng.normal(-2, 1, 9), tol=1e-9) for _ in range(8)]
    best = min(found, key=lambda result: result.fun)
    assert bool(coupling.convergence.converged)
    assert relative(coupling.values, of(best.x)) < 1e-3


@pytest.mark.parametrize(("epsilon", "tau"), [(1e-2, 0.5), (1e-3, 0.9), (1e-3, 0.5)])
def test_unbalanced_fused_gromov_wasserstein_leaves_outliers_out_and_mass_over(rng, epsilon, tau):
    labels = np.arange(60) % 3
    x = rng.normal(size=(3, 5))[labels] * 3 + rng.normal(size=(60, 5))
    y = rng.normal(size=(3, 3))[labels] * 3 + rng.normal(size=(60, 3))
    x[-8:] = 12 * rng.normal(size=(8, 5))
    pairs = Pairs.from_array(np.stack([np.arange(9)] * 2, axis=1))
    data = PairedData(Cloud.uniform(x, labels), Cloud.uniform(y, labels), pairs)
    prepared = BridgeCost("sqeuclidean", "sqeuclidean").prepare(data)
    solver = FusedGromovWasserstein(
        epsilon, 0.5, tau, tau, "sqeuclidean", "sqeuclidean", max_iterations=200
    )
    coupling = solver.solve(prepared, data.x, data.y)
    mass = np.asarray(coupling.marginal(0))
    assert bool(coupling.convergence.converged)
    assert epsilon < mass.sum() < 0.5
    assert mass[-8:].sum() < 0.02 * mass.sum()  # of 8 / 60


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("solver", [FusedGromovWasserstein, OTTFusedGromovWasserstein])
def test_alpha_0_is_the_linear_problem(paired, solver, squared):
    """With c over its mean, or the square of that."""
    epsilon = 0.05
    prepared = BridgeCost().prepare(paired)
    fused = solver(epsilon, 0.0, squared=squared, threshold=1e-6, inner_iterations=5000)
    ours = fused.solve(prepared, paired.x, paired.y)
    a, b = np.full(60, 1 / 60), np.full(50, 1 / 50)
    cost = normalised(prepared.matrix()) ** (2 if squared else 1)
    assert bool(ours.convergence.converged)
    assert relative(ours.values, ot.sinkhorn(a, b, cost, epsilon, stopThr=1e-12)) < 1e-4
    # Sinkhorn divides by the mean, which is not 1 where a cost was squared after it was.
    linear = Sinkhorn(epsilon / cost.mean(), threshold=1e-6)
    plain = linear.solve(DenseGeometry(jnp.asarray(cost)), paired.x, paired.y)
    assert relative(ours.values, np.asarray(plain.values)) < 1e-4


def test_alpha_0_unbalanced_is_the_linear_problem_of_its_mass(paired):
    """m <c², π> of Eq. 3 against Eq. 1: over m, and with KL⊗ twice m KL, at ε / m and 2 λ."""
    epsilon, tau = 0.05, 0.8
    prepared = BridgeCost().prepare(paired)
    solver = FusedGromovWasserstein(epsilon, 0.0, tau, tau, threshold=1e-6, inner_iterations=5000)
    ours = np.asarray(solver.solve(prepared, paired.x, paired.y).values, float)
    a, b = np.full(60, 1 / 60), np.full(50, 1 / 50)
    reference = ot.unbalanced.sinkhorn_unbalanced(
        a, b, normalised(prepared.matrix()) ** 2, epsilon / ours.sum(),
        2 * epsilon * tau / (1 - tau), reg_type="kl", stopThr=1e-12, numItermax=20_000,
    )  # fmt: skip
    assert ours.sum() < 0.9
    assert relative(ours / ours.sum(), reference / reference.sum()) < 1e-4


def test_a_fused_solve_asks_for_all_its_arrays(paired, monkeypatch):
    prepared, solver = BridgeCost().prepare(paired), FusedGromovWasserstein(0.05)
    size = gromov.ARRAYS * 4 * 60 * 50
    monkeypatch.setattr(memory, "available", lambda: size)
    solver.solve(prepared, paired.x, paired.y)
    monkeypatch.setattr(memory, "available", lambda: size - 1)
    with pytest.raises(MemoryError, match=r"60 × 50 cost, 8 times .*; use a solver that"):
        solver.solve(prepared, paired.x, paired.y)


@pytest.mark.parametrize("tau", [1.0, 0.9])
def test_a_fused_solve_holds_no_more_arrays_than_it_asks_for(rng, tau):
    """By the compiler's account."""
    n, m = 700, 600
    x, y = (Cloud.uniform(rng.normal(size=(k, 3))) for k in (n, m))
    solver = FusedGromovWasserstein(tau_x=tau)
    solve = jax.jit(lambda *arguments: gromov._solve(solver, *arguments))
    account = solve.lower(jnp.ones((n, m)), x, y).compile().memory_analysis()
    held = account.temp_size_in_bytes + account.output_size_in_bytes
    held += account.argument_size_in_bytes
    assert gromov.ARRAYS - 2 < held / (4 * n * m) < gromov.ARRAYS + 0.2


def test_fused_gromov_wasserstein_does_not_end_where_mixtures_come_to_rest(paired, monkeypatch):
    """Mixtures that stay where they are change no coupling, and are no solution."""
    prepared, mixture = BridgeCost().prepare(paired), Memory.mixture
    size = (paired.x.dim + 2) * (paired.y.dim + 2)  # of the moment, between two cosines' factors

    def solve(threshold: float) -> DenseCoupling:
        solver = FusedGromovWasserstein(0.01, 0.75, threshold=threshold, max_iterations=300)
        return solver.solve(prepared, paired.x, paired.y)

    expected = solve(1e-4)
    monkeypatch.setattr(
        Memory,
        "mixture",
        lambda self: self.images[0] if self.images.shape[1] == size else mixture(self),
    )
    resting = solve(1.1e-4)  # another program
    assert bool(resting.convergence.converged)
    assert int(resting.convergence.iterations) > int(expected.convergence.iterations)
    assert np.abs(np.asarray(resting.values - expected.values)).sum() < 0.01


def test_fused_gromov_wasserstein_gives_up_mixtures_that_lengthen_steps(paired, monkeypatch):
    """As near a saddle point: with a fixed bound, steps would grow and shrink for ever."""
    prepared, mixture = BridgeCost().prepare(paired), Memory.mixture
    size = (paired.x.dim + 2) * (paired.y.dim + 2)  # of the moment, between two cosines' factors

    def wild(self: Memory) -> jax.Array:
        last = (self.filled - 1) % len(self.images)
        return self.images[last] + jnp.where(self.filled > 1, 10, 0) * self.moves[last]

    def solve(threshold: float) -> DenseCoupling:
        solver = FusedGromovWasserstein(0.01, 0.75, threshold=threshold, max_iterations=300)
        return solver.solve(prepared, paired.x, paired.y)

    expected = solve(1e-4)
    monkeypatch.setattr(
        Memory, "mixture", lambda self: (wild if self.images.shape[1] == size else mixture)(self)
    )
    found = solve(1.2e-4)  # another program
    assert bool(found.convergence.converged)
    assert int(found.convergence.iterations) > int(expected.convergence.iterations)
    assert np.abs(np.asarray(found.values - expected.values)).sum() < 0.01


def test_a_bridge_cost_beyond_the_byte_budget_is_solved_by_its_factors(paired, caplog):
    prepared = BridgeCost().prepare(paired)
    with caplog.at_level("INFO", "morphkit"):
        dense = Sinkhorn(0.02).solve(prepared, paired.x, paired.y)
        assert not caplog.messages
        thin = Sinkhorn(0.02, dense_bytes=4 * 60 * 50 - 1).solve(prepared, paired.x, paired.y)
    assert isinstance(dense, DenseCoupling)
    assert isinstance(thin, BridgeCoupling)
    assert "60 × 50" in caplog.text
    asked_for = BridgeSinkhorn(0.02).solve(prepared, paired.x, paired.y)
    np.testing.assert_array_equal(thin.left, asked_for.left)
    other = DenseGeometry(prepared.matrix())  # no factors: stays dense
    assert isinstance(Sinkhorn(0.02, dense_bytes=1).solve(other, paired.x, paired.y), DenseCoupling)


@pytest.mark.parametrize("sides", ["source", "target", "both"])
@pytest.mark.parametrize("tau", [1.0, 0.9])
def test_factors_in_half_precision_give_the_same_coupling(rng, monkeypatch, sides, tau):
    monkeypatch.setattr(half_, "BLOCK", 16 * 7)  # blocks of 7 rows, the last overlapping
    points = rng.integers(0, 40, (16, 2))
    data = PairedData(
        Cloud.uniform(rng.normal(size=(60, 4)) + 1), Cloud.uniform(rng.normal(size=(50, 3)) + 1),
        Pairs.from_array(points),
    )  # fmt: skip
    single = BridgeCost().prepare(data)
    a, b = single.a, single.b
    half = BridgeGeometry(
        Half.of(a) if sides != "target" else a, Half.of(b) if sides != "source" else b
    )
    solver = BridgeSinkhorn(0.01, tau_x=tau, tau_y=tau, threshold=1e-4)
    exact, found = (solver.solve(cost, data.x, data.y) for cost in (single, half))
    assert found.convergence.converged
    assert np.abs(np.asarray(found.to_dense() - exact.to_dense())).sum() < 2e-3
    for axis in (0, 1):
        np.testing.assert_allclose(found.marginal(axis), exact.marginal(axis), atol=1e-4)
    np.testing.assert_allclose(
        found.barycentres(data.y.points), exact.barycentres(data.y.points), atol=1e-4
    )


@pytest.mark.parametrize(("metric", "tau"), [("sqeuclidean", 1.0), ("cosine", 0.9)])
def test_a_cost_between_more_points_is_streamed_to_the_dense_coupling(
    rng, monkeypatch, caplog, metric, tau
):
    """From a solution between some of them, by blocks of which the last is shorter; rows, both
    marginals, potential and barycentres."""
    monkeypatch.setattr(scaling, "STREAMED", 7 * 50)
    x = Cloud.uniform(rng.normal(size=(60, 3)))
    y = Cloud(x.points[:50] + 0.3, jnp.asarray(rng.dirichlet(np.full(50, 5)), jnp.float32), None)
    cost = PointGeometry(x.points, y.points, metric)
    dense = Sinkhorn(0.05, tau, 1.0, threshold=1e-5)
    with caplog.at_level("INFO", "morphkit"):
        expected = dense.solve(cost, x, y)
        assert not caplog.messages
        found = replace(dense, points=30).solve(cost, x, y)
    assert isinstance(found, EntropicCoupling)
    assert "60 × 50" in caplog.text
    assert bool(found.convergence.converged)
    assert relative(found.to_dense(), expected.values) < 1e-3
    for axis in (0, 1):
        np.testing.assert_allclose(found.marginal(axis), expected.marginal(axis), atol=1e-5)
    np.testing.assert_allclose(found.barycentres(y.points), expected.values @ y.points, atol=1e-4)
    assert found.potential.epsilon == pytest.approx(expected.potential.epsilon)
    apart = np.asarray(found.potential.g - expected.potential.g)
    np.testing.assert_allclose(apart, apart.mean(), atol=1e-2)


def test_the_error_of_a_streamed_problem_is_that_of_all_points(rng):
    x, y = (Cloud.uniform(rng.normal(size=(n, 3))) for n in (60, 50))
    cost = PointGeometry(x.points, y.points, "sqeuclidean")
    found = Sinkhorn(0.02, max_iterations=2, points=10).solve(cost, x, y)
    assert not bool(found.convergence.converged)
    error = np.abs(np.asarray(found.to_dense()).sum(0) - 1 / 50).sum()
    assert error > 0.01
    np.testing.assert_allclose(found.convergence.error, error, rtol=1e-3)


@pytest.mark.parametrize("solver", [Sinkhorn, BridgeSinkhorn])
def test_annealing_ends_at_the_same_coupling(paired, solver):
    prepared = BridgeCost().prepare(paired)
    plain = solver(0.02, threshold=1e-5, halvings=0).solve(prepared, paired.x, paired.y)
    annealed = solver(0.02, threshold=1e-5, halvings=4).solve(prepared, paired.x, paired.y)
    assert bool(annealed.convergence.converged)
    assert np.abs(np.asarray(plain.to_dense() - annealed.to_dense())).sum() < 1e-3
    assert int(annealed.convergence.iterations) != int(plain.convergence.iterations)


@pytest.mark.parametrize("taus", [(1.0, 1.0), (0.9, 0.95)])
def test_sinkhorn_is_ott_up_to_the_mass(paired, taus):
    prepared = BridgeCost().prepare(paired)
    ours, theirs = (
        np.asarray(solver(0.05, *taus, threshold=1e-6).solve(prepared, paired.x, paired.y).values)
        for solver in (Sinkhorn, OTTSinkhorn)
    )
    assert relative(ours / ours.sum(), theirs / theirs.sum()) < 1e-4


def test_fused_gromov_wasserstein_is_ott(paired):
    prepared = BridgeCost().prepare(paired)
    ours, theirs = (
        solver(0.1, 0.25, threshold=1e-6, max_iterations=500, inner_iterations=5000)
        for solver in (FusedGromovWasserstein, OTTFusedGromovWasserstein)
    )
    reference = theirs.solve(prepared, paired.x, paired.y)
    assert bool(reference.convergence.converged)
    assert relative(ours.solve(prepared, paired.x, paired.y).values, reference.values) < 1e-4


@pytest.mark.parametrize("solver", [Sinkhorn(0.05), BridgeSinkhorn(0.05), Sinkhorn(0.05, 0.9, 0.9)])
def test_a_point_without_weight_gets_no_mass(paired, solver):
    weights = paired.y.weights.at[7].set(0)
    y = replace(paired.y, weights=weights / weights.sum())
    coupling = solver.solve(BridgeCost().prepare(paired), paired.x, y)
    assert bool(coupling.convergence.converged)
    target = np.asarray(coupling.marginal(1))
    assert target[7] < 1e-12
    assert np.all(target[8:] > 1e-4)
