"""The graph and the kernel CCA costs of App. F, against dense references."""

import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_costs.geodesic import GeodesicBridgeCost
from morphkit_costs.graphs import capped
from morphkit_costs.kcca import KCCACost, median_gamma
from morphkit_costs.knn import KNNCost
from morphkit_solvers.sinkhorn import Sinkhorn
from scipy.linalg import block_diag, eigh
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra, floyd_warshall
from scipy.spatial.distance import cdist, pdist
from scipy.stats import spearmanr
from sklearn.datasets import make_blobs, make_swiss_roll
from sklearn.metrics.pairwise import rbf_kernel

from morphkit.transport.couple import couple
from morphkit.transport.geometry import min_plus
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


def joint_lengths(data, k, weighted=True, pair_length=0.0):
    """The joint graph of Eq. 15 as a dense matrix of lengths, zero for no edge."""
    graphs = [adjacency(points, k) for points in sides(data)]
    graphs = [g**2 if weighted else (g > 0).astype(float) for g in graphs]
    n, size = len(graphs[0]), sum(map(len, graphs))
    joint = np.zeros((size, size))
    joint[:n, :n], joint[n:, n:] = (g / g[g > 0].mean() for g in graphs)
    source, target = np.asarray(data.pairs.source), n + np.asarray(data.pairs.target)
    # A dense zero is no edge, and 1e-12 no length.
    joint[source, target] = joint[target, source] = max(pair_length, 1e-12)
    return joint


def joint_paths(data, k, **graph):
    """Eq. 16, between the sides."""
    return dijkstra(csr_array(joint_lengths(data, k, **graph)))[: data.x.size, data.x.size :]


def joint_heat(lengths, time, n):
    """The dense heat, between the sides, of edges that conduct exp(-length)."""
    conductance = np.where(lengths > 0, np.exp(-lengths), 0)
    laplacian = np.diag(conductance.sum(1)) - conductance
    return np.linalg.inv(np.eye(len(lengths)) + time * laplacian)[:n, n:]


@pytest.fixture(params=[0, 1, 2])
def rolls(request) -> PairedData:
    """Two Swiss rolls of 150 and 120 points, 10 pairs of nearly equal parameters."""
    (x, along_x), (y, along_y) = (
        make_swiss_roll(size, random_state=request.param + size) for size in (150, 120)
    )
    gap = cdist(*(np.column_stack([t, p[:, 1]]) for t, p in ((along_x, x), (along_y, y))))
    pairs = np.column_stack([np.arange(10), gap[:10].argmin(1)])
    return PairedData(Cloud.uniform(x), Cloud.uniform(y), Pairs.from_array(pairs))


@pytest.mark.parametrize("time", [0.0, 1.0])
def test_a_near_neighbour_is_near_in_the_knn_cost(time):
    """Eq. 14's squared distances are lengths, not conductances."""
    x = Cloud.uniform(np.array([[0, 0], [0.3, 0], [-3, 0]]))
    data = PairedData(x, x, Pairs.from_array(np.array([[0, 0]])))
    cost = np.asarray(KNNCost(k=1, time=time).prepare(data).matrix())
    assert cost[0, 0] < cost[1, 0] < cost[2, 0]


@pytest.mark.parametrize("pair_length", [0.0, 2.0])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("k", [3, 15])
def test_exact_knn_cost_is_the_shortest_path_of_the_joint_graph(rolls, k, weighted, pair_length):
    graph = {"weighted": weighted, "pair_length": pair_length}
    expected = joint_paths(rolls, k, **graph)
    prepared = KNNCost(k=k, time=0.0, **graph).prepare(rolls)
    joined = np.isfinite(expected)
    matrix = np.asarray(prepared.matrix())
    np.testing.assert_allclose(matrix[joined], expected[joined], rtol=1e-5, atol=1e-5)
    assert joined.all() or matrix[~joined].min() == matrix[~joined].max() >= matrix.max()
    part = prepared.take(jnp.array([5, 2]), jnp.array([7])).matrix()
    np.testing.assert_array_equal(part, matrix[[5, 2]][:, [7]])


def test_shortest_paths_may_go_by_several_pairs():
    """From x_4 to y_3: over to y_2, y_0, back to x_0, x_1, and over once more."""
    x = np.array([[0.0], [4.0], [8.0], [12.0], [16.0]])
    y = np.array([[0.0], [0.1], [0.2], [30.0], [60.0]])
    known = np.array([[0, 0], [4, 2], [1, 3]])
    data = PairedData(Cloud.uniform(x), Cloud.uniform(y), Pairs.from_array(known))
    cost = np.asarray(KNNCost(k=2, time=0.0).prepare(data).matrix())
    np.testing.assert_allclose(cost, joint_paths(data, 2), rtol=1e-5, atol=1e-5)
    alone = joint_lengths(data, 2)
    alone[:5, 5:] = alone[5:, :5] = 0
    apart = floyd_warshall(alone)
    apart = apart[:5, :5], apart[5:, 5:]
    once = (apart[0][:, None, known[:, 0]] + apart[1][None, :, known[:, 1]]).min(-1)
    assert cost[4, 3] < 0.8 * once[4, 3]


def test_knn_heat_estimates_the_shortest_path(rolls):
    exact = joint_paths(rolls, 10)
    estimate = np.asarray(KNNCost(k=10).prepare(rolls).matrix())
    assert np.isfinite(exact).all()
    assert spearmanr(estimate.ravel(), exact.ravel())[0] > 0.75


@pytest.mark.parametrize("pair_length", [0.0, 1.0])
@pytest.mark.parametrize("weighted", [True, False])
def test_knn_cost_is_the_heat_of_the_joint_graph(connected, weighted, pair_length):
    graph = {"weighted": weighted, "pair_length": pair_length}
    heat = joint_heat(joint_lengths(connected, 4, **graph), 0.7, 60)
    prepared = KNNCost(k=4, time=0.7, **graph).prepare(connected)
    np.testing.assert_allclose(prepared.matrix(), -np.log(heat), rtol=1e-4)
    part = prepared.take(jnp.array([5, 2]), jnp.array([7])).matrix()
    np.testing.assert_allclose(part, np.asarray(prepared.matrix())[[5, 2]][:, [7]])


def test_a_pair_listed_twice_is_one_edge(connected):
    known = np.stack([connected.pairs.source, connected.pairs.target], 1)
    twice = Pairs.from_array(np.concatenate([known, known[:4]]))
    for cost in (KNNCost(k=4), KNNCost(k=4, time=0.0, pair_length=1.0)):
        expected = cost.prepare(connected).matrix()
        actual = cost.prepare(PairedData(connected.x, connected.y, twice)).matrix()
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_knn_cost_along_a_long_manifold(caplog):
    """Heat falls by many orders of magnitude along a line: its logarithm has to be right."""
    line = np.linspace(0, 1, 22)[:, None]
    points = Cloud.uniform(line)
    data = PairedData(points, points, Pairs.from_array(np.array([[0, 0]])))
    for time, longest in ((1.0, 30), (1e-3, 120)):
        expected = -np.log(joint_heat(joint_lengths(data, 2), time, 22))
        prepared = KNNCost(k=2, time=time).prepare(data)
        np.testing.assert_allclose(prepared.matrix(), expected, rtol=1e-5)
        assert expected.max() > longest
    assert not caplog.messages
    with caplog.at_level("WARNING", "morphkit"):
        far = np.asarray(KNNCost(k=2, time=1e-40).prepare(data).matrix())
    assert "raise the cost's .time" in caplog.text
    assert np.isfinite(far).all()


@pytest.mark.parametrize(
    "cost", [KNNCost(k=4), KNNCost(k=4, time=0.0), GeodesicBridgeCost(k=4), KCCACost(components=9)]
)
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


GRAPH_COSTS = [
    GeodesicBridgeCost(k=3), GeodesicBridgeCost(k=3, power=1.0),
    GeodesicBridgeCost(k=3, squared=True), GeodesicBridgeCost(k=3, time=1.0),
    KNNCost(k=3), KNNCost(k=3, time=0.0),
    KNNCost(k=3, weighted=False, pair_length=1.0), KNNCost(k=3, weighted=False, time=0.0),
]  # fmt: skip


@pytest.mark.parametrize("cost", GRAPH_COSTS)
def test_points_that_no_pair_joins_are_alike_and_beyond_all_others(rng, cost):
    """Pairs in the first cluster alone: unreachable counts once, whether on one side or on both."""
    near, far = rng.normal(size=(10, 2)), rng.normal(size=(10, 2)) + 100
    points = Cloud.uniform(np.concatenate([near, far]))
    data = PairedData(points, points, Pairs.from_array(np.array([[0, 0], [3, 3]])))
    matrix = np.asarray(cost.prepare(data).matrix())
    beyond = matrix[10:, 10:]
    assert np.isfinite(matrix).all()
    assert beyond.min() > matrix[:10, :10].max()
    for apart in (beyond, matrix[:10, 10:], matrix[10:, :10]):
        np.testing.assert_allclose(apart, beyond.max(), rtol=1e-6)
    assert beyond.max() < 5 * matrix[:10, :10].max()  # and does not drown them in the mean


@pytest.mark.parametrize("cost", GRAPH_COSTS)
def test_a_cluster_without_a_pair_goes_to_the_other_without_one(cost):
    """Four clusters a side, pairs in three: what is left over belongs together."""
    x, labels = make_blobs(120, 3, centers=40 * np.eye(4, 3), random_state=0)
    y, other = make_blobs(120, 2, centers=[[0, 0], [0, 50], [60, 0], [90, 90]], random_state=1)
    pairs = [(np.flatnonzero(labels == c)[r], np.flatnonzero(other == c)[r])
             for c in range(3) for r in range(3)]  # fmt: skip
    data = PairedData(Cloud.uniform(x), Cloud.uniform(y), Pairs.from_array(np.array(pairs)))
    coupling = np.asarray(couple(data, cost, Sinkhorn(0.01)).to_dense())
    assert coupling[labels[:, None] == other].sum() > 0.999


def test_a_cap_changes_nothing_that_is_joined(rng):
    """Two clusters with a pair each: between them far, within them Eq. 6."""
    a, b = rng.random((6, 2)), rng.random((5, 2))
    a[:3, 1] = a[3:, 0] = b[:2, 1] = b[2:, 0] = np.inf
    joined = (a[:, None] + b[None]).min(-1)
    far = a[np.isfinite(a)].max() + b[np.isfinite(b)].max()
    np.testing.assert_allclose(min_plus(*capped(a, b)), np.minimum(joined, far), rtol=1e-6)
    assert np.isinf(joined).sum() == 3 * 3 + 3 * 2
    assert capped(a[:3, :1], b[:2, :1])[0].shape == (3, 1)


SHARED = np.array([[0, 0], [1, 0], [2, 0], [3, 1], [4, 1], [5, 1], [6, 6], [7, 2], [7, 3], [7, 4]])
"""Ten pairs, four bridges: two targets of three source points, a pair, a source of three."""


@pytest.mark.parametrize("squared", [True, False])
def test_pairs_that_share_a_point_are_one_geodesic_bridge(connected, squared):
    factors = []
    for points, index in zip(sides(connected), SHARED.T, strict=True):
        paths = floyd_warshall(adjacency(points, 8) ** 2) ** (2 if squared else 1)
        factors.append(paths[:, index] / paths[:, np.unique(index)].mean())
    unmerged = (factors[0][:, None] + factors[1][None]).min(-1)
    data = PairedData(connected.x, connected.y, Pairs.from_array(SHARED))
    prepared = GeodesicBridgeCost(k=8, squared=squared).prepare(data)
    np.testing.assert_allclose(prepared.matrix(), unmerged, rtol=1e-4, atol=1e-6)
    assert prepared.a.shape[1] == prepared.b.shape[1] == 4


def test_pairs_that_share_a_point_are_one_heat_bridge(connected):
    data = PairedData(connected.x, connected.y, Pairs.from_array(SHARED))
    prepared = GeodesicBridgeCost(k=5, time=0.5).prepare(data)
    alone = [
        GeodesicBridgeCost(k=5, time=0.5).prepare(
            PairedData(connected.x, connected.y, Pairs.from_array(pair[None]))
        )
        for pair in SHARED
    ]  # fmt: skip
    heat = sum(np.exp(-np.asarray(g.a, float)) @ np.exp(-np.asarray(g.b, float)).T for g in alone)
    soft = np.exp(-np.asarray(prepared.a, float)) @ np.exp(-np.asarray(prepared.b, float)).T
    np.testing.assert_allclose(soft, heat, rtol=1e-4)
    assert prepared.a.shape[1] == prepared.b.shape[1] == 4


def test_pairs_that_share_a_target_are_one_bridge_of_the_knn_cost(connected):
    data = PairedData(connected.x, connected.y, Pairs.from_array(SHARED))
    heat = joint_heat(joint_lengths(data, 4), 0.7, 60)
    prepared = KNNCost(k=4, time=0.7).prepare(data)
    np.testing.assert_allclose(prepared.matrix(), -np.log(heat), rtol=1e-4)
    assert prepared.a.shape[1] == prepared.b.shape[1] == len(np.unique(SHARED[:, 1]))


def test_points_that_coincide_are_neighbours(rng):
    points = np.repeat(rng.normal(size=(12, 2)), 3, axis=0)
    data = PairedData(
        Cloud.uniform(points), Cloud.uniform(points), Pairs.from_array(np.array([[0, 0]]))
    )
    for cost in (GeodesicBridgeCost(k=5), KNNCost(k=5, time=0.0)):
        np.testing.assert_allclose(cost.prepare(data).matrix()[1, 2], 0, atol=1e-4)


@pytest.mark.parametrize("cost", [KNNCost(k=3), KNNCost(k=3, time=0.0), GeodesicBridgeCost(k=3)])
def test_a_side_of_one_place_is_finite(rng, cost):
    x, y = Cloud.uniform(np.ones((8, 2))), Cloud.uniform(rng.normal(size=(9, 2)))
    matrix = cost.prepare(PairedData(x, y, Pairs.from_array(np.array([[0, 0]])))).matrix()
    assert jnp.isfinite(matrix).all()


def test_graph_costs_do_not_depend_on_units(paired):
    scaled = PairedData(Cloud.uniform(7 * paired.x.points), paired.y, paired.pairs)
    for cost in (KNNCost(k=5), KNNCost(k=5, time=0.0), GeodesicBridgeCost(k=5)):
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


@pytest.mark.parametrize("square", ["covariance", "plain"])
def test_kernel_cca_is_regularised_in_either_way(rng, square):
    """Eq. 17 as a generalised eigenvalue problem, dense, by SciPy."""
    n, c = 20, 0.3
    hidden = rng.normal(size=(n, 2))
    x, y = (hidden @ rng.normal(size=(2, 3)) + 0.3 * rng.normal(size=(n, 3)) for _ in range(2))
    data = PairedData(
        Cloud.uniform(x), Cloud.uniform(y), Pairs.from_array(np.stack([np.arange(n)] * 2, 1))
    )
    prepared = KCCACost(
        components=2, shrinkage=c, square=square, gamma_x=0.1, gamma_y=0.1
    ).prepare(data)  # fmt: skip
    centre = np.eye(n) - 1 / n
    k, m = (centre @ rbf_kernel(np.asarray(p, np.float32), gamma=0.1) @ centre for p in (x, y))
    scale = n - 1 if square == "covariance" else 1
    none = np.zeros((n, n))
    within = block_diag(*((1 - c) * s @ s / scale + c * s + 1e-9 * np.eye(n) for s in (k, m)))
    _, found = eigh(np.block([[none, k @ m], [m @ k, none]]), within)
    for column in range(2):
        a, b = np.split(found[:, -1 - column], 2)
        for projected, expected in ((prepared.u, k @ a), (prepared.v, m @ b)):
            correlation = np.corrcoef(np.asarray(projected)[:, column], expected)[0, 1]
            assert abs(correlation) == pytest.approx(1, abs=1e-4)


def test_median_rule(rng):
    points = rng.normal(size=(30, 3))
    assert median_gamma(points) == pytest.approx(1 / (2 * np.median(pdist(points)) ** 2))
    assert median_gamma(np.ones((4, 2))) == 1.0


def test_bad_arguments_are_named(paired):
    with pytest.raises(ValueError, match=r"KNNCost\.k = 0"):
        KNNCost(k=0)
    with pytest.raises(ValueError, match=r"KNNCost\.time = -1"):
        KNNCost(time=-1)
    with pytest.raises(ValueError, match=r"KNNCost\.pair_length = -1"):
        KNNCost(pair_length=-1)
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
