"""Time and memory of global alignment against OTT, POT and NumPy, by size.

`python benchmarks/performance.py` measures every method at every size in a process of its own
(peak memory is the process's), one after the other, and writes docs/performance.md and
docs/performance.png. All solve the same problem, built from the same points: a mixture of ten
Gaussians a side (16-d and 4-d), l pairs, cosine bridge cost, ε = 5e-3 of the mean cost, to an L1
marginal error of 1e-3. Each is measured twice in its process, unless it takes long: first with
compilation, then again; and then its memory in a second process, which finds the compiled programs
of the first in JAX's compilation cache.
"""

import argparse
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DOCS = Path(__file__).parent.parent / "docs"
EPSILON, THRESHOLD = 5e-3, 1e-3
BATCH = 250
SHORT = 30
"""Seconds; what takes longer is measured once."""
SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
OURS = "BridgeSinkhorn"
PEERS = ("Sinkhorn (dense)", "OTT dense", "OTT online", "POT", "NumPy")
"""Up to 10,000 points."""


def bridges(n: int) -> int:
    return 1_000 if n > 10_000 else 500


def problem(n: int):
    """Two clouds with labels, and pairs within classes; the mixtures are the same for every n."""
    from morphkit.types import Cloud, PairedData, Pairs

    rng = np.random.default_rng(0)
    centres, sides = [2.5 * rng.normal(size=(10, dim)) for dim in (16, 4)], []
    for centre in centres:
        labels = rng.integers(0, 10, n)
        points = centre[labels] + rng.normal(size=(n, centre.shape[1]))
        sides.append((points, labels))
    (x, labels_x), (y, labels_y) = sides
    source = rng.permutation(n)[: bridges(n)]
    target = [rng.choice(np.flatnonzero(labels_y == label)) for label in labels_x[source]]
    pairs = Pairs.from_array(np.stack([source, target], 1))
    return PairedData(Cloud.uniform(x, labels_x), Cloud.uniform(y, labels_y), pairs)


def measure(method: str, n: int) -> dict[str, float]:
    """Seconds of building the cost, solving and a million draws: the first time, then again; of a
    local step; and memory of the process before the cost and at its first peak, with ours
    sampled."""
    import jax

    solve, data = prepared(method), jax.block_until_ready(problem(n))
    found = {"before_gb": peak()}
    first, result = solved(method, solve, data)
    found |= {f"first_{name}": value for name, value in first.items()}
    # What takes minutes is not measured twice: compilation has no part in it.
    if first["solve"] < SHORT:
        del result
        first, result = solved(method, solve, data)
    found |= {name: value for name, value in first.items() if name != "peak_gb"}
    i, j = drawn(result, 100_000)
    same = np.asarray(data.x.labels)[i] == np.asarray(data.y.labels)[j]
    mu, nu = (np.asarray(marginal(result, k)) for k in (0, 1))
    found["marginal_error"] = float(np.abs(mu - 1 / n).sum() + np.abs(nu - 1 / n).sum())
    return found | {"matching": float(same.mean()), "local": local(method, solve, data)}


def peak() -> float:
    """Most memory that this process ever had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def cost_of(method: str, bridge) -> Any:
    """What the method solves on: the factors, or the n × m cost."""
    from morphkit.transport.geometry import DenseGeometry

    return bridge if method in (OURS, "OTT online") else DenseGeometry(bridge.matrix())


def solved(method: str, solve: Callable, data) -> tuple[dict[str, float], Any]:
    import jax
    from morphkit_costs.bridge import BridgeCost

    start = time.perf_counter()
    cost = jax.block_until_ready(cost_of(method, BridgeCost().prepare(data)))
    found = {"build": time.perf_counter() - start}
    start = time.perf_counter()
    result, iterations = jax.block_until_ready(solve(cost, data))
    found |= {"solve": time.perf_counter() - start, "iterations": float(iterations)}
    found["peak_gb"] = peak()
    start = time.perf_counter()
    result = table(result, cost)
    result = np.asarray(result) if isinstance(result, jax.Array) else result
    drawn(result, 1_000_000)
    found["sample"] = time.perf_counter() - start
    if method == OURS:
        found["peak_gb"] = peak()
    return found, result


def table(result, cost) -> Any:
    """A coupling of ours as it is; the matrix of the others."""
    import jax.numpy as jnp

    if isinstance(result, tuple):  # potentials
        f, g = result
        return jnp.exp(f[:, None] + g - cost.matrix() / (mean(cost) * EPSILON))
    return result


def drawn(result, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws of a coupling of ours by its method, of a matrix by NumPy's choice among all cells."""
    import jax

    if not isinstance(result, np.ndarray):
        i, j = result.sample(jax.random.key(0), number)
        return np.asarray(i), np.asarray(j)
    flat = result.ravel().astype(np.float64)
    cell = np.random.default_rng(0).choice(len(flat), number, p=flat / flat.sum())
    return np.divmod(cell, result.shape[1])


def marginal(result, axis: int) -> Any:
    return result.sum(1 - axis) if isinstance(result, np.ndarray) else result.marginal(axis)


def local(method: str, solve: Callable, data, repeats: int = 5) -> float:
    """Median seconds of what one step of local alignment asks for: cost, coupling and draws of a
    minibatch, the factors being there. In one compiled program, where the method is of JAX."""
    import jax
    from morphkit_costs.bridge import BridgeCost

    from morphkit.types import Cloud, PairedData

    bridge, rng = BridgeCost().prepare(data), np.random.default_rng(0)

    def step(i, j):
        x, y = Cloud.uniform(data.x.points[i]), Cloud.uniform(data.y.points[j])
        cost = cost_of(method, bridge.take(i, j))
        result = table(solve(cost, PairedData(x, y, data.pairs))[0], cost)
        if isinstance(result, np.ndarray):
            return drawn(result, BATCH)
        if isinstance(result, jax.Array):
            cells = result.ravel()
            return jax.random.choice(jax.random.key(0), len(cells), (BATCH,), p=cells)
        return result.sample(jax.random.key(0), BATCH)

    step, seconds = step if method in ("POT", "NumPy") else jax.jit(step), []
    for _ in range(repeats + 1):
        i, j = rng.integers(0, data.x.size, BATCH), rng.integers(0, data.y.size, BATCH)
        start = time.perf_counter()
        jax.block_until_ready(step(i, j))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def mean(cost) -> Any:
    n, m = cost.shape
    return cost.mean(np.full(n, 1 / n, np.float32), np.full(m, 1 / m, np.float32))


def prepared(method: str) -> Callable:
    """The method as (cost, data) → (coupling, matrix or potentials over ε, iterations), with all
    that it imports."""
    if method in ("POT", "NumPy"):
        from peers import by_numpy, by_pot

        def dense(cost, data):
            values = np.asarray(cost.matrix(), np.float64)
            solver = by_pot if method == "POT" else by_numpy
            return solver(values / values.mean(), EPSILON, THRESHOLD)

        return dense
    if method.startswith("OTT"):
        from peers import by_ott

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


def run(method: str, n: int, limit: float) -> dict[str, float] | None:
    command = [sys.executable, __file__, "--one", method, str(n)]
    with tempfile.TemporaryDirectory() as cache:
        # A cache of its own: with one of an earlier run, nothing would compile.
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

        def once() -> dict[str, float] | None:
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

        found = once()
        again = once() if found and found["first_solve"] < SHORT else found
        return found and again and found | {"peak_gb": again["first_peak_gb"]}


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
        "its million draws, compiled programs being in JAX's cache; in brackets without. OTT ends "
        "with potentials, the others with a coupling; OTT online computes the cost anew wherever "
        "it is needed. Errors are of both marginals, matching the share of 100,000 draws that "
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
                f"{total(r):.2f} s ({total(r, first=True):.1f} s), "
                f"{r['peak_gb']:.2f} GB ({r['first_peak_gb']:.2f} GB), "
                f"{r['iterations']:.0f} iterations, error {r['marginal_error']:.0e}, "
                f"matching {r['matching']:.3f}"
                if r
                else "–"
            )
        lines.append(f"| {n:,} | " + " | ".join(cells) + " |")
    ours = {n: r for n, r in results[OURS].items() if r}
    lines += [
        "",
        "## By phase",
        "",
        "Draws are a million: of our couplings by `sample`, of a matrix by NumPy's `choice` among "
        f"its cells. A local step is the cost, coupling and {BATCH} draws of a minibatch of "
        f"{BATCH} points a side, the factors being there (median of 5). All but the last column "
        "compiled.",
        "",
        "| n = m | method | cost | solve | draws | local step | all but that, the first time |",
        "|---|---|---|---|---|---|---|",
    ]
    phases = ("build", "solve", "sample")
    for n, (method, sizes) in itertools.product(SIZES, results.items()):
        if r := sizes.get(n):
            cells = [f"{r[phase]:.2f} s" for phase in phases] + [f"{1e3 * r['local']:.0f} ms"]
            first = sum(r[f"first_{phase}"] for phase in phases)
            lines.append(f"| {n:,} | {method} | " + " | ".join(cells) + f" | {first:.1f} s |")
    ours = {n: r for n, r in results[OURS].items() if r}
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
            f"{mine['peak_gb'] / theirs['peak_gb']:.3f} of its peak memory "
            f"({mine['first_peak_gb'] / theirs['first_peak_gb']:.3f} the first time; "
            f"{added(mine) / added(theirs):.3f} of what it adds to the process before the cost); "
            f"draws {theirs['sample'] / mine['sample']:.1f}, a local step "
            f"{theirs['local'] / mine['local']:.1f} times faster"
        )
    (DOCS / "performance.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
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
