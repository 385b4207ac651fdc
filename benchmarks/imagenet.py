"""Tiny ImageNet, from image features to the texts of their classes, per paired fraction (Fig. 8).

`python benchmarks/imagenet.py` runs what is missing in benchmarks/results/imagenet.jsonl (a line of
JSON a method, fraction and seed; a killed benchmark goes on where it was) and writes imagenet.md
beside it and docs/imagenet.png. Settings are those of gin/imagenet/image_to_text.gin, chosen on
validation images that the test has none of (`--validation` measures on them, and writes nothing).
"""

import argparse
import itertools
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from morphkit_aligners.aligners import (
    CouplingSampler,
    GlobalAlignment,
    LocalAlignment,
    LocalSampler,
    TrueAlignment,
    local_diagnostics,
)
from morphkit_baselines.anchor import NearestAnchor
from morphkit_baselines.cca import RidgeCCA
from morphkit_baselines.classes import LogisticHead, NearestClassMean, ShrinkageLDA
from morphkit_baselines.linear import Ridge
from morphkit_baselines.relative import RelativeRepresentation
from morphkit_baselines.spreading import LabelSpreading
from morphkit_costs.bridge import BridgeCost
from morphkit_costs.geodesic import GeodesicBridgeCost
from morphkit_fields.mlp import MLP
from morphkit_solvers.sinkhorn import Sinkhorn
from problems import trained, training_clouds
from tables import append, deviation, measured_by, read, summary

from morphkit.data.imagenet import ImageNetFeatures
from morphkit.experiment.prepare import choose_pairs
from morphkit.interfaces import Baseline
from morphkit.training.loop import Training
from morphkit.types import PairedData, Pairs

RESULTS = Path(__file__).parent / "results"
LINES = RESULTS / "imagenet.jsonl"
FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SEEDS = 5
DRAWS = 4
MORPHS = {
    "true": (TrueAlignment(), BridgeCost(), Sinkhorn()),
    "global, bridge": (GlobalAlignment(), BridgeCost(), Sinkhorn()),
    "global, geodesic": (
        GlobalAlignment(temperature=0.0),
        GeodesicBridgeCost(time=1.0),
        Sinkhorn(0.2),
    ),
    "local, bridge": (LocalAlignment(), BridgeCost(), Sinkhorn()),
}
BASELINES: dict[str, Baseline] = {
    "nearest anchor": NearestAnchor(),
    "relative representation": RelativeRepresentation(),
    "ridge": Ridge(),
    "ridge CCA": RidgeCCA(),
    "nearest class mean": NearestClassMean(),
    "shrinkage LDA": ShrinkageLDA(),
    "logistic head": LogisticHead(),
    "label spreading": LabelSpreading(),
}
TRAINING = Training(steps=2000, learning_rate=3e-3, standardise="whole", decay=True)
FIELD = partial(MLP, size="small")

Key = tuple[str, float, int]  # method, fraction, seed


class Problem:
    """Images and texts, and the images to judge by: those of the test, or of the validation."""

    def __init__(self, validation: bool) -> None:
        self.raw = ImageNetFeatures(test=6000).load()
        self.x, self.y = training_clouds(self.raw)
        judged = slice(4000, 6000) if validation else slice(4000)
        self.images = jnp.asarray(self.raw.test.source[judged])
        assert self.raw.test.source_labels is not None
        self.labels = self.raw.test.source_labels[judged]
        _, first = np.unique(np.asarray(self.y.labels), return_index=True)
        texts = self.raw.train.target[first]
        self.texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)

    def accuracy(self, predicted) -> float:
        """Eq. 25–26."""
        return float(((np.asarray(predicted) @ self.texts.T).argmax(1) == self.labels).mean())

    def measure(self, key: Key) -> dict:
        method, fraction, seed = key
        pairs = Pairs.from_array(choose_pairs(self.raw.train.pairs, fraction, seed))
        data = PairedData(self.x, self.y, pairs)
        if method in BASELINES:
            return {"key": key, "accuracy": self.accuracy(BASELINES[method].fit(data)(self.images))}
        aligner, cost, solver = MORPHS[method]
        key_net, key_train, key_test = jax.random.split(jax.random.key(seed), 3)
        start = time.perf_counter()
        sampler = aligner.prepare(data, cost, solver)
        found = {"key": key} | self.coupling(sampler)
        solved = time.perf_counter()
        morph = trained(data, sampler, TRAINING, FIELD, (key_net, key_train))
        draws = morph(self.images, draws=DRAWS, key=key_test)
        return found | {
            "accuracy": self.accuracy(draws[0]),
            "mean_accuracy": self.accuracy(draws.mean(0)),
            "solve_s": round(solved - start, 1),
            "train_s": round(time.perf_counter() - solved, 1),
        }

    def coupling(self, sampler) -> dict:
        if isinstance(sampler, LocalSampler):
            found = local_diagnostics(sampler, TRAINING.batch_size, jax.random.key(0))
            return {
                "matching": found["coupling/matching_accuracy_exact"],
                "converged": found["coupling/converged"],
            }
        assert isinstance(sampler, CouplingSampler)
        coupling = sampler.coupling
        matching = coupling.matching_accuracy(self.x.labels, self.y.labels)  # pyright: ignore[reportArgumentType]
        return {"matching": float(matching), "converged": float(coupling.convergence.converged)}


def keys() -> list[Key]:
    grid = itertools.product(range(SEEDS), FRACTIONS, (*MORPHS, *BASELINES))
    found = [(method, fraction, seed) for seed, fraction, method in grid]
    # With all points paired label spreading has nothing to spread to; and a minimum over
    # thousands of pairs at every step would take hours.
    most = {"label spreading": 0.5, "local, bridge": 0.2}
    found = [key for key in found if key[1] <= most.get(key[0], 1.0)]
    return sorted(found, key=lambda key: (key[0] == "local, bridge", key[2]))


def run() -> None:
    there = read(LINES, "key")
    missing = [key for key in keys() if key not in there]
    problem = Problem(validation=False) if missing else None
    for k, key in enumerate(missing):
        start = time.perf_counter()
        assert problem is not None
        if k % 50 == 0:
            jax.clear_caches()  # compiled programs pile up until memory cannot be mapped
        found = problem.measure(key)
        append(LINES, found)
        print(f"{k + 1}/{len(missing)} {found} {time.perf_counter() - start:.1f} s", flush=True)


def table(there: dict[Key, dict], name: str, methods) -> list[str]:
    lines = ["| | " + " | ".join(f"{f:.0%}" for f in FRACTIONS) + " |"]
    lines.append("|---|" + "---|" * len(FRACTIONS))
    for method in methods:
        cells = [summary(values(there, method, fraction, name), SEEDS) for fraction in FRACTIONS]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def values(there: dict[Key, dict], method: str, fraction: float, name: str) -> list[float]:
    found = (there.get((method, fraction, seed)) for seed in range(SEEDS))
    return [line[name] for line in found if line]


def draw(there: dict[Key, dict]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    panels = (("morph, one draw", "accuracy"), (f"morph, mean of {DRAWS} draws", "mean_accuracy"))
    for axis, (title, name) in zip(axes, panels, strict=True):
        for k, method in enumerate((*MORPHS, *BASELINES)):
            ours = method in MORPHS
            shown = [
                (100 * f, n)
                for f in FRACTIONS
                if (n := values(there, method, f, name if ours else "accuracy"))
            ]
            if not shown:
                continue
            percent, mean, spread = zip(
                *((p, np.mean(n), deviation(n)) for p, n in shown), strict=True
            )
            axis.errorbar(
                percent, mean, spread, label=method, ms=3,
                marker="o" if ours else "s^vDxP*d"[k - len(MORPHS)],
                ls="-" if ours else "--", lw=1.6 if ours else 1,
                color=f"C{k}" if ours else str(0.1 * (k - len(MORPHS))),
            )  # fmt: skip
        axis.set(xscale="log", xlabel="pairs (%)", title=title)
        axis.set_xticks([100 * f for f in FRACTIONS], [f"{100 * f:g}" for f in FRACTIONS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy (Eq. 25–26)")
    axes[0].legend(fontsize=7)
    figure.savefig(RESULTS.parent.parent / "docs" / "imagenet.png", dpi=130)


def write() -> None:
    there = read(LINES, "key")
    stuck = [key for key, line in there.items() if line.get("converged", 1) < 1]
    lines = [
        "# Tiny ImageNet",
        "",
        measured_by("imagenet", SEEDS) + "A seed "
        "chooses the pairs, initialisation and batches. 10,000 images of 200 classes train, 4,000 "
        "others test: the share whose prediction is nearest, by cosine, to the text of their "
        "class. The geodesic bridge is by heat (time 1), its targets are modes at ε = .2. Local "
        "alignment goes as far as a minimum over all pairs at every step is affordable.",
        "",
        "## One draw of the morph (Eq. 12), and the baselines",
        "",
        *table(there, "accuracy", (*MORPHS, *BASELINES)),
        "",
        f"## The mean of {DRAWS} draws",
        "",
        *table(there, "mean_accuracy", MORPHS),
        "",
        "## Matching accuracy of what the morph was trained on",
        "",
        *table(there, "matching", [m for m in MORPHS if m != "true"]),
        "",
        f"{len(stuck)} couplings did not converge, or not all of their minibatches.",
    ]
    draw(there)
    (RESULTS / "imagenet.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table-only", action="store_true", help="write what is there")
    parser.add_argument("--validation", action="store_true", help="measure on validation images")
    arguments = parser.parse_args()
    if arguments.validation:
        problem = Problem(validation=True)
        for method in MORPHS:
            print(problem.measure((method, 0.1, 0)), flush=True)
        return
    if not arguments.table_only:
        run()
    write()


if __name__ == "__main__":
    main()
