"""Starts of the fused solver, against mirror descent in dense NumPy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_solvers.gromov import FusedGromovWasserstein, objective, random_coupling
from scipy.spatial.distance import cdist
from scipy.special import xlogy
from scipy.stats import ortho_group

from morphkit.transport.couplings import Convergence, DenseCoupling
from morphkit.transport.geometry import DenseGeometry
from morphkit.types import Cloud

N = 30
EPSILON = 0.01
SOLVER = FusedGromovWasserstein(
    EPSILON, 0.7, metric_x="sqeuclidean", metric_y="sqeuclidean", squared=False,
    threshold=1e-4, max_iterations=200, inner_iterations=5000,
)  # fmt: skip


@pytest.fixture(scope="module")
def problem() -> tuple[DenseGeometry, Cloud, Cloud]:
    """Points near a circle, turned, and a cost that says little: many local optima, of which
    the one from μ ⊗ ν is not the best."""
    rng = np.random.default_rng(6)
    angle = np.sort(rng.uniform(0, 2 * np.pi, N))
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x *= 1 + 0.1 * rng.normal(size=(N, 1))
    y = x @ ortho_group.rvs(2, random_state=rng)
    cost = jnp.asarray(rng.uniform(0.9, 1.1, (N, N)), jnp.float32)
    return DenseGeometry(cost), Cloud.uniform(x), Cloud.uniform(y)


def given(values) -> DenseCoupling:
    return DenseCoupling(jnp.asarray(values, jnp.float32), Convergence.exact())


def dense(cost, x, y) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    intra = (cdist(c.points, c.points, "sqeuclidean") for c in (x, y))
    return tuple(c / c.mean() for c in (np.asarray(cost.values, float), *intra))


def equation_3(pi, c, c_x, c_y) -> float:
    p, q = pi.sum(1), pi.sum(0)
    quadratic = p @ c_x**2 @ p + q @ c_y**2 @ q - 2 * np.sum((c_x @ pi @ c_y) * pi)
    return 0.7 * quadratic + 0.3 * np.sum(c * pi) + EPSILON * np.sum(xlogy(pi, pi * N * N))


def descent(pi, c, c_x, c_y, epsilon: float, steps: int) -> np.ndarray:
    """Peyré et al. 2016: Sinkhorn, to the end, on the cost linearised at the last coupling."""
    v = np.ones(N)
    for _ in range(steps):
        quadratic = (c_x**2).mean(1)[:, None] + (c_y**2).mean(1) - 2 * c_x @ pi @ c_y
        kernel = np.exp(-(2 * 0.7 * quadratic + 0.3 * c) / epsilon)
        for _ in range(2000):
            u = 1 / (N * kernel @ v)
            v = 1 / (N * kernel.T @ u)
        pi = u[:, None] * kernel * v
    return pi


def test_a_step_from_a_start_is_mirror_descents(problem):
    start = 0.5 * np.eye(N) / N + 0.5 / N**2
    smooth = replace(SOLVER, epsilon=0.05, threshold=1e-5)
    once = replace(smooth, max_iterations=1)
    found = once.solve(*problem, given(5 * start))  # of whatever mass
    expected = descent(start, *dense(*problem), 0.05, steps=1)
    np.testing.assert_allclose(found.values, expected, atol=2e-5)
    whole = smooth.solve(*problem, given(start))
    expected = descent(start, *dense(*problem), 0.05, steps=15)
    np.testing.assert_allclose(whole.values, expected, atol=2e-5)


def test_from_the_solution_it_stays(problem):
    solution = SOLVER.solve(*problem)
    again = SOLVER.solve(*problem, solution)
    assert int(solution.convergence.iterations) > 4 > int(again.convergence.iterations)
    assert float(jnp.abs(again.values - solution.values).sum()) < 1e-3


def test_a_good_start_finds_what_none_does_not(problem):
    near = given(0.5 * np.eye(N) / N + 0.5 / N**2)
    matrices = dense(*problem)
    warm, cold = (np.asarray(SOLVER.solve(*problem, s).values, float) for s in (near, None))
    assert equation_3(warm, *matrices) < equation_3(cold, *matrices) - 0.01
    assert (
        np.mean(warm.argmax(1) == np.arange(N))
        > 0.8
        > 0.2
        > np.mean(cold.argmax(1) == np.arange(N))
    )


def test_the_objective_kept_is_the_least_of_the_starts(problem):
    matrices, clouds = dense(*problem), problem[1:]
    random = [random_coupling(jax.random.key(k), *clouds) for k in range(1, 5)]
    each = [SOLVER.solve(*problem, s) for s in (None, *map(given, random))]
    values = [equation_3(np.asarray(c.values, float), *matrices) for c in each]
    kept = replace(SOLVER, starts=5).solve(*problem)
    ours = equation_3(np.asarray(kept.values, float), *matrices)
    assert ours == pytest.approx(min(values), abs=1e-5)
    assert ours < values[0] - 0.01
    linear = jnp.asarray(matrices[0], jnp.float32)
    assert float(objective(SOLVER, linear, *clouds, kept.values)) == pytest.approx(ours, abs=1e-5)


def test_several_starts_trace(problem):
    several = replace(SOLVER, starts=2)
    traced = jax.jit(lambda *p: several.solve(*p).values)(*problem)
    np.testing.assert_allclose(traced, several.solve(*problem).values, atol=1e-6)


@pytest.mark.parametrize("weights", ["uniform", "far from it"])
def test_a_random_coupling_has_both_marginals(rng, weights):
    x, y = (Cloud.uniform(rng.normal(size=(k, 3))) for k in (30, 20))
    if weights != "uniform":
        x = replace(x, weights=jnp.asarray(rng.dirichlet(np.ones(30)), jnp.float32))
    pi = np.asarray(random_coupling(jax.random.key(0), x, y))
    np.testing.assert_allclose(pi.sum(1), x.weights, atol=1e-6)
    np.testing.assert_allclose(pi.sum(0), y.weights, atol=1e-6)
    assert np.sum(pi > 1e-7) < 30 + 20  # a vertex of the couplings
    other = np.asarray(random_coupling(jax.random.key(1), x, y))
    assert np.abs(pi - other).sum() > 1


@pytest.mark.parametrize(("tau_x", "tau_y"), [(0.9, 0.8), (1.0, 0.8)])
def test_unbalanced_the_objective_is_equation_3(rng, tau_x, tau_y):
    """With KL of the marginals' squares, for a coupling of any mass."""
    clouds = [Cloud.uniform(rng.normal(size=(k, 3))) for k in (8, 6)]
    pi, c = rng.uniform(0, 0.03, (8, 6)), rng.uniform(0, 2, (8, 6))
    c_x, c_y = (cdist(z.points, z.points, "cosine") for z in clouds)
    c_x, c_y = c_x / c_x.mean(), c_y / c_y.mean()
    square = np.abs(c_x[:, None, :, None] - c_y[None, :, None, :]) ** 2
    joint = np.einsum("ij,kl->ijkl", pi, pi)
    expected = np.sum((0.3 * square + 0.7 * c[:, :, None, None] ** 2) * joint)

    def divergence(p):
        return np.sum(xlogy(p, p * p.size)) - p.sum() + 1

    expected += 0.1 * divergence(pi)
    for tau, p in ((tau_x, pi.sum(1)), (tau_y, pi.sum(0))):
        if tau < 1:
            expected += 0.1 * tau / (1 - tau) * divergence(np.outer(p, p))
    solver = FusedGromovWasserstein(0.1, 0.3, tau_x, tau_y)
    ours = objective(solver, jnp.asarray(c), *clouds, jnp.asarray(pi))
    assert float(ours) == pytest.approx(expected, rel=1e-4)


def test_a_start_of_other_points_is_refused(problem):
    with pytest.raises(ValueError, match=r"start: a coupling of \(3, 4\) points"):
        SOLVER.solve(*problem, given(np.ones((3, 4))))
