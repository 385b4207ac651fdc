"""What the paper's text claims, held against the numbers behind the figures.

`python benchmarks/claims.py` reads benchmarks/results/paper/*.csv, which `paper.py`, `balance.py`
and `batches.py` write, and writes benchmarks/results/claims.md. It computes nothing anew.
"""

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "results"
FEW = (1, 2, 5)
"""Per cent of the pairs that are fewer than a tenth."""
END_TO_END = "VAE latent 16", "VAE latent 128", "fused VAE", "fused latent VAE"


class Cell(NamedTuple):
    """A mean over seeds and their standard deviation."""

    mean: float
    deviation: float
    seeds: int

    def __str__(self) -> str:
        digits = 3 if self.mean >= 0.01 else 5
        return f"{self.mean:.{digits}f} ± {self.deviation:.{digits}f}"

    def level(self, other: "Cell") -> bool:
        """Whether the two are within a spread of each other."""
        return abs(self.mean - other.mean) <= max(self.deviation, other.deviation)


class Figure:
    """The cells of a figure's .csv file, by panel, line and x; counts the seeds of those read."""

    def __init__(self, name: str) -> None:
        with (RESULTS / "paper" / f"{name}.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.cells = {
            (row["panel"], row["line"], place(row["x"])): Cell(
                float(row["mean"]), float(row["deviation"]), int(row["seeds"])
            )
            for row in rows
        }
        number = name.removeprefix("fig").upper().replace("_LARGE", ", large")
        self.name = {"balance": "V4", "batches": "MNIST"}.get(name, number)
        self.seeds = set[int]()

    def __call__(self, line: str, x: float | str, panel: str = "") -> Cell:
        found = self.cells[panel, line, x]
        self.seeds.add(found.seeds)
        return found

    def places(self, line: str, panel: str = "") -> list:
        """All x of a line, in their order."""
        return [x for of, name, x in self.cells if (of, name) == (panel, line)]


class Row(NamedTuple):
    """A claim of the text; whether it `agrees` is None where nothing was measured."""

    section: str
    claim: str
    measured: str
    agrees: bool | None
    figures: Sequence[Figure] = ()
    cause: str = ""


def place(x: str) -> float | str:
    try:
        return float(x)
    except ValueError:
        return x


def ahead(figure: Figure, line: str, others: Sequence[str], xs: Sequence[float]) -> list[bool]:
    """Whether the line is above each of the others at each x."""
    return [figure(line, x).mean > figure(other, x).mean for x in xs for other in others]


def share(found: Sequence[bool]) -> str:
    return f"{sum(found)} of {len(found)}"


def change(figure: Figure, line: str, panel: str = "") -> str:
    """A line's first and last cell."""
    first, *_, last = figure.places(line, panel)
    return f"{figure(line, first, panel)} to {figure(line, last, panel)}"


def trend(figure: Figure, line: str, panel: str = "") -> int:
    """Whether a line grows (1) or falls (-1) from its first to its last cell, by more than their
    spread, or neither (0)."""
    first, *_, last = (figure(line, x, panel) for x in figure.places(line, panel))
    return 0 if first.level(last) else 1 if last.mean > first.mean else -1


def features() -> Iterator[Row]:
    """Sec. 5.1.1 and 5.1.2."""
    mnist, images, classes = Figure("fig5a"), Figure("fig5b"), Figure("fig5c")
    for data, figure in (("MNIST", mnist), ("ImageNet", images)):
        yield Row(
            "5.1.2", f"Accuracy declines as features overlap more, {data}.",
            change(figure, "true alignment"), trend(figure, "true alignment") < 0, [figure],
        )  # fmt: skip
    yield Row(
        "5.1.2", "The overlap grows with the number of classes.",
        change(classes, "source features"), trend(classes, "source features") > 0, [classes],
    )  # fmt: skip


def costs() -> Iterator[Row]:
    """Sec. 5.1.3."""
    for data, name, best in (("MNIST", "fig6a", "fused"), ("ImageNet", "fig6b", "linear")):
        figure = Figure(name)
        lines = {
            (cost, solver): f"{cost}, {solver}"
            for cost in ("bridge", "KNN", "KCCA") for solver in ("linear", "fused")
        }  # fmt: skip
        xs = figure.places(lines["bridge", "linear"])
        for other, cause in (
            ("KNN", "KNN's paths go over unpaired neighbours, too."),
            ("KCCA", "Regularised as in the paper's library." if data == "MNIST" else ""),
        ):
            found = [
                won for solver in ("linear", "fused")
                for won in ahead(figure, lines["bridge", solver], [lines[other, solver]], xs)
            ]  # fmt: skip
            at = ", ".join(f"{cost} {figure(lines[cost, best], 5)}" for cost in ("bridge", other))
            yield Row(
                "5.1.3", f"The bridge cost is above {other}, {data}.",
                f"in {share(found)} cells; at 5 %, {best}: {at}", all(found), [figure], cause,
            )  # fmt: skip
        other = "linear" if best == "fused" else "fused"
        found = ahead(figure, lines["bridge", best], [lines["bridge", other]], xs)
        at = ", ".join(f"{solver} {figure(lines['bridge', solver], 5)}" for solver in (best, other))
        yield Row(
            "5.1.3", f"The {best} solver is best, {data}.",
            f"for the bridge in {share(found)} cells; at 5 %: {at}", all(found), [figure],
            "Eq. 3 squares the cost, see below." if data == "ImageNet" else "",
        )  # fmt: skip
    for data, name in (("MNIST", "fig17"), ("ImageNet", "fig18")):
        figure = Figure(name)
        yield Row(
            "5.1.3, K", f"Matching grows with the pairs, {data}.",
            f"bridge, α = 0: {change(figure, 'α = 0', 'bridge')}",
            all(trend(figure, line, panel) > 0 for panel, line in of_pairs(figure)), [figure],
            "Each cost at each α below 1 was looked at.",
        )  # fmt: skip


def of_pairs(figure: Figure) -> list[tuple[str, str]]:
    """Panels and lines that have more than one share of the pairs."""
    every = dict.fromkeys((panel, line) for panel, line, _ in figure.cells)
    return [(panel, line) for panel, line in every if len(figure.places(line, panel)) > 1]


def fields() -> Iterator[Row]:
    """Sec. 5.1.4."""
    for data, name in (("MNIST", "fig7a"), ("ImageNet", "fig7b")):
        figure = Figure(name)
        ends = {
            (kind, size): figure(f"{kind}-{size}", 1000.0)
            for size in ("small", "medium") for kind in ("adaLN", "MLP")
        }  # fmt: skip
        at = "; ".join(
            f"{size} {ends['adaLN', size]}, MLP {ends['MLP', size]}" for size in ("small", "medium")
        )
        if data == "MNIST":
            over = all(
                ends["adaLN", size].mean > ends["MLP", size].mean for size in ("small", "medium")
            )
            yield Row(
                "5.1.4", "Every adaLN is above the MLP of its size, MNIST.", at, over, [figure],
                "Level at the end of 1,000 iterations; adaLN is there sooner.",
            )  # fmt: skip
        else:
            learnt = [cell.mean > 0.1 for cell in ends.values()]
            yield Row(
                "5.1.4", "Only the larger adaLN learns the mapping, ImageNet.", at,
                sum(learnt) == 1, [figure], "200 classes here, 1,000 there: all four learn it.",
            )  # fmt: skip
    large = Figure("fig7a_large")
    both = [large(f"{kind}-large", 10000.0) for kind in ("adaLN", "MLP")]
    yield Row(
        "5.1.4", "The same of the large ones, trained as in the paper on a GPU.",
        f"{both[0]}, MLP {both[1]}", both[0].mean > both[1].mean, [large],
    )  # fmt: skip
    soon = Figure("fig12")
    sizes = soon.places("adaLN")
    yield Row(
        "5.1.4", "Larger adaLN reach 80 % much sooner, MNIST.",
        "; ".join(f"{s} {soon('adaLN', s).mean:.0f}, MLP {soon('MLP', s).mean:.0f} iterations"
                  for s in sizes),
        all(soon("adaLN", s).mean < soon("MLP", s).mean for s in sizes), [soon],
    )  # fmt: skip


def tasks() -> Iterator[Row]:
    """Sec. 5.1.5."""
    images, digits, pixels = Figure("fig8"), Figure("fig9a"), Figure("fig9b")
    pairs = images.places("local")
    yield Row(
        "5.1.5", "Local alignment does poorly, ImageNet.",
        f"at 10 %: {images('local', 10)}, global {images('global', 10)}",
        not any(ahead(images, "local", ["global"], pairs)), [images],
        "It is said not to converge; its small problems do ([Results](results.md#steps)).",
    )  # fmt: skip
    few = [images("global", 1), images("true", 1)]
    yield Row(
        "5.1.5", "Global under-performs with very few pairs, ImageNet.",
        f"at 1 %: {few[0]}, true {few[1]}, logistic head {images('logistic head', 1)}",
        few[0].mean < images("logistic head", 1).mean, [images],
        "So does true alignment, which has no discrete solver: it is not the solver alone.",
    )  # fmt: skip
    yield Row(
        "5.1.5", "At 10 % global is comparable to the classifier, ImageNet.",
        f"{images('global', 10)}, its expected value {images('global, expected value', 10)}, "
        f"the classifier {images('head of all images', 100)}",
        images("global", 10).level(images("head of all images", 100)), [images],
        f"Even with all pairs a draw of true alignment has {images('true', 100)}, its expected "
        f"value {images('true, expected value', 100)}: the flow loses, not the coupling alone.",
    )  # fmt: skip
    best = max((digits(line, 20) for line in END_TO_END), key=lambda cell: cell.mean)
    both = [digits(line, 20) for line in ("global", "true")]
    yield Row(
        "5.1.5", "Global and true are on par with the end-to-end baselines, MNIST.",
        f"at 20 %: {both[0]}, true {both[1]}, the best baseline {best}",
        all(cell.level(best) for cell in both), [digits],
        f"A draw carries the spread of the flow: expected values are "
        f"{digits('global, expected value', 20)}, true {digits('true, expected value', 20)}.",
    )  # fmt: skip
    for line in ("global", "true"):
        found = ahead(digits, line, END_TO_END, FEW)
        yield Row(
            "5.1.5",
            f"Below 10 % {line} outperforms the end-to-end baselines, MNIST.",
            f"in {share(found)} cells; at 1 %: {digits(line, 1)}, "
            f"the best of them {max((digits(b, 1) for b in END_TO_END), key=lambda c: c.mean)}",
            all(found), [digits],
            "At 5 % two VAEs have caught up with a draw.",
        )  # fmt: skip
    yield Row(
        "5.1.5", "Local alignment is significantly worse, MNIST.",
        f"at 10 %: {digits('local', 10)}, global {digits('global', 10)}",
        all(not digits("local", x).level(digits("global", x)) for x in (*FEW[1:], 10, 20)),
        [digits],
    )  # fmt: skip
    batches = Figure("batches")
    sizes = batches.places("local")
    behind = [batches("global", size).mean - batches("local", size).mean for size in sizes]
    yield Row(
        "5.1.5", "Larger batches mitigate that.",
        f"batch {sizes[0]:.0f} to {sizes[-1]:.0f}: {change(batches, 'local')}, global "
        f"{change(batches, 'global')}",
        trend(batches, "local") > 0 and behind[-1] < behind[0], [batches],
    )  # fmt: skip
    for line in ("global", "local"):
        found = ahead(pixels, line, [*END_TO_END, "true"], FEW)
        found = [not won for won in found]  # an error
        yield Row(
            "5.1.5", f"With few pairs {line} is best from text to image, MNIST.",
            f"in {share(found)} cells; at 1 %: {pixels(line, 1)}, true {pixels('true', 1)}",
            all(found), [pixels],
        )  # fmt: skip


def recordings() -> Iterator[Row]:
    """Sec. 5.2 and App. L."""
    errors, decoded, balance = Figure("fig10b"), Figure("fig11b"), Figure("balance")
    layers = list(dict.fromkeys(panel for panel, *_ in errors.cells))
    shares = errors.places("true", layers[0])
    solvers = list(dict.fromkeys(line for _, line, _ in balance.cells))
    linear, fused = solvers[:1], solvers[1:]

    def least(of: Sequence[str], mass: str, x: float) -> Cell:
        return min((balance(solver, x, mass) for solver in of), key=lambda cell: cell.mean)

    of_draws = "Of a draw; of expected values see [Neural recordings](neural.md)."
    for section, claim, ours, name, theirs in (
        ("5.2, L.2", "Unbalanced works better, linear.",
         (linear, "unbalanced"), "balanced", (linear, "balanced")),
        ("5.2, L.2", "Unbalanced works better, fused, each by its best α.",
         (fused, "unbalanced"), "balanced", (fused, "balanced")),
        ("5.2, note 8", "Linear performs better than fused by its best α, both unbalanced.",
         (linear, "unbalanced"), "fused", (fused, "unbalanced")),
    ):  # fmt: skip
        better = [least(*ours, x).mean < least(*theirs, x).mean for x in shares]
        yield Row(
            section, claim, f"less error in {share(better)} shares; at 40 %: {least(*ours, 40)}, "
            f"{name} {least(*theirs, 40)}", all(better), [balance], of_draws,
        )  # fmt: skip
    for line, up in (("true", 1), ("global", -1)):
        found = [trend(errors, line, layer) == up for layer in layers]
        yield Row(
            "5.2.1", f"With more pairs the error of {line} {'grows' if up > 0 else 'falls'}, V4.",
            "; ".join(f"{layer} {change(errors, line, layer)}" for layer in layers),
            all(found), [errors],
            "" if up > 0
            else "At τ = .99 and ε = 1e-3 global draws little but the pairs. Balanced, its "
            f"error does fall: {change(balance, 'linear', 'balanced')} (the last layer).",
        )  # fmt: skip
    most = [(errors("global", 80, layer), errors("true", 80, layer)) for layer in layers]
    at = [f"{la} {g}, true {t}" for la, (g, t) in zip(layers, most, strict=True)]
    yield Row(
        "6", "Global avoids the overfitting of true alignment, V4.",
        f"at 80 %: {'; '.join(at)}",
        all(g.mean < t.mean and not g.level(t) for g, t in most), [errors], "As above.",
    )  # fmt: skip
    for line in ("true", "global"):
        ends = [decoded(line, 80, layer) for layer in layers]
        yield Row(
            "5.2.2", f"Deeper layers decode better, V4, {line}.",
            "at 80 %: " + ", ".join(f"{la} {c}" for la, c in zip(layers, ends, strict=True)),
            all(a.mean < b.mean for a, b in itertools.pairwise(ends)), [decoded],
            "Categories are clusters of the last layer, which helps it.",
        )  # fmt: skip
    yield Row("5.2.1, 5.2.2", "The same of IT.", "not measured: no stimuli, so no layers", None)
    taus = Figure("fig20")
    panels = list(dict.fromkeys(panel for panel, *_ in taus.cells))
    low = [(taus("0.5", 0.5, p), taus("0.9", 0.9, p)) for p in panels]
    at = [f"{p} {a}, {b}" for p, (a, b) in zip(panels, low, strict=True)]
    yield Row(
        "L.2", "Below τ = .9 the true coupling is recovered.",
        f"aes at τ = .5 and .9: {'; '.join(at)}",
        all(a.level(b) for a, b in low), [taus], "The same coupling, up to .99 at this ε.",
    )  # fmt: skip


def main() -> None:
    rows = [row for group in (features, costs, fields, tasks, recordings) for row in group()]
    answers = {True: "agrees", False: "does not agree", None: "–"}
    lines = [
        "| section | the text claims | measured | figure, seeds | here | why, as far as found |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        origin = "; ".join(f"{f.name}, {'–'.join(map(str, sorted(f.seeds)))}" for f in row.figures)
        cells = row.section, row.claim, row.measured, origin, answers[row.agrees], row.cause
        lines.append(f"| {' | '.join(cells)} |")
    held = [row.agrees for row in rows if row.agrees is not None]
    head = f"**{sum(held)} of {len(held)} rows agree.** "
    (RESULTS / "claims.md").write_text(
        f"{head}Numbers are means ± standard deviations over seeds, all at scale `cpu` but where "
        "the row says otherwise; *level* is within a spread.\n\n" + "\n".join(lines) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
