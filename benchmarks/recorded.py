"""What the choice on known pairs comes to on recorded V4 responses, beside tuned baselines.

`python benchmarks/recorded.py [SESSION …]` runs what is missing in
benchmarks/results/recorded.jsonl (a line of JSON a session, layer, fraction and seed; a killed
benchmark goes on where it was) and writes recorded.md beside it. Nothing is trained, as in
benchmarks/choice.py.
"""

import argparse
import itertools
import logging
import tempfile
from pathlib import Path

import numpy as np
from choice import Problem, judged
from scipy.stats import wilcoxon
from tables import append, measured_by, read, summary

from morphkit.api import asked
from morphkit.data.arrays import data_folder
from morphkit.experiment.prepare import prepare
from morphkit.loggers import Log
from morphkit.report.significance import compare

RESULTS = Path(__file__).parent / "results"
LINES = RESULTS / "recorded.jsonl"
SEEDS = 2
LAYERS = ("block2", "block5", "block9", "block12", "features")
FRACTIONS = {"201025": (0.05, 0.2, 0.4, 0.6, 0.8), "210224": (0.2, 0.4, 0.6, 0.8)}
BASELINES = ("ridge", "pls", "ridge cca")
SHOWN = ("chosen", *BASELINES, "canonical, not refined", "the paper's bridge")

Cell = tuple[str, str, float, int]  # session, layer, fraction, seed


def problem(session: str, layer: str, fraction: float, seed: int) -> tuple[Problem, list[str]]:
    """The stimuli of a session to learn from and to test on, and the bindings of their run."""
    bindings = [
        f"Recordings.path = {str(data_folder() / 'v4' / f'v4_{session}.npz')!r}",
        f"Recordings.features = {layer!r}", f"run.paired_fraction = {fraction}",
        f"run.seed = {seed}",
    ]  # fmt: skip
    experiment, _ = asked(["neural/v4.gin"], bindings)
    with (
        tempfile.TemporaryDirectory() as folder,
        Log(Path(folder), wandb="disabled", quiet=True) as log,
    ):
        scene = prepare(experiment, log)
    source, target = np.asarray(scene.test.pairs).T
    points = np.asarray(scene.x.points)[source], np.asarray(scene.y.points)[target]
    return Problem(scene.train, responses=points), bindings


def run(cell: Cell) -> dict:
    """The squared error of each test stimulus, mean over sites of unit variance, by method."""
    errors, rest = judged(*_asked(cell))
    rounded = {name: [round(float(e), 4) for e in values] for name, values in errors.items()}
    return {"cell": list(cell), "errors": rounded} | rest


def _asked(cell: Cell) -> tuple[Problem, str, list[str]]:
    found, bindings = problem(*cell)
    return found, "neural/v4.gin", bindings


def per_stimulus(lines: dict[Cell, dict], session: str, layer: str, fraction: float) -> dict:
    """Errors of the test stimuli by method, the mean over seeds, which are no further stimuli."""
    found = [
        line["errors"] for cell, line in lines.items() if cell[:3] == (session, layer, fraction)
    ]
    return (
        {name: np.mean([errors[name] for errors in found], axis=0) for name in found[0]}
        if found
        else {}
    )


def errors(lines: dict[Cell, dict], session: str) -> list[str]:
    fractions = FRACTIONS[session]
    rows = ["| layer | method | " + " | ".join(f"{f:.0%}" for f in fractions) + " |"]
    rows.append("|---|---|" + "---|" * len(fractions))
    for layer, method in itertools.product(LAYERS, SHOWN):
        cells = [
            summary(
                [float(np.mean(line["errors"][method])) for cell, line in lines.items()
                 if cell[:3] == (session, layer, fraction)],
                SEEDS,
            )
            for fraction in fractions
        ]  # fmt: skip
        rows.append(f"| {layer} | {method} | " + " | ".join(cells) + " |")
    return rows


def tests(lines: dict[Cell, dict], session: str) -> tuple[list[str], list[float]]:
    """A row a layer: the mean difference of what was chosen to the best baseline, and two tests."""
    fractions = FRACTIONS[session]
    rows = ["| layer | " + " | ".join(f"{f:.0%}" for f in fractions) + " |"]
    rows.append("|---|" + "---|" * len(fractions))
    differences = []
    for layer in LAYERS:
        cells = []
        for fraction in fractions:
            found = per_stimulus(lines, session, layer, fraction)
            if not found:
                cells.append("–")
                continue
            best = min(BASELINES, key=lambda name: found[name].mean())
            apart = found["chosen"] - found[best]
            differences.append(float(apart.mean()))
            ranks = compare({name: found[name] for name in ("chosen", best)})[0].p
            signed = wilcoxon(apart)[1] if apart.any() else 1.0
            cells.append(f"{apart.mean():+.3f} to {best} ({ranks:.0e}, {signed:.0e})")
        rows.append(f"| {layer} | " + " | ".join(cells) + " |")
    return rows, differences


def write(lines: dict[Cell, dict]) -> None:
    text = [
        "# Recordings: a choice on the known pairs",
        "",
        measured_by("recorded", SEEDS) + "A seed "
        "chooses the pairs; the split of the stimuli is fixed. The error is the mean over test "
        "stimuli and sites of the squared error of the expected response, of responses of mean 0 "
        "and variance 1 over the training stimuli. Baselines choose their settings on the known "
        "pairs. The paper's bridge is the coupling of gin/neural/v4.gin.",
    ]
    apart = []
    for session in FRACTIONS:
        tested, differences = tests(lines, session)
        apart += differences
        text += [
            "", f"## Session {session}", "", *errors(lines, session), "",
            "The difference to the best baseline (less is better), stimulus by stimulus; in "
            "brackets p of the Wilcoxon-Mann-Whitney test of Fig. 10, and of Wilcoxon's signed "
            "ranks, which pair the stimuli; neither is corrected for the number of cells:",
            "", *tested,
        ]  # fmt: skip
    better, worse = sum(d < 0 for d in apart), max(apart, default=0.0)
    text[2:2] = [
        f"**What was chosen is better than the best baseline in {better} of {len(apart)} cells;** "
        f"the largest difference the other way is {max(worse, 0):.3f}.",
        "",
    ]
    (RESULTS / "recorded.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sessions", nargs="*", default=list(FRACTIONS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    chosen = parser.parse_args()
    logging.getLogger("morphkit").setLevel(logging.WARNING)
    cells = [
        (session, layer, fraction, seed)
        for seed in range(chosen.seeds)
        for session in chosen.sessions
        for layer in LAYERS
        for fraction in FRACTIONS[session]
    ]
    for cell in cells:
        if cell not in read(LINES, "cell"):
            line = run(cell)
            means = {name: round(float(np.mean(e)), 4) for name, e in line["errors"].items()}
            print(line["cell"], line["coupling"], means, f"{line['seconds']} s", flush=True)
            append(LINES, line)
    write(read(LINES, "cell"))


if __name__ == "__main__":
    main()
