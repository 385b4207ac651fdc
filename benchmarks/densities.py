"""What re-weighting (Eq. 4's η and ξ) knows of points that belong to nothing, and what it changes.

`python benchmarks/densities.py` runs what is missing in benchmarks/results/densities.jsonl (a line
of JSON a τ and seed) and writes densities.md beside it. Of a fifth of Tiny ImageNet's classes no
text is among the targets.
"""

import argparse
import functools
import itertools
from pathlib import Path

import jax
import numpy as np
from morphkit_aligners.refined import RefinedAlignment
from morphkit_costs.canonical import CanonicalCost
from morphkit_extractors.identity import Identity
from morphkit_fields.adaln import AdaLN
from morphkit_metrics.densities import Densities
from morphkit_solvers.sinkhorn import Sinkhorn
from problems import tiny_imagenet_clouds
from sklearn.metrics import roc_auc_score
from tables import measure, measured_by, summary

from morphkit.data.imagenet import ImageNetFeatures
from morphkit.experiment.train import build_networks, train
from morphkit.interfaces import Scene
from morphkit.training.loop import Training
from morphkit.types import Cloud, PairedData, Pairs, Split

RESULTS = Path(__file__).parent / "results"
LINES = RESULTS / "densities.jsonl"
TAUS = (1.0, 0.99, 0.95, 0.9, 0.5)
SEEDS, PAIRED, WITHOUT, STEPS = 5, 0.1, 0.2, 2000
NAMES = {
    "images": "AUROC of η, images without a pair",
    "new images": "AUROC of η_θ, new images",
    "eta_r2": "share of η's variance explained by η_θ, the same images",
    "xi_r2": "share of ξ's variance explained by ξ_θ, the same texts",
    "marginal_distance": "energy distance, predictions to texts",
    "reweighted_distance": "the same, weighted by η_θ and ξ_θ",
}


def run(cell: tuple[float, int]) -> dict:
    tau, seed = cell
    random = np.random.default_rng(seed)
    x, y = tiny_imagenet_clouds()
    labels = np.asarray(x.labels)
    classes = np.unique(labels)
    lost = random.choice(classes, round(WITHOUT * len(classes)), replace=False)
    here = np.flatnonzero(~np.isin(labels, lost))
    known = np.sort(random.choice(len(here), round(PAIRED * len(here)), replace=False))
    data = PairedData(x, y.take(here), Pairs.from_array(np.stack([here[known], known], 1)))
    cost = CanonicalCost(shrinkage_x=0.6, shrinkage_y=0.05)
    solver = Sinkhorn(0.05, tau_x=tau, tau_y=tau)
    sampler = RefinedAlignment(rounds=2, weight=0.6).sampler(data, cost, solver)
    coupling = sampler.coupling
    assert coupling is not None
    keys = jax.random.split(jax.random.key(seed), 3)
    field = functools.partial(AdaLN, size="small")
    networks = build_networks(field, x.dim, y.dim, True, keys[0])
    training = Training(STEPS, 256, learning_rate=1e-3, decay=True, reweight=True)
    morph = train(data, sampler, networks, training, key=keys[1])
    raw = ImageNetFeatures().load().test
    assert raw.source_labels is not None
    assert raw.target_labels is not None
    new, texts = (
        Cloud.uniform(points, labels)
        for points, labels in (
            (raw.source, raw.source_labels),
            (raw.target[~np.isin(raw.target_labels, lost)], None),
        )
    )
    test = Split(raw.source, np.asarray(texts.points), np.zeros((0, 2), int))
    same = [Identity((cloud.dim,), key=keys[2]) for cloud in (x, y)]
    scene = Scene(*same, data, new, texts, test, map=morph, coupling=coupling)
    found = Densities().evaluate(scene, key=keys[2])
    # A refined coupling keeps what pairs weigh: of these there is nothing to ask.
    free = np.setdiff1d(np.arange(x.size), here[known])
    eta = np.asarray(coupling.marginal(0) / x.weights)
    found["images"] = roc_auc_score(~np.isin(labels[free], lost), eta[free])
    belongs = ~np.isin(raw.source_labels, lost)
    found["new images"] = roc_auc_score(belongs, morph.density(raw.source))
    return {"cell": [tau, seed], "scores": {name: float(v) for name, v in found.items()}}


HEAD = f"""Tiny ImageNet, {PAIRED:.0%} of the pairs; of a random {WITHOUT:.0%} of the classes no
text is among the targets, and so no pair. Costs are canonical, refined twice, ε is .05, τ is that
of both marginals; the field is adaLN-Small, {STEPS:,} steps. AUROC: how often η is larger for an
image whose class has a text than for one whose class has none; .5 is chance. Distances are of 2,000
test images a side."""


def write(lines: dict) -> None:
    rows = [["", *(f"τ = {tau:g}" for tau in TAUS)], ["---"] * (len(TAUS) + 1)]
    for name, told in NAMES.items():
        found = [
            [ln["scores"][name] for c, ln in lines.items() if c[0] == tau and name in ln["scores"]]
            for tau in TAUS
        ]
        rows.append([told, *(summary(numbers, SEEDS) for numbers in found)])
    text = [
        measured_by("densities", SEEDS), HEAD, "", *(f"| {' | '.join(r)} |" for r in rows), "",
    ]  # fmt: skip
    (RESULTS / "densities.md").write_text("\n".join(text), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    seeds = parser.parse_args().seeds
    measure(LINES, itertools.product(TAUS, range(seeds)), run, write)


if __name__ == "__main__":
    main()
