"""Relative costs and sums of costs, against dense NumPy and SciPy."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_aligners.refined import RefinedAlignment
from morphkit_costs.bridge import BridgeCost
from morphkit_costs.canonical import CanonicalCost
from morphkit_costs.relative import RelativeCost
from morphkit_costs.total import SumCost
from morphkit_solvers.sinkhorn import Sinkhorn
from scipy.spatial.distance import cdist, jensenshannon
from scipy.special import softmax

from morphkit.transport import memory
from morphkit.transport.geometry import DenseGeometry, PointGeometry
from morphkit.types import PairedData, Pairs
from morphkit.wiring.records import rebuild, record


def profiles(data: PairedData, new=None) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for cloud, ends in ((data.x, data.pairs.source), (data.y, data.pairs.target)):
        points, weights = (np.asarray(a, float) for a in (cloud.points, cloud.weights))
        mean = weights @ points
        asked = points if new is None or found else np.asarray(new, float)
        found.append(1 - cdist(asked - mean, points[np.asarray(ends)] - mean, "cosine"))
    return found[0], found[1]


def many_pairs(paired: PairedData) -> PairedData:
    """More pairs than both spaces have dimensions, of points that do not weigh alike."""
    known = np.stack([np.arange(40), (7 * np.arange(40)) % 50], axis=1)
    weights = jnp.arange(1, 61) / (61 * 30)
    return PairedData(replace(paired.x, weights=weights), paired.y, Pairs.from_array(known))


@pytest.mark.parametrize("pairs", ["few", "many"])
def test_it_is_the_cosine_of_profiles(paired, pairs):
    few = replace(paired, pairs=Pairs(paired.pairs.source[:6], paired.pairs.target[:6]))
    data = few if pairs == "few" else many_pairs(paired)
    found = RelativeCost().prepare(data)
    expected = cdist(*profiles(data), "cosine")
    np.testing.assert_allclose(found.matrix(), expected, atol=2e-5)
    assert isinstance(found, PointGeometry)
    assert found.u.shape[1] == (6 if pairs == "few" else 5 + 3)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_keypoint_guidance_is_scipys_divergence(paired, monkeypatch, temperature):
    monkeypatch.setattr("morphkit_costs.relative.BLOCK", 7 * 9 * 50)  # seven rows at once
    found = RelativeCost("jensen-shannon", temperature).prepare(paired)
    p, q = (softmax(a / temperature, axis=1) for a in profiles(paired))
    expected = jensenshannon(p[:, None], q[None], axis=2) ** 2
    assert isinstance(found, DenseGeometry)
    np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-6)


def test_two_sides_that_lie_alike_cost_nothing(paired):
    same = PairedData(paired.x, paired.x, paired.pairs)
    for cost in (RelativeCost(), RelativeCost("jensen-shannon")):
        diagonal = np.diagonal(np.asarray(cost.prepare(same).matrix()))
        np.testing.assert_allclose(diagonal, 0, atol=1e-5)


@pytest.mark.parametrize("comparison", ["cosine", "jensen-shannon"])
def test_new_points_and_nothing_to_learn(paired, rng, comparison):
    fitted = RelativeCost(comparison, 0.5).fit(paired)
    own = np.asarray(paired.x.points)
    np.testing.assert_allclose(fitted.at(own).matrix(), fitted.geometry.matrix(), atol=1e-6)
    new = rng.normal(size=(60, 5))
    a, b = profiles(paired, new)
    if comparison == "cosine":
        expected = cdist(a, b, "cosine")
    else:
        p, q = (softmax(z / 0.5, axis=1) for z in (a, b))
        expected = jensenshannon(p[:, None], q[None], axis=2) ** 2
    np.testing.assert_allclose(fitted.at(new).matrix(), expected, atol=2e-5)
    coupling = Sinkhorn(0.1).solve(fitted.geometry, paired.x, paired.y)
    with pytest.raises(ValueError, match=r"learns nothing from a coupling; take a cost that"):
        fitted.learn(coupling, jnp.arange(60), jnp.arange(50), 0.5)


def test_relative_costs_ask_before_they_take(paired, monkeypatch):
    none = replace(paired, pairs=Pairs.from_array(np.zeros((0, 2), int)))
    with pytest.raises(ValueError, match=r"RelativeCost: data\.pairs is empty"):
        RelativeCost().prepare(none)
    with pytest.raises(ValueError, match=r"RelativeCost\.temperature = 0"):
        RelativeCost(temperature=0.0)
    with pytest.raises(ValueError, match=r"RelativeCost\.comparison = 'euclidean'"):
        RelativeCost("euclidean")
    monkeypatch.setattr(memory, "available", lambda: 3 * 4 * (60 + 50) * 9)
    RelativeCost().prepare(paired)
    with pytest.raises(MemoryError, match="60 × 50 cost of keypoint guidance"):
        RelativeCost("jensen-shannon").prepare(paired)


def test_a_sum_is_of_costs_over_their_means(paired):
    costs = BridgeCost(), RelativeCost(), BridgeCost("sqeuclidean", unit="median")
    data = replace(paired, x=replace(paired.x, weights=jnp.arange(1, 61) / (61 * 30)))
    whole = SumCost(costs, (1.0, 0.5, 2.0)).prepare(data)
    mu, nu = data.x.weights, data.y.weights
    parts = [np.asarray(cost.prepare(data).matrix(), float) for cost in costs]
    median = float(costs[2].prepare(data).scale(mu, nu))
    units = [*(mu @ part @ nu for part in parts[:2]), median]
    expected = sum(w * p / u for w, p, u in zip((1, 0.5, 2), parts, units, strict=True))
    np.testing.assert_allclose(whole.matrix(), expected, rtol=1e-4, atol=1e-5)
    assert float(whole.mean(mu, nu)) == pytest.approx(float(mu @ expected @ nu), rel=1e-4)
    rows, cols = jnp.array([3, 0, 59]), jnp.array([49, 1])
    part = jax.jit(lambda g: g.take(rows, cols).matrix())(whole)
    np.testing.assert_allclose(part, expected[rows][:, cols], rtol=1e-4, atol=1e-5)
    assert whole.shape == (60, 50)
    assert whole.take(rows, cols).shape == (3, 2)


def test_one_cost_with_any_weight_is_itself(paired):
    alone = Sinkhorn(0.05).solve(RelativeCost().prepare(paired), paired.x, paired.y)
    summed = SumCost([RelativeCost()], [3.0]).prepare(paired)
    found = Sinkhorn(0.05).solve(summed, paired.x, paired.y)
    np.testing.assert_allclose(found.values, alone.values, atol=1e-7)


def test_those_that_learn_learn_and_the_others_stay(paired):
    canonical, relative, bridge = CanonicalCost(), RelativeCost(), BridgeCost()
    fitted = SumCost([canonical, relative, bridge]).fit(paired)
    coupling = Sinkhorn(0.1).solve(fitted.geometry, paired.x, paired.y)
    i, j = jnp.arange(60), jnp.arange(50)
    learned = fitted.learn(coupling, i, j, 0.7)
    parts = [
        cost.matrix()
        for cost in (
            canonical.fit(paired).learn(coupling, i, j, 0.7).geometry,
            relative.prepare(paired),
            bridge.prepare(paired),
        )
    ]
    expected = sum(np.asarray(part) / np.mean(part) for part in parts)
    np.testing.assert_allclose(learned.geometry.matrix(), expected, rtol=1e-3, atol=1e-4)
    assert np.abs(expected - fitted.geometry.matrix()).max() > 0.05


def test_new_points_are_in_the_units_of_the_cloud(paired):
    fitted = SumCost([CanonicalCost(), RelativeCost()]).fit(paired)
    some = np.asarray(paired.x.points)[:7]
    np.testing.assert_allclose(fitted.at(some).matrix(), fitted.geometry.matrix()[:7], atol=1e-4)


def test_refinement_takes_a_sum_and_maps_where_all_of_it_does(paired):
    aligner, solver = RefinedAlignment(2), Sinkhorn(0.1)
    found = aligner.sampler(paired, SumCost([CanonicalCost(), RelativeCost()]), solver)
    assert found.map is not None
    assert found.map(paired.x.points[:3]).shape == (3, 3)
    bridged = SumCost([CanonicalCost(), BridgeCost()])
    assert aligner.sampler(paired, bridged, solver).map is None
    with pytest.raises(ValueError, match="BridgeCost is not defined for new points"):
        bridged.fit(paired).at(paired.x.points)
    with pytest.raises(ValueError, match="SumCost learns nothing"):
        aligner.refine(paired, SumCost([RelativeCost(), BridgeCost()]), solver)


def test_bad_sums_are_named():
    for costs, weights, named in (
        ([], (), r"SumCost\.costs = \(\)"),
        ([Sinkhorn()], (), r"SumCost\.costs"),
        ([BridgeCost()], (1.0, 2.0), r"SumCost\.weights .* each of the 1 costs"),
        ([BridgeCost()], (0.0,), r"SumCost\.weights .* above 0"),
        ([BridgeCost()], (-1.0,), r"SumCost\.weights"),
    ):
        with pytest.raises(ValueError, match=named):
            SumCost(costs, weights)


def test_a_sum_is_rebuilt_from_its_record():
    cost = SumCost([BridgeCost("sqeuclidean"), SumCost([RelativeCost(temperature=0.2)])], [1.0, 2])
    assert rebuild(json.loads(json.dumps(record(cost)))) == cost
