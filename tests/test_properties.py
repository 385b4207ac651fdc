"""What must hold for every problem: hypothesis chooses the problems."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from morphkit_costs.bridge import BridgeCost
from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn
from morphkit_solvers.factored import FactoredKernel
from morphkit_solvers.gromov import FusedGromovWasserstein
from morphkit_solvers.sinkhorn import Sinkhorn
from scipy.special import xlogy
from scipy.stats import chisquare

from morphkit.transport.bridges import BridgeCoupling
from morphkit.transport.couple import couple
from morphkit.transport.couplings import Convergence, DenseCoupling
from morphkit.transport.geometry import BridgeGeometry, DenseGeometry
from morphkit.types import Cloud, PairedData, Pairs

N, M, L = 24, 20, 4
# ε is static and every one compiles anew, so there are few of them.
SOLVERS = {
    "sinkhorn": Sinkhorn(0.05, threshold=1e-4),
    "small epsilon": BridgeSinkhorn(0.005, threshold=1e-4),
    "bridge sinkhorn": BridgeSinkhorn(0.05, threshold=1e-4),
    "fused": FusedGromovWasserstein(0.1, 0.3, threshold=1e-4, max_iterations=500),
}
UNBALANCED = {
    "sinkhorn": Sinkhorn(0.05, 0.9, 0.8, threshold=1e-5),
    "semi-relaxed": Sinkhorn(0.05, 1.0, 0.7, threshold=1e-5),
    "bridge sinkhorn": BridgeSinkhorn(0.05, 0.95, 0.6, threshold=1e-5),
}
SEEDS = st.integers(0, 2**31 - 1)
often = settings(max_examples=15, deadline=None, derandomize=True, database=None)


def cloud(rng, size: int, dim: int) -> Cloud:
    """Points of unequal weight, some of nearly none."""
    weights = rng.gamma(0.5, size=size) + 1e-4
    return replace_weights(Cloud.uniform(rng.normal(size=(size, dim))), weights / weights.sum())


def replace_weights(cloud: Cloud, weights) -> Cloud:
    return replace(cloud, weights=jnp.asarray(weights, jnp.float32))


def problem(seed: int) -> PairedData:
    """One to L distinct pairs, L with repetitions, of which some may share a point."""
    rng = np.random.default_rng(seed)
    known = np.stack([rng.integers(0, N, L), rng.integers(0, M, L)], 1)
    known = known[np.arange(L) % rng.integers(1, L + 1)]
    return PairedData(cloud(rng, N, 5), cloud(rng, M, 3), Pairs.from_array(known))


def solved(solver, data: PairedData, cost=None):
    coupling = solver.solve(cost or BridgeCost().prepare(data), data.x, data.y)
    assert bool(coupling.convergence.converged)
    return coupling


def values(coupling) -> np.ndarray:
    return np.asarray(coupling.to_dense(), np.float64)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@often
@given(seed=SEEDS)
def test_balanced_couplings_keep_both_marginals(solver, seed):
    data = problem(seed)
    pi = values(solved(solver, data))
    assert np.all(pi >= 0)
    assert np.abs(pi.sum(1) - data.x.weights).sum() < 2e-4
    assert np.abs(pi.sum(0) - data.y.weights).sum() < 2e-4


@pytest.mark.parametrize("solver", UNBALANCED.values(), ids=UNBALANCED)
@often
@given(seed=SEEDS)
def test_mass_under_tau_is_where_scaling_gains_nothing(solver, seed):
    """The derivative of the objective at s π by s vanishes at s = 1, and mass is at most one."""
    data = problem(seed)
    geometry = BridgeCost().prepare(data)
    coupling = solved(solver, data, geometry)
    pi, epsilon = values(coupling), solver.epsilon
    mu, nu = np.asarray(data.x.weights, float), np.asarray(data.y.weights, float)
    cost = np.asarray(geometry.matrix(), float)
    cost /= mu @ cost @ nu
    if isinstance(coupling, BridgeCoupling):
        cost = soft(geometry, solver, data)
    slope = np.sum(cost * pi) + epsilon * xlogy(pi, pi / np.outer(mu, nu)).sum()
    for tau, marginal, weights in ((solver.tau_x, pi.sum(1), mu), (solver.tau_y, pi.sum(0), nu)):
        if tau < 1:
            slope += epsilon * tau / (1 - tau) * xlogy(marginal, marginal / weights).sum()
    if solver.tau_x == 1:  # then the mass is given, and only the relaxed marginal moves
        assert pi.sum() == pytest.approx(1, abs=1e-4)
    else:
        assert abs(slope) < 1e-3
        assert pi.sum() < 1 + 1e-4


def soft(geometry: BridgeGeometry, solver, data: PairedData) -> np.ndarray:
    """The solver's own soft minimum of Eq. 6, over the mean of the hard one."""
    mean = float(geometry.mean(data.x.weights, data.y.weights))
    kernel = FactoredKernel(geometry.a, geometry.b, mean * solver.epsilon)
    return -solver.epsilon * log_kernel(kernel, M)


def log_kernel(kernel: FactoredKernel, size: int) -> np.ndarray:
    """log K column by column: log_to_source of the points of a basis."""
    basis = jnp.log(jnp.eye(size))
    return np.asarray(jax.vmap(kernel.log_to_source)(basis), float).T


@often
@given(seed=SEEDS, epsilon=st.floats(1e-3, 1.0))
def test_the_soft_minimum_is_at_most_epsilon_log_l_below_the_minimum(seed, epsilon):
    geometry = BridgeCost().prepare(problem(seed))
    kernel = FactoredKernel(geometry.a, geometry.b, epsilon)
    below = np.asarray(geometry.matrix(), float) + epsilon * log_kernel(kernel, M)
    assert below.min() > -1e-5
    assert below.max() < epsilon * np.log(L) + 1e-5


@often
@given(seed=SEEDS)
def test_draws_follow_the_coupling(seed):
    rng = np.random.default_rng(seed)
    factors = [jnp.asarray(rng.normal(size=(k, L)), jnp.float32) for k in (N, M)]
    table = jnp.asarray(rng.exponential(size=(N, M)), jnp.float32)
    key = jax.random.key(seed)
    for coupling in (
        BridgeCoupling(*factors, 1.0, jnp.zeros(N), jnp.zeros(M), Convergence.exact()),
        DenseCoupling(table, Convergence.exact()),
    ):
        expected = values(coupling).ravel()
        i, j = map(np.asarray, coupling.sample(key, 50_000))
        counts = np.bincount(i * M + j, minlength=N * M)
        # Sums, so that every cell expects enough draws.
        order = np.argsort(expected)
        counts, expected = (v[order].reshape(-1, 8).sum(1) for v in (counts, expected))
        assert chisquare(counts, expected / expected.sum() * 50_000).pvalue > 1e-4


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@often
@given(seed=SEEDS)
def test_permuting_points_permutes_the_coupling(solver, seed):
    data = problem(seed)
    rng = np.random.default_rng(seed)
    p, q = rng.permutation(N), rng.permutation(M)
    known = np.stack(
        [
            np.argsort(p)[np.asarray(data.pairs.source)],
            np.argsort(q)[np.asarray(data.pairs.target)],
        ],
        1,
    )
    moved = PairedData(
        Cloud(data.x.points[p], data.x.weights[p], None),
        Cloud(data.y.points[q], data.y.weights[q], None),
        Pairs.from_array(known),
    )
    before, after = values(solved(solver, data)), values(solved(solver, moved))
    assert np.abs(after - before[np.ix_(p, q)]).sum() < 2e-3


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@often
@given(seed=SEEDS)
def test_points_listed_twice_change_nothing_once_collapsed(solver, seed):
    data = problem(seed)
    rng = np.random.default_rng(seed)
    part = rng.uniform(0.1, 0.9, M)
    weights = np.concatenate([part * data.y.weights, (1 - part) * data.y.weights])
    points = jnp.concatenate([data.y.points, data.y.points])
    twice = PairedData(data.x, replace_weights(Cloud.uniform(points), weights), data.pairs)
    listed = values(couple(twice, BridgeCost(), solver))
    together = listed[:, :M] + listed[:, M:]
    once = values(couple(data, BridgeCost(), solver))  # a pair listed twice counts once in both
    assert np.abs(together - once).sum() < 2e-3
    np.testing.assert_allclose(listed[:, :M], part * together, rtol=1e-3, atol=1e-20)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@often
@given(seed=SEEDS, scale=st.floats(1e-3, 1e3))
def test_scaling_both_costs_changes_nothing(solver, seed, scale):
    data = problem(seed)
    geometry = BridgeCost().prepare(data)
    scaled = BridgeGeometry(scale * geometry.a, scale * geometry.b)
    before, after = values(solved(solver, data)), values(solved(solver, data, scaled))
    assert np.abs(after - before).sum() < 2e-3


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@often
@given(seed=SEEDS)
def test_float32_agrees_with_float64(solver, seed):
    data = problem(seed)
    geometry = BridgeCost().prepare(data)
    if not isinstance(solver, BridgeSinkhorn):
        geometry = DenseGeometry(geometry.matrix())
    single = values(solved(solver, data, geometry))
    with jax.enable_x64(True):
        wide, wide_cost = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a), jnp.float64) if a.dtype == jnp.float32 else a,
            (data, geometry),
        )
        double = values(solved(solver, wide, wide_cost))
    assert double.dtype == np.float64
    assert np.abs(single - double).sum() < 2e-3
