"""Time and memory of global alignment against OTT-JAX and POT at their best settings, by size.

`python benchmarks/performance.py` writes benchmarks/results/performance.json, and from it
docs/performance.md and docs/performance.png; `--page` does only the latter. All solve one problem:
ten Gaussians a side (16-d and 4-d), pairs within classes, the cosine bridge cost, ε = 5e-3 of the
mean cost, to an L1 error of 1e-3 on both marginals.

1. Every setting of every peer (`peers.py`), at 2,000 points and on a minibatch of them. Each is
   tuned until both errors are there and checked against the reference. Those within twice the best
   of their library are then timed in turn, each just after ours: what slows the machine down for a
   while slows both.
2. By size, the best setting of each peer and ours: each in a process of its own, and once more in
   another for its peak memory, which finds the compiled programs in JAX's compilation cache.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from performance_page import best, write

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
RESULTS = ROOT / "benchmarks" / "results" / "performance.json"
POINTS, BATCH, DRAWS = 2_000, 256, 1_000_000
SIZES, LARGE = (1_000, 2_000, 5_000, 10_000), (20_000, 50_000, 100_000)
DENSE, FACTORED = "Sinkhorn (dense)", "BridgeSinkhorn"
SHORT = 30
"""Seconds; what takes longer is timed once by size, compilation being little of it."""
FAR = 2e-2
"""Most L1 distance to the reference: a coupling's slowest modes are off by up to some twenty times
what its marginals are."""


def pairs(n: int) -> int:
    return 1_000 if n > 10_000 else 300


def clouds(n: int) -> Any:
    """Two clouds with labels, and pairs within classes; the mixtures are the same for every n."""
    from morphkit.types import Cloud, PairedData, Pairs

    rng = np.random.default_rng(0)
    centres, sides = [2.5 * rng.normal(size=(10, dim)) for dim in (16, 4)], []
    for centre in centres:
        labels = rng.integers(0, 10, n)
        points = centre[labels] + rng.normal(size=(n, centre.shape[1]))
        sides.append((points, labels))
    (x, labels_x), (y, labels_y) = sides
    source = rng.permutation(n)[: pairs(n)]
    target = [rng.choice(np.flatnonzero(labels_y == label)) for label in labels_x[source]]
    known = Pairs.from_array(np.stack([source, target], 1))
    return PairedData(Cloud.uniform(x, labels_x), Cloud.uniform(y, labels_y), known)


def minibatch(data: Any, bridge: Any) -> tuple[Any, Any]:
    """BATCH points a side, with the bridges of all: a step of local alignment."""
    from morphkit.types import Cloud, PairedData

    rng = np.random.default_rng(0)
    i, j = (rng.permutation(cloud.size)[:BATCH] for cloud in (data.x, data.y))
    x, y = (Cloud.uniform(c.points[k], c.labels[k]) for c, k in ((data.x, i), (data.y, j)))
    return PairedData(x, y, data.pairs), bridge.take(i, j)


def posed(n: int) -> tuple[Any, float]:
    """n points, or a minibatch of BATCH; and the seconds of the matrix, its factors being there."""
    from morphkit_costs.bridge import BridgeCost
    from peers import Problem
    from tuning import timed

    from morphkit.transport.geometry import DenseGeometry

    data = clouds(POINTS if n == BATCH else n)
    bridge = BridgeCost().prepare(data)
    if n == BATCH:
        data, bridge = minibatch(data, bridge)
    timed(bridge.matrix)
    seconds, matrix = timed(bridge.matrix)
    return Problem(data, bridge, DenseGeometry(matrix)), seconds


def compared(n: int, repeats: int, limit: float) -> dict[str, Any]:
    """Every setting of every library on the same problem."""
    from peers import plain_iterations, reference, settings
    from tuning import Trials, Unsolved, timed

    problem, cost_seconds = posed(n)
    optimum, count = reference(problem.cost), plain_iterations(problem.cost)
    same = np.asarray(problem.data.x.labels)[:, None] == np.asarray(problem.data.y.labels)
    rows, solves = [], {}

    def solver(setting: Any, knob: Any) -> Callable[[], float]:
        def seconds() -> float:
            with setting.context():
                arrays = setting.prepare(problem)
                return timed(lambda: setting.solve(arrays, knob))[0]

        return seconds

    def measured(setting: Any) -> dict[str, Any]:
        with setting.context():
            trials = Trials(setting, problem)
            knob = trials.tuned(count, limit)
        result = trials.found[knob][1]
        plan = setting.plan(problem, result)
        distance = float(np.abs(plan - optimum).sum())
        # Ours on factors solves with the soft minimum: another optimum.
        assert setting.name == FACTORED or distance < FAR, (setting.name, distance)
        solves[setting.name] = solver(setting, knob)
        return {
            "first": trials.first(knob),
            "iterations": setting.iterations(knob, result),
            "error": setting.error(problem, result),
            "matching": float(plan[same].sum() / plan.sum()),
            "distance": distance,
            "ours": [solves[DENSE]()],
            "seconds": [solves[setting.name]()],
        }

    for setting in settings():
        row: dict[str, Any] = {"library": setting.library, "name": setting.name}
        try:
            row |= measured(setting)
        except Unsolved as reason:
            row["unsolved"] = str(reason)
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
    near = list(within_twice_the_best(rows))
    for _ in range(repeats - 1):
        for row in near:
            row["ours"].append(solves[DENSE]())
            row["seconds"].append(solves[row["name"]]())
    shape = {"points": n, "pairs": pairs(n), "bridges": problem.bridge.a.shape[1]}
    return shape | {"plain": count, "cost_seconds": cost_seconds, "rows": rows}


def within_twice_the_best(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of their library; and ours."""
    solved = [row for row in rows if "seconds" in row]
    for row in solved:
        rivals = [r["seconds"][0] for r in solved if r["library"] == row["library"]]
        if row["library"] == "ours" or row["seconds"][0] <= 2 * min(rivals):
            yield row


def peak() -> float:
    """Most memory that this process ever had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def grown(library: str, name: str, n: int, limit: float, memory: bool) -> dict[str, Any]:
    """One setting at one size. For its memory a peer makes ten iterations: more take no more."""
    import jax
    from morphkit_costs.bridge import BridgeCost
    from peers import Problem, plain_iterations, settings
    from tuning import Trials, timed

    from morphkit.transport.geometry import DenseGeometry

    if "torch" not in name:
        os.environ["POT_BACKEND_DISABLE_PYTORCH"] = "1"  # POT would import it all the same
    setting = next(s for s in settings(library) if s.name == name)
    data = jax.block_until_ready(clouds(n))
    before = {"before_gb": peak()}

    def built() -> Any:
        bridge = BridgeCost().prepare(data)
        matrix = bridge.matrix() if name != FACTORED else bridge.a[:1, :1]  # which none asks for
        return jax.block_until_ready(Problem(data, bridge, DenseGeometry(matrix)))

    first_build, problem = timed(built)
    with setting.context():
        if memory:
            few = {"threshold": 10.0, "none": None}.get(setting.tuning, 10)
            timed(lambda: setting.solve(setting.prepare(problem), few))
            return before | {"peak_gb": peak()}
        build, problem = timed(built)
        trials = Trials(setting, problem)
        knob = trials.tuned(
            plain_iterations(problem.cost) if setting.tuning == "plain" else 0, limit
        )
        once, result = trials.found[knob]
        seconds = [once] if once > SHORT else []
        while once <= SHORT and len(seconds) < 3:
            seconds.append(timed(lambda: setting.solve(trials.arrays, knob))[0])
    found = {"build": build, "first_build": first_build, "first": trials.first(knob)}
    found |= {
        "iterations": setting.iterations(knob, result),
        "error": setting.error(problem, result),
    }
    if library == "ours":
        timed(lambda: result[0].sample(jax.random.key(0), DRAWS))
        found["draws"] = timed(lambda: result[0].sample(jax.random.key(1), DRAWS))[0]
    return found | {"seconds": seconds}


def process(*arguments: Any, limit: float, cache: str) -> Any:
    """This script in another process, with JAX's compilation cache in a folder of its own: with
    one of an earlier run, nothing would compile."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, __file__, *map(str, arguments)]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=limit, env=environment
        )
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def cell(library: str, name: str, n: int, limit: float | None) -> dict[str, Any]:
    """One setting at one size: its time, if there is a limit, and its memory."""
    found = {"library": library, "name": name, "points": n, "pairs": pairs(n)}
    with tempfile.TemporaryDirectory() as cache:
        if limit:
            one = "--limit", limit, "--one", library, name, n
            found |= process(*one, limit=5 * limit, cache=cache) or {}
        return found | (process("--memory", library, name, n, limit=600, cache=cache) or {})


def growth(peers: list[tuple[str, str]], sizes: tuple, large: tuple, limit: float) -> Iterator:
    for library, name in [("ours", FACTORED), ("ours", DENSE), *peers]:
        rate = 0.0  # seconds over n²
        for n in (*sizes, *large) if name == FACTORED else sizes:
            # Not what will take too long, if its time grows as n².
            asked = library == "ours" or rate * n**2 < limit
            found = cell(library, name, n, limit if asked else None)
            print(found, file=sys.stderr, flush=True)
            if "seconds" in found:
                rate = statistics.median(found["seconds"]) / n**2
            yield found


def measure(
    path: Path, tables: tuple, sizes: tuple, large: tuple, repeats: int, limits: tuple
) -> None:
    limit, growth_limit = limits
    found: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count()}
    found |= {"limit": growth_limit, "repeats": repeats, "started": time.time(), "tables": []}
    for n in tables:
        with tempfile.TemporaryDirectory() as cache:
            asked = "--repeats", repeats, "--limit", limit, "--table", n
            table = process(*asked, limit=3600, cache=cache)
        if not table:
            raise SystemExit(f"the comparison at {n} points failed")
        found["tables"].append(table)
    chosen = [(peer, best(found["tables"][0], peer)["name"]) for peer in ("OTT", "POT")]
    found["growth"] = list(growth(chosen, sizes, large, growth_limit))
    found["minutes"] = (time.time() - found.pop("started")) / 60
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="only write the page again")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, into a folder of its own"
    )
    parser.add_argument("--limit", type=float, default=30, help="seconds a peer's solve may take")
    parser.add_argument("--growth-limit", type=float, default=120, help="the same, by size")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--table", type=int, help=argparse.SUPPRESS)
    for name in ("--one", "--memory"):
        parser.add_argument(name, nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    limits = chosen.limit, chosen.growth_limit
    if chosen.table:
        print(json.dumps(compared(chosen.table, chosen.repeats, chosen.limit)))
    elif one := chosen.one or chosen.memory:
        print(json.dumps(grown(*one[:2], int(one[2]), chosen.limit, bool(chosen.memory))))
    elif chosen.page:
        write(RESULTS, DOCS)
    elif chosen.quick:
        folder = Path(tempfile.mkdtemp(prefix="performance-"))
        measure(folder / RESULTS.name, (200, BATCH), (200, 400), (1_000,), 2, limits)
        write(folder / RESULTS.name, folder)
        print(folder)
    else:
        measure(RESULTS, (POINTS, BATCH), SIZES, LARGE, chosen.repeats, limits)
        write(RESULTS, DOCS)


if __name__ == "__main__":
    main()
