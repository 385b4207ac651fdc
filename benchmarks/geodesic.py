"""What the bridge cost matches along straight lines, along shortest paths, and by heat.

`python benchmarks/geodesic.py` runs what is missing of the sweep gin/mnist/geodesic.gin in
runs/geodesic, and writes benchmarks/results/geodesic.md.
"""

from pathlib import Path

from problems import same_extractors
from tables import measured_by, runs_of, summary

RESULTS = Path(__file__).parent / "results"
METRIC = "coupling/matching_accuracy_exact"


def main() -> None:
    same_extractors()
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in runs_of(["gin/mnist/geodesic.gin"], "geodesic"):
        labels = run.labels
        row = found.setdefault((labels["bridge"], labels["read"]), {})
        row.setdefault(labels["run.paired_fraction"], []).append(run.metrics[METRIC])
    shares = list(dict.fromkeys(share for row in found.values() for share in row))
    seeds = max(len(numbers) for row in found.values() for numbers in row.values())
    lines = [
        f"{measured_by('geodesic', seeds)}MNIST's VAEs, 10,000 points; a seed chooses the pairs. "
        "The probability that what is read of the coupling joins two points of one class.",
        "",
        f"| bridge | read | {' | '.join(f'{float(share):.1%} of pairs' for share in shares)} |",
        "|---|---|" + "---|" * len(shares),
    ]
    for (bridge, read), row in sorted(found.items(), key=lambda item: item[0][::-1]):
        cells = " | ".join(summary(row.get(share, []), seeds) for share in shares)
        lines.append(f"| {bridge} | {read} | {cells} |")
    (RESULTS / "geodesic.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
