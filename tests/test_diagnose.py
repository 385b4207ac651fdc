"""What a run says of its coupling before it trains."""

import json

import numpy as np
import pytest
from morphkit_aligners.aligners import GlobalAlignment, LocalAlignment, TrueAlignment
from morphkit_costs.bridge import BridgeCost
from morphkit_solvers.sinkhorn import Sinkhorn

from morphkit.experiment.diagnose import diagnose
from morphkit.interfaces import Aligner, FusedCost
from morphkit.loggers import Log
from morphkit.types import Cloud, PairedData, Pairs


class NeedsPairs(FusedCost):
    """A cost that half of the pairs are too few for."""

    def prepare(self, data):
        if data.pairs.size < 12:
            raise ValueError("too few pairs")
        return COST.prepare(data)


COST = BridgeCost("sqeuclidean", "sqeuclidean")
BALANCED, RELAXED = Sinkhorn(), Sinkhorn(tau_x=0.9, tau_y=0.9)


def two_clusters(sizes_x: tuple[int, int], sizes_y: tuple[int, int]) -> PairedData:
    """Far apart, six pairs in each."""
    rng = np.random.default_rng(0)
    labels = [np.repeat([0, 1], sizes) for sizes in (sizes_x, sizes_y)]
    x, y = (
        Cloud.uniform(10 * k[:, None] + rng.normal(size=(len(k), dim)), k)
        for k, dim in zip(labels, (3, 2), strict=True)
    )
    known = [np.concatenate([np.flatnonzero(k == c)[:6] for c in (0, 1)]) for k in labels]
    return PairedData(x, y, Pairs.from_array(np.stack(known, 1)))


def warnings(
    data: PairedData, solver: Sinkhorn, folder, aligner: Aligner, cost: FusedCost = COST
) -> str:
    sampler = aligner.sampler(data, cost, solver)
    with Log(folder, wandb="disabled") as log:
        diagnose(sampler, data, cost, solver, 32, log)
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return " ".join(line.get("warning", "") for line in lines)


@pytest.mark.parametrize("aligner", [GlobalAlignment(), LocalAlignment()])
def test_clusters_of_other_sizes_are_told_by_held_out_pairs(tmp_path, aligner):
    data = two_clusters((180, 20), (20, 180))
    found = {}
    for solver in (BALANCED, RELAXED):
        coupling = solver.solve(COST.prepare(data), data.x, data.y)
        assert bool(coupling.convergence.converged)
        found[solver] = float(coupling.matching_accuracy(data.x.labels, data.y.labels))
    assert found[BALANCED] == pytest.approx(0.2, abs=0.01)
    assert found[RELAXED] > 0.99
    said = warnings(data, BALANCED, tmp_path, aligner)
    assert "cluster sizes may differ" in said
    assert "tau_x = tau_y = 0.9" in said


@pytest.mark.parametrize(
    ("data", "solver", "aligner"),
    [
        (two_clusters((100, 100), (100, 100)), BALANCED, GlobalAlignment()),
        (two_clusters((180, 20), (20, 180)), RELAXED, GlobalAlignment()),
        (two_clusters((180, 20), (20, 180)), BALANCED, TrueAlignment()),
    ],
    ids=["equal sizes", "relaxed already", "no solver"],
)
def test_it_is_silent_where_there_is_nothing_to_relax(tmp_path, data, solver, aligner):
    assert "cluster sizes" not in warnings(data, solver, tmp_path, aligner)


def test_a_cost_that_needs_all_pairs_ends_no_run(tmp_path):
    data = two_clusters((180, 20), (20, 180))
    assert not warnings(data, BALANCED, tmp_path, GlobalAlignment(), NeedsPairs())
    assert "is not known: too few pairs" in (tmp_path / "log.jsonl").read_text()
