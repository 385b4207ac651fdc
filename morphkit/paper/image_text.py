"""Figures of images and texts that are made of lines: 5A to C, 6 to 9, 12, 16 to 18."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from ..report.labels import Run
from ..report.read import read_curve, read_pace
from .drawings import bars, curves
from .figure import Made, Runs
from .lines import (
    CHOSEN,
    EXPECTED,
    PAIRS,
    Line,
    Value,
    alignment,
    baselines,
    bound,
    estimates,
    kind_of,
    lines_of,
    values,
    wins,
)

COSTS = {"BridgeCost": "bridge", "KNNCost": "KNN", "KCCACost": "KCCA"}
SMALL = 0.02
"""A difference of accuracies that is taken for none."""

SLOWER = 0.2
"""What a step takes longer, at least, that is called slower."""


# Overlap (Fig. 5)


def _classes(run: Run) -> float:
    return float(run.labels["SomeClasses.number"])


def overlap(metric: str) -> Callable[[Runs], Made]:
    """Fig. 5A and B: the `metric` against the overlap of the source features, a point a number of
    classes."""

    def make(runs: Runs) -> Made:
        numbers = lines_of(values(runs, metric, lambda run: "true alignment", at=_classes))[0]
        apart = lines_of(values(runs, "features/source_overlap", lambda run: "", at=_classes))[0]
        line = numbers._replace(x=tuple(round(value, 4) for value in apart.mean))
        picture = curves([line], "overlap of the source features (Eq. 21)", "accuracy", log=False,
                         ticks=False)  # fmt: skip
        for x, y, count in zip(line.x, line.mean, numbers.x, strict=True):
            picture.axes[0].annotate(f"{count:g} classes", (x, y), xytext=(4, 6),  # pyright: ignore
                                     textcoords="offset points", fontsize=7)  # fmt: skip
        falls = _falls(line)
        found = f"accuracy goes from {line.mean[0]:.3f} to {line.mean[-1]:.3f} as overlap grows"
        return Made.of(picture, [line], falls, found)

    return make


def _falls(line: Line) -> bool:
    return all(b < a for a, b in pairwise(line.mean))


def overlap_by_classes(runs: Runs) -> Made:
    """Fig. 5C, of `runs`: the overlap of the source features against the number of classes."""
    line = lines_of(
        values(runs, "features/source_overlap", lambda run: "source features", at=_classes)
    )[0]
    rises = all(a < b for a, b in pairwise(line.mean))
    picture = curves([line], "classes", "overlap (Eq. 21)", log=False)
    found = f"overlap goes from {line.mean[0]:.3f} to {line.mean[-1]:.3f}"
    return Made.of(picture, [line], rises, found)


# Couplings (Fig. 6, 17, 18)

MATCHING = "coupling/matching_accuracy"


def _cost(run: Run) -> str:
    return CHOSEN if "run.cost" not in run.labels else COSTS[run.labels["run.cost"]]


def _alpha(run: Run) -> float:
    """α of Eq. 3; the linear solver is its α = 0."""
    return float(run.story["solver"]["arguments"].get("alpha", 0.0))


def _is_chosen(run: Run) -> bool:
    return "run.cost" not in run.labels and "run.paired_fraction" in run.labels


def matching(best: dict[str, float], *, fused: bool) -> Callable[[Runs], Made]:
    """Fig. 6: matching accuracy of every cost with the linear and the fused solver, α as the paper
    has it: `best`, by the name of the cost. It has `fused` solvers ahead of linear ones, or the
    other way round."""

    def make(runs: Runs) -> Made:
        def name(run: Run) -> str:
            return f"{_cost(run)}, {'fused' if _alpha(run) else 'linear'}"

        kept = [
            run for run in runs
            if not _is_chosen(run) and _alpha(run) in (0.0, best[_cost(run)])
        ]  # fmt: skip
        ours = [run for run in runs if _is_chosen(run)]
        lines = lines_of(
            values(kept, MATCHING, name)
            + values(ours, MATCHING, lambda run: CHOSEN, kind=lambda run: "ours")
        )
        parts, all_won = [], True
        for solver in ("linear", "fused"):
            for other in ("KNN", "KCCA"):
                won, total = wins(lines, f"bridge, {solver}", f"{other}, {solver}")
                parts.append(f"{other} in {won} of {total} ({solver})")
                all_won &= won == total
        found = f"the bridge is above {', '.join(parts)}"
        won, total = wins(lines, "bridge, fused", "bridge, linear", lower=not fused)
        found += f"; fused is {'above' if fused else 'below'} linear for the bridge in {won} of "
        found += f"{total}"
        agrees = all_won and won == total
        return Made.of(curves(lines, PAIRS, "matching accuracy"), lines, agrees, found)

    return make


def by_alpha(runs: Runs) -> Made:
    """Fig. 17 and 18, of `runs`: matching accuracy by α, a panel a cost; at α = 1 pairs have no
    part."""
    known = [run for run in runs if "run.cost" in run.labels]
    lines = lines_of(
        values(
            known, MATCHING, lambda run: f"α = {_alpha(run):g}",
            panel=lambda run: COSTS[run.labels["run.cost"]],
        )
    )  # fmt: skip
    alone = [run for run in runs if "run.paired_fraction" not in run.labels]
    for panel in dict.fromkeys(line.panel for line in lines):
        lines += [
            ln._replace(panel=panel, name="α = 1", kind="bound")
            for ln in lines_of(values(alone, MATCHING, lambda run: "α = 1"))
        ]
    rises = [
        a <= b + SMALL
        for ln in lines if ln.kind != "bound"
        for a, b in pairwise(ln.mean)
    ]  # fmt: skip
    grow, total = sum(rises), len(rises)
    found = f"more pairs match as much or more in {grow} of {total} steps"
    agrees = grow == total if total else None
    return Made.of(curves(lines, PAIRS, "matching accuracy"), lines, agrees, found)


# Fields (Fig. 7 and 12)


def _field(run: Run) -> str:
    return f"{'adaLN' if run.labels['run.field'] == 'AdaLN' else 'MLP'}-{run.labels['SIZE']}"


def learning(metric: str) -> Callable[[Runs], Made]:
    """Fig. 7: the `metric` on the way, a line a velocity field."""

    def make(runs: Runs) -> Made:
        lines = lines_of(
            Value("", _field(run), "paper", step, run.story["seed"], value)
            for run in runs
            for step, value in read_curve(run.path, f"train/{metric}")
        )
        parts, all_won = [], True
        for size in dict.fromkeys(run.labels["SIZE"] for run in runs):
            last = {
                ln.name: ln.mean[-1] for ln in lines if ln.name in (f"adaLN-{size}", f"MLP-{size}")
            }
            ahead = last[f"adaLN-{size}"] - last[f"MLP-{size}"]
            all_won &= ahead > 0
            parts.append(f"{ahead:+.3f} ({size})")
        found = f"adaLN less the MLP at the end: {', '.join(parts)}"
        picture = curves(lines, "iterations", "test accuracy", log=False, ticks=False)
        return Made.of(picture, lines, all_won, found)

    return make


def iterations(level: float) -> Callable[[Runs], Made]:
    """Fig. 12: iterations until the accuracy is `level`; runs that do not come so far are left
    out."""

    def make(runs: Runs) -> Made:
        found, missed = [], 0
        for run in runs:
            curve = read_curve(run.path, "train/test_accuracy")
            first = next((step for step, value in curve if value >= level), math.nan)
            missed += math.isnan(first)
            name = "adaLN" if run.labels["run.field"] == "AdaLN" else "MLP"
            size = run.labels["SIZE"]
            found.append(Value("", name, "paper", size, run.story["seed"], first))
        lines = lines_of(found)
        won, total = wins(lines, "adaLN", "MLP", lower=True)
        text = f"adaLN takes fewer iterations than the MLP at {won} of {total} sizes"
        if missed:
            text += f"; {missed} of {len(runs)} runs do not come to {level:.0%}"
        picture = bars(lines, f"iterations to {level:.0%} accuracy")
        return Made.of(picture, lines, (won == total) if total else None, text)

    return make


# Morphs (Fig. 8 and 9)


def classifier(runs: Runs) -> Made:
    """Fig. 8, of `runs`: accuracy by the share of the pairs. The bound is a linear head on the
    features of all training images, as the paper's is the head of its image model."""
    lines = lines_of(estimates(runs, "nearest_target_accuracy", "expected_nearest_target_accuracy"))
    ceiling = bound(lines, "logistic head", 100.0, "head of all images")
    text, agrees = "", None
    if ceiling:
        at_10 = min((x for ln in lines for x in ln.x), key=lambda x: abs(float(x) - 10))
        reached = {ln.name: ln.at(at_10) for ln in lines}
        level = ceiling[0].mean[0]
        below, cells = wins(lines, "local", "global", lower=True)
        agrees = reached.get("global", math.nan) > level - 2 * SMALL and below == cells
        text = (
            f"at {at_10:g} % a draw of global has {reached.get('global', math.nan):.3f}, its "
            f"expected value {reached.get(EXPECTED.format('global'), math.nan):.3f}, that of "
            f"chosen {reached.get(CHOSEN, math.nan):.3f}, the head of all images {level:.3f}; "
            f"local is below global in {below} of {cells}"
        )
    lines += ceiling
    return Made.of(curves(lines, PAIRS, "test accuracy"), lines, agrees, text)


END_TO_END = ("VAE latent 16", "VAE latent 128", "fused VAE", "fused latent VAE")


def downstream(
    metric: str,
    claimed: Sequence[str],
    others: Sequence[str],
    *,
    expected: str | None = None,
    lower: bool = False,
) -> Callable[[Runs], Made]:
    """Fig. 9: the `metric` of a draw of morphs by the share of the pairs, and the `expected` one of
    E[y | x], where there is one, beside baselines; `lower` values are the better ones of an error.
    The paper has draws of the alignments that are `claimed` ahead of the `others`, where pairs are
    few."""

    def make(runs: Runs) -> Made:
        drawn = values(runs, f"morph/{metric}", alignment, kind=kind_of) + baselines(runs, metric)
        lines = lines_of(estimates(runs, metric, expected) if expected else drawn)

        def few(x: float | str) -> bool:
            return float(x) < 10

        parts, agrees = [], True
        for name in (*claimed, CHOSEN):
            cells = [wins(lines, name, other, lower=lower, where=few) for other in others]
            won, total = (sum(part) for part in zip(*cells, strict=True))
            parts.append(f"{name} in {won} of {total}")
            agrees &= name == CHOSEN or won == total
        better, total = wins(lines, "global", "local", lower=lower)
        if "local" not in claimed:
            agrees &= better == total
        found = (
            f"below 10 % ahead of {', '.join(others)}: {', '.join(parts)}; global is ahead of "
            f"local in {better} of {total}"
        )
        label = "squared error of a pixel (Eq. 24)" if lower else "test accuracy"
        return Made.of(curves(lines, PAIRS, label), lines, agrees, found)

    return make


def runtime(runs: Runs) -> Made:
    """Fig. 16, of `runs`: seconds of a training step, by alignment and data."""

    def aligner(run: Run) -> str:
        return run.labels["run.aligner"].removesuffix("Alignment").lower()

    def data(run: Run) -> str:
        return "MNIST" if "MNIST" in str(run.story["data"]) else "ImageNet"

    lines = lines_of(values(runs, lambda run: read_pace(run.path), aligner, at=data))
    ratios = {
        place: ln.at(place) / true.at(place)
        for ln in lines if ln.name == "local"
        for true in lines if true.name == "true"
        for place in ln.x
    }  # fmt: skip
    parts = [f"{ratio:.1f} true ones on {place}" for place, ratio in ratios.items()]
    found = f"a local step takes {', '.join(parts)}"
    agrees = None
    if len(ratios) == 2:
        agrees = 1 + SLOWER < ratios["MNIST"] < ratios["ImageNet"]
    return Made.of(bars(lines, "seconds of a step"), lines, agrees, found)
