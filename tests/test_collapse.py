"""Points that coincide are solved for as one, exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_aligners.aligners import LocalAlignment
from morphkit_costs.bridge import BridgeCost
from morphkit_costs.geodesic import GeodesicBridgeCost
from morphkit_costs.knn import KNNCost
from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn
from morphkit_solvers.gromov import FusedGromovWasserstein
from morphkit_solvers.sinkhorn import Sinkhorn
from scipy.stats import chisquare

from morphkit.transport import collapse as module
from morphkit.transport.collapse import CollapsedCoupling, Groups, collapse
from morphkit.transport.couple import couple
from morphkit.transport.couplings import DenseCoupling
from morphkit.types import Cloud, PairedData, Pairs


@pytest.fixture
def repeated(paired) -> PairedData:
    """The target points 0-9 once more, with weights that differ, one pair twice."""
    weights = np.random.default_rng(1).uniform(0.5, 2, 60)
    again = np.concatenate([np.arange(50), np.arange(10)])
    y = Cloud(paired.y.points[again], jnp.asarray(weights / weights.sum()), paired.y.labels[again])
    pairs = np.stack([np.arange(9), np.arange(9)], 1)
    pairs[3:6, 1] += 50
    return PairedData(paired.x, y, Pairs.from_array(np.concatenate([pairs, pairs[:1]])))


@pytest.mark.parametrize(
    "solver",
    [
        Sinkhorn(0.05, threshold=1e-6),
        Sinkhorn(0.05, 0.9, 0.95, threshold=1e-6),
        FusedGromovWasserstein(0.1, threshold=1e-6),
    ],
)
def test_solving_for_distinct_points_changes_nothing(repeated, solver):
    collapsed = couple(repeated, BridgeCost(), solver)
    whole = solver.solve(BridgeCost().prepare(repeated), repeated.x, repeated.y)
    assert isinstance(collapsed, CollapsedCoupling)
    assert collapsed.groups.shape == (60, 50)
    np.testing.assert_allclose(collapsed.marginal(1), whole.marginal(1), rtol=1e-3)
    np.testing.assert_allclose(collapsed.to_dense(), whole.to_dense(), rtol=2e-2, atol=1e-7)


def test_draws_follow_the_matrix(repeated):
    coupling = couple(repeated, BridgeCost(), BridgeSinkhorn(0.3))
    i, j = jax.jit(lambda k: coupling.sample(k, 200_000))(jax.random.key(0))
    expected = np.asarray(coupling.to_dense(), float).sum(0)
    counts = np.bincount(np.asarray(j), minlength=60)
    assert chisquare(counts, expected / expected.sum() * 200_000).pvalue > 1e-3
    assert len(np.unique(np.asarray(i))) == 60


def test_distinct_points_are_left_alone(paired):
    assert collapse(paired) is None


def test_a_pair_listed_twice_counts_once(paired):
    known = np.stack([paired.pairs.source, paired.pairs.target], 1)
    twice = PairedData(paired.x, paired.y, Pairs.from_array(np.concatenate([known, known[:4]])))
    solver = BridgeSinkhorn(0.05)
    np.testing.assert_allclose(
        couple(twice, BridgeCost(), solver).to_dense(),
        couple(paired, BridgeCost(), solver).to_dense(),
        rtol=1e-5,
    )


@pytest.mark.parametrize("cost", [BridgeCost(), KNNCost(k=3), GeodesicBridgeCost(k=3)])
def test_local_alignment_prepares_distinct_points(repeated, cost):
    """Of 40 copies of a point every neighbour is a copy: a graph of them would fall apart."""
    y = Cloud.uniform(jnp.repeat(repeated.y.points[:10], 40, axis=0))
    known = np.stack([np.arange(10), 40 * np.arange(10)], 1)
    data = PairedData(repeated.x, y, Pairs.from_array(known))
    prepared = LocalAlignment().sampler(data, cost, Sinkhorn()).cost
    small = PairedData(data.x, Cloud.uniform(repeated.y.points[:10]), Pairs.from_array(
        np.stack([np.arange(10)] * 2, 1)))  # fmt: skip
    expected = np.asarray(cost.prepare(small).matrix())
    assert prepared.shape == (60, 400)
    np.testing.assert_allclose(prepared.matrix(), np.repeat(expected, 40, 1), rtol=1e-4, atol=1e-6)


def test_groups_keep_the_order_and_the_weight(repeated):
    cloud, groups = Groups.of(repeated.y)
    np.testing.assert_array_equal(cloud.points, repeated.y.points[:50])
    np.testing.assert_allclose(
        cloud.weights[groups.index] * groups.share, repeated.y.weights, rtol=1e-5
    )
    assert collapse(repeated).data.pairs.size == 9


@pytest.mark.parametrize("collide", [False, True])
def test_distinct_points_are_those_of_a_sort(monkeypatch, collide):
    rng = np.random.default_rng(0)
    points = rng.integers(-1, 2, (500, 4)).astype(np.float32)
    points[points == 0] *= rng.choice([-1, 1], (points == 0).sum())  # 0 and -0 are one number
    monkeypatch.setattr(module, "BLOCK", 64)
    if collide:  # every point has the same hash
        monkeypatch.setattr(module, "_bits", lambda points: np.zeros(points.shape, np.uint64))
    first, index = module.distinct(points)
    assert len(first) == len({tuple(point) for point in points.tolist()})
    np.testing.assert_array_equal(points[first][index], points)
    for k, i in enumerate(first):
        assert not (points[:i] == points[i]).all(1).any()
        assert index[i] == k
    alone, every = module.distinct(rng.normal(size=(100, 3)).astype(np.float32))
    np.testing.assert_array_equal(alone, np.arange(100))
    np.testing.assert_array_equal(every, np.arange(100))
    nothing, none = module.distinct(np.zeros((0, 3), np.float32))
    assert len(nothing) == len(none) == 0


def test_what_is_asked_of_the_groups_is_what_all_points_say(repeated):
    """The diagnostics of a dense coupling of all points; labels differ within groups."""
    x = np.asarray(repeated.x.points)
    again = np.concatenate([np.arange(60), [3, 3, 7]])
    weights = np.random.default_rng(2).uniform(0.5, 2, 63)
    data = PairedData(
        Cloud(jnp.asarray(x[again]), jnp.asarray(weights / weights.sum(), jnp.float32), None),
        repeated.y, repeated.pairs,
    )  # fmt: skip
    found = couple(data, BridgeCost(), Sinkhorn(0.1))
    assert isinstance(found, CollapsedCoupling)
    dense = DenseCoupling(found.to_dense(), found.convergence)
    labels = (jnp.asarray(np.random.default_rng(k).integers(-1, 3, k)) for k in (63, 60))
    labels_x, labels_y = labels
    np.testing.assert_allclose(
        found.matching_accuracy(labels_x, labels_y),
        dense.matching_accuracy(labels_x, labels_y),
        rtol=1e-4,
    )
    np.testing.assert_allclose(found.entropy(), dense.entropy(), rtol=1e-4)
    np.testing.assert_allclose(found.effective_support(), dense.effective_support(), rtol=1e-3)
    np.testing.assert_allclose(
        found.barycentres(data.y.points), dense.barycentres(data.y.points), atol=1e-5
    )
    matrix, best = np.asarray(dense.values), np.asarray(found.most_probable())
    np.testing.assert_allclose(matrix[np.arange(63), best], matrix.max(1), rtol=1e-6)
