"""Balanced against unbalanced, linear against fused, on recordings (Sec. 5.2, App. L.2).

`python benchmarks/balance.py` runs what is missing of gin/neural/solvers.gin in runs/solvers, and
writes benchmarks/results/balance.md, its numbers in results/paper/balance.csv, and
docs/paper/balance.png.
"""

from pathlib import Path

from tables import draw, measured_by, runs_of, summary

from morphkit.paper.lines import PAIRS, Value

RESULTS = Path(__file__).parent / "results"
ERROR = "morph/prediction_error"
METRICS = {
    "prediction error of a draw": ERROR,
    "of the expected value": "morph/mean_prediction_error",
    "matching": "coupling/matching_accuracy_exact",
}


def main() -> None:
    found: dict[tuple[str, str, float], list[dict[str, float]]] = {}
    values = []
    for run in runs_of(["neural/solvers.gin"], "solvers"):
        mass, solver = run.labels["mass"], run.labels["solver"]
        share, seed = 100 * float(run.labels["run.paired_fraction"]), int(run.labels["run.seed"])
        found.setdefault((mass, solver, share), []).append(run.metrics)
        values.append(Value(mass, solver, "paper", share, seed, run.metrics[ERROR]))
    seeds = max(map(len, found.values()))
    shares = sorted({share for *_, share in found})
    lines = [
        f"{measured_by('balance', seeds)}V4, the last layer, ε = 1e-3, unbalanced is τ = .99, "
        "fused is named by its α. *Matching* is the probability that a draw of the coupling joins "
        "a stimulus with itself.",
        "",
        "| solver | | " + " | ".join(f"{share:.0f} %" for share in shares) + " |",
        "|---|---|" + "---|" * len(shares),
    ]
    for mass, solver in dict.fromkeys((mass, solver) for mass, solver, _ in found):
        for name, metric in METRICS.items():
            cells = [summary([m[metric] for m in found[mass, solver, s]], seeds) for s in shares]
            lines.append(f"| {solver}, {mass} | {name} | {' | '.join(cells)} |")
    (RESULTS / "balance.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw("balance", values, PAIRS, "prediction error of a draw")


if __name__ == "__main__":
    main()
