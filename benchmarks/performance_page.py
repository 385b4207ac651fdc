"""docs/performance.md and its figure, from what `performance.py` measured."""

import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PEERS = ("OTT", "POT")
DENSE, FACTORED = "Sinkhorn (dense)", "BridgeSinkhorn"
Row = dict[str, Any]


def best(table: Row, library: str) -> Row:
    """The setting of the least median, among those timed most often."""
    rows = [r for r in table["rows"] if r["library"] == library and "first" in r]
    often = max(len(r["seconds"]) for r in rows)
    rows = [r for r in rows if len(r["seconds"]) == often]
    return min(rows, key=lambda r: statistics.median(r["seconds"]))


def row_of(table: Row, name: str) -> Row:
    return next(r for r in table["rows"] if r["name"] == name)


def ratios(row: Row) -> list[float]:
    """Its time over that of ours just before."""
    return [theirs / ours for theirs, ours in zip(row["seconds"], row["ours"], strict=True)]


def seconds(value: float) -> str:
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


def spread(values: list[float], show: Callable[[float], str] = "{:.3g}".format) -> str:
    """Median (least to largest)."""
    middle = show(statistics.median(values))
    return f"{middle} ({show(min(values))} to {show(max(values))})" if len(values) > 1 else middle


def claims(table: Row) -> Iterator[str]:
    """What is to be said of one table, and no more."""
    factored = statistics.median(row_of(table, FACTORED)["seconds"])
    for library in PEERS:
        row = best(table, library)
        values = ratios(row)
        yield (
            f"- The best setting of {library}, *{row['name']}*, takes "
            f"{statistics.median(values):.3g} times as long as `Sinkhorn` "
            f"({min(values):.3g} to {max(values):.3g} in {len(values)} runs), and "
            f"{statistics.median(row['seconds']) / factored:.3g} times as long as "
            "`BridgeSinkhorn` on its factors."
        )


def comparison(table: Row) -> Iterator[str]:
    yield from (
        f"{table['pairs']} pairs make {table['bridges']} bridges. The cost takes "
        f"{seconds(table['cost_seconds'])}, its factors being there. Sinkhorn needs "
        f"{table['plain']:,} plain iterations.",
        "",
        "| | setting | solve | ratio | iterations | error | distance | matching | first |",
        "|---|---|---|---|---|---|---|---|---|",
    )
    rows = [r for r in table["rows"] if "first" in r]
    rows.sort(key=lambda r: statistics.median(r["seconds"]))
    for library in ("ours", *PEERS):
        for row in (r for r in rows if r["library"] == library):
            chosen = library != "ours" and row is best(table, library)
            cells = [
                f"**{row['name']}**" if chosen else row["name"],
                spread(row["seconds"], seconds),
                "1" if row["name"] == DENSE else spread(ratios(row)),
                f"{row['iterations']:,}",
                f"{row['error']:.1e}",
                "–" if row["name"] == FACTORED else f"{row['distance']:.3f}",
                f"{row['matching']:.3f}",
                seconds(row["first"]),
            ]
            yield f"| {library} | " + " | ".join(cells) + " |"
    missing = [r for r in table["rows"] if "unsolved" in r]
    if missing:
        reasons: dict[str, list[str]] = {}
        for row in missing:
            reasons.setdefault(row["unsolved"], []).append(f"{row['library']} {row['name']}")
        yield ""
        yield "Not in the table:"
        yield ""
        yield from (f"- {reason}: {'; '.join(names)}" for reason, names in reasons.items())


def total(row: Row, first: bool = False) -> float:
    """Cost and solve."""
    if first:
        return row["first_build"] + row["first"]
    return row["build"] + statistics.median(row["seconds"])


def label(row: Row) -> str:
    return row["name"] if row["library"] == "ours" else f"{row['library']}, {row['name']}"


def by_size(growth: list[Row]) -> Iterator[str]:
    yield from (
        "| n = m | | cost | solve | cost and solve, first | iterations | error | peak | added |",
        "|---|---|---|---|---|---|---|---|---|",
    )
    for row in sorted(growth, key=lambda r: r["points"]):
        cells = [f"{row['points']:,}", label(row)]
        if "seconds" in row:
            cells += [
                seconds(row["build"]), spread(row["seconds"], seconds),
                seconds(total(row, first=True)), f"{row['iterations']:,}", f"{row['error']:.1e}",
            ]  # fmt: skip
        else:
            cells += ["–"] * 5
        if "peak_gb" in row:
            cells += [f"{row['peak_gb']:.2f} GB", f"{row['peak_gb'] - row['before_gb']:.2f} GB"]
        else:
            cells += ["–"] * 2
        yield "| " + " | ".join(cells) + " |"


def exponents(growth: list[Row]) -> Iterator[str]:
    for name in dict.fromkeys(map(label, growth)):
        rows = [r for r in growth if label(r) == name and "seconds" in r]
        slopes = [
            f"{math.log(total(b) / total(a)) / math.log(b['points'] / a['points']):.2f} "
            f"({a['points']:,} to {b['points']:,})"
            for a, b in itertools.pairwise(rows)
            if a["pairs"] == b["pairs"]
        ]
        if slopes:
            yield f"- {name}: {', '.join(slopes)}"


def largest(growth: list[Row]) -> Iterator[str]:
    """Ours on factors against the others, on the largest size that both solved."""
    ours = {r["points"]: r for r in growth if r["name"] == FACTORED}
    for name in dict.fromkeys(label(r) for r in growth if r["name"] != FACTORED):
        solved = [r for r in growth if label(r) == name and "seconds" in r]
        stored = [r for r in growth if label(r) == name and "peak_gb" in r]
        if solved and stored:
            theirs, held = solved[-1], stored[-1]
            n, m = theirs["points"], held["points"]
            time = total(theirs) / total(ours[n])
            memory = held["peak_gb"] / ours[m]["peak_gb"]
            yield (
                f"- {name}: {time:.3g} times the time for cost and solve at {n:,} points, "
                f"{memory:.3g} times the peak memory at {m:,}"
            )


def draw(growth: list[Row], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for name in dict.fromkeys(map(label, growth)):
        rows = [r for r in growth if label(r) == name]
        for axis, needed, value in (
            (axes[0], "seconds", total), (axes[1], "peak_gb", lambda r: r["peak_gb"]),
        ):  # fmt: skip
            there = [r for r in rows if needed in r]
            axis.loglog([r["points"] for r in there], list(map(value, there)), "o-", label=name)
    for axis, text in zip(axes, ("seconds, cost and solve", "peak memory (GB)"), strict=True):
        axis.set(xlabel="points a side", ylabel=text)
        axis.grid(alpha=0.3)
    figure.legend(
        *axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=2
    )
    figure.savefig(path, dpi=130)
    plt.close(figure)


METHOD = """\
## How the peers are measured

All get the same n × m cost, the hard minimum of Eq. 6, over its mean. `BridgeSinkhorn` gets the two
factors, and its cost is the soft minimum. That is another problem, so its result is compared by the
matching alone.

- POT stops on the L2 error of one marginal. It is told instead how many iterations to make: for
  Sinkhorn's iterations the least multiple of ten at which both errors are there, for its other
  methods a number that is searched for.
- OTT stops on the L1 error of one marginal, which it measures every ten iterations. With momentum
  neither marginal is exact, so its threshold is lowered until both errors are there. It ends with
  potentials, the others with a coupling.
- A setting is timed without its compilation and without the cost. *First* is its first call, with
  compilation. Settings within twice the best of their library are timed {repeats} times in turn,
  the others once. `Sinkhorn` is timed just before each, and *ratio* is to that.
- Figures are the median (least to largest). *Error* is the larger one of both marginals' L1 errors,
  *distance* the L1 distance to the coupling solved to 1e-6 (the script fails above 0.02),
  *matching* the share of mass that joins two points of one class.
"""
BY_SIZE = """\
## By size

300 pairs, and 1,000 above 10,000 points, where only ours on factors is asked. Each row is of a
process of its own. A solve above 30 s is timed once, with its compilation; `–` is a peer's that
takes more than {limit:.0f} s. *Cost* is from the points. *Peak* is the most memory of a process
that has nothing to compile, *added* what that is above its memory before the cost.
"""
THIN = """\
## Between points, without a stored cost

A cost between points is computed by blocks of rows whenever it is needed (`Sinkhorn.points`). On a
GPU `Sinkhorn.tiled` does it in tiles that never leave the chip. On the one GPU that both were run
on, blocks take half the time of tiles. FlashSinkhorn's published times are of another card, and
shorter than full float32 takes there, by arithmetic; ours is in full float32.

--8<-- "benchmarks/results/thin_gpu.md"

--8<-- "benchmarks/results/thin.md"
"""
SCALE = """\
## ImageNet's own size

Images of ImageNet's number against a thousand texts, and one-to-one clouds, each phase with its
seconds and memory. Then what a phase cannot do without, held against this machine and against GPUs.

--8<-- "benchmarks/results/scale.md"

### On a GPU

The same script (here with JAX 0.11.2 and CUDA 13) trains adaLN-Large on a GPU, 10,000 steps of 256,
in float32 and in bfloat16. A batch of 256 does not fill the card, least in bfloat16: there the
optimiser's reading and writing of weights and moments is a fifth of a step by itself, by
arithmetic. What takes the rest was not looked into. The other phases are mostly compilation, which
`JAX_COMPILATION_CACHE_DIR` keeps for the next process. Of its cells, a million points one-to-one
has not been run to its end.

--8<-- "benchmarks/results/scale_gpu.md"

Shared out between devices that are forced on one CPU, nothing can be faster. What can be seen is
what sharing out costs. Making the cost exchanges nothing between devices: what it loses is not
communication.

--8<-- "benchmarks/results/scale_devices.md"
"""


def write(results: Path, folder: Path) -> None:
    found = json.loads(results.read_text(encoding="utf-8"))
    growth, (dense, batch) = found["growth"], found["tables"]
    draw(growth, folder / "performance.png")
    lines = [
        "# Performance",
        "",
        f"Written by `python benchmarks/performance.py` ({found['machine']}, {found['cores']} "
        f"cores, no GPU; {found['minutes']:.0f} minutes). The problem is ten Gaussians a side, "
        "known pairs within classes, and the bridge cost at ε = 5e-3 of its mean. A solver is done "
        "when the L1 errors of both marginals are at most 1e-3.",
        "",
        f"On the dense cost of {dense['points']:,} points a side and {dense['pairs']} pairs:",
        "",
        *claims(dense),
        "",
        f"On a minibatch of {batch['points']} points a side:",
        "",
        *claims(batch),
        "",
        "![Time and memory by size](performance.png)",
        "",
        METHOD.format(repeats=found["repeats"]),
        f"## {dense['points']:,} points a side",
        "",
        *comparison(dense),
        "",
        f"## A minibatch of {batch['points']} points a side",
        "",
        *comparison(batch),
        "",
        BY_SIZE.format(limit=found["limit"]),
        *by_size(growth),
        "",
        "The exponent of the time for cost and solve:",
        "",
        *exponents(growth),
        "",
        "Against `BridgeSinkhorn`, at the largest size of both:",
        "",
        *largest(growth),
        "",
        *draws(growth),
        "",
        THIN,
        SCALE,
    ]
    (folder / "performance.md").write_text("\n".join(lines), encoding="utf-8")


def draws(growth: list[Row]) -> Iterator[str]:
    rows = [r for r in growth if r["name"] == FACTORED and "draws" in r]
    yield (
        "A million draws of a coupling of `BridgeSinkhorn` take "
        + ", ".join(f"{seconds(r['draws'])} at {r['points']:,}" for r in rows)
        + " points."
    )
