"""Sinkhorn between points, the cost never stored: against OTT online, POT lazy and GeomLoss.

`python benchmarks/thin.py` runs what is missing in benchmarks/results/thin.jsonl (a line of JSON a
table, size and library) and writes thin.md beside it. Threads are as many as the process may use
cores, for all libraries. A library that is not installed is left out; for GeomLoss it takes
`pip install geomloss pykeops` and a C++ compiler.

`python benchmarks/thin.py --gpu` times blocks of rows and tiles instead, at the sizes that
FlashSinkhorn (arXiv 2602.03067) was published with, and writes thin_gpu.md. It needs a GPU.
"""

import argparse
import functools
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tables import measure
from thin_page import (
    EPSILON,
    FEW,
    ITERATED,
    ITERATIONS,
    LIMIT,
    REACHED,
    RUNS,
    THRESHOLD,
    Cell,
    spread,
    write,
    write_gpu,
)  # fmt: skip
from thin_solvers import OURS, SETTINGS, Setting, error, points, scalings
from tuning import timed

LINES = Path(__file__).parent / "results" / "thin.jsonl"
SIZES = (2_000, 5_000, 10_000)
PUBLISHED = {10_000: 61, 50_000: 1_450}
"""FlashSinkhorn's milliseconds for 100 iterations in 64 dimensions on an A100."""


def run(cell: Cell) -> dict:
    """Each run of a library just after one of ours."""
    table, n, library = cell
    x, y = points(n)
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(2_000, 2_000)), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    found = {"cell": list(cell), "machine": platform.machine()}
    found |= {"cores": len(os.sched_getaffinity(0))}
    found["product"] = 16 / min(timed(lambda: product(matrix))[0] for _ in range(6))

    def solved(setting: Setting, knob: tuple[int, float]) -> tuple[float, Any]:
        return timed(lambda: setting.solve(x, y, EPSILON[table], *knob))

    def iteration(setting: Setting) -> float:
        first = solved(setting, (FEW, 0.0))[0]  # it compiles, where that takes long
        return (first if first > 10 else solved(setting, (FEW, 0.0))[0]) / FEW

    tried = [(iteration(setting), setting) for setting in SETTINGS[library]]
    each, setting = min(tried, key=lambda pair: pair[0])
    found["setting"] = setting.name
    (mine,) = SETTINGS[OURS]
    if table == ITERATED:
        ours, knobs = (ITERATIONS, 0.0), [(ITERATIONS if each * ITERATIONS < LIMIT else FEW, 0.0)]
    else:
        ours, knobs = mine.knobs(THRESHOLD)[0], setting.knobs(THRESHOLD)
    for knob in knobs:
        if table == REACHED and each * (knob[0] if setting.counted else ITERATIONS) > LIMIT:
            return found
        once, (f, g, count) = solved(setting, knob)
        found |= {"iterations": int(count), "error": error(x, y, EPSILON[table], f, g)}
        if table == ITERATED or found["error"] <= THRESHOLD:
            break
    else:
        return found
    solved(mine, ours)
    found |= {"ours": [], "seconds": []}
    for _ in range(1 if once > LIMIT / RUNS else RUNS):
        found["ours"].append(solved(mine, ours)[0])
        found["seconds"].append(solved(setting, knob)[0] if library != OURS else found["ours"][-1])
    return found


def on_a_gpu() -> None:
    found = {}
    for n in PUBLISHED:
        for name, solve in scalings().items():
            asked = *points(n), EPSILON[ITERATED], ITERATIONS, 0.0
            runs = [timed(lambda: solve(*asked))[0] for _ in range(6)]  # noqa: B023
            found[n, name] = spread([1e3 * s for s in runs[1:]])
            print(f"{n:,} points, {name}: {found[n, name]} ms", flush=True)
        found[n, "published"] = f"{PUBLISHED[n]:,}"
    write_gpu(LINES.with_name("thin_gpu.md"), jax.devices()[0].device_kind, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="blocks and tiles on a GPU")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="points a side")
    chosen = parser.parse_args()
    if not chosen.gpu:
        there = [
            name for name, of in SETTINGS.items()
            if all(map(importlib.util.find_spec, of[0].needs.split()))
        ]  # fmt: skip
        tables = ITERATED, REACHED
        cells = [(table, n, name) for n in chosen.sizes for table in tables for name in there]
        measure(LINES, cells, run, functools.partial(write, LINES.with_suffix(".md")))
    elif jax.default_backend() == "gpu":
        on_a_gpu()
    else:
        parser.error(f"--gpu needs a GPU, and JAX has none here (only {jax.default_backend()})")


if __name__ == "__main__":
    main()
