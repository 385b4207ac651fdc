"""Time and memory of global alignment against OTT, POT and NumPy, by size.

`python benchmarks/performance.py` measures every method at every size in a process of its own
(peak memory is the process's), one after the other, and writes docs/performance.md and
docs/performance.png. All solve the same problem, built from the same points: a mixture of ten
Gaussians a side (16-d and 4-d), l pairs, cosine bridge cost, ε = 5e-3 of the mean cost, to an L1
marginal error of 1e-3. Each is measured twice in its process, unless it takes long: first with
compilation, then again.
"""

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp

DOCS = Path(__file__).parent.parent / "docs"
EPSILON, THRESHOLD = 5e-3, 1e-3
SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
OURS = "BridgeSinkhorn"
PEERS = ("Sinkhorn (dense)", "OTT dense", "OTT online", "POT", "NumPy")
"""Up to 10,000 points."""


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
    """Seconds of building the cost, solving and (ours) a million draws: the first time, then
    again; memory of the process before the cost and at its first peak, with ours sampled."""
    import jax

    solve, data = prepared(method), jax.block_until_ready(problem(n))
    found = {"before_gb": peak()}
    first, coupling = solved(method, solve, data)
    found |= {f"first_{name}": value for name, value in first.items()}
    found["peak_gb"] = first.pop("peak")
    # What takes minutes is not measured twice: compilation has no part in it.
    if first["solve"] < 30:
        del coupling
        first, coupling = solved(method, solve, data)
    found |= first
    mu, nu = (np.asarray(coupling.marginal(k)) for k in (0, 1))
    found["marginal_error"] = float(np.abs(mu - 1 / n).sum() + np.abs(nu - 1 / n).sum())
    i, j = coupling.sample(jax.random.key(1), 100_000)
    same = np.asarray(data.x.labels)[np.asarray(i)] == np.asarray(data.y.labels)[np.asarray(j)]
    found["matching"] = float(same.mean())
    return found


def peak() -> float:
    """Most memory that this process ever had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def solved(method: str, solve: Callable, data) -> tuple[dict[str, float], Any]:
    import jax
    import jax.numpy as jnp
    from morphkit_costs.bridge import BridgeCost

    from morphkit.couplings import Convergence, DenseCoupling
    from morphkit.geometry import DenseGeometry

    start = time.perf_counter()
    cost = BridgeCost().prepare(data)
    if method not in (OURS, "OTT online"):
        cost = DenseGeometry(cost.matrix())
    jax.block_until_ready(cost)
    found = {"build": time.perf_counter() - start}
    start = time.perf_counter()
    result, iterations = jax.block_until_ready(solve(cost, data))
    found |= {"solve": time.perf_counter() - start, "iterations": float(iterations)}
    if method == OURS:
        start = time.perf_counter()
        jax.block_until_ready(result.sample(jax.random.key(0), 1_000_000))
        found["sample"] = time.perf_counter() - start
    found["peak"] = peak()
    if isinstance(result, tuple):  # potentials
        f, g = result
        result = jnp.exp(f[:, None] + g - cost.matrix() / (mean(cost) * EPSILON))
    if not hasattr(result, "sample"):
        result = DenseCoupling(jnp.asarray(result, jnp.float32), Convergence.exact())
    return found, result


def mean(cost) -> Any:
    n, m = cost.shape
    return cost.mean(np.full(n, 1 / n, np.float32), np.full(m, 1 / m, np.float32))


def prepared(method: str) -> Callable:
    """The method as (cost, data) → (coupling, matrix or potentials over ε, iterations), with all
    that it imports."""
    if method in ("POT", "NumPy"):
        import ot  # noqa: F401

        def dense(cost, data):
            values = np.asarray(cost.matrix(), np.float64)
            return (by_pot if method == "POT" else by_numpy)(values / values.mean())

        return dense
    if method.startswith("OTT"):
        from ott_peer import by_ott

        return lambda cost, data: by_ott(cost, mean(cost), EPSILON, THRESHOLD)
    from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn
    from morphkit_solvers.sinkhorn import Sinkhorn

    solver = {
        OURS: BridgeSinkhorn(EPSILON, threshold=THRESHOLD),
        "Sinkhorn (dense)": Sinkhorn(EPSILON, threshold=THRESHOLD, dense_bytes=2**40),
    }[method]

    def ours(cost, data):
        coupling = solver.solve(cost, data.x, data.y)
        return coupling, coupling.convergence.iterations

    return ours


def by_pot(cost: np.ndarray) -> tuple[np.ndarray, int]:
    """POT's log-domain Sinkhorn. It stops on the L2 error of a marginal, at most L1's over √n,
    so its threshold is divided by √n: it may do more than the others, never less."""
    import ot

    weights = np.full(len(cost), 1 / len(cost))
    coupling, log = ot.sinkhorn(
        weights, weights, cost, EPSILON, method="sinkhorn_log", log=True,
        stopThr=THRESHOLD / np.sqrt(len(cost)), numItermax=5000,
    )  # fmt: skip
    return coupling, int(log["niter"])


def by_numpy(cost: np.ndarray) -> tuple[np.ndarray, int]:
    """Sinkhorn's iterations in the log domain, as one writes them down."""
    log_mu = -np.log(len(cost))
    kernel, g = -cost / EPSILON, np.zeros(len(cost))
    iteration, error = 0, np.inf
    while error > THRESHOLD:
        f = log_mu - logsumexp(kernel + g, axis=1)
        g = log_mu - logsumexp(kernel + f[:, None], axis=0)
        iteration += 1
        if iteration % 10 == 0:
            error = np.abs(np.exp(f + logsumexp(kernel + g, axis=1)) - 1 / len(cost)).sum()
    return np.exp(kernel + f[:, None] + g), iteration


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


def added(r: dict[str, float]) -> float:
    return r["peak_gb"] - r["before_gb"]


def total(r: dict[str, float], first: bool = False) -> float:
    prefix = "first_" if first else ""
    return r[f"{prefix}build"] + r[f"{prefix}solve"]


def write(results: dict[str, dict[int, dict[str, float] | None]], limit: float) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for method, sizes in results.items():
        there = {n: r for n, r in sizes.items() if r}
        for axis, value in zip(axes, (total, lambda r: r["peak_gb"]), strict=True):
            axis.loglog(list(there), list(map(value, there.values())), "o-", label=method)
    for axis, label in zip(axes, ("seconds, cost and solve", "peak memory (GB)"), strict=True):
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
        "points) at ε = 5e-3 of the mean cost to an L1 marginal error of 1e-3, in a process of its "
        "own. Seconds are of cost and solve, compiled; in brackets the first time, compilation "
        f"included (one run where it takes above 30 s). `–`: not within {limit:.0f} s, by the time "
        "taken or by n² from a smaller size; above 10,000 points only ours is asked. "
        "Memory (10⁹ bytes) is the peak of the process until the first solve is done, ours with "
        "its million draws; OTT ends with "
        "potentials, the others with a coupling; OTT online computes the cost anew wherever it is "
        "needed. Errors are of both marginals, matching the share of 100,000 draws that "
        "join two points of one class.",
        "",
        "![Time and memory by size](performance.png)",
        "",
        "| n = m | " + " | ".join(results) + " |",
        "|---|" + "---|" * len(results),
    ]
    for n in SIZES:
        cells = []
        for sizes in results.values():
            r = sizes.get(n)
            cells.append(
                f"{total(r):.2f} s ({total(r, first=True):.1f} s), {r['peak_gb']:.1f} GB, "
                f"{r['iterations']:.0f} iterations, error {r['marginal_error']:.0e}, "
                f"matching {r['matching']:.3f}"
                if r
                else "–"
            )
        lines.append(f"| {n:,} | " + " | ".join(cells) + " |")
    ours = {n: r for n, r in results[OURS].items() if r}
    lines += ["", "## BridgeSinkhorn by phase", "",
              "| n = m | cost | solve | a million draws | everything, the first time |",
              "|---|---|---|---|---|"]  # fmt: skip
    for n, r in ours.items():
        first = sum(r[f"first_{phase}"] for phase in ("build", "solve", "sample"))
        cells = [f"{r[phase]:.2f} s" for phase in ("build", "solve", "sample")]
        lines.append(f"| {n:,} | " + " | ".join(cells) + f" | {first:.1f} s |")
    dense = [(n, r) for n, r in results["Sinkhorn (dense)"].items() if r]
    if dense:
        n, r = dense[-1]
        rate = n**2 * bridges(n) / r["build"] / 1e9
        lines += [
            "",
            f"The dense hard minimum of Eq. 6 takes {r['build']:.1f} s at {n:,} points and "
            f"{bridges(n)} pairs: {rate:.1f} billion additions and minima a second.",
        ]
    lines += [
        "",
        "## Growth",
        "",
        "Exponent of the time, and the price of doubling n at fixed l:",
        "",
    ]
    for method, sizes in results.items():
        there = [(n, total(r)) for n, r in sizes.items() if r]
        slopes = [
            (n, m, np.log(b / a) / np.log(m / n))
            for (n, a), (m, b) in itertools.pairwise(there)
            if bridges(n) == bridges(m)
        ]
        if slopes:
            texts = [f"{s:.2f}, × {2**s:.2f} ({n:,} → {m:,})" for n, m, s in slopes]
            lines.append(f"- {method}: {'; '.join(texts)}")
    lines += ["", "## BridgeSinkhorn against the others, on the largest size both solved", ""]
    for peer, sizes in results.items():
        both = [n for n, r in sizes.items() if r and n in ours]
        if peer == OURS or not both:
            continue
        theirs, mine = sizes[both[-1]], ours[both[-1]]
        assert theirs is not None
        lines.append(
            f"- {peer}, n = {both[-1]:,}: {total(theirs) / total(mine):.1f} times faster "
            f"({total(theirs, True) / total(mine, True):.1f} the first time), with "
            f"{mine['peak_gb'] / theirs['peak_gb']:.2f} of its peak memory, "
            f"{added(mine) / added(theirs):.2f} of what it adds to the process before the cost"
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
    for method in (OURS, *PEERS):
        results[method] = {}
        for n in SIZES if method == OURS else [n for n in SIZES if n <= 10_000]:
            if n <= arguments.largest:
                results[method][n] = within(results[method], method, n, arguments.limit)
                print(method, n, results[method][n], flush=True)
    write(results, arguments.limit)


def within(
    before: dict[int, dict[str, float] | None], method: str, n: int, limit: float
) -> dict[str, float] | None:
    """`run`, unless the method went over the limit before, or will if its time grows as n²."""
    for smaller, found in before.items():
        if not found or (method != OURS and total(found) * (n / smaller) ** 2 > limit):
            return None
    return run(method, n, limit)


if __name__ == "__main__":
    main()
