"""MNIST, image → text and text → image, per paired fraction, alignment and seed.

`python benchmarks/mnist.py` runs what is missing in benchmarks/results/mnist (one metrics.json a
run; delete that folder after changing a configuration) and writes benchmarks/results/mnist.md. A
killed benchmark goes on where it was. `--workers 2` runs two processes of one thread each, which
two cores finish sooner. Nothing is tuned on the test set: the configuration is in gin/mnist.
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tables import summary

RUNS = Path("runs/mnist")
SEEDS = 3
RESULTS = Path(__file__).parent / "results"
FRACTIONS = (0.01, 0.05, 0.1, 0.2)
ALIGNERS = {"true": "TrueAlignment", "global": "GlobalAlignment", "local": "LocalAlignment"}
METRICS = {"image_to_text": "test_accuracy", "text_to_image": "class_image_mse"}
BASELINES = (
    "nearest_anchor", "ridge", "procrustes", "nearest_class_mean", "shrinkage_lda", "logistic_head",
    "label_spreading",
)  # fmt: skip


def jobs(direction: str) -> list[tuple[str, str, float, int]]:
    everything = itertools.product(range(SEEDS), FRACTIONS, ALIGNERS)
    listed = [(direction, aligner, fraction, seed) for seed, fraction, aligner in everything]
    listed.sort(key=lambda job: job[1] == "local")  # the slowest last
    return [(direction, "true", 1.0, seed) for seed in range(SEEDS)] + listed


def result(job: tuple[str, str, float, int]) -> Path:
    direction, aligner, fraction, seed = job
    return RESULTS / "mnist" / f"{direction}-{aligner}-{fraction}-{seed}.json"


def run(job: tuple[str, str, float, int], threads: bool) -> None:
    direction, aligner, fraction, seed = job
    if result(job).exists():
        return
    out = RUNS / result(job).stem
    flags = [os.environ.get("XLA_FLAGS", "")]
    if not threads:
        flags.append("--xla_cpu_multi_thread_eigen=false")
    command = [
        sys.executable, "-m", "morphkit.cli", "run", f"gin/mnist/{direction}.gin",
        "--out", out, "--overwrite",
        "--set", f"run.aligner = @aligner.{ALIGNERS[aligner]}()",
        "--set", f"run.paired_fraction = {fraction}", "--set", f"run.seed = {seed}",
        "--set", "run.wandb = 'disabled'",
    ]  # fmt: skip
    environment = os.environ | {"XLA_FLAGS": " ".join(flags).strip()}
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    print(out.name, "done" if done.returncode == 0 else f"FAILED\n{done.stderr}", flush=True)
    done.check_returncode()
    result(job).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(out / "metrics.json", result(job))


def values(direction: str, aligner: str, fraction: float, name: str) -> list[float]:
    found = sorted((RESULTS / "mnist").glob(f"{direction}-{aligner}-{fraction}-*.json"))
    read = [json.loads(path.read_text(encoding="utf-8")) for path in found]
    return [metrics[name] for metrics in read if name in metrics]


def table(direction: str, metric: str, digits: int) -> list[str]:
    """Rows: three morphs and the baselines; columns: paired fractions."""
    lines = [
        "| | " + " | ".join(f"{f:.0%}" for f in FRACTIONS) + " |",
        "|---|" + "---|" * len(FRACTIONS),
    ]
    for aligner in ALIGNERS:
        cells = [
            summary(values(direction, aligner, f, f"morph/{metric}"), SEEDS, digits)
            for f in FRACTIONS
        ]
        lines.append(f"| morph, {aligner} | " + " | ".join(cells) + " |")
    for row in BASELINES:
        # A baseline sees the same pairs whatever the alignment: any run of the seed has it.
        cells = [
            summary(values(direction, "true", f, f"baseline/{row}/{metric}"), SEEDS, digits)
            for f in FRACTIONS
        ]
        lines.append(f"| {row.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return lines


def write() -> None:
    lines = [
        "# MNIST",
        "",
        f"`python benchmarks/mnist.py` with {SEEDS} seeds ({platform.machine()}, 2 cores, no GPU); "
        "mean ± standard deviation over seeds. A seed chooses the pairs, the initialisation and "
        "the batches; the VAEs are trained once. 10,000 images train the morph, 10,000 test it. "
        "Every prediction of a morph is one draw from p(y | x). Configuration: `gin/mnist/`.",
    ]
    for direction, metric in METRICS.items():
        if not list((RESULTS / "mnist").glob(f"{direction}-*.json")):
            continue
        better, digits = ("higher", 3) if metric == "test_accuracy" else ("lower", 5)
        lines += ["", f"## {direction.replace('_', ' ')}: {metric} ({better} is better)", ""]
        lines += table(direction, metric, digits)
        coupling = "coupling/matching_accuracy_exact"
        cells = [summary(values(direction, "global", f, coupling), SEEDS, 3) for f in FRACTIONS]
        lines += ["", "Matching accuracy of the global coupling: " + ", ".join(
            f"{c} at {f:.0%}" for c, f in zip(cells, FRACTIONS, strict=True)) + "."]  # fmt: skip
        full = values(direction, "true", 1.0, f"morph/{metric}")
        if full:
            line = f"Supervised (all pairs, true alignment): {summary(full, SEEDS, digits)}"
            knn = values(direction, "true", 1.0, "features/source_5nn_accuracy")
            line += (
                f"; 5-nearest-neighbour classifier on the same latents: {summary(knn, SEEDS, 3)}."
                if knn
                else "."
            )
            lines += ["", line]
        converged = [
            f"{a} {statistics.mean(c):.0%}"
            for a in ALIGNERS
            if (c := [v for f in FRACTIONS for v in values(direction, a, f, "coupling/converged")])
        ]
        lines += ["", f"Solves that converged: {', '.join(converged)}."]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "mnist.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--directions", nargs="+", default=list(METRICS), choices=METRICS)
    parser.add_argument(
        "--table-only", action="store_true", help="write the table of what is there"
    )
    arguments = parser.parse_args()
    if not arguments.table_only:
        with ThreadPoolExecutor(arguments.workers) as pool:
            for direction in arguments.directions:
                first, *rest = jobs(direction)
                run(first, threads=True)  # trains and caches the VAEs
                list(pool.map(lambda job: run(job, arguments.workers == 1), rest))
    write()


if __name__ == "__main__":
    main()
