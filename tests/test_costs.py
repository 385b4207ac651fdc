"""Intra-space costs and the bridge cost, against SciPy and a loop over Eq. 6."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_costs import bridge
from morphkit_costs import ends as of_ends
from morphkit_costs.bridge import BridgeCost
from morphkit_costs.ends import bridges, nearest
from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn
from morphkit_solvers.sinkhorn import Sinkhorn
from scipy.spatial.distance import cdist

from morphkit import geometry
from morphkit.interfaces import OTSolver
from morphkit.transport.geometry import (
    BridgeGeometry,
    DenseGeometry,
    PointGeometry,
    min_plus,
    pairwise,
)
from morphkit.transport.half import LARGEST, Half, full
from morphkit.types import Cloud, PairedData, Pairs


@pytest.mark.parametrize("metric", geometry.METRICS)
def test_intra_space_costs_match_scipy(metric, rng):
    x, y = rng.normal(size=(30, 7)) + 2, rng.normal(size=(20, 7)) + 2
    ours = pairwise(metric, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(ours, cdist(x, y, metric), rtol=1e-4, atol=1e-5)


def test_a_zero_vector_is_at_cosine_distance_one(rng):
    x = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32).at[2].set(0)
    np.testing.assert_allclose(pairwise("cosine", x, x)[2], 1.0, rtol=1e-6)


def bridge_by_loops(x, y, pairs, metric):
    """Eq. 6, literally, in float64, each side over the mean of all its costs (App. H.4)."""
    cost = np.empty((len(x), len(y)))
    known = {tuple(p) for p in pairs}
    c_x, c_y = (c / c.mean() for c in (cdist(x, x, metric), cdist(y, y, metric)))
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


def clusters(rng, sizes_x, sizes_y, *, pairs: int, spread: float) -> PairedData:
    """Labelled Gaussian clusters of these sizes in 5 and 4 dimensions, `pairs` in each."""
    labels = [np.repeat(np.arange(len(sizes)), sizes) for sizes in (sizes_x, sizes_y)]
    x, y = (
        spread * rng.normal(size=(len(sizes_x), dim))[k] + rng.normal(size=(len(k), dim))
        for k, dim in zip(labels, (5, 4), strict=True)
    )
    known = [
        np.stack([rng.choice(np.flatnonzero(k == c), pairs, replace=False) for k in labels], 1)
        for c in range(len(sizes_x))
    ]
    clouds = (Cloud.uniform(p, k) for p, k in zip((x, y), labels, strict=True))
    return PairedData(*clouds, Pairs.from_array(np.concatenate(known)))


def matching(data: PairedData, cost: BridgeCost, solver: OTSolver) -> float:
    coupling = solver.solve(cost.prepare(data), data.x, data.y)
    assert bool(coupling.convergence.converged)
    return float(coupling.matching_accuracy(data.x.labels, data.y.labels))


EUCLIDEAN = BridgeCost("sqeuclidean", "sqeuclidean")


@pytest.mark.parametrize("side", ["x", "y"])
def test_the_unit_of_one_side_changes_nothing(rng, side):
    data = clusters(rng, [30] * 4, [25] * 4, pairs=3, spread=4)
    expected, accuracy = EUCLIDEAN.prepare(data).matrix(), matching(data, EUCLIDEAN, Sinkhorn())
    assert accuracy > 0.95
    for factor in (0.01, 100):
        cloud = getattr(data, side)
        scaled = replace(data, **{side: replace(cloud, points=factor * cloud.points)})
        found = EUCLIDEAN.prepare(scaled).matrix()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        assert matching(scaled, EUCLIDEAN, Sinkhorn()) == pytest.approx(accuracy, abs=1e-3)


@pytest.mark.parametrize("statistic", ["mean", "median", "none"])
def test_a_side_is_in_units_of_all_its_points(rng, statistic):
    data = clusters(rng, [30] * 4, [25] * 4, pairs=3, spread=4)
    found = BridgeCost("sqeuclidean", "correlation", unit=statistic).prepare(data)
    scale = {"mean": np.mean, "median": np.median, "none": lambda costs: 1}[statistic]
    sides = (
        (found.a, data.x.points, data.pairs.source, "sqeuclidean"),
        (found.b, data.y.points, data.pairs.target, "correlation"),
    )
    for factor, points, ends, metric in sides:
        costs = cdist(np.asarray(points, float), np.asarray(points, float), metric)
        order = np.argsort(
            np.asarray(data.pairs.target)
        )  # of the bridges, for pairs that share none
        expected = costs[:, np.asarray(ends)[order]] / scale(costs)
        np.testing.assert_allclose(factor, expected, rtol=1e-3, atol=1e-4)


def test_the_mean_of_a_side_is_under_its_weights(rng, paired):
    weights = rng.dirichlet(np.ones(60))
    data = replace(paired, x=replace(paired.x, weights=jnp.asarray(weights, jnp.float32)))
    x = np.asarray(data.x.points, float)
    costs = cdist(x, x, "cosine")
    expected = costs[:, :9] / (weights @ costs @ weights)
    np.testing.assert_allclose(BridgeCost().prepare(data).a, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dim", [3, 17])
def test_points_in_one_direction_have_no_unit(dim):
    """Their angles are rounding, which a unit would make costs of; so is what centring leaves."""
    ray = np.outer(np.arange(1, 61), np.linspace(0.3, 1, dim))
    weights = jnp.full(60, 1 / 60)
    for metric, points in (("cosine", ray), ("correlation", ray), ("sqeuclidean", 1e3 + 0 * ray)):
        points = jnp.asarray(points, jnp.float32)
        assert PointGeometry(points, points, metric).mean(weights, weights) == 0


def test_points_that_coincide_have_no_unit():
    data = PairedData(
        *[Cloud.uniform(np.full((5, 3), 0.3))] * 2, Pairs.from_array(np.eye(2, dtype=int))
    )
    assert not np.asarray(BridgeCost().prepare(data).matrix()).any()


def sharing(rng, kind: str) -> np.ndarray:
    """300 pairs of 400 and 350 points that share many targets, sources, or some of each."""
    few, many = rng.integers(0, 20, 300), rng.permutation(300)
    if kind == "targets":
        return np.stack([many, few], 1)
    if kind == "sources":
        return np.stack([few, many], 1)
    half = np.arange(300) < 150
    return np.stack([np.where(half, many, 350 + few), np.where(half, 320 + few, many)], 1)


@pytest.mark.parametrize(("kind", "most"), [("targets", 20), ("sources", 20), ("both", 40)])
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_pairs_that_share_a_point_are_one_bridge_exactly(rng, monkeypatch, kind, most, metric):
    # Several blocks each way, the last of them overlapping.
    monkeypatch.setattr(of_ends, "BLOCK", 150 * 64)
    monkeypatch.setattr(of_ends, "ROWS", 150)
    nearest.clear_cache()
    # Whole numbers, each beside its negative, so that every block's centre is 0: no rounding.
    half = [rng.integers(-9, 10, (n, 6)) for n in (200, 175)]
    clouds = [Cloud.uniform(np.stack([points, -points], 1).reshape(-1, 6)) for points in half]
    data = PairedData(*clouds, Pairs.from_array(sharing(rng, kind)))
    merged = BridgeCost(metric, metric, unit="none").prepare(data)
    sides = (data.x.points, data.pairs.source), (data.y.points, data.pairs.target)
    each = [
        pairwise(metric, points, points[ends]).at[ends, jnp.arange(300)].set(0)
        for points, ends in sides
    ]
    assert merged.a.shape[1] == merged.b.shape[1] <= most
    rounding = 0 if metric == "sqeuclidean" else 5e-6
    np.testing.assert_allclose(
        merged.matrix(), BridgeGeometry(*each).matrix(), rtol=0, atol=rounding
    )
    nearest.clear_cache()


@pytest.mark.parametrize("kind", ["targets", "both"])
def test_of_many_ends_some_are_enough_and_known_pairs_keep_their_zero(
    rng, monkeypatch, caplog, kind
):
    monkeypatch.setattr(of_ends, "ROWS", 150)
    nearest.clear_cache()
    clouds = [Cloud.uniform(rng.normal(size=(n, 6))) for n in (400, 350)]
    data = PairedData(*clouds, Pairs.from_array(sharing(rng, kind)))
    exact = BridgeCost().prepare(data)
    with caplog.at_level("INFO", "morphkit"):
        all_ends = BridgeCost(ends=300).prepare(data)
        np.testing.assert_array_equal(all_ends.a, exact.a)
        assert not caplog.messages
        few = BridgeCost(ends=4).prepare(data)
    assert (np.asarray(few.a) >= np.asarray(exact.a) - 1e-6).all()
    assert (np.asarray(few.b) >= np.asarray(exact.b) - 1e-6).all()
    assert not np.asarray(few.matrix())[data.pairs.source, data.pairs.target].any()
    side, _ = bridges(data.pairs)
    kept = side.some(4)
    sizes = np.bincount(np.asarray(side.bridge), minlength=side.size)
    np.testing.assert_array_equal(
        np.bincount(np.asarray(kept.bridge), minlength=side.size), np.minimum(sizes, 4)
    )
    higher = np.asarray(few.a).mean() / np.asarray(exact.a).mean() - 1
    told = float(caplog.messages[0].split("bridge are ")[1].split("%")[0]) / 100
    assert "BridgeCost.ends" in caplog.text
    assert told == pytest.approx(higher, abs=0.05)
    assert higher > 0.01
    # Where every point is an end, there is none to measure it at.
    paired = PairedData(
        Cloud.uniform(clouds[0].points[:300]), clouds[1], Pairs.from_array(sharing(rng, "targets"))
    )
    caplog.clear()
    with caplog.at_level("INFO", "morphkit"):
        BridgeCost(ends=4).prepare(paired)
    assert "all points are ends" in caplog.text
    nearest.clear_cache()


def test_no_points_have_no_costs_and_no_pairs_are_refused(rng):
    clouds = [Cloud.uniform(rng.normal(size=(n, 6))) for n in (40, 35)]
    pairs = Pairs.from_array(np.stack([np.arange(9)] * 2, 1))
    fitted = BridgeCost().fit(PairedData(*clouds, pairs))
    assert fitted.at(np.zeros((0, 6), np.float32)).shape == (0, 35)
    with pytest.raises(ValueError, match=r"data\.pairs is empty"):
        BridgeCost().prepare(PairedData(*clouds, Pairs.from_array(np.zeros((0, 2), int))))


@pytest.mark.parametrize("side", ["source", "target", "both"])
def test_half_precision_costs_what_single_precision_does(rng, monkeypatch, side):
    """Stored in float16, by blocks that overlap: the factors, the soft and the hard cost, and its
    mean."""
    sizes = {"source": (700, 30), "target": (30, 700), "both": (700, 600)}[side]
    points = rng.integers(0, 30, (90, 2))
    data = PairedData(
        *(Cloud.uniform(rng.normal(size=(n, 5)) + 1) for n in sizes), Pairs.from_array(points)
    )
    single = BridgeCost().prepare(data)
    monkeypatch.setattr(bridge, "SINGLE", 100 * 90)
    monkeypatch.setattr(of_ends, "ROWS", 64)
    nearest.clear_cache()
    half = BridgeCost().prepare(data)
    assert [isinstance(f, Half) for f in (half.a, half.b)] == [n == 700 or n == 600 for n in sizes]
    for stored, exact in ((half.a, single.a), (half.b, single.b)):
        stored, exact = np.asarray(full(stored)), np.asarray(exact)
        above = exact - exact.min(1, keepdims=True)
        assert (np.abs(stored - exact) <= 2**-11 * above + 1e-6).all()
    np.testing.assert_allclose(half.matrix(), single.matrix(), rtol=2**-10, atol=1e-6)
    np.testing.assert_allclose(half.softened(0.1), single.softened(0.1), rtol=2**-10, atol=1e-3)
    weights = data.x.weights, data.y.weights
    np.testing.assert_allclose(half.mean(*weights), single.mean(*weights), rtol=1e-4)
    nothing = BridgeCost(unit="none").prepare(data)  # of any size: too small for float16, or large
    assert not any(isinstance(f, Half) for f in (nothing.a, nothing.b))
    nearest.clear_cache()


def test_a_point_too_far_for_half_precision_stays_at_its_end():
    costs = jnp.asarray([[3.0, 1e6, 3.5], [1e9, 1e9 + 64, 2e9]], jnp.float32)
    found = np.asarray(full(Half.of(costs)))
    np.testing.assert_allclose(found[0], [3, 3 + LARGEST, 3.5])
    np.testing.assert_allclose(found[1], [1e9, 1e9 + 64, 1e9 + LARGEST])


def test_a_bridge_has_a_single_point_on_one_side(rng):
    known = np.concatenate([sharing(rng, kind) for kind in ("targets", "sources", "both")])
    x, y = bridges(Pairs.from_array(known))
    ends = [
        [set(np.asarray(s.point)[np.asarray(s.bridge) == k]) for k in range(x.size)] for s in (x, y)
    ]
    assert all(min(len(sources), len(targets)) == 1 for sources, targets in zip(*ends, strict=True))
    covered = {(i, j) for a, b in zip(*ends, strict=True) for i in a for j in b}
    assert covered == set(map(tuple, known.tolist()))


def test_the_factor_of_all_pairs_is_never_built():
    """20,000 paired points of 10 bridges: 1.6 GB if each were a column of its own."""
    n, bridges_ = 20_000, 10
    points, index = jnp.zeros((n, 8)), jnp.arange(n)
    known = of_ends.Ends(index, index % bridges_, bridges_)
    zero, one = (known.point, known.bridge), jnp.ones(())
    compiled = nearest.lower("cosine", points, points, known, zero, one, one).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.3e9


@pytest.mark.parametrize(("side", "solver"), [("x", Sinkhorn()), ("y", BridgeSinkhorn())])
def test_a_far_outlier_does_not_move_the_median(rng, caplog, solver, side):
    data = clusters(rng, [50] * 4, [50] * 4, pairs=5, spread=4)
    clean = matching(data, EUCLIDEAN, solver)
    assert clean > 0.95
    assert not caplog.messages
    cloud = getattr(data, side)
    far = replace(data, **{side: replace(cloud, points=cloud.points.at[-1].set(1000))})
    robust = BridgeCost("sqeuclidean", "sqeuclidean", unit="median")
    assert matching(far, robust, solver) > clean - 0.02
    assert not caplog.messages
    assert matching(far, EUCLIDEAN, solver) < 0.7
    where = {"x": "source", "y": "target"}[side]
    assert f"{where} points is above 95 %" in caplog.text
    assert "BridgeCost.unit = 'median'" in caplog.text


def test_quantiles_are_numpys(rng):
    u, v = (jnp.asarray(rng.normal(size=(k, 3)), jnp.float32) for k in (70, 40))
    weights = jnp.full(70, 1 / 70), jnp.full(40, 1 / 40)
    bridge_ = BridgeGeometry(u**2, v**2)
    for whole in (bridge_, DenseGeometry(bridge_.matrix()), PointGeometry(u, v, "sqeuclidean")):
        expected = np.quantile(np.asarray(whole.matrix()), [0.5, 0.95])
        found = [float(whole.quantile(q, *weights)) for q in (0.5, 0.95)]
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_quantiles_are_under_the_weights(rng):
    """Of 3,000 points a side, in an order that follows the cost, the near half has all weight."""
    u = jnp.linspace(0, 1, 3000)[:, None]
    weights = jnp.where(u[:, 0] < 0.5, 1 / 1500, 0)
    whole = BridgeGeometry(u, u)
    assert float(whole.quantile(0.5, weights, weights)) == pytest.approx(0.5, abs=0.01)
    assert float(replace(whole, unit="median").scale(weights, weights)) == pytest.approx(
        0.5, abs=0.01
    )


def test_a_median_of_nothing_falls_back_on_the_mean():
    identity = DenseGeometry(jnp.eye(4), unit="median")
    assert float(identity.scale(jnp.full(4, 0.25), jnp.full(4, 0.25))) == pytest.approx(0.25)
    nothing = DenseGeometry(jnp.zeros((4, 4)), unit="median")
    assert float(nothing.scale(jnp.full(4, 0.25), jnp.full(4, 0.25))) == 1


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
    thin = BridgeGeometry(a, b, unit="median")
    dense = DenseGeometry(thin.matrix(), unit="median")
    for whole in (thin, dense, PointGeometry(a, b, "cosine", unit="median")):
        part = jax.jit(lambda g, r, c: g.take(r, c).matrix())(whole, rows, cols)
        np.testing.assert_allclose(part, np.asarray(whole.matrix())[rows][:, cols], atol=1e-6)
        assert whole.shape == (12, 9)
        assert whole.take(rows, cols).unit == "median"


def test_point_geometry_mean_needs_no_matrix(rng):
    u, v = (jnp.asarray(rng.normal(size=(k, 4)), jnp.float32) for k in (40, 30))
    whole = PointGeometry(u, v, "cosine")
    mu, nu = (jnp.asarray(rng.dirichlet(np.ones(k)), jnp.float32) for k in (40, 30))
    np.testing.assert_allclose(whole.mean(mu, nu), mu @ whole.matrix() @ nu, rtol=1e-4)


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match=r"BridgeCost\.metric_y = 'manhattan'.*cosine"):
        BridgeCost(metric_y="manhattan")


def test_a_dense_cost_that_is_too_large_is_refused_before_it_is_built():
    huge = BridgeGeometry(jnp.zeros((2**22, 1)), jnp.zeros((2**22, 1)))
    with pytest.raises(MemoryError, match="BridgeSinkhorn"):
        geometry.dense(huge)
