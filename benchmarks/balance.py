"""Balanced against unbalanced, linear against fused, on recordings (Sec. 5.2, App. L.2).

`python benchmarks/balance.py` runs what is missing of gin/neural/solvers.gin in runs/solvers, and
writes benchmarks/results/balance.md, and the numbers to results/paper/balance.csv.
"""

import csv
import statistics
from pathlib import Path

from tables import measured_by, runs_of, summary

from morphkit.paper.figure import HEAD

RESULTS = Path(__file__).parent / "results"
METRICS = {
    "prediction error of a draw": "morph/prediction_error",
    "of the expected value": "morph/mean_prediction_error",
    "matching": "coupling/matching_accuracy_exact",
}


def main() -> None:
    found: dict[tuple[str, float], list[dict[str, float]]] = {}
    for run in runs_of(["neural/solvers.gin"], "solvers"):
        key = run.labels["solver"], 100 * float(run.labels["run.paired_fraction"])
        found.setdefault(key, []).append(run.metrics)
    seeds = max(map(len, found.values()))
    shares = sorted({share for _, share in found})
    lines = [
        f"{measured_by('balance', seeds)}V4, the last layer, ε = 1e-3, unbalanced is τ = .99. "
        "*Matching* is the probability that a draw of the coupling joins a stimulus with itself.",
        "",
        "| solver | | " + " | ".join(f"{share:.0f} %" for share in shares) + " |",
        "|---|---|" + "---|" * len(shares),
    ]
    for solver in dict.fromkeys(solver for solver, _ in found):
        for name, metric in METRICS.items():
            cells = [summary([m[metric] for m in found[solver, s]], seeds) for s in shares]
            lines.append(f"| {solver} | {name} | {' | '.join(cells)} |")
    (RESULTS / "balance.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (RESULTS / "paper" / "balance.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(HEAD)
        for (solver, share), of in found.items():
            errors = [metrics["morph/prediction_error"] for metrics in of]
            spread = statistics.stdev(errors) if len(errors) > 1 else 0.0
            table.writerow(
                ["", solver, "paper", share, statistics.mean(errors), spread, len(errors)]
            )


if __name__ == "__main__":
    main()
