"""What squaring c_XY (Eq. 3, not Eq. 1) does to matching.

`python benchmarks/square.py` runs what is missing of two sweeps in runs/square, and writes
benchmarks/results/square.md.
"""

import statistics
from pathlib import Path

from tables import measured_by, runs_of, summary

RESULTS, PLACE = Path(__file__).parent / "results", "papers/bridges"
DATA = {"MNIST": "fig06a", "Tiny ImageNet": "fig06b"}
METRIC = "coupling/matching_accuracy_exact"


def measured() -> dict[tuple[str, float, bool], list[float]]:
    """The matching accuracies of all seeds, by data, α and whether c_XY is squared."""
    found: dict[tuple[str, float, bool], list[float]] = {}
    for data, figure in DATA.items():
        for run in runs_of([f"{PLACE}/{figure}.gin", f"{PLACE}/square.gin"], f"square/{figure}"):
            labels = run.labels
            squared = labels["FusedGromovWasserstein.squared"] == "True"
            key = data, float(labels["FusedGromovWasserstein.alpha"]), squared
            found.setdefault(key, []).append(run.metrics[METRIC])
    return found


def main() -> None:
    found = measured()
    seeds = max(map(len, found.values()))
    lines = []
    for data in DATA:
        most = {
            squared: max(statistics.mean(v) for k, v in found.items() if k[::2] == (data, squared))
            for squared in (False, True)
        }
        lines.append(f"- {data}: at best {most[False]:.3f} with c_XY, {most[True]:.3f} with c_XY².")
    lines += [
        "",
        f"{measured_by('square', seeds)}The bridge cost with 5 % of the pairs, otherwise as in "
        "Fig. 6: the probability that a draw of the coupling joins two points of one class.",
        "",
        "| data | α | c_XY, as in Eq. 1 | c_XY², as in Eq. 3 |",
        "|---|---|---|---|",
    ]
    for data, alpha in dict.fromkeys(key[:2] for key in found):
        cells = [summary(found[data, alpha, squared], seeds) for squared in (False, True)]
        lines.append(f"| {data} | {alpha:g} | {' | '.join(cells)} |")
    (RESULTS / "square.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
