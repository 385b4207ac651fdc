"""ImageNet's own size on one machine: seconds and memory of every phase.

`python benchmarks/scale.py` runs what is missing in benchmarks/results/scale.jsonl (a line of JSON
a cell, each in a process of its own) and writes scale.md beside it. Images are n points (384-d)
around 1,000 centres, texts one point a centre; pairs are a share of the images, with their text.
One-to-one data are two linear views of 100 shared dimensions, 1,000 points of them paired.

Where there is an NVIDIA GPU it measures what is for one, and writes scale_gpu.jsonl and .md: the
paper's largest network trained for its 10,000 steps, and up to a million points one-to-one.
"""

import functools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scale_page import CELLS, CLASSES, DIM, ON_A_GPU, STEPS, write
from tables import apart, measure, one_or_all

if TYPE_CHECKING:
    from morphkit.interfaces import LatentMap, Sampler
    from morphkit.types import PairedData

SHARED, DRAWS, FEW, PART = 100, 1_000_000, 10_000, 100_000
RESULTS = Path(__file__).parent / "results"


def written(folder: Path, n: int) -> tuple[Path, np.ndarray]:
    """A file of n points, written block by block, and the class of each."""
    path, size = folder / "x.npy", 10_000
    points = np.lib.format.open_memmap(path, "w+", np.float32, (n, DIM))
    labels = np.random.default_rng(0).integers(0, CLASSES, n)
    centres = np.random.default_rng(1).normal(size=(CLASSES, DIM)).astype(np.float32)
    for k, start in enumerate(range(0, n, size)):
        random = np.random.default_rng((2, k))
        rows = slice(start, min(start + size, n))
        points[rows] = 0.5 * centres[labels[rows]]
        points[rows] += random.normal(size=(rows.stop - rows.start, DIM))
    points.flush()
    return path, labels


def views(folder: Path, n: int) -> list[Path]:
    """Two files of n points each, that are noisy linear images of the same shared ones, in the same
    order."""
    random = np.random.default_rng(0)
    shared = random.normal(size=(n, SHARED)) * np.exp(-np.arange(SHARED) / 40)
    paths = []
    for side in range(2):
        points = shared @ random.normal(size=(SHARED, DIM)) / 10
        points += 0.3 * random.normal(size=points.shape)
        paths.append(folder / f"{side}.npy")
        np.save(paths[-1], points.astype(np.float32))
    return paths


class Watch:
    """Seconds and peak memory of phases, that of the GPU where there is one; the operating system
    forgets the last one's peak."""

    def __init__(self) -> None:
        self.phases: dict[str, dict[str, float]] = {}

    def __call__(self, name: str, function: Callable[[], Any]) -> Any:
        import jax

        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        start = time.perf_counter()
        found = jax.block_until_ready(function())
        seconds = time.perf_counter() - start
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        memory = {
            name: int(line.split()[1]) * 1024 / 1e9
            for line in status.splitlines()
            for name, what in (("peak_gb", "VmHWM:"), ("mapped_gb", "RssFile:"))
            if line.startswith(what)
        }
        of_gpu = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in of_gpu:  # never reset: that of all phases until now
            memory["peak_gb"] = of_gpu["peak_bytes_in_use"] / 1e9
        self.phases[name] = {"seconds": seconds} | memory
        print(name, self.phases[name], file=sys.stderr, flush=True)
        return found


def one(
    method: str, n: int, pairs: int, ends: int | None, size: str = "small", steps: int = STEPS
) -> dict[str, Any]:
    """A cell, in this process; its predictions in one that has the map and nothing else."""
    import jax

    kind = jax.devices()[0].device_kind
    if size == "large" and steps > STEPS and jax.default_backend() == "cpu":
        raise RuntimeError("this cell is for a GPU, and JAX has none: install jax[cuda12]")
    watch, found = Watch(), {"limits": limits(), "device": kind, "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        if method == "one-to-one":
            order = np.random.default_rng(3).permutation(n)
            path, other = views(Path(folder), n)
            truth, y = np.argsort(order), np.load(other)[order]
            known = np.arange(pairs)
        else:
            path, truth = written(Path(folder), n)
            y = np.random.default_rng(4).normal(size=(CLASSES, DIM)).astype(np.float32)
            known = np.sort(np.random.default_rng(5).permutation(n)[:pairs])
        x = np.load(path, mmap_mode="r")
        train = functools.partial(trained, watch, found, size, steps)
        latent_map = learned(watch, found, method, x, y, truth, known, ends, train)
        if latent_map is not None:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                texts = y if method == "refined" else None
                phases, ranked = pool.submit(predicted, latent_map, path, texts).result()
            watch.phases |= phases
            if ranked is not None:
                unknown = np.setdiff1d(np.arange(n), known)
                found["retrieved"] = float(np.mean((ranked == truth)[unknown]))
    return found | {"phases": watch.phases}


def predicted(
    latent_map: "LatentMap", path: Path, texts: np.ndarray | None
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Seconds and memory of predicting the points of a file into another, and of finding the text
    of each, and which it is."""
    watch, x, kept = Watch(), np.load(path, mmap_mode="r"), path.with_name("predicted")
    parts = range(0, len(x), PART)

    def predict() -> None:
        with kept.open("wb") as file:
            for k in parts:
                np.asarray(latent_map.expected(x[k : k + PART])).tofile(file)

    def retrieve(texts: np.ndarray) -> np.ndarray:
        with kept.open("rb") as file:
            rows = (np.fromfile(file, np.float32, PART * DIM).reshape(-1, DIM) for _ in parts)
            return np.concatenate([np.argmax(y @ texts.T, axis=1) for y in rows])

    watch("predict all", predict)
    ranked = None if texts is None else watch("retrieve", lambda: retrieve(texts))
    return watch.phases, ranked


def learned(
    watch: Watch,
    found: dict[str, Any],
    method: str,
    x: np.ndarray,
    y: np.ndarray,
    truth: np.ndarray,
    known: np.ndarray,
    ends: int | None,
    train: Callable[["PairedData", "Sampler"], None],
) -> "LatentMap | None":
    """The map that a coupling ends with, if it does, once `train` has had its sampler; how the
    coupling was goes into `found`. Nothing else of it is kept."""
    import equinox as eqx
    import jax
    from morphkit_aligners.aligners import CouplingSampler
    from morphkit_aligners.refined import RefinedAlignment
    from morphkit_costs.bridge import BridgeCost
    from morphkit_costs.canonical import CanonicalCost
    from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn
    from morphkit_solvers.sinkhorn import Sinkhorn

    from morphkit.transport.collapse import collapse
    from morphkit.transport.half import Half
    from morphkit.types import Cloud, PairedData, Pairs

    stored = 0
    clouds = watch("load", lambda: (Cloud.uniform(x), Cloud.uniform(y)))
    data = PairedData(*clouds, Pairs.from_array(np.stack([known, truth[known]], 1)))
    assert watch("repeated points", lambda: collapse(data)) is None

    if method == "bridge":
        fitted = watch("cost", lambda: BridgeCost(ends=ends).fit(data))
        coupling = watch("solve", lambda: BridgeSinkhorn().solve(fitted.geometry, *clouds))
        sampler = CouplingSampler.of(data, coupling)
        stored = 2 if isinstance(coupling.a, Half) else 4
    else:
        one_to_one = method == "one-to-one"
        cost = CanonicalCost() if one_to_one else CanonicalCost(shrinkage_x=0.6, shrinkage_y=0.05)
        solver = Sinkhorn(0.025 if one_to_one else 0.05, streamed_iterations=3)
        aligner = RefinedAlignment(rounds=5, weight=0.9 if one_to_one else 0.6, whole=0)
        sampler = watch("refine and solve", lambda: aligner.sampler(data, cost, solver))
    coupling = sampler.coupling
    assert coupling is not None
    state = coupling.convergence

    def drawn() -> tuple[jax.Array, jax.Array]:
        # Of a streamed coupling a draw computes its row.
        num = FEW if method == "one-to-one" else DRAWS
        draw = eqx.filter_jit(lambda coupling, key: coupling.sample(key, num))
        return draw(coupling, jax.random.key(0))

    i, j = watch("draw", drawn)
    train(data, sampler)
    found |= {"iterations": int(state.iterations), "error": float(state.error), "bytes": stored}
    i, j = np.asarray(i), np.asarray(j)
    unpaired = ~np.isin(i, known)
    if unpaired.any():
        found["matching"] = float(np.mean((truth[i] == j)[unpaired]))
    return sampler.map


def trained(
    watch: Watch, found: dict[str, Any], size: str, steps: int, data: "PairedData",
    sampler: "Sampler",
) -> None:  # fmt: skip
    """Trains adaLN of this size, in each precision that counts here. The first dispatch compiles:
    what follows tells how long all steps run."""
    import equinox as eqx
    import jax
    from morphkit_fields.adaln import AdaLN

    from morphkit.experiment.train import build_networks, train
    from morphkit.training.loop import Training

    for precision in ("float32", "bfloat16") if size == "large" else ("float32",):
        field = functools.partial(AdaLN, size=size)
        networks = build_networks(field, DIM, DIM, False, jax.random.key(1))
        weights = eqx.filter(networks, eqx.is_inexact_array)
        found["weights"] = sum(leaf.size for leaf in jax.tree.leaves(weights))
        training, told = Training(steps=steps, precision=precision), []

        def tell(step: int, steps: int, numbers: dict[str, float]) -> None:
            told.append((step, time.perf_counter()))  # noqa: B023

        fit = functools.partial(train, data, sampler, networks, training, key=jax.random.key(2))
        name = f"train {steps:,} steps" + (", bfloat16" if precision == "bfloat16" else "")
        watch(name, lambda: fit(tell=tell).networks)  # noqa: B023
        (first, start), (last, end) = told[0], told[-1]
        watch.phases[name]["running"] = (end - start) * steps / (last - first)


def run(cell: tuple) -> dict:
    # What predicts is a process beside this one, and a GPU is to have room for both.
    return {"cell": list(cell)} | apart(__file__, list(cell), XLA_PYTHON_CLIENT_PREALLOCATE="false")


def limits() -> dict[str, float]:
    """What this machine can do at most: GFLOP/s of a product of matrices in float32, in full, and
    in bfloat16, and GB/s of a sum over an array that no cache holds; the best of a few."""
    import jax
    import jax.numpy as jnp

    def best(function: Callable[[jax.Array], jax.Array], argument: jax.Array, work: float) -> float:
        compiled, least = jax.jit(function), float("inf")
        compiled(argument).block_until_ready()
        for _ in range(3):
            start = time.perf_counter()
            compiled(argument).block_until_ready()
            least = min(least, time.perf_counter() - start)
        return work / least / 1e9

    # Four in a row, so that on a GPU a call is little of it.
    square, work = jnp.ones((4096, 4096)), 4 * 2.0 * 4096**3

    def product(a: jax.Array, precision: str | None = None) -> jax.Array:
        one = functools.partial(jnp.matmul, precision=precision)
        return functools.reduce(one, [a] * 4, a)

    found = {
        "gflops": best(lambda a: product(a, "highest"), square, work),
        "gbs": best(jnp.sum, jnp.ones(2**28), 4.0 * 2**28),
    }
    if jax.default_backend() == "gpu":  # a CPU computes in float32 all the same
        found["bfloat16"] = best(product, square.astype(jnp.bfloat16), work)
    return found


def everything() -> None:
    gpu = shutil.which("nvidia-smi") is not None
    cells, name = (ON_A_GPU, "scale_gpu") if gpu else (CELLS, "scale")
    page = functools.partial(write, RESULTS / f"{name}.md", cells)
    measure(RESULTS / f"{name}.jsonl", cells, run, page)


if __name__ == "__main__":
    one_or_all(__doc__, one, everything)
