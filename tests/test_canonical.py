"""Canonical coordinates and their refinement, against Procrustes, CCA and dense NumPy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.neighbors
from cca_zoo.linear import RidgeCCA
from hypothesis import given, settings
from hypothesis import strategies as st
from morphkit_aligners.refined import RefinedAlignment
from morphkit_costs import coordinates as coordinates_module
from morphkit_costs.bridge import BridgeCost
from morphkit_costs.canonical import CanonicalCost
from morphkit_costs.coordinates import coordinates
from morphkit_solvers.gromov import FusedGromovWasserstein
from morphkit_solvers.sinkhorn import Sinkhorn
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group
from sklearn.cross_decomposition import CCA

from morphkit.transport import entropic
from morphkit.transport.couple import taken
from morphkit.transport.entropic import EntropicMap
from morphkit.transport.partly import PartlyKnownCoupling, unpaired
from morphkit.types import Cloud, PairedData, Pairs

PLAIN = CanonicalCost(1.0, 1.0, 0.0, features_x="identity", features_y="identity")


def rotated(rng, n: int, pairs: int, noise: float = 0.0) -> tuple[PairedData, np.ndarray]:
    """n points (5-d), their rotation in another order, and which target belongs to which source."""
    spread = np.array([5.0, 3.0, 2.0, 1.0, 0.5])
    x = rng.gamma(2, size=(n, 5)) * spread  # skewed, so that no reflection fits as well
    order = rng.permutation(n)
    y = (x @ ortho_group.rvs(5, random_state=rng) + noise * rng.normal(size=x.shape))[order]
    truth = np.argsort(order)
    known = np.stack([np.arange(pairs), truth[:pairs]], axis=1)
    return PairedData(Cloud.uniform(x), Cloud.uniform(y), Pairs.from_array(known)), truth


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))
    return a @ b.T


def centred(cloud: Cloud) -> np.ndarray:
    points = np.asarray(cloud.points, np.float64)
    return points - points.mean(0)


def test_fully_shrunk_and_unweighted_it_is_procrustes(rng):
    data, _ = rotated(rng, 40, 12, noise=0.3)
    x, y = centred(data.x), centred(data.y)
    source, target = np.asarray(data.pairs.source), np.asarray(data.pairs.target)
    rotation, _ = orthogonal_procrustes(x[source], y[target])
    found = PLAIN.prepare(data).matrix()
    np.testing.assert_allclose(found, 1 - cosines(x @ rotation, y), atol=1e-5)


def test_with_all_points_paired_and_nothing_shrunk_it_is_cca(rng):
    shared = rng.normal(size=(300, 3))
    x = shared @ rng.normal(size=(3, 5)) + rng.normal(size=(300, 5))
    y = shared @ rng.normal(size=(3, 4)) + rng.normal(size=(300, 4))
    pairs = Pairs.from_array(np.stack([np.arange(300)] * 2, axis=1))
    data = PairedData(Cloud.uniform(x), Cloud.uniform(y), pairs)
    cost = CanonicalCost(0.0, 0.0, features_x="identity", features_y="identity")
    geometry = cost.prepare(data)
    a, b = np.asarray(geometry.u), np.asarray(geometry.v)
    theirs = CCA(4, max_iter=5000, tol=1e-10).fit_transform(x, y)
    for k in range(4):
        ours = np.corrcoef(a[:, k], b[:, k])[0, 1]
        assert abs(ours - np.corrcoef(theirs[0][:, k], theirs[1][:, k])[0, 1]) < 1e-3
        assert abs(np.corrcoef(a[:, k], theirs[0][:, k])[0, 1]) > 0.999


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000), shrinkage_x=st.floats(0, 0.95), shrinkage_y=st.floats(0, 0.95)
)  # fmt: skip
def test_with_all_points_paired_it_is_the_canonical_ridge_of_cca_zoo(
    seed, shrinkage_x, shrinkage_y
):
    """Of sides whose mean variance is 1, towards which both shrink."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(200, 3))
    x, y = (shared @ rng.normal(size=(3, d)) + rng.normal(size=(200, d)) for d in (5, 4))
    x, y = ((a - a.mean(0)) / np.sqrt(a.var(0, ddof=1).mean()) for a in (x, y))
    pairs = Pairs.from_array(np.stack([np.arange(200)] * 2, axis=1))
    data = PairedData(Cloud.uniform(x), Cloud.uniform(y), pairs)
    cost = CanonicalCost(shrinkage_x, shrinkage_y, features_x="identity", features_y="identity")
    geometry = cost.prepare(data)
    theirs = RidgeCCA(4, shrinkage=[shrinkage_x, shrinkage_y]).fit([x, y]).transform([x, y])
    for k in range(4):
        for ours, their in zip((geometry.u, geometry.v), theirs, strict=True):
            assert abs(np.corrcoef(np.asarray(ours)[:, k], their[:, k])[0, 1]) > 0.999


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), features=st.sampled_from(["identity", "unit"]))
def test_rotations_and_orders_of_a_side_change_nothing(seed, features):
    rng = np.random.default_rng(seed)
    data, _ = rotated(rng, 30, 10, noise=0.5)
    cost = CanonicalCost(0.5, 0.2, features_x=features, features_y=features)
    order = rng.permutation(30)
    turned = np.asarray(data.x.points) @ ortho_group.rvs(5, random_state=rng)
    pairs = Pairs(jnp.asarray(np.argsort(order))[data.pairs.source], data.pairs.target)
    other = PairedData(Cloud.uniform(turned[order]), data.y, pairs)
    before, after = (np.asarray(cost.prepare(d).matrix()) for d in (data, other))
    np.testing.assert_allclose(after, before[order], atol=1e-4)


@pytest.mark.parametrize("features", ["identity", "unit", "rbf", "diffusion"])
def test_new_points_lie_where_the_same_points_of_the_cloud_do(rng, features):
    cloud = Cloud.uniform(rng.normal(size=(60, 4)) + 5)
    to, own = coordinates(features, cloud, neighbours=5, components=10)
    np.testing.assert_allclose(own.mean(0), 0, atol=1e-9)
    assert np.mean(own**2) == pytest.approx(1)
    np.testing.assert_allclose(to(np.asarray(cloud.points)), own, atol=1e-6)
    near = to(np.asarray(cloud.points) + 1e-4)
    assert np.abs(near - own).mean() < 0.5 * np.abs(own[:, None] - own).mean()


@pytest.mark.parametrize("features", ["identity", "unit", "rbf"])
def test_a_large_cloud_is_the_same_by_blocks_in_single_precision(rng, monkeypatch, features):
    data, _ = rotated(rng, 90, 25, noise=0.3)
    data = replace(data, x=Cloud.uniform(np.asarray(data.x.points) + 100))
    cost = CanonicalCost(0.5, 0.2, features_x=features, features_y=features)
    few = RefinedAlignment(rounds=2).refine(data, cost, Sinkhorn(0.05))
    monkeypatch.setattr(coordinates_module, "ROWS", 32)
    monkeypatch.setattr(coordinates_module, "DOUBLE", 100)
    many = RefinedAlignment(rounds=2).refine(data, cost, Sinkhorn(0.05))
    assert (few.fitted.x.dtype, many.fitted.x.dtype) == (np.float64, np.float32)
    costs = [np.asarray(found.fitted.geometry.matrix()) for found in (few, many)]
    np.testing.assert_allclose(costs[1], costs[0], atol=2e-4)
    np.testing.assert_allclose(many.coupling.to_dense(), few.coupling.to_dense(), atol=2e-5)


def test_the_graph_of_a_cloud_is_made_once_for_all_parts_of_a_choice(rng, monkeypatch):
    made = []

    class Search(sklearn.neighbors.NearestNeighbors):
        def kneighbors(self, *args, **kwargs):
            made.append(self.n_samples_fit_)
            return super().kneighbors(*args, **kwargs)

    monkeypatch.setattr(coordinates_module, "NearestNeighbors", Search)
    data, _ = rotated(rng, 61, 12)
    cost = CanonicalCost(features_x="diffusion", features_y="diffusion", neighbours=5)
    few = replace(data, pairs=Pairs(data.pairs.source[:8], data.pairs.target[:8]))
    whole, part = cost.fit(data), cost.fit(few)
    assert made == [61, 61]  # a graph a side
    np.testing.assert_array_equal(whole.x, part.x)
    assert np.abs(whole.known - part.known).max() > 1e-3
    cost.fit(rotated(rng, 61, 12)[0])  # another cloud of that size
    assert len(made) == 4


def test_a_refinement_can_start_from_another_cost(rng):
    """By hand: the coupling under that cost, what the own cost learns from it, and its coupling."""
    data, _ = rotated(rng, 60, 12, noise=0.1)
    solver, other = Sinkhorn(0.05), BridgeCost()
    found = RefinedAlignment(1, 0.7, start=other).refine(data, PLAIN, solver)
    part, fitted = unpaired(data), PLAIN.fit(data)
    assert part is not None
    first = taken(other.prepare(data), solver).take(part.i, part.j)
    learned = fitted.learn(solver.solve(first, part.x, part.y), part.i, part.j, 0.7)
    np.testing.assert_allclose(found.fitted.cross, learned.cross, atol=1e-5)
    plain = RefinedAlignment(1, 0.7).refine(data, PLAIN, solver)
    assert np.abs(found.fitted.cross - plain.fitted.cross).max() > 1e-3


def test_learning_is_the_covariance_under_the_coupling(rng):
    data, _ = rotated(rng, 40, 8, noise=0.1)
    part, fitted = unpaired(data), PLAIN.fit(data)
    assert part is not None
    coupling = Sinkhorn(0.05).solve(fitted.geometry.take(part.i, part.j), part.x, part.y)
    learned = fitted.learn(coupling, part.i, part.j, 0.7)
    pi = np.asarray(coupling.to_dense(), np.float64)
    x, y = fitted.x[np.asarray(part.i)], fitted.y[np.asarray(part.j)]
    expected = 0.3 * fitted.known + 0.7 * x.T @ (pi / pi.sum()) @ y
    np.testing.assert_allclose(learned.cross, expected, atol=1e-5)
    np.testing.assert_array_equal(learned.known, fitted.known)


def test_refinement_finds_what_few_pairs_do_not(rng):
    data, truth = rotated(rng, 300, 2)
    found = {}
    for rounds in (0, 10):
        aligner = RefinedAlignment(max(rounds, 1), 0.9 if rounds else 0.0)
        rows = aligner.couple(data, PLAIN, Sinkhorn(0.02)).to_dense()
        found[rounds] = np.mean(np.asarray(rows)[2:].argmax(1) == truth[2:])
    assert found[0] < 0.6
    assert found[10] > 0.95


@pytest.mark.parametrize("repeated", [False, True])
def test_marginals_hold(rng, repeated):
    data, _ = rotated(rng, 60, 12, noise=0.5)
    if repeated:  # classes: pairs of one target, targets that coincide
        y = data.y.points[jnp.arange(60) % 6]
        pairs = Pairs(data.pairs.source, data.pairs.source % 6)
        data = PairedData(data.x, Cloud.uniform(y), pairs)
    coupling = RefinedAlignment(3).couple(data, CanonicalCost(), Sinkhorn(0.05))
    np.testing.assert_allclose(coupling.marginal(0), data.x.weights, atol=1e-6)
    assert float(coupling.violation(1, data.y.weights)) < 2e-3
    i = np.asarray(data.pairs.source)
    rows = np.asarray(coupling.rows(jnp.asarray(i)))
    assert np.all(rows[:, np.asarray(data.pairs.target)].diagonal() > 0)


def test_the_map_of_the_points_is_their_row(rng, monkeypatch):
    """Of the problem that its potential solves, that of all points."""
    data, _ = rotated(rng, 50, 5, noise=0.2)
    solver = Sinkhorn(0.05, threshold=1e-5)
    found = RefinedAlignment(3).sampler(data, CanonicalCost(), solver).map
    assert isinstance(found, EntropicMap)
    whole = solver.solve(found.cost.at(np.asarray(data.x.points)), data.x, data.y)
    rows = np.exp(np.asarray(found.log_conditional(data.x.points)))
    expected = jnp.exp(whole.log_conditional(jnp.arange(50)))
    np.testing.assert_allclose(rows, expected, atol=1e-4)
    mean = rows @ np.asarray(data.y.points)
    np.testing.assert_allclose(found(data.x.points), mean, rtol=1e-4, atol=1e-4)
    best = replace(found, estimate="mode")
    np.testing.assert_array_equal(best(data.x.points), data.y.points[rows.argmax(1)])
    monkeypatch.setattr(entropic, "BLOCK", 7 * 50)  # several blocks, the last of them padded
    np.testing.assert_allclose(found(data.x.points), mean, rtol=1e-4, atol=1e-4)
    assert found(data.x.points[:0]).shape == (0, 5)


def test_a_round_of_a_large_cloud_learns_from_the_coupling_of_a_part(rng):
    """And the whole is coupled under what it learned."""
    data, _ = rotated(rng, 60, 8, noise=0.1)
    part, solver = unpaired(data), Sinkhorn(0.05, threshold=1e-5)
    assert part is not None
    some = part.some(20, 0)
    assert some.i.shape == some.j.shape == (20,)
    assert set(some.i.tolist()) < set(part.i.tolist())
    np.testing.assert_array_equal(some.y.points, data.y.points[some.j])
    np.testing.assert_allclose(some.x.weights.sum(), 1, rtol=1e-6)
    assert some.i.tolist() == part.some(20, 0).i.tolist() != part.some(20, 1).i.tolist()
    assert part.some(52, 0) is part

    first = PLAIN.fit(data)
    pi = solver.solve(first.geometry.take(some.i, some.j), some.x, some.y).to_dense()
    x, y = first.x[np.asarray(some.i)], first.y[np.asarray(some.j)]
    expected = 0.3 * first.known + 0.7 * x.T @ np.asarray(pi, float) @ y
    found = RefinedAlignment(1, 0.7, points=20, whole=0).refine(data, PLAIN, solver)
    np.testing.assert_allclose(found.fitted.cross, expected, atol=1e-5)
    last = found.fitted.geometry.take(part.i, part.j)
    whole = PartlyKnownCoupling.of(data, part, solver.solve(last, part.x, part.y))
    np.testing.assert_allclose(found.coupling.to_dense(), whole.to_dense(), atol=1e-6)

    found = RefinedAlignment(1, 0.7, points=20, whole=1).refine(data, PLAIN, solver)
    expected = RefinedAlignment(1, 0.7).refine(data, PLAIN, solver)
    np.testing.assert_array_equal(found.fitted.cross, expected.fitted.cross)


def test_parts_find_what_the_whole_does(rng):
    """With two pairs, which a coupling without refinement gets wrong (above). How far it moves is
    measured on the same points each time, and so comes to rest but for what other parts teach."""
    data, truth = rotated(rng, 300, 2)
    found = RefinedAlignment(10, rest=0.0, points=100, whole=0).refine(data, PLAIN, Sinkhorn(0.02))
    rows = np.asarray(found.coupling.to_dense())
    assert np.mean(rows[2:].argmax(1) == truth[2:]) > 0.9
    assert len(found.moves) == 10
    assert max(found.moves[-3:]) < 0.3 * max(found.moves)


def test_pairs_and_the_rest_are_drawn_as_often_as_they_weigh(rng):
    data, _ = rotated(rng, 12, 4)
    part = unpaired(data)
    assert part is not None
    rest = Sinkhorn(0.5).solve(PLAIN.prepare(data).take(part.i, part.j), part.x, part.y)
    coupling = PartlyKnownCoupling.of(data, part, rest)
    dense = np.asarray(coupling.to_dense())
    np.testing.assert_allclose(dense.sum(1), coupling.marginal(0), atol=1e-6)
    np.testing.assert_allclose(dense.sum(0), coupling.marginal(1), atol=1e-6)
    i, j = coupling.sample(jax.random.key(0), 100_000)
    counts = np.zeros(dense.shape)
    np.add.at(counts, (np.asarray(i), np.asarray(j)), 1e-5)
    np.testing.assert_allclose(counts, dense, atol=4e-3)


def test_what_pairs_take_is_not_there_for_others():
    """Two sources share target 0, one source has targets 1 and 2; target 3 has no pair."""
    cloud = Cloud.uniform(np.arange(12.0).reshape(4, 3))
    pairs = Pairs.from_array(np.array([[0, 0], [1, 0], [2, 1], [2, 2]]))
    part = unpaired(PairedData(cloud, cloud, pairs))
    assert part is not None
    assert part.i.tolist() == [3]
    assert part.j.tolist() == [1, 2, 3]  # the pairs take twice what target 0 has
    np.testing.assert_allclose(part.known, [0.25, 0.25, 0.125, 0.125])
    np.testing.assert_allclose(part.y.weights, [0.25, 0.25, 0.5], atol=1e-6)


def test_a_cost_that_cannot_learn_is_refused(paired):
    with pytest.raises(ValueError, match=r"BridgeCost .* take a cost that learns"):
        RefinedAlignment().couple(paired, BridgeCost(), Sinkhorn())


def test_points_that_all_coincide_are_refused(paired):
    flat = PairedData(Cloud.uniform(np.ones((5, 2))), paired.y, Pairs(*[jnp.arange(2)] * 2))
    with pytest.raises(ValueError, match="all points of a side coincide"):
        CanonicalCost().prepare(flat)


def test_a_quadratic_solver_refines_and_maps_nothing(rng):
    data, _ = rotated(rng, 30, 6)
    solver = FusedGromovWasserstein(0.05)
    found = RefinedAlignment(2).sampler(data, CanonicalCost(), solver)
    assert np.isfinite(np.asarray(found.coupling.to_dense())).all()
    assert found.map is None
