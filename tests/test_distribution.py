"""Local distributions of similarities, against POT, and alignment without any pair."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from morphkit_aligners.aligners import GlobalAlignment
from morphkit_aligners.refined import RefinedAlignment
from morphkit_costs.canonical import CanonicalCost
from morphkit_costs.distribution import LocalDistributionCost
from morphkit_metrics.agreement import Agreement
from morphkit_solvers.sinkhorn import Sinkhorn
from scipy.stats import ortho_group

import morphkit
from morphkit.cli import main
from morphkit.transport.couplings import Coupling
from morphkit.types import Cloud, PairedData, Pairs
from morphkit.wiring.records import rebuild, record

NONE = Pairs.from_array(np.zeros((0, 2), int))
START = LocalDistributionCost()


@pytest.fixture(scope="module")
def turned() -> tuple[PairedData, np.ndarray]:
    """300 points of 8 dimensions, of a cloud that no rotation leaves as it is, and what a rotation
    and a little noise make of them, in another order; without pairs, and who belongs to whom."""
    rng = np.random.default_rng(0)
    x = rng.gamma(1.0, size=(300, 8)) * np.linspace(1, 3, 8)
    y = x @ ortho_group.rvs(8, random_state=1) + 0.02 * rng.normal(size=x.shape)
    order = rng.permutation(300)
    return PairedData(Cloud.uniform(x), Cloud.uniform(y[order]), NONE), np.argsort(order)


def similarities(cloud: Cloud) -> np.ndarray:
    """(n, n - 1): centred, of unit length, centred; without their own, standardised."""
    points, weights = (np.asarray(a, float) for a in (cloud.points, cloud.weights))
    z = points - weights @ points
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    z = z - weights @ z
    apart = ~np.eye(len(z), dtype=bool)
    found = (z @ z.T)[apart].reshape(len(z), -1)
    shares = np.broadcast_to(weights, (len(z),) * 2)[apart].reshape(found.shape)
    shares = shares / shares.sum(1, keepdims=True) / len(z)
    mean = np.sum(shares * found)
    return (found - mean) / np.sqrt(np.sum(shares * (found - mean) ** 2))


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_squared_wasserstein_distance_of_similarities(turned, weighted):
    """Up to its 200 quantiles of 299 values."""
    data, _ = turned
    weights = np.where(np.arange(300) < 60, 6.0, 1.0) if weighted else np.ones(300)
    data = replace(data, x=replace(data.x, weights=jnp.asarray(weights / weights.sum())))
    found = np.asarray(START.prepare(data).matrix())[:20, :30]
    a, b = (similarities(c) for c in (data.x, data.y))
    others = [np.delete(weights, k) / np.delete(weights, k).sum() for k in range(20)]
    expected = np.array([[ot.wasserstein_1d(p, q, w, p=2) for q in b[:30]]
                         for p, w in zip(a[:20], others, strict=True)])  # fmt: skip
    assert np.abs(found - expected).max() < 0.05 * expected.max()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


def test_neither_rotations_nor_scales_nor_blocks_change_it(turned, monkeypatch):
    data, _ = turned
    expected = np.asarray(START.prepare(data).matrix())
    x = np.asarray(data.x.points, float) @ ortho_group.rvs(8, random_state=3) * 7 + 2
    monkeypatch.setattr("morphkit_costs.distribution.BLOCK", 7 * 300)
    found = START.prepare(PairedData(Cloud.uniform(x), data.y, NONE)).matrix()
    np.testing.assert_allclose(found, expected, atol=2e-3)
    part = np.asarray(LocalDistributionCost(points=150).prepare(data).matrix())
    assert np.corrcoef(part.ravel(), expected.ravel())[0, 1] > 0.9


def test_without_a_pair_a_refined_coupling_finds_nearly_all(turned):
    data, truth = turned
    noise = np.random.default_rng(1).normal(size=data.y.points.shape) * 0.4
    data = replace(data, y=Cloud.uniform(data.y.points + noise))
    aligner = RefinedAlignment(rounds=30, start=START)
    sampler = aligner.sampler(data, CanonicalCost(), Sinkhorn(0.05))
    assert sampler.coupling is not None
    rows = np.asarray(sampler.coupling.rows(jnp.arange(300)))
    start = np.asarray(START.prepare(data).matrix())
    assert (rows.argmax(1) == truth).mean() > 0.9 > 2 * (start.argmin(1) == truth).mean()
    posterior = sampler.map.log_conditional(np.asarray(data.x.points))
    assert (np.asarray(posterior).argmax(1) == rows.argmax(1)).all()


def test_it_is_recorded_and_says_what_it_cannot_do(turned):
    data, _ = turned
    aligner = RefinedAlignment(start=LocalDistributionCost(points=9))
    assert rebuild(json.loads(json.dumps(record(aligner)))) == aligner
    with pytest.raises(ValueError, match=r"pairs is empty.*LocalDistributionCost"):
        GlobalAlignment().sampler(data, CanonicalCost(), Sinkhorn(0.05))
    with pytest.raises(ValueError, match=r"pairs is empty.*LocalDistributionCost"):
        RefinedAlignment().sampler(data, CanonicalCost(), Sinkhorn(0.05))
    with pytest.raises(ValueError, match="the source side has 2 points"):
        START.prepare(PairedData(data.x.take(jnp.arange(2)), data.y, NONE))
    with pytest.raises(ValueError, match="all points of a side coincide"):
        START.prepare(PairedData(Cloud.uniform(np.ones((5, 2))), data.y, NONE))


FEW = ["Training.steps = 2", "Training.steps_per_dispatch = 2", "run.field = @field.MLP",
       "MLP.layers = 1", "MLP.hidden = 8", "RefinedAlignment.rounds = 20"]  # fmt: skip


def test_two_arrays_without_a_pair_are_aligned_and_the_run_says_how_sure_it_is(
    turned, tmp_path, capsys
):
    data, truth = turned
    x, y = (np.asarray(cloud.points) for cloud in (data.x, data.y))
    morph = morphkit.align(x, y, bindings=FEW, out=tmp_path / "a")
    rows = np.asarray(morph.match(x, 1).rows)[:, 0]
    assert (rows == truth).mean() > 0.95
    assert morph.metrics["coupling/agreement"] > 0.95
    assert morph.metrics["coupling/matched_cka"] > 0.9
    assert morph.metrics["config/pairs"] == 0
    assert "no pair is known" in capsys.readouterr().err
    assert (tmp_path / "a" / "report.html").is_file()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    files = ["--source", str(tmp_path / "x.npy"), "--target", str(tmp_path / "y.npy")]
    asked = [part for b in FEW for part in ("--set", b)]
    assert main(["align", *files, *asked, "--out", str(tmp_path / "b")]) == 0
    metrics = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert metrics["coupling/agreement"] == pytest.approx(morph.metrics["coupling/agreement"])


def test_parts_of_points_that_have_nothing_to_do_with_one_another_do_not_agree():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 6)), rng.normal(size=(200, 6))
    data = PairedData(Cloud.uniform(x), Cloud.uniform(y), NONE)

    def couple(data: PairedData) -> Coupling:
        return RefinedAlignment(5, start=START).couple(data, CanonicalCost(), Sinkhorn(0.05))

    scene = SimpleNamespace(train=data, coupling=couple(data), couple=couple)
    found = Agreement().evaluate(scene, key=jax.random.key(0))  # pyright: ignore
    assert found["agreement"] < 0.3
    with pytest.raises(ValueError, match=r"scene\.coupling is missing"):
        Agreement().evaluate(SimpleNamespace(coupling=None, couple=None), key=jax.random.key(0))  # pyright: ignore


def test_what_needs_a_pair_says_so(turned, tmp_path):
    data, _ = turned
    x, y = (np.asarray(cloud.points) for cloud in (data.x, data.y))
    with pytest.raises(ValueError, match="method = 'global' needs pairs"):
        morphkit.align(x, y, method="global")
    with pytest.raises(ValueError, match=r"test_fraction = 0\.5 is of the pairs"):
        morphkit.align(x, y, test_fraction=0.5)
    for aligner in ("Global", "True", "Refined"):
        changed = [f"run.aligner = @aligner.{aligner}Alignment()", "run.choice = None"]
        with pytest.raises(ValueError, match=rf"{aligner}Alignment needs one at least.*unpaired"):
            morphkit.align(x, y, config="align.gin", bindings=[*FEW[:5], *changed])
