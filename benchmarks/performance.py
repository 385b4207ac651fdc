"""Time and memory of global alignment against OTT's and POT's dense Sinkhorn, by size.

`python benchmarks/performance.py` measures every method at every size in a process of its own
(peak memory is the process's), one after the other, and writes docs/performance.md and
docs/performance.png. All solve the same problem, built from the same points: a mixture of ten
Gaussians a side (16-d and 4-d), l pairs, cosine bridge cost, ε = 5e-3 of the mean cost, marginal
error 1e-3. Each time is whole: cost, compilation, solve, and a million draws (ours) or none.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

DOCS = Path(__file__).parent.parent / "docs"
EPSILON, THRESHOLD = 5e-3, 1e-3
PLAN = {
    "BridgeSinkhorn": (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000),
    "Sinkhorn (dense)": (1_000, 2_000, 5_000, 10_000),
    "OTT dense": (1_000, 2_000, 5_000, 10_000),
    "POT": (1_000, 2_000, 5_000),
}


def bridges(n: int) -> int:
    return 1_000 if n > 10_000 else 500


def problem(n: int):
    """Two clouds with labels, and pairs within classes."""
    from morphkit.types import Cloud, PairedData, Pairs

    rng = np.random.default_rng(0)
    sides = []
    for dim in (16, 4):
        labels = rng.integers(0, 10, n)
        points = 2.5 * rng.normal(size=(10, dim))[labels] + rng.normal(size=(n, dim))
        sides.append((points, labels))
    (x, labels_x), (y, labels_y) = sides
    source = rng.permutation(n)[: bridges(n)]
    target = [rng.choice(np.flatnonzero(labels_y == label)) for label in labels_x[source]]
    pairs = Pairs.from_array(np.stack([source, target], 1))
    return PairedData(Cloud.uniform(x, labels_x), Cloud.uniform(y, labels_y), pairs)


def measure(method: str, n: int) -> dict[str, float]:
    import jax

    data = problem(n)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = solved(method, data)
    found["seconds"] = time.perf_counter() - start
    found["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    found["before_gb"] = base / 2**20
    if "coupling" in found:
        coupling = found.pop("coupling")
        mu = np.asarray(coupling.marginal(0))
        found["marginal_error"] = float(np.abs(mu - 1 / n).sum())
        i, j = found.pop("draws", None) or coupling.sample(jax.random.key(1), 100_000)
        same = np.asarray(data.x.labels)[np.asarray(i)] == np.asarray(data.y.labels)[np.asarray(j)]
        found["matching"] = float(same.mean())
    return found


def solved(method: str, data) -> dict:
    import jax
    from morphkit_costs.bridge import BridgeCost
    from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn
    from morphkit_solvers.sinkhorn import Sinkhorn
    from morphkit_solvers.through_ott import OTTSinkhorn

    cost = BridgeCost().prepare(data)
    if method == "POT":
        import ot

        dense = np.asarray(cost.matrix(), np.float64)
        weights = np.full(len(dense), 1 / len(dense))
        coupling, log = ot.sinkhorn(
            weights, weights, dense / dense.mean(), EPSILON, method="sinkhorn_log",
            stopThr=THRESHOLD, numItermax=2000, log=True,
        )  # fmt: skip
        error = float(np.abs(coupling.sum(1) - weights).sum())
        return {"iterations": float(log["niter"]), "marginal_error": error}
    solver = {
        "BridgeSinkhorn": BridgeSinkhorn(EPSILON, threshold=THRESHOLD),
        "Sinkhorn (dense)": Sinkhorn(EPSILON, threshold=THRESHOLD, dense_bytes=2**40),
        "OTT dense": OTTSinkhorn(EPSILON, threshold=THRESHOLD),
    }[method]
    coupling = jax.block_until_ready(solver.solve(cost, data.x, data.y))
    found = {"coupling": coupling, "iterations": float(coupling.convergence.iterations)}
    if method == "BridgeSinkhorn":
        found["draws"] = jax.block_until_ready(coupling.sample(jax.random.key(0), 1_000_000))
    return found


def run(method: str, n: int, limit: float) -> dict[str, float] | None:
    command = [sys.executable, __file__, "--one", method, str(n)]
    # A compiled program from an earlier run would make the times those of another.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, env=environment
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def write(results: dict[str, dict[int, dict[str, float] | None]], limit: float) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, key, label in zip(
        axes, ("seconds", "peak_gb"), ("seconds", "peak memory (GB)"), strict=True
    ):
        for method, sizes in results.items():
            there = {n: r[key] for n, r in sizes.items() if r}
            axis.loglog(list(there), list(there.values()), "o-", label=method)
        axis.set(xlabel="n = m", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(DOCS / "performance.png", dpi=130)
    lines = [
        "# Performance",
        "",
        "Written by `python benchmarks/performance.py`: "
        f"{platform.machine()}, {os.cpu_count()} cores, no GPU, one run a cell. Each method solves "
        "the bridge cost of the same points (ten Gaussians a side, 500 pairs, 1,000 above 10,000 "
        "points) at ε = 5e-3 of the mean cost, in a process of its own. Seconds are whole: cost, "
        "compilation, solve; for BridgeSinkhorn a million draws, too. `–`: not within "
        f"{limit:.0f} s, or not asked for.",
        "",
        "![Time and memory by size](performance.png)",
        "",
        "| n = m | " + " | ".join(results) + " |",
        "|---|" + "---|" * len(results),
    ]
    for n in PLAN["BridgeSinkhorn"]:
        cells = []
        for sizes in results.values():
            r = sizes.get(n)
            matching = f", matching {r['matching']:.3f}" if r and "matching" in r else ""
            cells.append(
                f"{r['seconds']:.1f} s, {r['peak_gb']:.1f} GB, {r['iterations']:.0f} iterations, "
                f"error {r['marginal_error']:.1e}{matching}"
                if r
                else "–"
            )
        lines.append(f"| {n:,} | " + " | ".join(cells) + " |")
    lines += ["", "Growth exponents of the time, between the two largest sizes measured:", ""]
    for method, sizes in results.items():
        there = [(n, r["seconds"]) for n, r in sizes.items() if r]
        if len(there) > 1:
            (n, a), (m, b) = there[-2:]
            slope = np.log(b / a) / np.log(m / n)
            lines.append(f"- {method}: {slope:.2f} ({n:,} → {m:,})")
    ours, peers = results["BridgeSinkhorn"], ("OTT dense", "POT", "Sinkhorn (dense)")
    lines += ["", "How many times faster BridgeSinkhorn is, on the largest size both solved:", ""]
    for peer in peers:
        both = [n for n, r in results[peer].items() if r and ours.get(n)]
        if both:
            theirs, mine = results[peer][both[-1]], ours[both[-1]]
            lines.append(
                f"- {peer}, n = {both[-1]:,}: {theirs['seconds'] / mine['seconds']:.1f}, "
                f"with {mine['peak_gb'] / theirs['peak_gb']:.2f} of its peak memory"
            )
    (DOCS / "performance.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "N"), help=argparse.SUPPRESS)
    parser.add_argument("--largest", type=int, default=100_000)
    parser.add_argument("--limit", type=float, default=900, help="seconds a cell may take")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]))))
        return
    results: dict[str, dict[int, dict[str, float] | None]] = {}
    for method, sizes in PLAN.items():
        results[method] = {}
        for n in sizes:
            if n <= arguments.largest:
                results[method][n] = run(method, n, arguments.limit)
                print(method, n, results[method][n], flush=True)
    write(results, arguments.limit)


if __name__ == "__main__":
    main()
