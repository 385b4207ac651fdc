"""Alignment without a single pair, beside Gromov-Wasserstein from the product coupling.

`python benchmarks/unpaired.py` runs what is missing in benchmarks/results/unpaired.jsonl (a line of
JSON a problem and seed; a killed benchmark goes on where it was) and writes unpaired.md beside it.
Nothing is trained.
"""

import argparse
import logging
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from choice import texts, things
from jaxtyping import Array
from morphkit_costs.distribution import LocalDistributionCost
from morphkit_metrics.agreement import Agreement
from morphkit_solvers.gromov import FusedGromovWasserstein
from tables import measure, measured_by, summary

from morphkit.api import asked
from morphkit.interfaces import Scene
from morphkit.transport.couplings import Coupling
from morphkit.transport.geometry import pairwise
from morphkit.transport.matching import Matcher
from morphkit.types import Cloud, PairedData, Pairs

RESULTS = Path(__file__).parent / "results"
LINES = RESULTS / "unpaired.jsonl"
SEEDS = 5
SHARE = 0.9
EPSILONS, STARTS = (0.05, 0.0125, 0.005), 3
ARRAYS = {"texts": texts, "things": things}
PROBLEMS = {
    "texts": "MiniLM → WordLlama",
    "things": "THINGS, group 3 → 4",
    "texts, strangers": "MiniLM → WordLlama, a fifth of each side without a counterpart",
    "things, strangers": "THINGS, a fifth of each side without a counterpart",
}


def run(cell: tuple[str, int]) -> dict:
    """R@1 of source points that have a counterpart, by method, with what speaks for it."""
    problem, seed = cell
    data, truth = clouds(problem, seed)
    experiment, _ = asked(["unpaired.gin"], ["run.data = @data.Digits()"])
    cost, solver = experiment.cost, experiment.solver
    known, start = truth >= 0, time.monotonic()
    sampler = experiment.aligner.sampler(data, cost, solver)
    seconds = time.monotonic() - start
    assert sampler.coupling is not None
    assert sampler.map is not None
    matched = Matcher.of(sampler.map, data.y, 1.0).match(data.x.points, 1).rows
    scores = {
        "coupling": sampler.coupling.most_probable(), "map": matched[:, 0],
        "Gromov-Wasserstein": gromov_wasserstein(data).most_probable(),
    }  # fmt: skip
    right = {name: np.asarray(rows) == truth for name, rows in scores.items()}
    found = {name: float(np.mean(hits[known])) for name, hits in right.items()}
    scene = Scene(
        *(None,) * 2, train=data, x=data.x, y=data.y, test=None,  # pyright: ignore
        coupling=sampler.coupling, couple=experiment.couple,
    )  # fmt: skip
    evidence = Agreement().evaluate(scene, key=jax.random.key(seed))
    return {"cell": list(cell), "scores": found | evidence | {"seconds": seconds}}


def gromov_wasserstein(data: PairedData) -> Coupling:
    """At the ε with the least loss, Eq. 2 without its entropy, and there from the coupling with the
    least objective of STARTS: nothing else can be chosen by without pairs."""
    x, y = (Cloud.uniform(c.points - c.points.mean(0)) for c in (data.x, data.y))
    data, found = PairedData(x, y, data.pairs), []
    for epsilon in EPSILONS:
        solver = FusedGromovWasserstein(epsilon, alpha=1.0, starts=STARTS)
        coupling = solver.solve(LocalDistributionCost().prepare(data), data.x, data.y)
        found.append((float(quadratic_loss(coupling.values, data)), coupling))
    return min(found, key=lambda pair: pair[0])[1]


@jax.jit
def quadratic_loss(coupling: Array, data: PairedData) -> Array:
    """Σ |c_X - c_Y|² π ⊗ π of a `coupling` (n, m), of cosine costs over their means."""
    (a, p), (b, q) = ((pairwise("cosine", c.points, c.points), c.weights) for c in (data.x, data.y))
    a, b = a / (p @ a @ p), b / (q @ b @ q)
    return p @ a**2 @ p + q @ b**2 @ q - 2 * jnp.sum((a @ coupling @ b) * coupling)


def clouds(problem: str, seed: int) -> tuple[PairedData, np.ndarray]:
    """A random part of the points, the targets in another order, and the row of each source
    point's counterpart, -1 without one."""
    name, _, strangers = problem.partition(", ")
    x, y = ARRAYS[name]()
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(x))[: round(SHARE * len(x))]
    fifth = len(chosen) // 6 if strangers else 0  # of what is left on a side, a fifth
    source, target = (
        np.delete(chosen, slice(0, fifth)),
        random.permutation(chosen[: len(chosen) - fifth]),
    )
    place = np.full(len(x), -1)
    place[target] = np.arange(len(target))
    none = Pairs(jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.int32))
    return PairedData(Cloud.uniform(x[source]), Cloud.uniform(y[target]), none), place[source]


HEAD = f"""A seed chooses {SHARE:.0%} of the points, and their order. R@1: of the source points that
have a counterpart, how many have it first, by the row of the coupling or by the map of new points,
as gin/unpaired.gin makes them. Gromov-Wasserstein, of centred points, takes the best by its
objective of {STARTS} starts, one the product coupling, at the ε with the least loss of
{", ".join(map(str, EPSILONS))}. The agreement and the CKA are all that a user sees without pairs.
The settings were found on these data, with R@1 of all points in view (eight settings of the texts):
other data have to show that they carry over."""


def write(lines: dict[tuple, dict]) -> None:
    names = list(dict.fromkeys(name for line in lines.values() for name in line["scores"]))
    text = ["# Without pairs", "", measured_by("unpaired", SEEDS) + HEAD, ""]
    text += [f"| | {' | '.join(name.replace('_', ' ') for name in names)} |"]
    text += [f"|{'---|' * (len(names) + 1)}"]
    for problem, title in PROBLEMS.items():
        found = [line["scores"] for cell, line in lines.items() if cell[0] == problem]
        cells = [
            summary([s[name] for s in found if name in s], SEEDS, 3 if name != "seconds" else 0)
            for name in names
        ]
        text += [f"| {title} | {' | '.join(cells)} |"]
    (RESULTS / "unpaired.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    logging.getLogger("morphkit").setLevel(logging.WARNING)
    cells = [(p, seed) for seed in range(parser.parse_args().seeds) for p in PROBLEMS]
    measure(LINES, cells, run, write)


if __name__ == "__main__":
    main()
