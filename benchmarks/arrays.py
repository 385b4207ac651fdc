"""The two arrays of docs/arrays.md: how well unpaired points are predicted, beside linear maps.

`python benchmarks/arrays.py` runs what is missing in benchmarks/results/arrays.jsonl (a line of
JSON a seed, which makes the arrays) and writes arrays.md beside it. `morphkit.align` is at its
defaults.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from morphkit_baselines.cca import RidgeCCA
from morphkit_baselines.linear import Procrustes, Ridge
from sklearn.metrics import r2_score
from tables import measure, measured_by, summary

import morphkit
from morphkit.types import Cloud, PairedData, Pairs

RESULTS = Path(__file__).parent / "results"
LINES = RESULTS / "arrays.jsonl"
SEEDS = 5
BASELINES = {"ridge": Ridge(), "ridge CCA": RidgeCCA(), "Procrustes": Procrustes()}


def run(cell: tuple[int]) -> dict:
    """R² of the points without a pair."""
    (seed,) = cell
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(300, 6))
    y = np.tanh(x @ rng.normal(size=(6, 4)))
    pairs = np.stack([np.arange(40), np.arange(40)], axis=1)
    data = PairedData(Cloud.uniform(x), Cloud.uniform(y), Pairs.from_array(pairs))
    start = time.monotonic()
    morph = morphkit.align(x, y, pairs, seed=seed)
    found = {"morph": np.asarray(morph(x[40:], reduce="expected"))}
    seconds = time.monotonic() - start
    for name, baseline in BASELINES.items():
        found[name] = np.asarray(baseline.fit(data)(data.x.points[40:]))
    scores = {
        n: float(r2_score(y[40:], p, multioutput="variance_weighted")) for n, p in found.items()
    }
    return {"cell": [seed], "scores": scores, "seconds": round(seconds, 1)}


def write(lines: dict) -> None:
    rows = [["", "R² of the unpaired"], ["---", "---"]]
    for name in ("morph", *BASELINES):
        rows.append([name, summary([line["scores"][name] for line in lines.values()], SEEDS)])
    rows.append(["seconds", summary([line["seconds"] for line in lines.values()], SEEDS, 0)])
    head = "A seed makes the arrays: 300 points, 40 pairs. `morphkit.align` is at its defaults."
    text = [measured_by("arrays", SEEDS) + head, "", *(f"| {' | '.join(r)} |" for r in rows), ""]
    (RESULTS / "arrays.md").write_text("\n".join(text), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    seeds = parser.parse_args().seeds
    measure(LINES, [(seed,) for seed in range(seeds)], run, write)


if __name__ == "__main__":
    main()
