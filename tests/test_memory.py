"""What a machine has, and the refusal of what it has not."""

import os
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_baselines import preprocessing
from morphkit_baselines.anchor import NearestAnchor
from morphkit_baselines.classes import NearestClassMean
from morphkit_baselines.relative import RelativeRepresentation
from morphkit_baselines.spreading import LabelSpreading
from morphkit_costs import kcca
from morphkit_costs.bridge import BridgeCost
from morphkit_costs.geodesic import GeodesicBridgeCost
from morphkit_costs.kcca import KCCACost
from morphkit_costs.knn import HeatGeometry, KNNCost
from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn
from morphkit_solvers.sinkhorn import Sinkhorn

import morphkit
from morphkit.transport import bridges as of_bridges
from morphkit.transport import couplings, geometry, memory
from morphkit.transport.drawing import Table
from morphkit.transport.geometry import BridgeGeometry, PointGeometry
from morphkit.transport.half import Half
from morphkit.transport.memory import UNKNOWN, ask_memory, available, budget
from morphkit.transport.sharpening import sharpen
from morphkit.types import Cloud, PairedData, Pairs


@pytest.fixture(autouse=True)
def no_budget(monkeypatch):
    monkeypatch.delenv("MORPHKIT_MEMORY", raising=False)


def test_no_more_is_available_than_the_machine_has():
    assert 0 < available() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_what_is_not_there_is_refused_with_its_size_and_what_to_do():
    ask_memory("a small array", 2**10, "nothing")
    with pytest.raises(MemoryError, match=r"a table takes 1048576\.0 GiB, and .* GiB are.*; sell"):
        ask_memory("a table", 2**50, "sell the house")


def test_the_machines_and_the_containers_word_are_taken(tmp_path, monkeypatch):
    machine, container = tmp_path / "meminfo", tmp_path / "memory.max"
    monkeypatch.setattr(memory, "MEMINFO", machine)
    monkeypatch.setattr(memory, "CONTAINER", (container,))
    assert available() == UNKNOWN
    machine.write_text("MemTotal:  9000 kB\nMemFree:  100 kB\nMemAvailable:    5000 kB\n")
    assert available() == 5000 * 2**10
    container.write_text("max\n")
    assert available() == 5000 * 2**10
    container.write_text("1000\n")
    assert available() == 1000
    machine.write_text("MemTotal:  9000 kB\n")
    container.unlink()
    assert available() == UNKNOWN


def test_a_budget_leaves_what_the_process_has_not_taken_of_it(tmp_path, monkeypatch):
    status = tmp_path / "status"
    status.write_text("VmRSS:  900000 kB\nRssAnon:  300000 kB\nRssFile:  600000 kB\n")
    monkeypatch.setattr(memory, "STATUS", status)
    assert budget() is None
    monkeypatch.setenv("MORPHKIT_MEMORY", "1 GiB")
    assert available() == 2**30 - 300000 * 2**10
    with pytest.raises(MemoryError, match=r"0\.7 GiB of MORPHKIT_MEMORY = '1 GiB' are available"):
        ask_memory("a table", 2**30 - 2**28, "sell the house")
    monkeypatch.setenv("MORPHKIT_MEMORY", "100 MB")
    assert available() == 0
    status.unlink()
    assert available() == 10**8
    monkeypatch.setenv("MORPHKIT_MEMORY", "1000 TB")
    assert available() < 10**13  # no more than there is


def test_on_an_accelerator_a_budget_is_of_its_memory(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 9 * 10**9, "bytes_in_use": 5 * 10**9}

    monkeypatch.setattr(memory.jax, "local_devices", lambda: [Device()])
    assert available() == 4 * 10**9
    monkeypatch.setenv("MORPHKIT_MEMORY", "7 GB")
    assert available() == 2 * 10**9
    monkeypatch.setenv("MORPHKIT_MEMORY", "3 GB")
    assert available() == 0


def test_a_budget_is_asked_by_a_solver(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    x = Cloud.uniform(jax.random.normal(jax.random.key(0), (500, 3)))
    cost = PointGeometry(x.points, x.points, "sqeuclidean")
    whole, drawn = Sinkhorn(max_iterations=1), Sinkhorn(max_iterations=1, points=400)
    arrays = ((whole, 5 * 4 * 500**2, "500 × 500.*lower `points`"),
              (drawn, 4 * (3 * 400**2 + 2 * 1000 * 5), "400 × 400 drawn.*lower Sinkhorn.points"),
    )  # fmt: skip
    for solver, size, message in arrays:
        monkeypatch.setenv("MORPHKIT_MEMORY", str(size - 1))
        with pytest.raises(MemoryError, match=message):
            solver.solve(cost, x, x)
        monkeypatch.setenv("MORPHKIT_MEMORY", str(size))
        solver.solve(cost, x, x)


@pytest.mark.parametrize("wrong", ["much", "-1 GB", "12 apples", "1,5 GB", "12 GB or so", "1.2.3"])
def test_a_budget_that_is_no_size_is_refused_before_a_run_begins(wrong, monkeypatch, tmp_path):
    monkeypatch.setenv("MORPHKIT_MEMORY", wrong)
    with pytest.raises(ValueError, match=f"MORPHKIT_MEMORY = '{wrong}' is no size; give one"):
        morphkit.run(Path(__file__).parent.parent / "gin" / "quickstart.gin", out=tmp_path / "run")
    assert not list(tmp_path.glob("run/*.jsonl"))  # nothing was begun


def paired(n, m, pairs, targets=None):
    """Two clouds whose pairs go to so many different targets."""
    rng = np.random.default_rng(0)
    x, y = (Cloud.uniform(rng.normal(size=(k, 3)).astype(np.float32)) for k in (n, m))
    target = np.arange(pairs) % (targets or pairs)
    return PairedData(x, y, Pairs.from_array(np.stack([rng.permutation(n)[:pairs], target], 1)))


COSTS = pytest.mark.parametrize(
    ("cost", "columns"),
    [
        (BridgeCost(), 20),
        (GeodesicBridgeCost(), 220),
        (GeodesicBridgeCost(squared=True), 220),
        (GeodesicBridgeCost(time=1.0), 200),
        (KNNCost(time=0.0), 20),
        (KNNCost(), 200),
    ],
    ids=str,
)


@COSTS
def test_factors_are_asked_for_before_they_are_taken(cost, columns, monkeypatch):
    """Once for all pairs that are one bridge, where the cost takes them as one."""
    n, m = 20_000, 10_000
    data = paired(n, m, 200, targets=20)
    monkeypatch.setattr(memory, "available", lambda: 4 * (n + m) * columns)
    tracemalloc.start()
    message = rf"table of {n} \+ {m} points to {columns} bridges .*, . times .*run.paired_fraction"
    with pytest.raises(MemoryError, match=message):
        cost.prepare(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * (n + m) * columns


def asked(monkeypatch, *modules):
    """What is asked for from now on, in bytes."""
    sizes = []
    for module in modules:
        monkeypatch.setattr(module, "ask_memory", lambda what, size, advice: sizes.append(size))
    return sizes


@COSTS
def test_no_more_is_taken_for_factors_than_was_asked_for(cost, columns, monkeypatch):
    """Of what NumPy takes, without what the graphs do. Nor is five times as much asked for."""
    data = paired(900, 600, 200, targets=20)
    cost.prepare(data)
    sizes = asked(monkeypatch, geometry)
    tracemalloc.start()
    cost.prepare(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    graphs = 2**21
    assert peak < sizes[0] + graphs
    assert columns < 200 or sizes[0] < 5 * peak


def test_the_kernels_of_kcca_are_asked_for_and_the_points_taken_in_blocks(monkeypatch):
    data = paired(500, 2_000, 100)
    whole = KCCACost().prepare(data)
    monkeypatch.setattr(kcca, "BLOCK", 100 * 130)
    blocks = KCCACost().prepare(data)
    assert blocks.shape == (500, 2_000)
    for one, other in ((blocks.u, whole.u), (blocks.v, whole.v)):
        np.testing.assert_allclose(one, other, atol=1e-4)
    sizes = asked(monkeypatch, kcca)
    tracemalloc.start()
    KCCACost().prepare(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    blocks = 2**21  # far below the kernels of all points
    assert peak < sizes[0] + blocks < 2 * 8 * 2_500 * 100 + 2**20
    monkeypatch.undo()
    monkeypatch.setattr(memory, "available", lambda: 8 * 100**2)
    with pytest.raises(MemoryError, match=r"kernel CCA of 100 pairs .*run\.paired_fraction"):
        KCCACost().prepare(data)


def taken(function, *arrays):
    """Bytes that a compiled function has at once, beside its arguments."""
    found = jax.jit(function).lower(*arrays).compile().memory_analysis()
    assert found is not None
    return found.temp_size_in_bytes + found.output_size_in_bytes


def test_a_solve_by_factors_takes_what_it_asks_for(monkeypatch):
    n, m, bridges = 3000, 300, 400
    data = paired(n, m, 1)
    a, b = (jnp.asarray(np.random.default_rng(k).random((k, bridges)), "float32") for k in (n, m))
    f, g, mass = jnp.zeros(n), jnp.zeros(m), jnp.zeros(bridges)
    sizes = asked(monkeypatch, geometry)
    solver = BridgeSinkhorn(halvings=1)
    solve = taken(lambda a, b: solver.solve(BridgeGeometry(a, b), data.x, data.y).f, a, b)
    first = taken(lambda a, f, mass: of_bridges._from_sources(a, 0.1, f, mass), a, f, mass)
    second = taken(lambda b, g: of_bridges._to_targets(b, 0.1, g), b, g)
    assert max(solve, first, second) <= sizes[0]
    monkeypatch.undo()
    monkeypatch.setattr(memory, "available", lambda: 4 * (n + m) * bridges)
    with pytest.raises(MemoryError, match=rf"{n} \+ {m} points to {bridges} bridges .*, 3 times"):
        solver.solve(BridgeGeometry(a, b), data.x, data.y)


def test_a_solve_in_half_precision_stores_nothing_of_the_size_of_its_factor(monkeypatch):
    n, m, bridges = 30_000, 1000, 100
    data = paired(n, m, 1)
    a, b = (jnp.asarray(np.random.default_rng(k).random((k, bridges)), "float32") for k in (n, m))
    half, solver = Half.of(a), BridgeSinkhorn(halvings=1)
    solve = taken(lambda a, b: solver.solve(BridgeGeometry(a, b), data.x, data.y).f, half, b)
    mass = jnp.zeros(bridges)
    draws = taken(lambda a, f: of_bridges._from_sources(a, 0.1, f, mass), half, jnp.zeros(n))
    assert max(solve, draws) < 4 * n * bridges / 2
    sizes = asked(monkeypatch, geometry)
    solver.solve(BridgeGeometry(half, b), data.x, data.y)
    assert sizes[0] < 4 * n * bridges


def test_the_mean_of_a_cost_by_heat_needs_no_matrix(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.exponential(size=(k, 5)), "float32") for k in (3000, 2000))
    mu, nu = (jnp.asarray(rng.dirichlet(np.ones(k)), "float32") for k in (3000, 2000))
    dense = -np.log(np.exp(-np.asarray(a, np.float64)) @ np.exp(-np.asarray(b, np.float64)).T)
    cost = HeatGeometry(a, b)
    np.testing.assert_allclose(cost.mean(mu, nu), mu @ dense @ nu, rtol=1e-5)
    np.testing.assert_allclose(cost.matrix(), dense, rtol=1e-4, atol=1e-5)
    assert taken(lambda a, b: HeatGeometry(a, b).mean(mu, nu), a, b) < 4 * 3000 * 2000
    monkeypatch.setattr(memory, "available", lambda: 4 * 2999 * 2000)
    with pytest.raises(MemoryError, match="a dense 3000 × 2000 cost"):
        geometry.dense(cost)


def test_a_table_to_sharpen_is_asked_for_with_what_is_made_of_it(monkeypatch):
    values = jnp.full((50, 40), 1 / 2000)
    coupling = couplings.DenseCoupling(values, couplings.Convergence.exact())
    monkeypatch.setattr(memory, "available", lambda: 4 * 50 * 40 * 4)
    assert coupling.to_dense().shape == (50, 40)
    with pytest.raises(MemoryError, match="50 × 40 coupling, 5 times held"):
        sharpen(coupling, 0.5)


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        (RelativeRepresentation(), "profiles of 2000 targets over 100 anchors .*anchors lower"),
        (LabelSpreading(), "100 classes at 2000 points, 5 times .*leave this baseline out"),
    ],
)
def test_tables_of_baselines_are_asked_for(baseline, message, monkeypatch):
    data = paired(2000, 2000, 200, targets=100)
    if isinstance(baseline, RelativeRepresentation):
        data = paired(2000, 2000, 100)
    monkeypatch.setattr(memory, "available", lambda: 2**19)
    with pytest.raises(MemoryError, match=message):
        baseline.fit(data)


@pytest.mark.parametrize(
    "baseline", [NearestAnchor(), NearestClassMean(), RelativeRepresentation()], ids=str
)
def test_maps_of_baselines_take_points_in_blocks(baseline, monkeypatch):
    """What they hold is that of a block, not of all points: points times anchors, or classes."""
    fitted = baseline.fit(paired(2000, 2000, 1000, targets=500))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4000, 3)), "float32")
    wide = np.asarray(fitted(x))
    monkeypatch.setattr(preprocessing, "BLOCK", 2**14)
    np.testing.assert_allclose(fitted(x), wide, atol=1e-5)
    assert taken(lambda x: fitted(x), x) < 4 * 4000 * 500 / 8


def test_tables_of_very_many_targets_are_made_by_blocks(rng, monkeypatch):
    """From a thousand texts to a million images: nothing else is as large."""
    monkeypatch.setattr(of_bridges, "AT_ONCE", 2**16)
    m, count, g = 20_000, 30, jnp.asarray(rng.normal(size=20_000), "float32")
    cost = jnp.asarray(rng.uniform(size=(m, count)), "float32")
    factor = Half.of(cost)
    make = of_bridges._to_targets.__wrapped__
    table = 4 * m * count
    assert taken(make, factor, jnp.float32(0.1), g) < 1.5 * table
    mass, found = jax.jit(make)(factor, jnp.float32(0.1), g)
    log = g[:, None] - (factor.least[:, None] + factor.excess) / 0.1
    np.testing.assert_allclose(mass, jax.nn.logsumexp(log, axis=0), rtol=1e-5)
    expected = Table.of(jnp.exp(log - jax.nn.logsumexp(log, axis=0)).T)
    for level, other in zip(found.levels, expected.levels, strict=True):
        np.testing.assert_allclose(level, other, atol=1e-5)
