"""Intra-space costs and the bridge cost, against SciPy and a loop over Eq. 6."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_costs.bridge import BridgeCost
from scipy.spatial.distance import cdist

from morphkit import geometry
from morphkit.transport.geometry import (
    BridgeGeometry,
    DenseGeometry,
    PointGeometry,
    min_plus,
    pairwise,
)


@pytest.mark.parametrize("metric", geometry.METRICS)
def test_intra_space_costs_match_scipy(metric, rng):
    x, y = rng.normal(size=(30, 7)) + 2, rng.normal(size=(20, 7)) + 2
    ours = pairwise(metric, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(ours, cdist(x, y, metric), rtol=1e-4, atol=1e-5)


def test_a_zero_vector_is_at_cosine_distance_one(rng):
    x = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32).at[2].set(0)
    np.testing.assert_allclose(pairwise("cosine", x, x)[2], 1.0, rtol=1e-6)


def bridge_by_loops(x, y, pairs, metric):
    """Eq. 6, literally, in float64."""
    cost = np.empty((len(x), len(y)))
    known = {tuple(p) for p in pairs}
    c_x, c_y = cdist(x, x, metric), cdist(y, y, metric)
    for i in range(len(x)):
        for j in range(len(y)):
            cost[i, j] = 0 if (i, j) in known else min(c_x[i, p] + c_y[q, j] for p, q in pairs)
    return cost


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean", "correlation"])
def test_bridge_cost_is_equation_6(metric, paired):
    pairs = np.stack([paired.pairs.source, paired.pairs.target], 1)
    x, y = np.asarray(paired.x.points, float), np.asarray(paired.y.points, float)
    expected = bridge_by_loops(x, y, pairs, metric)
    prepared = BridgeCost(metric, metric).prepare(paired)
    np.testing.assert_allclose(prepared.matrix(), expected, rtol=1e-4, atol=1e-6 * expected.max())
    assert (np.asarray(prepared.matrix())[expected == 0] == 0).all()
    np.testing.assert_allclose(
        prepared.mean(paired.x.weights, paired.y.weights), expected.mean(), rtol=1e-4
    )


def test_min_plus_beyond_one_block(rng):
    a, b = rng.uniform(size=(70, 11)), rng.uniform(size=(45, 11))
    expected = (a[:, None] + b[None]).min(-1)
    np.testing.assert_allclose(min_plus(jnp.asarray(a), jnp.asarray(b)), expected, rtol=1e-6)


@pytest.mark.parametrize("weights", ["uniform", "far from it"])
def test_the_mean_of_a_large_bridge_cost_is_that_of_all_its_entries(rng, weights):
    assert geometry.MEAN_PAIRS < 4000 * 3000
    labels = np.arange(4000) % 10  # a period that any regular subsampling would see
    centres = 3 * rng.normal(size=(10, 4))
    sides = [centres[labels[:k]] + rng.normal(size=(k, 4)) for k in (4000, 3000)]
    factors = [
        pairwise("sqeuclidean", *(jnp.asarray(v, jnp.float32) for v in (x, x[:50]))) for x in sides
    ]
    mu, nu = (
        np.full(k, 1 / k) if weights == "uniform" else rng.dirichlet(np.full(k, 0.5))
        for k in (4000, 3000)
    )
    data = BridgeGeometry(*factors)
    expected = mu @ np.asarray(data.matrix(), float) @ nu
    ours = data.mean(jnp.asarray(mu, jnp.float32), jnp.asarray(nu, jnp.float32))
    np.testing.assert_allclose(ours, expected, rtol=5e-4 if weights == "uniform" else 2e-3)


def test_take_is_a_submatrix_for_every_geometry(rng):
    a, b = (jnp.asarray(rng.uniform(size=(k, 4)), jnp.float32) for k in (12, 9))
    rows, cols = jnp.array([3, 0, 11, 3]), jnp.array([8, 1])
    bridge = BridgeGeometry(a, b)
    for whole in (bridge, DenseGeometry(bridge.matrix()), PointGeometry(a, b, "cosine")):
        part = jax.jit(lambda g, r, c: g.take(r, c).matrix())(whole, rows, cols)
        np.testing.assert_allclose(part, np.asarray(whole.matrix())[rows][:, cols], atol=1e-6)
        assert whole.shape == (12, 9)


def test_point_geometry_mean_needs_no_matrix(rng):
    u, v = (jnp.asarray(rng.normal(size=(k, 4)), jnp.float32) for k in (40, 30))
    whole = PointGeometry(u, v, "cosine")
    mu, nu = (jnp.asarray(rng.dirichlet(np.ones(k)), jnp.float32) for k in (40, 30))
    np.testing.assert_allclose(whole.mean(mu, nu), mu @ whole.matrix() @ nu, rtol=1e-4)


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match=r"BridgeCost\.metric_y = 'manhattan'.*cosine"):
        BridgeCost(metric_y="manhattan")


def test_a_dense_cost_that_is_too_large_is_refused_before_it_is_built():
    huge = BridgeGeometry(jnp.zeros((100_000, 1)), jnp.zeros((100_000, 1)))
    with pytest.raises(MemoryError, match="BridgeSinkhorn"):
        geometry.dense(huge)
