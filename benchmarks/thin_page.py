"""benchmarks/results/thin.md, from what `thin.py` measured."""

import statistics
from pathlib import Path

from thin_solvers import DIM, OURS, SETTINGS

RUNS = 3
ITERATED, REACHED = "iterations", "error"
EPSILON = {ITERATED: 0.1, REACHED: 5e-3 * 2 * DIM}
"""FlashSinkhorn's; and the default of `Sinkhorn`, over the mean cost of normal points."""
ITERATIONS, FEW, THRESHOLD, LIMIT = 100, 10, 1e-3, 150.0
"""The last, in seconds, is for a solve."""

Cell = tuple[str, int, str]  # table, points a side, library


def spread(numbers: list[float]) -> str:
    """The median, and the least and largest where there are several, to three digits."""
    found = [k(numbers) for k in (statistics.median, min, max)]
    middle, low, high = (f"{float(f'{number:.3g}'):,g}" for number in found)
    return middle if len(numbers) == 1 else f"{middle} ({low} to {high})"


def ratios(line: dict) -> list[float]:
    """Of the time of ours: to the same error, or of an iteration."""
    share = ITERATIONS / line["iterations"] if line["cell"][0] == ITERATED else 1
    return [share * s / o for s, o in zip(line["seconds"], line["ours"], strict=True)]


def finding(lines: dict[Cell, dict]) -> str:
    """Each peer at the largest size that it solved more than once."""
    solved = {
        cell: line for cell, line in sorted(lines.items())
        if cell[0] == REACHED and len(line.get("seconds", ())) > 1
    }  # fmt: skip
    last = {library: (n, line) for (_, n, library), line in solved.items() if library != OURS}
    told = [f"{k}, {spread(ratios(line))} times at {n:,} points" for k, (n, line) in last.items()]
    return f"**To the same error the others take longer than ours:** {'; '.join(told)}."


def rows(lines: dict[Cell, dict], table: str) -> list[str]:
    unit = "ms an iteration | GFLOP/s" if table == ITERATED else "seconds"
    names = f"| n = m | | setting | {unit} | ratio | iterations | error |"
    found = [names, "|" + "---|" * (names.count("|") - 1)]
    for (_, n, library), line in (item for item in lines.items() if item[0][0] == table):
        cells = [f"{n:,}", library, line["setting"]]
        if "seconds" not in line:
            cells += ["–"] * (names.count("|") - 4)
        elif table == ITERATED:
            each = [s / line["iterations"] for s in line["seconds"]]
            # One product of all pairs and two with a vector, or two products.
            flops = n * n * (2 * (DIM + 2) + 4 if library == OURS else 4 * DIM)
            cells.append(spread([1e3 * s for s in each]))
            cells.append(f"{flops / statistics.median(each) / 1e9:.0f}")
        else:
            cells.append(spread(line["seconds"]))
        if "seconds" in line:
            cells.append("1" if library == OURS else spread(ratios(line)))
            cells += [f"{line['iterations']:,}", f"{line['error']:.1e}"]
        found.append(f"| {' | '.join(cells)} |")
    return found


def write(path: Path, lines: dict[Cell, dict]) -> None:
    any_line = next(iter(lines.values()))
    cores = "one core" if any_line["cores"] == 1 else f"{any_line['cores']} cores"
    rate = spread([line["product"] for line in lines.values()])
    missing = [name for name in SETTINGS if not any(cell[2] == name for cell in lines)]
    absent = f" Not installed: {', '.join(missing)}." if missing else ""
    path.write_text(
        f"""{finding(lines)}

`python benchmarks/thin.py` ({any_line["machine"]}, {cores}, no GPU): normal points in {DIM}
dimensions and a squared Euclidean cost, which nobody stores. Each run of a library is just after
one of ours, {RUNS} times, or once where it takes more than {LIMIT / RUNS:.0f} s: the median (least
to largest), and the ratio of the two. Of several settings of a library the fastest over {FEW}
iterations is shown. *Error* is the larger one of both marginals' L1 errors.{absent}

To an error of {THRESHOLD} at {EPSILON[REACHED] / 2 / DIM} of the mean cost; `–` where that would
take more than {LIMIT:.0f} s:

{chr(10).join(rows(lines, REACHED))}

{ITERATIONS} iterations at FlashSinkhorn's ε = {EPSILON[ITERATED]}, {0.05 / DIM:.1e} of the mean
cost; {FEW} where {ITERATIONS} would take more than {LIMIT:.0f} s. GFLOP/s are those of the
products with the points, one an iteration of ours and two of the others; a product of matrices has
{rate}, whose spread tells how quiet the machine was. Exponentials take the rest, and one iteration
of ours in eight or so goes over the points again, to stay in float32's range. A whole block or
batch is kept between iterations, and counted as if it were not: all of ours at 2,000 points, 4,096
rows of OTT's.

{chr(10).join(rows(lines, ITERATED))}
""",
        encoding="utf-8",
    )


def write_gpu(path: Path, device: str, found: dict[tuple[int, str], str]) -> None:
    """Milliseconds by points a side, and "streamed", "tiled" or "published"."""
    sizes = dict.fromkeys(n for n, _ in found)
    names = "streamed", "tiled", "published"
    table = [f"| {n:,} | {' | '.join(found[n, name] for name in names)} |" for n in sizes]
    path.write_text(
        f"""`python benchmarks/thin.py --gpu` ({device}, one run): milliseconds of {ITERATIONS}
iterations in {DIM} dimensions at ε = {EPSILON[ITERATED]}, after one that compiles; the median of
five (least to largest).

| n = m | by blocks | `tiled` | FlashSinkhorn, A100, as published |
|---|---|---|---|
{chr(10).join(table)}
""",
        encoding="utf-8",
    )
