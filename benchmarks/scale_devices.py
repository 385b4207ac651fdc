"""One problem on several devices: what sharing it out costs.

`python benchmarks/scale_devices.py` runs what is missing in results/scale_devices.jsonl (a line of
JSON a cell, each in a process of its own) and writes scale_devices.md beside it. The devices are
forced on one CPU, whose cores they share: with D of them the same problem takes as long as with one
if sharing out is free (strong scaling), and one of D times the points takes D times as long (weak).
"""

import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from scale import CLASSES, DIM, written
from tables import apart, measure, one_or_all

LINES = Path(__file__).parent / "results" / "scale_devices.jsonl"
PAGE = LINES.with_suffix(".md")
PAIRS, TIMES, POINTS, EACH = 2_000, 3, 80_000, 10_000
COUNTS = (1, 2, 4, 8)
CELLS = [
    *(("strong", POINTS, count) for count in COUNTS),
    *(("weak", EACH * count, count) for count in COUNTS),
]
"""What is kept, points, devices."""


def one(n: int, count: int) -> dict[str, float]:
    """Seconds of the cost and of the solve, the median of several after one that compiles."""
    import jax
    from morphkit_costs.bridge import BridgeCost
    from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn

    from morphkit.devices import devices
    from morphkit.types import Cloud, PairedData, Pairs

    with tempfile.TemporaryDirectory() as folder, devices(count):
        path, truth = written(Path(folder), n)
        y = np.random.default_rng(4).normal(size=(CLASSES, DIM)).astype(np.float32)
        known = np.sort(np.random.default_rng(5).permutation(n)[:PAIRS])
        clouds = Cloud.uniform(np.load(path)), Cloud.uniform(y)
        data = PairedData(*clouds, Pairs.from_array(np.stack([known, truth[known]], 1)))
        taken: dict[str, list[float]] = {"cost": [], "solve": []}
        iterations = 0
        for _ in range(1 + TIMES):
            start = time.perf_counter()
            cost = jax.block_until_ready(BridgeCost().fit(data)).geometry
            between = time.perf_counter()
            coupling = jax.block_until_ready(BridgeSinkhorn().solve(cost, *clouds))
            taken["cost"].append(between - start)
            taken["solve"].append(time.perf_counter() - between)
            iterations = int(coupling.convergence.iterations)
    found = {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}
    return found | {"iterations": iterations}


def run(cell: tuple) -> dict:
    _, n, count = cell
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {"cell": list(cell)} | apart(__file__, [n, count], XLA_FLAGS=flags)


def write(there: dict[tuple, dict]) -> None:
    text = [
        f"`python benchmarks/scale_devices.py` ({platform.machine()}, {os.cpu_count()} cores, no "
        f"GPU), {PAIRS:,} pairs, the median of {TIMES} runs in one process. *Of one device* is "
        "the time over that of one device, in weak scaling over that and the number of devices: 1 "
        "where sharing out is free.",
        "",
        "| scaling | points | devices | cost | of one device | solve | of one device "
        "| iterations |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, n, count in (cell for cell in CELLS if cell in there):
        line = there[kind, n, count]
        alone = there.get((kind, n if kind == "strong" else EACH, 1))
        if alone is None:
            continue
        times = count if kind == "weak" else 1
        cells = [kind, f"{n:,}", str(count)]
        for phase in ("cost", "solve"):
            cells += [f"{line[phase]:.2g} s", f"{line[phase] / (alone[phase] * times):.2f}"]
        text.append("| " + " | ".join([*cells, str(line["iterations"])]) + " |")
    PAGE.write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    one_or_all(__doc__, one, lambda: measure(LINES, CELLS, run, write))
