"""Every aligner with every cost and every solver that takes it: third-party ones, too."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from morphkit_aligners.aligners import LocalAlignment, LocalSampler, TrueAlignment
from morphkit_aligners.refined import RefinedAlignment
from morphkit_fields.mlp import MLP
from morphkit_metrics.classes import NearestTargetAccuracy
from morphkit_metrics.matching import MatchingAccuracy

import morphkit
from morphkit.data.arrays import Arrays
from morphkit.experiment.evaluate import evaluate
from morphkit.experiment.experiment import Experiment
from morphkit.experiment.prepare import prepare
from morphkit.experiment.run import align, run, trained
from morphkit.folder import RunFolder
from morphkit.interfaces import Sampler, Scene
from morphkit.loggers import Log
from morphkit.training.loop import Training
from morphkit.transport.geometry import BridgeGeometry, Geometry
from morphkit.wiring.registry import Component, registry


def those(kind: str) -> list[Component]:
    """The components of a kind that need no argument."""
    found = [component for component in registry.load() if component.kind == kind]
    return [c for c in found if all(p.default is not p.empty for p in c.arguments.values())]


ALIGNERS, COSTS, SOLVERS = those("aligner"), those("cost"), those("solver")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Iterator[Arrays]:
    """60 source points (5-d), 50 target points (3-d), three classes, 9 pairs within classes; and 3
    more pairs of points to test."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("matrix")
    files = {"pairs": np.stack([np.arange(12)] * 2, axis=1)}
    for name, n, dim in (("source", 63, 5), ("target", 53, 3)):
        files[f"{name}_labels"] = labels = np.arange(n) % 3
        files[name] = 3 * rng.normal(size=(3, dim))[labels] + rng.normal(size=(n, dim))
    for name, values in files.items():
        np.save(folder / f"{name}.npy", values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MORPHKIT_CACHE", str(folder / "cache"))
        patch.setattr("morphkit_aligners.aligners.DIAGNOSED", 2)  # of 20 problems a local run
        patch.setattr("morphkit.experiment.results.DRAWN", 200)  # of 1,250
        yield Arrays(**{name: str(folder / f"{name}.npy") for name in files}, test_fraction=0.25)


def asked(data: Arrays, aligner: Component, cost: Component, solver: Component) -> Experiment:
    identity = registry.find("extractor.Identity").cls
    aligned = RefinedAlignment(1) if aligner.cls is RefinedAlignment else aligner.cls()
    return Experiment(
        data, identity, identity, aligned, cost.cls(), solver.cls(),
        partial(MLP, layers=1, hidden=8), Training(5, 16, reweight=True, steps_per_dispatch=5),
        [MatchingAccuracy(100), NearestTargetAccuracy()], [], wandb="disabled",
    )  # fmt: skip


@pytest.fixture(scope="module")
def scene(data, tmp_path_factory) -> Scene:
    """What all cells learn from: nothing of it depends on the cell."""
    with Log(tmp_path_factory.mktemp("scene"), wandb="disabled") as log:
        return prepare(asked(data, ALIGNERS[0], COSTS[0], SOLVERS[0]), log)


@pytest.fixture(scope="module")
def kinds(scene) -> dict[str, type]:
    """The geometry that each cost prepares."""
    return {cost.selector: type(cost.cls().prepare(scene.train)) for cost in COSTS}


@pytest.fixture(scope="module")
def learning(scene) -> set[str]:
    """The costs that a coupling teaches something."""

    def learns(cost: Component) -> bool:
        try:
            return cost.cls().fit(scene.train).learns
        except ValueError:
            return False

    return {cost.selector for cost in COSTS if learns(cost)}


def check(out, morph, metrics, scene, cell) -> None:
    """It is finite, and says what it was made by."""
    predicted = np.asarray(morph(np.asarray(scene.x.points)))
    assert predicted.shape == (3, 3)
    assert np.isfinite(predicted).all()
    assert {name for name, value in metrics.items() if not np.isfinite(value)} == set()
    assert 0 <= metrics["morph/nearest_target_accuracy"] <= 1
    if cell[0].cls is not LocalAlignment:  # whose problems are looked at in the whole runs
        assert 0 <= metrics["coupling/matching_accuracy_exact"] <= 1
    made_by = json.loads(morphkit.load(out).provenance)
    assert [made_by[c.kind]["component"] for c in cell] == [c.selector for c in cell]


@pytest.fixture
def undiagnosed(monkeypatch) -> None:
    """Local alignment without a look at its problems, which compiles the solver once more; the
    whole runs below have it."""
    monkeypatch.setattr(LocalSampler, "diagnostics", Sampler.diagnostics)


@pytest.mark.usefixtures("undiagnosed")
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda c: c.selector)
@pytest.mark.parametrize("cost", COSTS, ids=lambda c: c.selector)
@pytest.mark.parametrize("aligner", ALIGNERS, ids=lambda c: c.selector)
def test_every_cell(aligner, cost, solver, data, scene, kinds, learning, tmp_path):
    """Finite and labelled or, where the solver does not claim to take the cost, or where the
    aligner wants a cost that learns, refused."""
    experiment = asked(data, aligner, cost, solver)
    keys = jax.random.split(jax.random.key(0), 3)
    with Log(tmp_path, wandb="disabled") as log:
        if aligner.cls is RefinedAlignment and cost.selector not in learning:
            with pytest.raises(ValueError, match="a cost that learns"):
                align(experiment, scene.train, log)
            return
        if aligner.cls is not TrueAlignment and not issubclass(
            kinds[cost.selector], solver.cls.takes
        ):
            with pytest.raises(ValueError, match=f"{solver.name} takes only costs that are a"):
                align(experiment, scene.train, log)
            return
        sampler, metrics = align(experiment, scene.train, log)
        morph, _ = trained(experiment, scene, sampler, RunFolder(tmp_path), keys[:2], log)
        view = replace(scene, coupling=sampler.coupling)
        judged, failures = evaluate(view, {"morph": morph}, experiment.evaluators, keys[2], log)
    assert failures == []
    check(tmp_path, morph, metrics | judged, scene, (aligner, cost, solver))


@pytest.mark.parametrize("k", range(max(map(len, (ALIGNERS, COSTS, SOLVERS)))))
def test_every_component_in_a_whole_run(k, data, scene, kinds, learning, tmp_path):
    aligner, solver = ALIGNERS[k % len(ALIGNERS)], SOLVERS[k % len(SOLVERS)]
    taken = [c for c in COSTS if issubclass(kinds[c.selector], solver.cls.takes)]
    if aligner.cls is RefinedAlignment:
        taken = [c for c in taken if c.selector in learning]
        if not taken:  # of a solver for bridge costs alone
            aligner, taken = ALIGNERS[0], COSTS
    costs = taken
    cell = aligner, costs[k % len(costs)], solver
    with RunFolder(tmp_path / "run").opened() as folder:
        found = run(asked(data, *cell), folder)
    assert found.failures == ()
    assert 0 <= found.metrics["coupling/matching_accuracy_exact"] <= 1
    assert folder.report.stat().st_size > 0
    check(found.out, found.morph, found.metrics, scene, cell)


def test_a_solver_takes_what_it_claims():
    """Without that, the matrix could be empty."""
    claims = {solver.name: solver.cls.takes for solver in SOLVERS}
    first_party = {"Sinkhorn", "FusedGromovWasserstein", "OTTSinkhorn", "LowRankSinkhorn"}
    assert all(issubclass(Geometry, claims[name]) for name in first_party)
    assert claims["BridgeSinkhorn"] == (BridgeGeometry,)
