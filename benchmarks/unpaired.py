"""Alignment without a single pair, beside Gromov-Wasserstein from the product coupling.

`python benchmarks/unpaired.py` runs what is missing in benchmarks/results/unpaired.jsonl (a line of
JSON a problem and seed; a killed benchmark goes on where it was) and writes unpaired.md beside it.
Nothing is trained.
"""

import argparse
import functools
import logging
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from choice import texts, things
from morphkit_aligners.aligners import GlobalAlignment
from morphkit_metrics.agreement import Agreement, best
from morphkit_solvers.gromov import FusedGromovWasserstein
from tables import append, measured_by, missing, read, summary

from morphkit.api import asked
from morphkit.interfaces import Scene
from morphkit.transport.matching import Matcher
from morphkit.types import Cloud, PairedData, Pairs

RESULTS = Path(__file__).parent / "results"
LINES = RESULTS / "unpaired.jsonl"
SEEDS = 5
SHARE = 0.9
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
    gromov = FusedGromovWasserstein(alpha=1.0)
    plain = GlobalAlignment().couple(data, experiment.aligner.start, gromov)
    scores = {
        "coupling": best(sampler.coupling), "map": np.asarray(matched)[:, 0],
        "Gromov-Wasserstein": best(plain),
    }  # fmt: skip
    found = {name: float(np.mean((rows == truth)[known])) for name, rows in scores.items()}
    scene = Scene(
        *(None,) * 2, train=data, x=data.x, y=data.y, test=None,  # pyright: ignore
        coupling=sampler.coupling, couple=functools.partial(experiment.couple),
    )  # fmt: skip
    evidence = Agreement().evaluate(scene, key=jax.random.key(seed))
    return {"cell": list(cell), "scores": found | evidence | {"seconds": seconds}}


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
as gin/unpaired.gin makes them. Gromov-Wasserstein starts from the product coupling. The agreement
and the CKA are all that a user sees without pairs."""


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
    for cell in missing(LINES, cells):
        line = run(cell)
        print(line, flush=True)
        append(LINES, line)
    write(read(LINES, "cell"))


if __name__ == "__main__":
    main()
