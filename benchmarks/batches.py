"""Does local alignment gain by a larger batch (Sec. 5.1.5)?

`python benchmarks/batches.py` runs what is missing of gin/mnist/batches.gin in runs/batches, and
writes benchmarks/results/batches.md, its numbers in results/paper/batches.csv, and
docs/paper/batches.png.
"""

from pathlib import Path

from problems import same_extractors
from tables import draw, measured_by, runs_of, summary

from morphkit.paper.lines import Value, alignment

RESULTS = Path(__file__).parent / "results"
METRIC = "morph/test_accuracy"


def main() -> None:
    same_extractors()
    values = [
        Value("", alignment(run), "paper", float(run.labels["Training.batch_size"]),
              int(run.labels["run.seed"]), run.metrics[METRIC])
        for run in runs_of(["mnist/batches.gin"], "batches")
    ]  # fmt: skip
    seeds = len({value.seed for value in values})
    sizes = sorted({value.x for value in values})
    lines = [
        f"{measured_by('batches', seeds)}MNIST, image to text, 10 % of the pairs, linear solver, "
        "2,000 steps each. The share of test images of which a draw has the right label.",
        "",
        "| alignment | " + " | ".join(f"batch of {size:,.0f}" for size in sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for name in dict.fromkeys(value.name for value in values):
        cells = [[v.value for v in values if (v.name, v.x) == (name, size)] for size in sizes]
        lines.append(f"| {name} | {' | '.join(summary(cell, seeds) for cell in cells)} |")
    (RESULTS / "batches.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw("batches", values, "batch", "accuracy of a draw")


if __name__ == "__main__":
    main()
