"""float32: what it can hold is kept, what it cannot is refused; JAX_ENABLE_X64 changes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_aligners.aligners import LocalAlignment
from morphkit_baselines.anchor import NearestAnchor
from morphkit_costs.bridge import BridgeCost
from morphkit_costs.geodesic import GeodesicBridgeCost
from morphkit_costs.kcca import KCCACost
from morphkit_costs.knn import KNNCost
from morphkit_extractors.identity import Identity
from morphkit_extractors.pca import PCA
from morphkit_fields.mlp import MLP
from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn
from morphkit_solvers.gromov import FusedGromovWasserstein
from morphkit_solvers.low_rank import LowRankGromovWasserstein, LowRankSinkhorn
from morphkit_solvers.sinkhorn import Sinkhorn
from morphkit_solvers.through_ott import OTTFusedGromovWasserstein, OTTSinkhorn
from scipy.spatial.distance import cdist

import morphkit
from morphkit.data.arrays import split_arrays
from morphkit.features.extract import features_of
from morphkit.interfaces import FusedCost, OTSolver
from morphkit.loggers import Log
from morphkit.precision import as_float32, doubts, points_as_float32
from morphkit.training import loop
from morphkit.training.flow import Networks
from morphkit.training.loop import Training
from morphkit.training.scaling import Scaling
from morphkit.transport.geometry import METRICS, PointGeometry, embed, near_one, pairwise
from morphkit.types import Cloud, Dataset, PairedData, Pairs, Split

SCALES = [1e-30, 1e-19, 1e19, 1e30]
PAIRS = np.stack([np.arange(40)] * 2, axis=1)


def clusters(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two views of 20 clusters of 10 points, and the classes; the first two of each are paired."""
    rng = np.random.default_rng(seed)
    labels = np.resize(np.arange(20), 200)
    x = rng.normal(size=(20, 20))[labels] + 0.8 * rng.normal(size=(200, 20))
    y = rng.normal(size=(20, 10))[labels] + 0.5 * rng.normal(size=(200, 10))
    return x, y, labels


def matched(
    x: np.ndarray, y: np.ndarray, labels: np.ndarray, cost: str | FusedCost,
    solver: OTSolver | None = None,
) -> tuple[float, float]:  # fmt: skip
    """Matching accuracy and effective support of a coupling, by the bridge cost of a metric."""
    data = PairedData(Cloud.uniform(x, labels), Cloud.uniform(y, labels), Pairs.from_array(PAIRS))
    cost = BridgeCost(cost, cost) if isinstance(cost, str) else cost
    coupling = (solver or BridgeSinkhorn()).solve(cost.prepare(data), data.x, data.y)
    accuracy = coupling.matching_accuracy(data.x.labels, data.y.labels)
    return float(accuracy), float(coupling.effective_support())


@pytest.mark.parametrize("metric", ["cosine", "correlation"])
@pytest.mark.parametrize(("scale", "offset"), [*((s, 0) for s in SCALES), (1, 3000), (1, 30_000)])
def test_angles_keep_their_digits_at_any_scale_and_offset(rng, metric, scale, offset):
    x, y = (np.float32(scale * rng.normal(size=(n, 20)) + offset) for n in (30, 25))
    for points in (x, y):
        points[:, 0] *= 2  # a constant one would not be seen by correlation
    expected = cdist(np.float64(x), np.float64(y), metric)
    found = pairwise(metric, jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.mean())


@pytest.mark.parametrize("metric", ["cosine", "correlation"])
def test_matching_does_not_depend_on_the_scale_of_features(metric):
    x, y, labels = clusters()
    accuracy, support = matched(x, y, labels, metric)
    assert accuracy > 0.5
    for scale in SCALES:
        again = matched(scale * x, y, labels, metric)
        assert again == pytest.approx((accuracy, support), rel=1e-3), scale


def test_a_common_offset_costs_cosine_no_digits():
    # The cosine around a far origin is a Euclidean distance: not the same cost, but a good one.
    x, y, labels = clusters()
    near = matched(x + 30, y + 30, labels, "cosine")
    assert near[0] > 0.5
    assert matched(x + 3000, y + 3000, labels, "cosine") == pytest.approx(near, rel=0.02)


EUCLIDEAN = FusedGromovWasserstein(0.02, metric_x="sqeuclidean", metric_y="sqeuclidean")
SOLVED = [
    *((BridgeCost(m, m), Sinkhorn()) for m in METRICS),
    *((GeodesicBridgeCost(metric_x=m, metric_y=m), Sinkhorn()) for m in METRICS),
    *((cost, Sinkhorn()) for cost in (KNNCost(), KNNCost(time=0.0), KCCACost())),
    (BridgeCost(), EUCLIDEAN),
]  # fmt: skip


@pytest.mark.parametrize(("cost", "solver"), SOLVED)
def test_an_offset_of_one_side_costs_no_more_than_one_of_both(cost, solver):
    x, y, labels = clusters()
    both = matched(x + 3000, y + 3000, labels, cost, solver)
    assert both[0] > 0.7
    for sides in ((x + 3000, y), (x, y + 3000)):
        assert matched(*sides, labels, cost, solver)[0] == pytest.approx(both[0], abs=0.02)


@pytest.mark.parametrize("scale", [1e-30, 1e25])
@pytest.mark.parametrize("cost", [
    BridgeCost("sqeuclidean", "sqeuclidean"), GeodesicBridgeCost(), KNNCost(), KCCACost(),
    BridgeCost("sqeuclidean", "sqeuclidean", unit="median"), GeodesicBridgeCost(squared=True),
])  # fmt: skip
def test_distances_keep_their_digits_at_any_scale(cost, scale):
    x, y, labels = clusters()
    near = matched(x, y, labels, cost, Sinkhorn())
    for sides in ((scale * x, y), (x, scale * y)):
        assert matched(*sides, labels, cost, Sinkhorn()) == pytest.approx(near, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_distances_within_a_side_keep_their_digits_at_any_scale(scale):
    x, y, labels = clusters()
    near = matched(x, y, labels, "cosine", EUCLIDEAN)
    found = matched(scale * x, scale * y, labels, "cosine", EUCLIDEAN)
    assert found == pytest.approx(near, rel=1e-3)


@pytest.mark.parametrize("largest", [1.3e-36, 1e-30, 1.0, 2.0, 3.4e38])
def test_a_power_of_two_brings_points_near_one(rng, largest):
    points = np.float32(rng.uniform(-largest, largest, (20, 3)))
    points[0, 0] = largest
    found = np.asarray(near_one(jnp.asarray(points)))
    assert 1 <= np.abs(found).max() < 2
    mantissas = [np.frexp(np.where(np.abs(p) > 0.01 * p.max(), p, 0))[0] for p in (points, found)]
    np.testing.assert_array_equal(*mantissas)
    np.testing.assert_array_equal(near_one(jnp.zeros((4, 2))), 0)


@pytest.mark.parametrize("value", [0.1, 1 / 3, -7e5, 1e-30, 3e30])
def test_constant_rows_have_no_correlation(rng, value):
    rows = jnp.full((2, 700), value).at[1, ::2].multiply(1 + 2e-7)  # the second: but for rounding
    np.testing.assert_array_equal(embed("correlation", rows), 0)
    others = jnp.asarray(rng.normal(size=(20, 700)), jnp.float32)
    np.testing.assert_allclose(pairwise("correlation", rows, others), 1, rtol=1e-6)
    np.testing.assert_allclose(pairwise("correlation", rows, rows), 1, rtol=1e-6)


def test_an_offset_that_float32_cannot_hold_is_refused():
    x, y, _ = clusters()
    assert len(np.unique(np.float32(x[:, 0] + 1e9))) < 5  # what would be left
    for far in (x + 1e9, x + 1e6, np.round(100 * x).astype(np.int64) + 2**60,
                (np.round(100 * x) + 1e4).astype(np.uint64) + 2**63):  # fmt: skip
        with pytest.raises(ValueError, match=r"target lies .* source|source lies .* source\.mean"):
            split_arrays(far, y, PAIRS)
    with pytest.raises(ValueError, match=r"target lies .* target\.mean"):
        morphkit.align(x, y + 1e9, PAIRS)
    with pytest.raises(ValueError, match="points lies"):
        Cloud.uniform(x + 1e9)
    with pytest.raises(ValueError, match="inputs lies"):
        Identity((20,), key=jax.random.key(0)).encode(x + 1e9, key=jax.random.key(0))


def test_what_float32_can_hold_is_kept():
    x, _, _ = clusters()
    still = np.full((50, 3), 0.1) * (1 + 1e-16 * np.arange(50))[:, None]
    for points in (x, x + 3000, 1e-30 * x, x.astype(np.float16), np.c_[x, 1e9 + 0 * x[:, :1]],
                   still, x[:1] + 1e9, x[:0], np.arange(300, dtype=np.uint8)[:, None]):  # fmt: skip
        np.testing.assert_array_equal(points_as_float32("x", points), np.float32(points))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1e300, 1.0]], r"x has 1 values beyond float32's 3.4e38, such as 1e\+300"),
        ([[1e-50, 0.0]], "x has no value above float32's smallest"),
        ([[1e-50, np.nan]], "x has no value above float32's smallest.*largest is 1e-50"),
    ],
)
def test_numbers_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        as_float32("x", np.array(values))


def test_nothing_but_nan_is_not_taken_for_small(recwarn):
    assert np.isnan(as_float32("x", np.full((2, 2), np.nan))).all()
    assert not recwarn.list


def test_a_run_warns_of_features_that_float32_holds_badly(tmp_path):
    x, y, _ = clusters()
    split = Split(np.float32(1e17 * x), np.float32(y + 1e5), PAIRS)
    with Log(tmp_path, wandb="disabled", quiet=True) as log:
        features_of(Dataset("far", None, split, split), Identity, Identity, log)
    lines = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    warnings = "; ".join(line.get("warning", "") for line in lines)
    assert "source features have values of size" in warnings
    assert "target features have a mean that is" in warnings
    assert "target features have values" not in warnings
    assert not doubts(np.float32(x + 3000))


def test_labels_of_more_than_32_bits_stay_apart():
    x, y, classes = clusters()
    large = classes.astype(np.int64) * 2**32 - 2**40
    train = split_arrays(
        x, y[5:], PAIRS[5:] - [0, 5], source_labels=large, target_labels=large[5:], test_fraction=0
    ).train
    np.testing.assert_array_equal(train.source_labels, classes)
    np.testing.assert_array_equal(train.target_labels, classes[5:])
    a, b = Cloud.uniform(train.source, train.source_labels), Cloud.uniform(y, classes)
    np.testing.assert_array_equal(a.labels, b.labels)
    with pytest.raises(ValueError, match="labels need more than 32 bits: number the classes"):
        Cloud.uniform(x, large)
    # One side's classes count for both, and class numbers that fit are class indices: kept.
    both = split_arrays(x, y, PAIRS, source_labels=large, target_labels=classes, test_fraction=0)
    assert not set(both.train.source_labels) & set(both.train.target_labels)
    kept = split_arrays(x, y, PAIRS, source_labels=classes + 5, test_fraction=0).train
    np.testing.assert_array_equal(kept.source_labels, classes + 5)
    with pytest.raises(ValueError, match="source_labels has labels above"):
        split_arrays(x, y, PAIRS, source_labels=large.astype(np.uint64))


@pytest.mark.parametrize("how", ["each", "whole"])
@pytest.mark.parametrize("scale", [1e-30, 1e25, 1e37])
def test_networks_see_unit_size_at_any_scale(rng, how, scale):
    x, y = (jnp.asarray(scale * (rng.normal(size=(400, 3)) + 2), jnp.float32) for _ in "xy")
    scaling = Scaling.fit(x, y, how)
    for points in (scaling.x(x), scaling.y(y)):
        assert float(jnp.mean(points**2)) == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(scaling.y_inverse(scaling.y(y)), y, rtol=1e-4, atol=1e-4 * scale)


def test_components_are_found_around_a_large_mean(rng):
    points = rng.normal(size=(200, 6)) * [9, 5, 3, 0.1, 0.1, 0.1]
    key = jax.random.key(0)
    near, far = (PCA((6,), 3, key=key).fit(p, key=key).encode(p, key=key)
                 for p in (points, points + 1e7))  # fmt: skip
    near, far = (np.asarray(scores) - np.asarray(scores).mean(0) for scores in (near, far))
    np.testing.assert_allclose(np.abs(far), np.abs(near), atol=1e-2)


@pytest.mark.parametrize(
    ("metric", "scale", "offset"),
    [("cosine", 1, 3000), ("cosine", 1e-30, 0), ("euclidean", 1, 3000), ("euclidean", 1e-15, 0)],
)
def test_the_nearest_anchor_is_the_nearest(rng, metric, scale, offset):
    x, y = (np.float32(scale * rng.normal(size=(300, 8)) + offset) for _ in "xy")
    data = PairedData(Cloud.uniform(x), Cloud.uniform(y), Pairs.from_array(PAIRS))
    found = np.asarray(NearestAnchor(metric).fit(data)(data.x.points[40:]))
    nearest = cdist(np.float64(x[40:]), np.float64(x[:40]), metric).argmin(1)
    assert np.mean(np.all(found == y[nearest], axis=1)) > 0.98  # but for a tie


FAST = ["run.wandb = 'disabled'", "Training.steps = 5", "Training.steps_per_dispatch = 5",
        "Training.batch_size = 32", "run.field = @field.MLP", "MLP.layers = 1",
        "MLP.hidden = 16"]  # fmt: skip
BARE = [*FAST, "run.evaluators = []", "run.baselines = []"]
QUICK = [
    *FAST,
    "VAEText.steps = 20",
    "Choice.candidates = [@curved/Candidate()]",
    "Choice.folds = 2",
    "run.baselines = [@baseline.Ridge(), @baseline.LabelSpreading()]",
    "Training.evaluate_every = 5",
    "Digits.pretrain_fraction = 0.8",
    "Digits.test_fraction = 0.1",
]
SOLVERS = {
    "Sinkhorn": Sinkhorn(0.05),
    "Sinkhorn, relaxed": Sinkhorn(0.05, tau_x=0.9),
    "BridgeSinkhorn": BridgeSinkhorn(0.05),
    "FGW": FusedGromovWasserstein(0.05),
    "FGW, relaxed": FusedGromovWasserstein(0.05, tau_x=0.9, tau_y=0.9),
    "LowRankSinkhorn": LowRankSinkhorn(4),
    "LowRankGromovWasserstein": LowRankGromovWasserstein(4),
    "OTTSinkhorn": OTTSinkhorn(0.05),
    "OTTFusedGromovWasserstein": OTTFusedGromovWasserstein(0.05),
}


def couplings() -> dict[str, np.ndarray]:
    """What every solver, called directly, makes of a small problem, under whatever types it is."""
    x, y, _ = clusters()
    data = PairedData(Cloud.uniform(x[:20]), Cloud.uniform(y[:20]), Pairs.from_array(PAIRS[:8]))
    geometry, found = BridgeCost().prepare(data), {}
    for name, solver in SOLVERS.items():
        coupling = solver.solve(geometry, data.x, data.y)
        assert bool(coupling.convergence.converged), name
        assert all(map(np.isfinite, coupling.diagnostics(data.x, data.y).values())), name
        found[name] = np.asarray(coupling.to_dense())
        assert found[name].dtype == np.float32, name
    return found


UNDER_X64 = """
import sys
from pathlib import Path
import jax, numpy as np, morphkit
from test_precision import BARE, PAIRS, QUICK, clusters, couplings

assert jax.numpy.ones(1).dtype == "float64"
out, saved, (x, y, _) = Path(sys.argv[1]), sys.argv[2], clusters()
np.savez(out / "couplings.npz", **couplings())
draws = {"loaded": morphkit.load(saved)(x, draws=3, key=jax.random.key(1))}
for method in ("true", "global", "local"):
    morph = morphkit.align(x, y, PAIRS, method=method, bindings=BARE, out=out / method)
    draws[method] = morph(x, draws=3, key=jax.random.key(1))
    np.testing.assert_array_equal(morphkit.load(out / method)(x, draws=3, key=jax.random.key(1)),
                                  draws[method])
    assert draws[method].dtype == "float32" and np.isfinite(draws[method]).all()
result = morphkit.run("quickstart.gin", QUICK, out / "quickstart")
assert np.isfinite(result.metrics["morph/test_accuracy"])
np.savez(out / "draws.npz", **draws)
"""


def test_64_bit_types_change_nothing(tmp_path, monkeypatch):
    """Solvers, three alignments and the quickstart run with JAX_ENABLE_X64, and a morph that was
    saved without gives the same draws, bit for bit; so does one trained with and without."""
    monkeypatch.setenv("MORPHKIT_CACHE", str(tmp_path / "cache"))
    x, y, _ = clusters()
    saved = tmp_path / "saved"
    morph = morphkit.align(x, y, PAIRS, method="global", bindings=BARE, out=saved)
    expected, solved = morph(x, draws=3, key=jax.random.key(1)), couplings()
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", UNDER_X64, str(tmp_path), str(saved)], capture_output=True,
        text=True, env={**os.environ, "JAX_ENABLE_X64": "1", "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "draws.npz")
    np.testing.assert_array_equal(found["loaded"], expected)
    np.testing.assert_array_equal(found["global"], expected)
    again = np.load(tmp_path / "couplings.npz")
    for name, values in solved.items():
        np.testing.assert_allclose(again[name], values, atol=1e-4 * values.max(), err_msg=name)


def test_features_of_a_mapped_file_are_not_copied_and_those_in_memory_are(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((100, 8), np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.shares_memory(as_float32("x", mapped[10:].reshape(-1, 4)), mapped)
    own = np.ones((100, 8), np.float32)
    guarded = own.view()
    guarded.flags.writeable = False
    clouds = Cloud.uniform(own), Cloud.uniform(guarded)
    own[:] = 7
    for cloud in clouds:
        assert (np.asarray(cloud.points) == 1).all()
    with pytest.raises(ValueError, match="no value above float32's smallest"):
        as_float32("x", np.full((2, 2), 1e-40))
    assert np.isnan(as_float32("x", np.full((2, 2), np.nan))).all()


def products(lowered) -> list[str]:
    """The lines of a program that multiply matrices."""
    return [line for line in lowered.as_text().splitlines() if "dot_general" in line]


@pytest.mark.parametrize("solver", [Sinkhorn(), Sinkhorn(points=10), BridgeSinkhorn()])
def test_costs_and_solvers_multiply_in_all_digits_wherever_they_are_called(solver):
    """Also where JAX is told to be coarse, as GPUs are by default."""
    x, y, _ = clusters()
    data = PairedData(Cloud.uniform(x[:40]), Cloud.uniform(y[:40]), Pairs.from_array(PAIRS[:8]))
    points = PointGeometry(data.x.points, data.x.points, "sqeuclidean")
    streamed = isinstance(solver, Sinkhorn) and solver.points < 40
    geometry = points if streamed else BridgeCost().prepare(data)

    def solved(geometry):
        found = solver.solve(geometry, data.x, data.y)
        return found.convergence, found.marginal(1), points.matrix()

    with jax.default_matmul_precision("bfloat16"):
        found = products(jax.jit(solved).lower(geometry))
    assert len(found) >= 2
    assert all("HIGHEST" in line for line in found)


def test_bfloat16_is_of_the_networks_products_alone():
    """Local alignment solves inside the step that is compiled: its costs are multiplied in full."""
    x, y, _ = clusters()
    data = PairedData(Cloud.uniform(x), Cloud.uniform(y), Pairs.from_array(PAIRS))
    sampler = LocalAlignment().sampler(data, BridgeCost(), BridgeSinkhorn())
    networks = Networks(MLP(20, 10, layers=2, hidden=16, key=jax.random.key(0)), None, None)
    scaling = Scaling.fit(data.x.points, data.y.points, "each")
    exact, coarse = (
        Training(steps=2, batch_size=32, learning_rate=1e-3, precision=precision)
        for precision in ("float32", "bfloat16")
    )
    state = networks, exact._optimiser().init(eqx.filter(networks, eqx.is_inexact_array)), None
    counts = []
    for training in (exact, coarse):
        context = training, scaling, sampler, jax.random.key(1), jnp.arange(2)
        found = products(loop._dispatch.lower(context, jax.tree.map(jnp.copy, state)))
        counts.append(sum("bf16" in line for line in found))
        assert all("HIGHEST" in line or "bf16" in line for line in found)
        assert any("HIGHEST" in line for line in found)
    assert counts[0] == 0
    assert counts[1] > 3
