"""Bridge and graph costs at new source points, against dense graphs that these points join."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_aligners.aligners import GlobalAlignment
from morphkit_aligners.refined import RefinedAlignment
from morphkit_costs.bridge import BridgeCost
from morphkit_costs.geodesic import GeodesicBridgeCost
from morphkit_costs.knn import KNNCost
from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn
from morphkit_solvers.sinkhorn import Sinkhorn
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial.distance import cdist

from morphkit.transport.entropic import EntropicMap, Reading
from morphkit.types import Cloud, PairedData, Pairs
from morphkit.wiring.structure import structure

COSTS = [
    BridgeCost(), BridgeCost("sqeuclidean", "sqeuclidean", "median"),
    BridgeCost("correlation", unit="none"),
    GeodesicBridgeCost(k=4), GeodesicBridgeCost(k=4, power=1.0, squared=True),
    GeodesicBridgeCost(k=4, metric_x="cosine"),
    GeodesicBridgeCost(k=4, time=1.0, metric_x="cosine"),
    KNNCost(k=4), KNNCost(k=4, time=0.0), KNNCost(k=4, weighted=False, pair_length=1.0),
    KNNCost(k=4, weighted=False, time=0.0),
]  # fmt: skip


@pytest.fixture
def apart(rng) -> PairedData:
    """Two clusters a side of 30 points, pairs in the first one alone, some of them shared."""
    x, y = (np.concatenate([rng.normal(size=(30, d)), rng.normal(size=(30, d)) + 100])
            for d in (5, 3))  # fmt: skip
    pairs = np.array([[0, 0], [1, 0], [2, 2], [3, 3], [3, 4]])
    return PairedData(Cloud.uniform(x), Cloud.uniform(y), Pairs.from_array(pairs))


@pytest.mark.parametrize("cost", COSTS, ids=str)
def test_points_of_the_cloud_have_their_own_cost(cost, paired, apart):
    for data in (paired, apart):
        fitted = cost.fit(data)
        expected = np.asarray(fitted.geometry.matrix())
        np.testing.assert_array_equal(expected, cost.prepare(data).matrix())
        size = expected.max()
        again = fitted.at(np.asarray(data.x.points))
        np.testing.assert_allclose(again.matrix(), expected, rtol=1e-5, atol=1e-6 * size)
        assert again.unit == fitted.geometry.unit
        kept = fitted.settled()
        some = kept.at(np.asarray(data.x.points)[[7, 45]]).matrix()
        np.testing.assert_allclose(some, expected[[7, 45]], rtol=1e-5, atol=1e-6 * size)
        assert kept.geometry.shape[0] == 0
        structure(kept)  # and can be saved
        assert not fitted.learns


@pytest.mark.parametrize("scale", [1.0, 1e25])
def test_a_new_point_is_in_the_unit_of_the_cloud(rng, paired, scale):
    data = replace(paired, x=replace(paired.x, points=paired.x.points * scale))
    x, y, new = (np.asarray(p, float) for p in (paired.x.points, paired.y.points,
                                                 3 * rng.normal(size=(7, 5)) + 1))  # fmt: skip
    unit = cdist(x, x, "sqeuclidean").mean(), cdist(y, y, "cosine").mean()
    left, right = cdist(new, x[:9], "sqeuclidean") / unit[0], cdist(y, y[:9], "cosine") / unit[1]
    expected = (left[:, None] + right[None]).min(-1)
    found = BridgeCost("sqeuclidean").fit(data).at((new * scale).astype(np.float32))
    np.testing.assert_allclose(found.matrix(), expected, rtol=1e-4, atol=1e-5)


def graph_of(points, k):
    distances = cdist(points, points)
    graph = np.zeros_like(distances)
    rows = np.arange(len(points))[:, None]
    nearest = np.argsort(distances, axis=1)[:, 1 : k + 1]
    graph[rows, nearest] = distances[rows, nearest]
    return np.maximum(graph, graph.T)


def edges_to(points, new, k):
    """Distances of each new point to its k nearest, zero for no edge."""
    distances = cdist(new, points)
    far = np.sort(distances, axis=1)[:, k - 1 : k]
    return np.where(distances <= far, distances, 0)


@pytest.fixture
def new(rng, paired) -> np.ndarray:
    some = np.asarray(paired.x.points)[rng.permutation(60)[:6]]
    return (some + 0.5 * rng.normal(size=some.shape)).astype(np.float32)


@pytest.mark.parametrize("squared", [False, True])
def test_a_new_point_takes_the_shortest_path_into_the_graph(paired, new, squared):
    """One-way edges: a new point makes no short cut for others."""
    x, exponent = np.asarray(paired.x.points, float), 2 if squared else 1
    cost = GeodesicBridgeCost(k=25, power=1.5, squared=squared)
    both = np.zeros((66, 66))
    both[:60, :60] = graph_of(x, 25) ** 1.5
    both[:60, 60:] = (edges_to(x, new, 25) ** 1.5).T
    paths = dijkstra(csr_array(both), indices=np.arange(9)).T ** exponent
    assert np.isfinite(paths).all()
    fitted = cost.fit(paired)
    a, b = paths[60:] / paths[:60].mean(), np.asarray(fitted.geometry.b, float)
    expected = (a[:, None] + b[None]).min(-1)
    np.testing.assert_allclose(fitted.at(new).matrix(), expected, rtol=1e-4)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_new_point_takes_the_shortest_path_of_the_joint_graph(paired, new, weighted):
    x, y = (np.asarray(cloud.points, float) for cloud in (paired.x, paired.y))
    k, power = 5, 2 if weighted else 0
    joint = np.zeros((116, 116))  # x, y, new
    unit = []
    for points, at in ((x, slice(60)), (y, slice(60, 110))):
        graph = graph_of(points, k)
        edge = graph > 0
        graph[edge] **= power
        unit.append(graph[edge].mean())
        joint[at, at] = graph / unit[-1]
    entering = edges_to(x, new, k)
    joint[:60, 110:] = np.where(entering > 0, entering**power / unit[0], 0).T
    joint[range(9), range(60, 69)] = joint[range(60, 69), range(9)] = 0.5
    paths = dijkstra(csr_array(joint), indices=np.arange(60, 110)).T[110:]
    cost = KNNCost(k=k, weighted=weighted, pair_length=0.5, time=0.0)
    found = np.asarray(cost.fit(paired).at(new).matrix())
    joined = np.isfinite(paths)
    assert joined.mean() > 0.5
    np.testing.assert_allclose(found[joined], paths[joined], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_new_point_is_warmed_by_the_joint_graph(paired, new, weighted):
    """A row of the system that others do not feel."""
    x, y = (np.asarray(cloud.points, float) for cloud in (paired.x, paired.y))
    k, power, time = 15, 2 if weighted else 0, 0.7
    conductance = np.zeros((116, 116))
    unit = []
    for points, at in ((x, slice(60)), (y, slice(60, 110))):
        graph = graph_of(points, k)
        edge = graph > 0
        lengths = np.where(edge, graph, 1) ** power
        unit.append(lengths[edge].mean())
        conductance[at, at] = np.where(edge, np.exp(-lengths / unit[-1]), 0)
    conductance[range(9), range(60, 69)] = conductance[range(60, 69), range(9)] = np.exp(-0.5)
    entering = edges_to(x, new, k)
    conductance[110:, :60] = np.where(
        entering > 0, np.exp(-(np.where(entering > 0, entering, 1) ** power) / unit[0]), 0
    )
    laplacian = np.diag(conductance.sum(1)) - conductance
    heat = np.linalg.inv(np.eye(116) + time * laplacian)[110:, 60:110]
    cost = KNNCost(k=k, weighted=weighted, pair_length=0.5, time=time)
    found = np.asarray(cost.fit(paired).at(new).matrix())
    np.testing.assert_allclose(found, -np.log(heat), rtol=1e-4)


def test_a_new_point_is_warmed_over_all_bridges(paired, new):
    x = np.asarray(paired.x.points, float)
    graph, entering = graph_of(x, 25), edges_to(x, new, 25)
    edge, time = graph > 0, 0.5
    median = np.median(graph[edge])
    mean = np.exp(-((graph[edge] / median) ** 2)).mean()
    conductance = np.zeros((66, 66))
    conductance[:60, :60] = np.where(edge, np.exp(-((graph / median) ** 2)), 0) / mean
    conductance[60:, :60] = np.where(entering > 0, np.exp(-((entering / median) ** 2)), 0) / mean
    laplacian = np.diag(conductance.sum(1)) - conductance
    heat = np.linalg.inv(np.eye(66) + time * laplacian)[60:, :9]
    found = GeodesicBridgeCost(k=25, time=time).fit(paired).at(new)
    np.testing.assert_allclose(found.a, -np.log(heat), rtol=1e-4)


@pytest.mark.parametrize("cost", COSTS[3:], ids=str)
def test_new_points_of_a_cluster_without_a_pair_are_alike_and_beyond(rng, cost, apart):
    near, far = (rng.normal(size=(4, 5)) + shift for shift in (0, 100))
    fitted = cost.fit(apart)
    own = np.asarray(fitted.geometry.matrix())
    found = np.asarray(fitted.at(np.concatenate([near, far]).astype(np.float32)).matrix())
    assert np.isfinite(found).all()
    if getattr(cost, "metric_x", "sqeuclidean") == "cosine":  # in which the clusters are joined
        return
    assert (np.ptp(found[4:], axis=1) <= 1e-5 * own.max()).all()
    assert found[4:].min() >= own[:30, :30].max()
    assert (found[:4, :30].max(1) <= found[:4, 30:].min(1) + 1e-5 * own.max()).all()


@pytest.mark.parametrize(
    "solver", [Sinkhorn(0.05, threshold=1e-5), BridgeSinkhorn(0.05, threshold=1e-5)]
)
@pytest.mark.parametrize("cost", [BridgeCost(), GeodesicBridgeCost(k=15), KNNCost(k=15)], ids=str)
def test_a_global_coupling_maps_new_points(cost, solver, paired, new):
    if isinstance(solver, BridgeSinkhorn) and isinstance(cost, KNNCost):
        cost = KNNCost(k=15, time=0.0)
    sampler = GlobalAlignment().sampler(paired, cost, solver)
    map = sampler.map
    assert isinstance(map, EntropicMap)
    own = np.exp(np.asarray(map.log_conditional(paired.x.points)))
    expected = np.exp(np.asarray(sampler.coupling.log_conditional(jnp.arange(60))))
    np.testing.assert_allclose(own, expected, atol=1e-4)
    np.testing.assert_allclose(map(new), np.exp(map.log_conditional(new)) @ paired.y.points,
                               rtol=1e-4, atol=1e-4)  # fmt: skip
    reread = Reading(temperature=2.0).of(map)
    assert isinstance(reread, EntropicMap)
    flat = np.sqrt(own)
    found = np.exp(np.asarray(reread.log_conditional(paired.x.points)))
    np.testing.assert_allclose(found, flat / flat.sum(1, keepdims=True), atol=1e-4)
    structure(map)


@pytest.mark.parametrize("cost", [BridgeCost(), GeodesicBridgeCost(), KNNCost()], ids=str)
def test_refinement_still_wants_a_cost_that_learns(cost, paired):
    with pytest.raises(ValueError, match=rf"{type(cost).__name__} .* take a cost that learns"):
        RefinedAlignment().couple(paired, cost, Sinkhorn())
    fitted = cost.fit(paired)
    coupling = Sinkhorn(0.1).solve(fitted.geometry, paired.x, paired.y)
    with pytest.raises(ValueError, match="learns nothing from a coupling"):
        fitted.learn(coupling, jnp.arange(60), jnp.arange(50), 0.5)
