"""What points that belong to nothing cost a refined coupling, and what relaxed marginals save.

`python benchmarks/outsiders.py` runs what is missing in benchmarks/results/outsiders.jsonl (a line
of JSON a problem, share and seed) and writes outsiders.md beside it. Of each side's unpaired points
a share has no counterpart on the other side.
"""

import argparse
import itertools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from choice import texts, things
from morphkit_aligners.refined import RefinedAlignment
from morphkit_costs.canonical import CanonicalCost
from morphkit_solvers.sinkhorn import Sinkhorn
from tables import measure, measured_by, summary

from morphkit.types import Cloud, PairedData, Pairs

RESULTS = Path(__file__).parent / "results"
LINES = RESULTS / "outsiders.jsonl"
PROBLEMS = {"MiniLM → WordLlama": texts, "THINGS, group 3 → 4": things}
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
TAUS = (1.0, 0.9)
PAIRS, UNPAIRED, SEEDS = 50, 1000, 5


def problem(name: str, share: float, seed: int) -> tuple[PairedData, np.ndarray]:
    """PAIRS pairs and, on each side, UNPAIRED points, the `share` of which have no counterpart; and
    the target row of each source point, -1 for none. The number of points does not depend on the
    share."""
    x, y = PROBLEMS[name]()
    random = np.random.default_rng(seed)
    alone = round(share * UNPAIRED)
    order = random.permutation(len(x))[: PAIRS + UNPAIRED + alone]
    source = order[: PAIRS + UNPAIRED]
    target = np.r_[order[: PAIRS + UNPAIRED - alone], order[PAIRS + UNPAIRED :]]
    mixed = random.permutation(len(target))
    place = np.argsort(mixed)
    truth = np.where(np.arange(len(source)) < len(source) - alone, place, -1)
    pairs = Pairs.from_array(np.stack([np.arange(PAIRS), place[:PAIRS]], 1))
    return PairedData(Cloud.uniform(x[source]), Cloud.uniform(y[target][mixed]), pairs), truth


def run(cell: tuple[str, float, int]) -> dict:
    """R@1, by the rows of a refined coupling, of the unpaired points that have a counterpart."""
    name, share, seed = cell
    data, truth = problem(name, share, seed)
    asked = np.flatnonzero(truth >= 0)[PAIRS:]
    left = np.setdiff1d(np.arange(data.y.size), np.asarray(data.pairs.target))
    scores = {}
    for tau in TAUS:
        solver = Sinkhorn(0.05, tau_x=tau, tau_y=tau)
        coupling = RefinedAlignment().couple(data, CanonicalCost(), solver)
        rows = np.asarray(coupling.rows(jnp.asarray(asked)))[:, left]
        scores[str(tau)] = float(np.mean(left[rows.argmax(1)] == truth[asked]))
    return {"cell": [name, share, seed], "scores": scores}


HEAD = f"""Beside {PAIRS} pairs there are {UNPAIRED:,} unpaired points a side. The columns say what
share of them has no counterpart on the other side. R@1 is of those that have one, by the row of
the coupling, among all unpaired targets. Costs are canonical, refined, at their defaults, ε is .05:
nothing was chosen."""


def write(lines: dict) -> None:
    rows = [["", "τ", *(f"{share:.0%}" for share in SHARES)], ["---"] * (len(SHARES) + 2)]
    for name, tau in itertools.product(PROBLEMS, TAUS):
        found = [
            [ln["scores"][str(tau)] for c, ln in lines.items() if c[:2] == (name, share)]
            for share in SHARES
        ]
        rows.append([name, f"{tau:g}", *(summary(numbers, SEEDS) for numbers in found)])
    text = [measured_by("outsiders", SEEDS), HEAD, "", *(f"| {' | '.join(r)} |" for r in rows), ""]
    (RESULTS / "outsiders.md").write_text("\n".join(text), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    seeds = parser.parse_args().seeds
    measure(LINES, itertools.product(PROBLEMS, SHARES, range(seeds)), run, write)


if __name__ == "__main__":
    main()
