"""Trained morphs beside baselines, and beside what they are without one of their parts.

`python benchmarks/morphs.py [PROBLEM …]` makes the runs that are missing in
benchmarks/results/morphs.jsonl (a line of JSON a problem and seed; a killed benchmark goes on where
it was) and writes morphs.md beside it.
"""

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from problems import tiny_imagenet_clouds
from sklearn.metrics import pairwise_distances_argmin
from tables import measure, measured_by, summary

import morphkit
from morphkit.data.imagenet import ImageNetFeatures
from morphkit.experiment.run import Result
from morphkit.morph import Morph

RESULTS = Path(__file__).parent / "results"
LINES = RESULTS / "morphs.jsonl"
SEEDS = 5
MORPH, DRAW, BASE = "morph", "morph, one draw", "what it starts from"
PAPER = "the paper's bridge and flow"
OURS = (MORPH, DRAW, BASE, "no anchor", "no refinement", "no choice", PAPER)

BUDGET = "Choice.budget = 90.0"
"""As in benchmarks/choice.py, whose cells have one core, too."""
IMAGENET = "imagenet/image_to_text.gin"
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


class Problem(NamedTuple):
    """Runs of gin `files` at several `shares` of pairs, and what judges them: a `metric`, of
    `digits` decimals, whose larger values are `better` times better. `bindings` are for all runs,
    those for `choosing` for the ones that choose."""

    title: str
    files: tuple[str, ...]
    shares: tuple[float, ...]
    metric: str
    bindings: tuple[str, ...] = ()
    choosing: tuple[str, ...] = (BUDGET,)
    better: int = 1
    digits: int = 3


PROBLEMS = {
    "digits": Problem(
        "The quickstart's digits: accuracy", ("quickstart.gin",), (0.1,), "test_accuracy",
        choosing=(),
    ),
    "imagenet": Problem(
        "Tiny ImageNet: accuracy", (IMAGENET, "auto.gin"), (0.05, 0.1), "nearest_target_accuracy",
        ("NearestTargetAccuracy.estimate = 'expected'",),
    ),
    "images": Problem(
        "MNIST latents, text → image: squared error of a pixel",
        ("mnist/text_to_image.gin", "candidates.gin"), (0.01, 0.05, 0.1, 0.2), "class_image_mse",
        ("run.evaluators = [@eval.ClassImageMSE()]",), better=-1, digits=5,
    ),
}  # fmt: skip


def run(cell: Cell) -> dict:
    """The metric of E[y | x] on test points, by row; of Tiny ImageNet also of one draw, and without
    one part after the other."""
    name, share, seed = cell
    problem = PROBLEMS[name]
    asked = [*problem.bindings, f"run.seed = {seed}", f"run.paired_fraction = {share}"]
    choosing = [*asked, *problem.choosing]
    with tempfile.TemporaryDirectory() as folder:
        if name == "imagenet":  # its chosen.gin is for the runs without a part
            morphkit.choose(problem.files, choosing, out=Path(folder) / "all")
        whole = morphkit.run(problem.files, choosing, Path(folder) / "all")
        found = scores(whole, problem.metric)
        if len(problem.files) > 1:
            found[PAPER] = of_paper(problem, asked, Path(folder) / "paper")
        if name == "imagenet":
            found |= {DRAW: accuracy(whole.morph)} | without(asked, problem.metric, Path(folder))
    return {"cell": list(cell), "scores": found}


def of_paper(problem: Problem, asked: list[str], folder: Path) -> float:
    """The metric of the first file of `problem` alone."""
    return morphkit.run(problem.files[:1], asked, folder).metrics[f"morph/{problem.metric}"]


def without(asked: list[str], metric: str, folder: Path) -> dict[str, float]:
    """The metric of the morph without one part after the other."""
    runs = {
        "no anchor": ([IMAGENET, folder / "all" / "chosen.gin"], PLAIN),
        "no refinement": ([IMAGENET, "anchored.gin"], [*UNREFINED, "run.anchor = 'coupling'"]),
        "no choice": ([IMAGENET, "anchored.gin"], [*REFINED, "run.anchor = 'coupling'"]),
    }
    return {
        name: morphkit.run(files, [*asked, *bindings], folder / str(k)).metrics[f"morph/{metric}"]
        for k, (name, (files, bindings)) in enumerate(runs.items())
    }


def scores(result: Result, metric: str) -> dict[str, float]:
    """The rows of a run's table."""
    names = {key.rpartition("/")[0] for key in result.metrics if key.endswith(f"/{metric}")}
    rows = {name: result.metrics[f"{name}/{metric}"] for name in sorted(names)}
    known = {"morph": MORPH, "map": BASE}
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


HEAD = """Runs at the defaults of their gin files, with gin/auto.gin (images: with
gin/candidates.gin, so that the flow is trained as far as gin/mnist says); a choice had one core
and 90 s, that of the digits 120 s. What is judged is E[y | x] of test points; images are judged by
one draw, as in the paper, and so is the row that says so. Without an anchor the flow on the chosen
coupling starts from nothing, and takes the 2,000 steps of gin/imagenet. Without refinement the
class candidate stays as the pairs alone have it. Without a choice the defaults of RefinedAlignment
and CanonicalCost are taken. These two are anchored on what their coupling says."""


def write(lines: dict[Cell, dict]) -> None:
    text = ["# Trained morphs", "", measured_by("morphs", SEEDS) + HEAD]
    for name, problem in PROBLEMS.items():
        cells = [[ln for c, ln in lines.items() if c[:2] == (name, s)] for s in problem.shares]
        rows = list(dict.fromkeys(row for found in cells for ln in found for row in ln["scores"]))
        rows.sort(key=lambda row: not row.startswith(MORPH))
        text += ["", f"## {problem.title}", ""]
        text += [f"|  | {' | '.join(f'{s:.0%}' for s in problem.shares)} |"]
        text += [f"|{'---|' * (len(cells) + 1)}"]
        for row in rows:
            scores = [[ln["scores"][row] for ln in found if row in ln["scores"]] for found in cells]
            numbers = [summary(found, SEEDS, problem.digits) for found in scores]
            text += [f"| {row} | {' | '.join(numbers)} |"]
        text += [f"| morph − best baseline | {' | '.join(against(f, problem) for f in cells)} |"]
    (RESULTS / "morphs.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def against(lines: list[dict], problem: Problem) -> str:
    """The mean difference to the best baseline, paired by seed, and its standard error."""
    if not lines:
        return "–"
    baselines = [row for row in lines[0]["scores"] if row not in OURS]
    best = max(
        baselines, key=lambda row: problem.better * sum(line["scores"][row] for line in lines)
    )
    apart = np.array([line["scores"][MORPH] - line["scores"][best] for line in lines])
    error = f" ± {apart.std(ddof=1) / np.sqrt(len(apart)):.{problem.digits}f}"
    return f"{apart.mean():+.{problem.digits}f}{error if len(apart) > 1 else ''} ({best})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problems", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    chosen = parser.parse_args()
    cells = [
        (problem, share, seed)
        for problem in chosen.problems
        for seed in range(chosen.seeds)
        for share in PROBLEMS[problem].shares
    ]
    measure(LINES, cells, run, write)


if __name__ == "__main__":
    main()
