"""Trained morphs beside baselines, and beside what they are without one of their parts.

`python benchmarks/morphs.py [PROBLEM …]` makes the runs that are missing in
benchmarks/results/morphs.jsonl (a line of JSON a problem and seed; a killed benchmark goes on where
it was) and writes morphs.md beside it.
"""

import argparse
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from problems import tiny_imagenet_clouds
from sklearn.metrics import pairwise_distances_argmin
from tables import append, measured_by, missing, read, summary

import morphkit
from morphkit.data.imagenet import ImageNetFeatures
from morphkit.experiment.run import Result
from morphkit.morph import Morph

RESULTS = Path(__file__).parent / "results"
LINES = RESULTS / "morphs.jsonl"
SEEDS = 5
MORPH, DRAW = "morph", "morph, one draw"

IMAGENET = "imagenet/image_to_text.gin"
EXPECTED = "NearestTargetAccuracy.estimate = 'expected'"
PLAIN = [
    "run.anchor = None", "run.spread = None", "Training.steps = 2000",
    "Training.learning_rate = 3e-3", "Training.weight_decay = 0.0", "Training.dropout = 0.0",
    "Training.validation = 0.0", "Training.evaluate_every = None", "Training.patience = None",
]  # fmt: skip
"""A flow as in the paper, with the steps and rate of gin/imagenet, about what was chosen."""
UNREFINED = [
    "run.aligner = @aligner.GlobalAlignment()", "run.cost = @cost.CanonicalCost()",
    "CanonicalCost.shrinkage_x = 0.6", "CanonicalCost.shrinkage_y = 0.05",
    "Sinkhorn.epsilon = 0.025",
]  # fmt: skip
"""The class candidate of gin/auto.gin before its coupling teaches it anything."""
REFINED = [
    "run.aligner = @aligner.RefinedAlignment()", "run.cost = @cost.CanonicalCost()",
    "Sinkhorn.epsilon = 0.05",
]  # fmt: skip
"""What one takes without a choice: the defaults."""

Cell = tuple[str, float, int]  # problem, share of pairs, seed
SHARES = {"digits": (0.1,), "imagenet": (0.05, 0.1)}
NAMES = {"digits": "The quickstart's digits", "imagenet": "Tiny ImageNet"}


def run(cell: Cell) -> dict:
    """The accuracy of E[y | x] on test points, by row."""
    problem, share, seed = cell
    asked = [f"run.seed = {seed}", f"run.paired_fraction = {share}"]
    with tempfile.TemporaryDirectory() as folder:
        made = digits if problem == "digits" else imagenet
        return {"cell": list(cell), "scores": made(asked, Path(folder))}


def digits(asked: list[str], folder: Path) -> dict[str, float]:
    return scores(morphkit.run("quickstart.gin", asked, folder / "all"), "test_accuracy")


def imagenet(asked: list[str], folder: Path) -> dict[str, float]:
    """With the rows of what is left out, one after the other."""
    asked, metric = [*asked, EXPECTED], "nearest_target_accuracy"
    files = [IMAGENET, "auto.gin"]
    morphkit.choose(files, asked, out=folder / "all")
    whole = morphkit.run(files, asked, folder / "all")
    found = scores(whole, metric) | {DRAW: accuracy(whole.morph)}
    chosen = folder / "all" / "chosen.gin"
    without = {
        "no anchor": ([IMAGENET, chosen], PLAIN),
        "no refinement": ([IMAGENET, "anchored.gin"], [*UNREFINED, "run.anchor = 'coupling'"]),
        "no choice": ([IMAGENET, "anchored.gin"], [*REFINED, "run.anchor = 'coupling'"]),
        "the paper's bridge and flow": ([IMAGENET], []),
    }
    for name, (described, bindings) in without.items():
        result = morphkit.run(described, [*asked, *bindings], folder / name.replace(" ", "-"))
        found[name] = result.metrics[f"morph/{metric}"]
    return found


def scores(result: Result, metric: str) -> dict[str, float]:
    """The rows of a run's table."""
    names = {key.rpartition("/")[0] for key in result.metrics if key.endswith(f"/{metric}")}
    rows = {name: result.metrics[f"{name}/{metric}"] for name in sorted(names)}
    known = {"morph": MORPH, "map": "what it starts from"}
    return {
        known.get(row, row.removeprefix("baseline/").replace("_", " ")): value
        for row, value in rows.items()
    }


def accuracy(morph: Morph) -> float:
    """Of one draw a test image: the share whose class has the nearest text."""
    test, (_, y) = ImageNetFeatures().load().test, tiny_imagenet_clouds()
    names, first = np.unique(np.asarray(y.labels), return_index=True)
    drawn = np.asarray(morph(jnp.asarray(test.source, jnp.float32)))
    nearest = pairwise_distances_argmin(drawn, np.asarray(y.points)[first], metric="cosine")
    return float(np.mean(names[nearest] == test.source_labels))


HEAD = """Runs of gin/quickstart.gin and of gin/imagenet/image_to_text.gin with gin/auto.gin, each
at its defaults. Accuracy is that of E[y | x] on test points; "one draw" is the paper's. Without an
anchor the flow on the chosen coupling starts from nothing, and takes the 2,000 steps of
gin/imagenet. Without refinement the class candidate stays as the pairs alone have it. Without a
choice the defaults of RefinedAlignment and CanonicalCost are taken. These two are anchored on what
their coupling says."""


def write(lines: dict[Cell, dict]) -> None:
    text = ["# Trained morphs", "", measured_by("morphs", SEEDS) + HEAD]
    for problem in SHARES:
        cells = [[ln for c, ln in lines.items() if c[:2] == (problem, s)] for s in SHARES[problem]]
        rows = list(dict.fromkeys(row for found in cells for ln in found for row in ln["scores"]))
        rows.sort(key=lambda row: not row.startswith(MORPH))
        text += ["", f"## {NAMES[problem]}", ""]
        text += [f"|  | {' | '.join(f'{s:.0%}' for s in SHARES[problem])} |"]
        text += [f"|{'---|' * (len(cells) + 1)}"]
        for row in rows:
            numbers = [
                [ln["scores"][row] for ln in found if row in ln["scores"]] for found in cells
            ]
            text += [f"| {row} | {' | '.join(summary(ns, SEEDS) for ns in numbers)} |"]
        text += [
            "",
            *(against_best(found, s) for found, s in zip(cells, SHARES[problem], strict=True)),
        ]
    (RESULTS / "morphs.md").write_text("\n".join(text) + "\n", encoding="utf-8")


OURS = (
    MORPH, DRAW, "what it starts from", "no anchor", "no refinement", "no choice",
    "the paper's bridge and flow",
)  # fmt: skip


def against_best(lines: list[dict], share: float) -> str:
    """The morph's mean difference to the best baseline, paired by seed."""
    if not lines:
        return f"At {share:.0%}: not measured yet."
    baselines = [row for row in lines[0]["scores"] if row not in OURS]
    means = {row: np.mean([line["scores"][row] for line in lines]) for row in baselines}
    best = max(means, key=means.__getitem__)
    apart = np.array([line["scores"][MORPH] - line["scores"][best] for line in lines])
    error = f"{apart.std(ddof=1) / np.sqrt(len(apart)):.3f}" if len(apart) > 1 else "unknown"
    return f"At {share:.0%}: morph − {best} is {apart.mean():+.3f}, standard error {error}.  "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problems", nargs="*", default=list(SHARES))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    chosen = parser.parse_args()
    cells = [
        (problem, share, seed)
        for problem in chosen.problems
        for seed in range(chosen.seeds)
        for share in SHARES[problem]
    ]
    for cell in missing(LINES, cells):
        line = run(cell)
        print(line, flush=True)
        append(LINES, line)
    write(read(LINES, "cell"))


if __name__ == "__main__":
    main()
