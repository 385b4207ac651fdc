"""Low-rank couplings against the exact optimum of a problem that has one of low rank."""

import jax.numpy as jnp
import numpy as np
import ot
import pytest
from morphkit_aligners.aligners import GlobalAlignment
from morphkit_costs.bridge import BridgeCost
from morphkit_costs.canonical import CanonicalCost
from morphkit_solvers.low_rank import LowRankGromovWasserstein, LowRankSinkhorn
from scipy.spatial.distance import cdist

from morphkit.transport.geometry import DenseGeometry, PointGeometry
from morphkit.types import Cloud

CENTRES = np.array([[0, 0, 1], [1, 0, 0.2], [0.8, 0.6, 0], [-0.5, 0.5, 0.3]])


def clusters(sizes_x=(15, 15, 15, 15), sizes_y=(10, 10, 10, 10)):
    """Four tight clusters a side, in one space: the best coupling has (almost) rank four."""
    rng = np.random.default_rng(0)
    sides = []
    for sizes in (sizes_x, sizes_y):
        labels = np.repeat(np.arange(4), sizes)
        points = CENTRES[labels] + 0.02 * rng.normal(size=(len(labels), 3))
        sides.append(Cloud.uniform(points, labels))
    x, y = sides
    return PointGeometry(x.points, y.points, "sqeuclidean"), x, y


@pytest.mark.parametrize("as_dense", [False, True])
def test_low_rank_sinkhorn_comes_near_the_exact_optimum(as_dense):
    cost, x, y = clusters()
    values = np.asarray(cost.matrix(), np.float64)
    solver = LowRankSinkhorn(rank=8, threshold=1e-4)
    coupling = solver.solve(DenseGeometry(cost.matrix()) if as_dense else cost, x, y)
    pi = np.asarray(coupling.to_dense())
    assert bool(coupling.convergence.converged)
    np.testing.assert_allclose(pi.sum(1), x.weights, atol=1e-4)
    np.testing.assert_allclose(pi.sum(0), y.weights, atol=1e-4)
    assert np.linalg.matrix_rank(pi, tol=1e-6 * pi.max()) <= 8
    exact = ot.emd2(np.full(60, 1 / 60), np.full(40, 1 / 40), values)
    assert exact - 1e-3 < np.sum(pi * values) < exact + 0.05 * values.mean()
    assert float(coupling.matching_accuracy(x.labels, y.labels)) > 0.97


def test_low_rank_gromov_wasserstein_matches_clusters():
    cost, x, y = clusters()
    fused = LowRankGromovWasserstein(8, alpha=0.5, threshold=1e-4).solve(cost, x, y)
    assert float(fused.matching_accuracy(x.labels, y.labels)) > 0.97
    quadratic = LowRankGromovWasserstein(8, alpha=1.0, threshold=1e-4).solve(cost, x, y)
    for coupling in (fused, quadratic):
        np.testing.assert_allclose(coupling.marginal(0), x.weights, atol=1e-4)
        np.testing.assert_allclose(coupling.marginal(1), y.weights, atol=1e-4)
    assert float(quadratic.matching_accuracy(x.labels, y.labels)) > 0.97


@pytest.mark.parametrize("squared", [False, True])
def test_alpha_0_is_the_linear_problem(squared):
    cost, x, y = clusters()
    values = np.asarray(cost.matrix(), np.float64)
    values = (values / values.mean()) ** (2 if squared else 1)
    solver = LowRankGromovWasserstein(8, alpha=0.0, squared=squared, threshold=1e-4)
    pi = np.asarray(solver.solve(cost, x, y).to_dense())
    exact = ot.emd2(np.full(60, 1 / 60), np.full(40, 1 / 40), values)
    assert exact - 1e-3 < np.sum(pi * values) < exact + 0.02 * values.mean()
    linear = LowRankSinkhorn(8, threshold=1e-4).solve(DenseGeometry(jnp.asarray(values)), x, y)
    assert abs(np.sum(pi * values) - np.sum(np.asarray(linear.to_dense()) * values)) < 1e-2


def test_alpha_weighs_the_terms_as_equation_3_does():
    """Where the linear cost asks for another match than the distances, the solver of an α has the
    least value of Eq. 3 at that α, of the solvers of all."""
    rng = np.random.default_rng(1)
    x, y = (Cloud.uniform(rng.normal(size=(20, 2))) for _ in range(2))
    cost = rng.random((20, 20))
    c_x, c_y = (cdist(np.asarray(k.points), np.asarray(k.points), "sqeuclidean") for k in (x, y))
    c_x, c_y, c = c_x / c_x.mean(), c_y / c_y.mean(), cost / cost.mean()
    alphas, metric = (0.1, 0.2), "sqeuclidean"
    terms = []
    for alpha in alphas:
        solver = LowRankGromovWasserstein(
            20, alpha=alpha, metric_x=metric, metric_y=metric, threshold=1e-5, max_iterations=5000
        )
        pi = np.asarray(solver.solve(DenseGeometry(jnp.asarray(cost)), x, y).to_dense(), float)
        p, q = pi.sum(1), pi.sum(0)
        quadratic = p @ c_x**2 @ p + q @ c_y**2 @ q - 2 * np.sum((c_x @ pi @ c_y) * pi)
        terms.append((quadratic, np.sum(c**2 * pi)))
    values = [[a * quadratic + (1 - a) * linear for quadratic, linear in terms] for a in alphas]
    assert list(np.argmin(values, axis=1)) == [0, 1]


def test_low_rank_solvers_relax_marginals():
    cost, x, y = clusters((5, 10, 20, 25))
    for solver in (LowRankSinkhorn, LowRankGromovWasserstein):
        kept = solver(rank=8).solve(cost, x, y)
        relaxed = solver(rank=8, tau_y=0.5).solve(cost, x, y)
        assert float(kept.violation(1, y.weights)) < 1e-3
        assert float(relaxed.violation(1, y.weights)) > 0.1
        assert float(relaxed.violation(0, x.weights)) < 0.05


def test_low_rank_arguments_are_named():
    for make, name in (
        (lambda: LowRankSinkhorn(rank=0), "rank"),
        (lambda: LowRankSinkhorn(epsilon=-1), "epsilon"),
        (lambda: LowRankGromovWasserstein(tau_x=0), "tau_x"),
        (lambda: LowRankGromovWasserstein(alpha=-0.1), "alpha"),
        (lambda: LowRankGromovWasserstein(metric_y="dot"), "metric_y"),
    ):
        with pytest.raises(ValueError, match=name):
            make()


def test_a_mixture_says_nothing_of_new_points(paired):
    """Its potentials belong to its components, not to the cost."""
    for cost in (BridgeCost(), CanonicalCost()):
        sampler = GlobalAlignment().sampler(paired, cost, LowRankSinkhorn(4))
        assert sampler.coupling.shape == (60, 50)
        assert sampler.map is None
