"""The geodesic bridge against the cosine bridge and label spreading, on few pairs of MNIST.

`python benchmarks/geodesic.py` solves what is missing in benchmarks/results/geodesic.jsonl (a line
of JSON a method, number of pairs and seed; a killed benchmark goes on where it was) and writes
geodesic.md beside it. The best geodesic configuration is the one with the smallest
`held_out_distance` on the known pairs, so no label is looked at. Flows:
gin/mnist/cpu.gin's field and training.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from morphkit_aligners.aligners import GlobalAlignment
from morphkit_costs.bridge import BridgeCost
from morphkit_costs.geodesic import GeodesicBridgeCost
from morphkit_fields.adaln import AdaLN
from morphkit_metrics.held_out import HeldOutPairs
from morphkit_solvers.sinkhorn import Sinkhorn
from problems import mnist, pair, trained
from sklearn.neighbors import KNeighborsClassifier
from sklearn.semi_supervised import LabelSpreading
from tables import append, measured_by, read, summary

from morphkit.features.extract import Features
from morphkit.interfaces import FusedCost, Scene
from morphkit.training.loop import Training
from morphkit.transport.couple import Prepared, prepared
from morphkit.types import PairedData, Split

RESULTS = Path(__file__).parent / "results"
LINES = RESULTS / "geodesic.jsonl"
PAIRS = (10, 50, 100, 500)
SEEDS = 5
TRAINING = Training(steps=2000, learning_rate=1e-3)
FIELD = partial(AdaLN, size="small")
DISTANCES = {"paths": GeodesicBridgeCost(), "heat": GeodesicBridgeCost(time=1.0)}
GRID = tuple(itertools.product(DISTANCES, (0.1, 0.2, 0.5)))
"""Distances and ε of the couplings whose modes are the targets. These, power 2 and modes, of powers
1 to 4, draws, modes and medoids, were looked for on 10,000 of the images that the VAEs were trained
on, not on these."""


class Problem:
    """One number of pairs and one seed."""

    def __init__(self, latents: Features, number: int, seed: int) -> None:
        self.latents, self.seed = latents, seed
        self.data = pair(latents.x, latents.y, number, seed)
        self.labels = np.asarray(latents.x.labels)
        self.paired = np.asarray(self.data.pairs.source)
        self.prepared: dict[tuple[str, bytes], Prepared] = {}

    def matching(self, cost: FusedCost, epsilon: float, temperature: float) -> dict:
        """Class matching by one draw a point, its label-free estimate, and the trained flow."""
        aligner, solver = GlobalAlignment(temperature), Sinkhorn(epsilon)
        sampler = aligner.sampler(self.data, cost, solver)
        coupling = sampler.coupling
        key_data, key_net, key_train, key_test = jax.random.split(jax.random.key(self.seed), 4)
        i, j = map(np.asarray, coupling.sample(key_data, 20_000))
        same = self.labels[i] == np.asarray(self.data.y.labels)[j]
        found = {"matching": float(same[~np.isin(i, self.paired)].mean())}
        morph = trained(self.data, sampler, TRAINING, FIELD, (key_net, key_train))
        decoded = self.latents.target.decode(morph(self.latents.x_test.points, key=key_test))  # pyright: ignore[reportAttributeAccessIssue]
        right = np.asarray(decoded).argmax(1) == np.asarray(self.latents.x_test.labels)
        return found | {
            "flow": float(right.mean()),
            "converged": bool(coupling.convergence.converged),
        }

    def held_out(self, choice: tuple[str, float]) -> float:
        distance, epsilon = choice
        aligner, solver = GlobalAlignment(temperature=0.0), Sinkhorn(epsilon)

        def couple(data: PairedData):
            problem = distance, np.asarray(data.pairs.source).tobytes()  # of five folds
            if problem not in self.prepared:
                self.prepared[problem] = prepared(data, DISTANCES[distance])
            return aligner.sampler(data, self.prepared[problem], solver).coupling

        nothing = Split(np.zeros((0, 1)), np.zeros((0, 1)), np.zeros((0, 2), int))
        scene = Scene(
            self.latents.source, self.latents.target, self.data, self.latents.x_test,
            self.latents.y_test, nothing, couple=couple,
        )  # fmt: skip
        return HeldOutPairs().evaluate(scene, key=jax.random.key(self.seed))["held_out_distance"]

    def spreading(self) -> dict:
        x = np.asarray(self.latents.x.points)
        known = np.full(len(x), -1)
        known[self.paired] = self.labels[self.paired]
        return self.judged(LabelSpreading(kernel="knn", n_neighbors=15).fit(x, known))

    def nearest(self) -> dict:
        x = np.asarray(self.latents.x.points)
        model = KNeighborsClassifier(1).fit(x[self.paired], self.labels[self.paired])
        return self.judged(model)

    def judged(self, model: LabelSpreading | KNeighborsClassifier) -> dict:
        x, x_test = (np.asarray(c.points) for c in (self.latents.x, self.latents.x_test))
        right = np.delete(model.predict(x) == self.labels, self.paired)
        test = np.asarray(self.latents.x_test.labels)
        return {
            "matching": float(right.mean()),
            "flow": float((model.predict(x_test) == test).mean()),
        }

    def chosen(self) -> dict:
        distance, epsilon = best = min(GRID, key=self.held_out)
        found = self.matching(DISTANCES[distance], epsilon, 0.0)
        return found | {"choice": best}


METHODS: dict[str, Callable[[Problem], dict]] = {
    "label spreading": Problem.spreading,
    "nearest paired point": Problem.nearest,
    "cosine bridge": lambda problem: problem.matching(BridgeCost(), 5e-3, 1.0),
    "geodesic bridge": lambda problem: problem.matching(GeodesicBridgeCost(), 5e-3, 1.0),
    "geodesic bridge, chosen": Problem.chosen,
}
Key = tuple[str, int, int]  # method, pairs, seed


def known() -> dict[Key, dict]:
    return read(LINES, "method", "pairs", "seed")


def run() -> None:
    there = known()
    latents = None
    for seed, number in itertools.product(range(SEEDS), PAIRS):
        missing = [method for method in METHODS if (method, number, seed) not in there]
        if not missing:
            continue
        latents = latents or mnist()
        problem = Problem(latents, number, seed)
        for method in missing:
            start = time.perf_counter()
            found = {"method": method, "pairs": number, "seed": seed} | METHODS[method](problem)
            append(LINES, found)
            print(f"{time.perf_counter() - start:.0f} s", found, flush=True)


def table(there: dict[Key, dict], metric: str) -> list[str]:
    lines = ["| pairs | " + " | ".join(map(str, PAIRS)) + " |", "|---|" + "---|" * len(PAIRS)]
    for method in METHODS:
        cells = []
        for number in PAIRS:
            numbers = [there[key][metric] for key in there if key[:2] == (method, number)]
            cells.append(summary(numbers, SEEDS))
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def write() -> None:
    there = known()
    chosen = [tuple(line["choice"]) for line in there.values() if "choice" in line]
    counts = [(chosen.count(choice), *choice) for choice in GRID if choice in chosen]
    lines = [
        "# The geodesic bridge on MNIST latents",
        "",
        measured_by("geodesic", SEEDS) + "A seed "
        "chooses the pairs, initialisation and batches. Bridges are sampled at ε = 5e-3, except "
        f"the chosen one: modes, of the distances (shortest paths, or heat at time 1) and ε "
        f"({', '.join(sorted({f'{e:g}' for _, e in GRID}))}) with the least held-out "
        "distance on the known pairs. Label spreading: scikit-learn, 15 neighbours, "
        "`predict` (`transduction_` is lower: it leaves points that no label reaches in the first "
        "class).",
        "",
        "## Matching of the unpaired among 10,000 training points",
        "",
        "The share of the draws from unpaired points that join two points of one class; for label "
        "spreading and the nearest paired point, the accuracy on unpaired points.",
        "",
        *table(there, "matching"),
        "",
        "## Out of sample: trained flows on the 10,000 test images",
        "",
        "Accuracy of the label decoded from one draw of the morph; for label spreading and the "
        "nearest paired point, of their own prediction.",
        "",
        *table(there, "flow"),
        "",
        "Chosen: " + ", ".join(f"{n} × {d}, ε = {epsilon:g}" for n, d, epsilon in counts) + ".",
    ]
    (RESULTS / "geodesic.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table-only", action="store_true", help="write what is there")
    if not parser.parse_args().table_only:
        run()
    write()


if __name__ == "__main__":
    main()
