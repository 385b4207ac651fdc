"""The page of what scale.py measured, results/scale.md or, on a GPU, scale_gpu.md."""

import itertools
import os
import platform
from collections.abc import Iterator
from pathlib import Path

CLASSES, DIM, STEPS, BATCH, RANK = 1_000, 384, 200, 256, 200
FIXED = 12_800
DOUBLED = (160_000, 320_000, 640_000, 1_280_000)
CELLS = [
    *(("bridge", n, FIXED, None) for n in DOUBLED),
    ("bridge", 640_000, 64_000, None),
    ("bridge", 1_280_000, 128_000, 64),
    ("bridge", 1_280_000, 1_280_000, 16),
    ("refined", 640_000, 64_000, None),
    ("refined", 1_280_000, FIXED, None),
    ("one-to-one", 20_000, 1_000, None),
    ("one-to-one", 100_000, 1_000, None),
]
"""Method, points, pairs, and ends of a bridge at most; the network and its steps, if others."""
ON_A_GPU = [
    ("bridge", 1_280_000, FIXED, None, "large", 10_000),
    ("one-to-one", 200_000, 1_000, None),
    ("one-to-one", 1_000_000, 1_000, None),
]


def work(line: dict, phase: str) -> tuple[float, float] | None:
    """Operations and bytes that a phase cannot do without; None where that is not counted.

    The cost: a product of all points and the ends that are used, and the factor written. The solve:
    one reading of the factor in each iteration. Training: three products for each weight and draw.
    The prediction: to canonical coordinates, to the targets, and their mean.
    """
    method, n, pairs, ends = line["cell"][:4]
    m = n if method == "one-to-one" else CLASSES
    if phase == "cost":
        used = min(pairs, CLASSES * ends) if ends else pairs
        return 2.0 * n * used * DIM, 4.0 * n * DIM + line["bytes"] * n * CLASSES
    if phase == "solve":
        entries = n * CLASSES
        return 4.0 * entries * line["iterations"], line["bytes"] * entries * line["iterations"]
    if phase.startswith("train"):
        steps = int(phase.split()[1].replace(",", ""))
        return 6.0 * line["weights"] * BATCH * steps, 0.0
    if phase == "predict all":
        return 2.0 * n * (DIM * RANK + RANK * m + m * DIM), 8.0 * n * DIM
    return None


PHASES = ("load", "repeated points", "cost", "solve", "refine and solve", "draw")
GPU = ("A100", {"gflops": 19_500.0, "gbs": 1_555.0, "bfloat16": 312_000.0})
"""GFLOP/s and GB/s, by NVIDIA's data sheet."""


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 0.1:
        return f"{1000 * value:.2g} ms"
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"


def write(page: Path, cells: list[tuple], there: dict[tuple, dict]) -> None:
    lines = [there[cell] for cell in cells if cell in there]
    if not lines:
        return
    gpu = lines[0].get("device", "cpu").replace("cpu", "no GPU")
    cores = lines[0].get("cores", os.cpu_count())
    names = [
        *PHASES,
        *dict.fromkeys(n for line in lines for n in line["phases"] if n not in PHASES),
    ]
    bridges = [line for line in lines if line["cell"][0] == "bridge" and not line["cell"][3]]
    text = [
        *([f"{finding(max(bridges, key=lambda line: line['cell'][1]))}\n"] if bridges else []),
        f"`python benchmarks/scale.py` ({platform.machine()}, {cores} cores, {gpu}), "
        "each row once, in a process of its own that compiles everything. *Peak* is the most "
        "memory of all phases. *Draw* is a million draws, of one-to-one data ten thousand; "
        "*matching* is the share of those of unpaired points that are right. Where there is a map, "
        "another process, which has nothing else, predicts all into a file, 100,000 at a time, and "
        "finds the text of images.",
        "",
        "| | points | pairs | " + " | ".join(names) + " | peak | iterations | error | matching |",
        "|---|---|---|" + "---|" * (len(names) + 4),
    ]
    for line in lines:
        method, n, pairs, ends, *network = line["cell"]
        taken = [line["phases"].get(name, {}).get("seconds") for name in names]
        peak = max(phase["peak_gb"] for phase in line["phases"].values())
        some = f", {ends} ends a bridge" if ends else ""
        some += f", adaLN {network[0]}" if network else ""
        cells = [f"{method}{some}", f"{n:,}", f"{pairs:,}", *map(seconds, taken)]
        matching = f"{line['matching']:.3f}" if "matching" in line else "–"
        cells += [f"{peak:.1f} GB", str(line["iterations"]), f"{line['error']:.1e}", matching]
        text.append("| " + " | ".join(cells) + " |")
    found = [*doubled(lines), *predictions(lines), *trained(lines)]
    text += ["", *found, "", *against_limits(lines)]
    page.write_text("\n".join(text) + "\n", encoding="utf-8")


def finding(line: dict) -> str:
    """The coupling of the most images, in a sentence."""
    n, pairs = line["cell"][1:3]
    phases = [line["phases"][name] for name in ("cost", "solve")]
    return (
        f"**The coupling of {n:,} images with {CLASSES:,} texts, {pairs / n:.0%} of them paired, "
        f"takes {seconds(sum(phase['seconds'] for phase in phases))} and "
        f"{max(phase['peak_gb'] for phase in phases):.1f} GB.**"
    )


def doubled(lines: list[dict]) -> Iterator[str]:
    """What twice the points cost, at one number of pairs."""
    same = [line for line in lines if tuple(line["cell"]) in CELLS[: len(DOUBLED)]]
    for few, many in itertools.pairwise(same):
        before, after = (
            sum(line["phases"][name]["seconds"] for name in ("cost", "solve"))
            for line in (few, many)
        )
        yield (
            f"- From {few['cell'][1]:,} to {many['cell'][1]:,} points at {FIXED:,} pairs, cost and "
            f"solve take {after / before:.2f} times as long."
        )


def predictions(lines: list[dict]) -> Iterator[str]:
    """What it takes to predict the most points of few targets."""
    refined = [line for line in lines if line["cell"][0] == "refined"]
    if refined:
        line = max(refined, key=lambda line: line["cell"][1])
        phase = line["phases"]["predict all"]
        yield (
            f"- {line['cell'][1]:,} predictions take {seconds(phase['seconds'])}. Their process "
            f"has {phase['peak_gb']:.1f} GB at most, and {phase['mapped_gb']:.1f} GB of these are "
            "mapped files, whose memory the system takes back where it is short."
        )


def trained(lines: list[dict]) -> Iterator[str]:
    """How long a large network trains, without its compilation."""
    for line in lines:
        for name, phase in line["phases"].items():
            if "running" not in phase or line["cell"][4:5] != ["large"]:
                continue
            least, took = work(line, name), phase["running"]
            assert least is not None
            steps, _, precision = name.removeprefix("train ").partition(", ")
            yield (
                f"- adaLN large, {line['weights'] / 1e6:.0f} million weights: {steps} of {BATCH} "
                f"in {precision or 'float32'} take {seconds(took)}, "
                f"{bound(name, least, line['limits']) / took:.0%} of the rate of a product of "
                "matrices on this card."
            )


def against_limits(lines: list[dict]) -> Iterator[str]:
    """How long each phase would take if it did nothing but what it cannot do without, here and on
    GPUs that share the points."""
    yield "| | points | pairs | phase | took | at this machine's limits | share | 1 GPU | 8 | 64 |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for line in lines:
        for name, phase in line["phases"].items():
            if (least := work(line, name)) is None:
                continue
            here = bound(name, least, line["limits"])
            gpus = [seconds(bound(name, least, GPU[1]) / count) for count in (1, 8, 64)]
            took = phase.get("running", phase["seconds"])
            cells = [
                line["cell"][0], f"{line['cell'][1]:,}", f"{line['cell'][2]:,}", name,
                seconds(took), seconds(here), f"{here / took:.0%}", *gpus,
            ]  # fmt: skip
            yield "| " + " | ".join(cells) + " |"
    if lines:
        names = {name for line in lines for name in line["limits"]}
        best = {k: max(line["limits"].get(k, 0) for line in lines) for k in sorted(names)}
        running = any("running" in phase for line in lines for phase in line["phases"].values())
        yield ""
        yield (
            f"{'Training of the large network is without its compilation. ' if running else ''}"
            f"Limits are those measured in the cell's own process, at best {rates(best)}. GPUs are "
            f"{GPU[0]}s by their data sheet, {rates(GPU[1])}, nothing else counted: a bound, which "
            "was not measured."
        )


def rates(limits: dict[str, float]) -> str:
    half = f", {limits['bfloat16']:,.0f} in bfloat16" if "bfloat16" in limits else ""
    return f"{limits['gflops']:,.0f} GFLOP/s{half} and {limits['gbs']:,.0f} GB/s"


def bound(phase: str, least: tuple[float, float], limits: dict[str, float]) -> float:
    """Seconds at the limits of a machine, of a phase that cannot do without `least`."""
    operations, size = least
    gflops = limits.get("bfloat16", limits["gflops"]) if "bfloat16" in phase else limits["gflops"]
    return max(operations / gflops, size / limits["gbs"]) / 1e9
