"""The graph and the kernel CCA costs of App. F, against dense references."""

import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_costs.geodesic import GeodesicBridgeCost
from morphkit_costs.kcca import KCCACost, median_gamma
from morphkit_costs.knn import KNNCost
from scipy.sparse.csgraph import floyd_warshall
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics.pairwise import rbf_kernel

from morphkit.types import Cloud, PairedData, Pairs


@pytest.fixture
def connected(rng) -> PairedData:
    """60 source and 50 target points, one cluster a side, 9 pairs."""
    pairs = Pairs.from_array(np.stack([np.arange(9)] * 2, 1))
    x, y = (Cloud.uniform(rng.normal(size=shape)) for shape in ((60, 5), (50, 3)))
    return PairedData(x, y, pairs)


def adjacency(points, k):
    """Symmetric k-nearest-neighbour distances as a dense matrix, zero for no edge."""
    distances = cdist(points, points)
    nearest = np.argsort(distances, axis=1)[:, 1 : k + 1]
    graph = np.zeros_like(distances)
    rows = np.arange(len(points))[:, None]
    graph[rows, nearest] = distances[rows, nearest]
    return np.maximum(graph, graph.T)


def sides(data):
    return [np.asarray(side.points, float) for side in (data.x, data.y)]


@pytest.mark.parametrize("weighted", [True, False])
def test_knn_cost_is_the_heat_of_the_joint_graph(connected, weighted):
    graphs = [adjacency(points, 4) for points in sides(connected)]
    graphs = [g**2 if weighted else (g > 0).astype(float) for g in graphs]
    joint = np.zeros((110, 110))
    joint[:60, :60], joint[60:, 60:] = (g / g[g > 0].mean() for g in graphs)
    for i, j in zip(connected.pairs.source, connected.pairs.target, strict=True):
        joint[i, 60 + j] = joint[60 + j, i] = 1
    system = np.eye(110) + 0.7 * (np.diag(joint.sum(1)) - joint)
    prepared = KNNCost(k=4, weighted=weighted, time=0.7).prepare(connected)
    np.testing.assert_allclose(
        prepared.matrix(), -np.log(np.linalg.inv(system)[:60, 60:]), rtol=1e-4
    )
    part = prepared.take(jnp.array([5, 2]), jnp.array([7])).matrix()
    np.testing.assert_allclose(part, np.asarray(prepared.matrix())[[5, 2]][:, [7]])


def test_knn_cost_along_a_long_manifold(caplog):
    """Heat falls by many orders of magnitude along a line: its logarithm has to be right."""
    line = np.linspace(0, 1, 22)[:, None]
    points = Cloud.uniform(line)
    data = PairedData(points, points, Pairs.from_array(np.array([[0, 0]])))
    joint = np.kron(np.eye(2), adjacency(line, 2) ** 2)
    joint /= joint[joint > 0].mean()
    joint[0, 22] = joint[22, 0] = 1
    system = np.eye(44) + np.diag(joint.sum(1)) - joint
    expected = -np.log(np.linalg.inv(system)[:22, 22:])
    prepared = KNNCost(k=2).prepare(data)
    np.testing.assert_allclose(prepared.matrix(), expected, rtol=1e-4)
    assert expected.max() > 18
    assert not caplog.messages
    with caplog.at_level("WARNING", "morphkit"):
        KNNCost(k=2, time=1e-3).prepare(data)
    assert "raise the cost's .time" in caplog.text


@pytest.mark.parametrize("cost", [KNNCost(k=4), GeodesicBridgeCost(k=4), KCCACost(components=9)])
def test_many_pairs_may_share_a_target(connected, cost):
    """As class names do: six pairs end in two target points."""
    known = np.array([[0, 0], [1, 0], [2, 0], [3, 1], [4, 1], [5, 1], [6, 6]])
    data = PairedData(connected.x, connected.y, Pairs.from_array(known))
    matrix = np.asarray(cost.prepare(data).matrix())
    assert np.isfinite(matrix).all()
    assert (matrix[known[:, 0], known[:, 1]] < matrix[known[:, 0]].mean(1)).all()


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("power", [1, 2])
def test_geodesic_bridge_is_equation_6_over_shortest_paths(connected, squared, power):
    pairs = [np.asarray(p) for p in (connected.pairs.source, connected.pairs.target)]
    factors = []
    for points, index in zip(sides(connected), pairs, strict=True):
        paths = floyd_warshall(adjacency(points, 8) ** power)[:, index] ** (2 if squared else 1)
        assert np.isfinite(paths).all()
        factors.append(paths / paths.mean())
    expected = (factors[0][:, None] + factors[1][None]).min(-1)
    prepared = GeodesicBridgeCost(k=8, power=power, squared=squared).prepare(connected)
    np.testing.assert_allclose(prepared.matrix(), expected, rtol=1e-4, atol=1e-6)
    assert (np.asarray(prepared.matrix())[tuple(pairs)] == 0).all()


def test_the_heat_bridge_is_the_heat_over_all_pairs(connected):
    """-log of the soft minimum at temperature 1, against dense inverses."""
    pairs = [np.asarray(p) for p in (connected.pairs.source, connected.pairs.target)]
    heats = []
    for points, index in zip(sides(connected), pairs, strict=True):
        graph = adjacency(points, 5)
        edges = graph > 0
        weights = np.zeros_like(graph)
        weights[edges] = np.exp(-((graph[edges] / np.median(graph[edges])) ** 2))
        weights /= weights[edges].mean()
        system = np.eye(len(points)) + 0.5 * (np.diag(weights.sum(1)) - weights)
        heats.append(np.linalg.inv(system)[:, index])
    prepared = GeodesicBridgeCost(k=5, time=0.5).prepare(connected)
    soft = np.exp(-np.asarray(prepared.a, float)) @ np.exp(-np.asarray(prepared.b, float)).T
    np.testing.assert_allclose(soft, heats[0] @ heats[1].T, rtol=1e-4)


@pytest.mark.parametrize(
    "cost", [GeodesicBridgeCost(k=3), GeodesicBridgeCost(k=3, time=1.0), KNNCost(k=3)]
)
def test_components_without_a_pair_are_far_but_finite(rng, cost):
    near, far = rng.normal(size=(10, 2)), rng.normal(size=(10, 2)) + 100
    points = Cloud.uniform(np.concatenate([near, far]))
    data = PairedData(points, points, Pairs.from_array(np.array([[0, 0], [3, 3]])))
    matrix = np.asarray(cost.prepare(data).matrix())
    assert np.isfinite(matrix).all()
    assert matrix[:10, 10:].min() > matrix[:10, :10].max()


def test_points_that_coincide_are_neighbours(rng):
    points = np.repeat(rng.normal(size=(12, 2)), 3, axis=0)
    data = PairedData(
        Cloud.uniform(points), Cloud.uniform(points), Pairs.from_array(np.array([[0, 0]]))
    )
    matrix = np.asarray(GeodesicBridgeCost(k=5).prepare(data).matrix())
    np.testing.assert_allclose(matrix[1, 2], 0, atol=1e-4)


def test_graph_costs_do_not_depend_on_units(paired):
    scaled = PairedData(Cloud.uniform(7 * paired.x.points), paired.y, paired.pairs)
    for cost in (KNNCost(k=5), GeodesicBridgeCost(k=5)):
        expected = cost.prepare(paired).matrix()
        np.testing.assert_allclose(cost.prepare(scaled).matrix(), expected, rtol=1e-3, atol=1e-5)


def test_kernel_cca_correlates_the_pairs(rng):
    hidden = rng.normal(size=(80, 2))
    x = hidden @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(80, 6))
    y = np.tanh(hidden @ rng.normal(size=(2, 4))) + 0.1 * rng.normal(size=(80, 4))
    pairs = Pairs.from_array(np.stack([np.arange(50)] * 2, 1))
    prepared = KCCACost(components=2).prepare(PairedData(Cloud.uniform(x), Cloud.uniform(y), pairs))
    # The first direction of Eq. 17, from the kernels: correlated on pairs it was not fitted on.
    held_out = np.corrcoef(np.asarray(prepared.u)[50:, 0], np.asarray(prepared.v)[50:, 0])[0, 1]
    assert held_out > 0.9
    # A projection is a combination of the centred kernel's columns.
    kernel = rbf_kernel(x, x[:50], gamma=median_gamma(np.asarray(x[:50], np.float32)))
    inside = kernel[:50] - kernel[:50].mean(0)
    u = np.asarray(prepared.u)[:50]
    residual = u - u.mean(0) - inside @ np.linalg.lstsq(inside, u - u.mean(0), rcond=None)[0]
    assert np.abs(residual).max() < 1e-3 * np.abs(u).max()


def test_median_rule(rng):
    points = rng.normal(size=(30, 3))
    assert median_gamma(points) == pytest.approx(1 / (2 * np.median(pdist(points)) ** 2))
    assert median_gamma(np.ones((4, 2))) == 1.0


def test_bad_arguments_are_named(paired):
    with pytest.raises(ValueError, match=r"KNNCost\.k = 0"):
        KNNCost(k=0)
    with pytest.raises(ValueError, match=r"KNNCost\.time = 0"):
        KNNCost(time=0)
    with pytest.raises(ValueError, match=r"GeodesicBridgeCost\.metric_x = 'l1'"):
        GeodesicBridgeCost(metric_x="l1")
    with pytest.raises(ValueError, match=r"GeodesicBridgeCost\.time = -1"):
        GeodesicBridgeCost(time=-1)
    with pytest.raises(ValueError, match=r"GeodesicBridgeCost\.power = 0"):
        GeodesicBridgeCost(power=0)
    with pytest.raises(ValueError, match=r"KCCACost\.shrinkage = 2"):
        KCCACost(shrinkage=2)
    with pytest.raises(ValueError, match=r"KCCACost\.gamma_y = -1"):
        KCCACost(gamma_y=-1)
    one = PairedData(paired.x, paired.y, Pairs.from_array(np.array([[0, 0]])))
    with pytest.raises(ValueError, match="1 pairs are too few"):
        KCCACost().prepare(one)
    shared = PairedData(paired.x, paired.y, Pairs.from_array(np.array([[0, 0], [1, 0], [2, 0]])))
    with pytest.raises(ValueError, match="share one point"):
        KCCACost().prepare(shared)
    point = PairedData(Cloud.uniform(paired.x.points[:1]), paired.y, one.pairs)
    with pytest.raises(ValueError, match="at least 2 points"):
        KNNCost().prepare(point)
