"""Figures of recorded responses: 10, 11, 19 and 20."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure as Picture

from ..experiment.search import Trial, regress
from ..report.comparison import FEWEST
from ..report.figures import PALETTE, STYLE
from ..report.labels import Run
from ..report.read import read_figures
from ..report.significance import compare, holm
from .drawings import curves, heat_maps
from .figure import Made, Runs, Trials
from .lines import (
    CHOSEN,
    EXPECTED,
    PAIRS,
    Line,
    Value,
    alignment,
    estimates,
    lines_of,
    percent,
    values,
    wins,
)

LEVEL = 0.05
RECORDED, CHANCE = "recorded responses", "chance"
EXPLAINED, CLOSE = 0.909, 0.05
"""The adjusted R² of Fig. 19, and how far below it agrees."""

EPSILON = 1e-3
"""That of Fig. 20 and of Sec. 5.2."""


def _layer(run: Run) -> str:
    return run.labels["Recordings.features"]


def prediction(runs: Runs) -> Made:
    """Fig. 10, of `runs`: the prediction error of a draw by the share of the pairs, a panel a
    layer, and that of the expected value, which is what baselines and what is
    chosen have. "ns" says that a Wilcoxon-Mann-Whitney test over seeds (Holm, within a layer) tells
    no difference of true and global alignment."""
    drawn = [run for run in runs if alignment(run) != CHOSEN]
    lines = lines_of(estimates(runs, "prediction_error", "mean_prediction_error", panel=_layer))
    picture = curves(lines, PAIRS, "prediction error", log=False)
    told = _significant(drawn)
    panels = list(dict.fromkeys(line.panel for line in lines))
    for axis, panel in zip(picture.axes, panels, strict=False):
        for x in sorted({percent(run) for run in drawn}):
            if not told.get((panel, x), True):
                axis.annotate("ns", (x, 0.01), xycoords=("data", "axes fraction"), ha="center",
                              fontsize=7, color="#5f6368")  # fmt: skip
    shares = sorted({percent(run) for run in drawn})
    true, world = (
        [ln.at(shares[-1]) - ln.at(shares[0]) for ln in lines if ln.name == name]
        for name in ("true", "global")
    )
    grows, falls = sum(d > 0 for d in true), sum(d < 0 for d in world)
    agrees = grows == len(true) and falls == len(world)
    ahead, total = wins(lines, CHOSEN, EXPECTED.format("global"), lower=True)
    found = (
        f"with more pairs the error of true alignment grows in {grows} of {len(true)} layers, that "
        f"of global falls in {falls} of {len(world)}; of expected values that of chosen is below "
        f"global in {ahead} of {total}; true and global differ in {sum(told.values())} of "
        f"{len(told)} cells"
    )
    return Made.of(picture, lines, agrees, found)


def decoding(runs: Runs) -> Made:
    """Fig. 11, of `runs`: how often a decoder of the recorded responses finds the category in
    predicted ones, by the share of the pairs, a panel a layer. Bounds are what it finds in the
    recorded test responses, and chance."""
    lines = lines_of(
        estimates(runs, "category_decoding", "expected_category_decoding", panel=_source)
    )
    recorded = lines_of(
        values(runs, "features/target_decoding", lambda run: RECORDED, panel=_source)
    )
    levels = [
        line
        for whole in recorded
        for level, name in ((float(np.mean(whole.mean)), RECORDED), (1 / _classes(runs), CHANCE))
        for line in [Line(whole.panel, name, "bound", whole.x[:1], (level,), (np.nan,), (1,))]
    ]
    last = {name: [ln.mean[-1] for ln in lines if ln.name == name] for name in ("true", "global")}
    grows, total = 0, 0
    for found in last.values():
        grows += sum(a <= b for a, b in pairwise(found))
        total += len(found) - 1
    ceiling = levels[0].mean[0]
    text = f"the recorded responses tell {ceiling:.3f}; with most pairs " + ", ".join(
        f"{name} {', '.join(f'{v:.3f}' for v in found)}" for name, found in last.items()
    )
    if total:
        text += f"; decoding grows with depth in {grows} of {total} steps"
    picture = curves(lines + levels, PAIRS, "category found", log=False)
    return Made.of(picture, lines + levels, (grows == total) if total else None, text)


def _classes(runs: Runs) -> int:
    """How many categories the data of `runs` has."""
    return len(read_figures(runs[0].path)["class_names"])


def _source(run: Run) -> str:
    return run.labels.get("LAYER", "from the other half of the sites")


def _significant(runs: Runs) -> dict[tuple[str, float], bool]:
    """Whether true and global alignment differ, by layer and share of the pairs, where there are
    FEWEST seeds of both."""
    cells: dict[str, dict[float, dict[str, list[float]]]] = {}
    for run in runs:
        cell = cells.setdefault(_layer(run), {}).setdefault(percent(run), {})
        cell.setdefault(alignment(run), []).append(run.metrics["morph/prediction_error"])
    found = {}
    for layer, by_share in cells.items():
        asked = {
            x: {name: np.asarray(v) for name, v in cell.items()}
            for x, cell in by_share.items()
            if len(cell) > 1 and min(map(len, cell.values())) >= FEWEST
        }
        p = holm([compare(cell)[0].p for cell in asked.values()])
        found |= {(layer, x): bool(q < LEVEL) for x, q in zip(asked, p, strict=True)}
    return found


def regression(trials: Trials) -> Made:
    """Fig. 19, of `trials`: aes as a regression predicts it from ε, τ_X, τ_Y and the share of the
    pairs, against what it is."""
    every = [trial for found in trials.values() for trial in found if np.isfinite(trial.aes)]
    true = np.array([trial.aes for trial in every])
    rows: list[list] = [["degree", "aes", "predicted"]]
    with rc_context(STYLE):
        picture = Picture(figsize=(5.2, 4.2), layout="constrained")
        axis = picture.subplots()
        parts, fits, low = [], {}, float(true.min())
        for degree, colour in zip((1, 2), PALETTE, strict=False):
            fit = fits[degree] = regress(every, degree)
            axis.plot(true, fit.predicted, ".", ms=4, color=colour, alpha=0.4,
                      label=f"degree {degree}, adjusted R² {fit.adjusted_r2:.3f}")  # fmt: skip
            rows += [[degree, float(a), float(b)] for a, b in zip(true, fit.predicted, strict=True)]
            parts.append(f"{fit.adjusted_r2:.3f} (degree {degree})")
        axis.axline((low, low), slope=1, color="#9aa0a6", linewidth=1)
        axis.set(xlabel="aes (Eq. 30)", ylabel="predicted")
        axis.legend()
    found = f"adjusted R² is {' and '.join(parts)} over {len(every)} couplings, against {EXPLAINED}"
    linear = fits[1].adjusted_r2
    agrees = bool(linear >= EXPLAINED - CLOSE) if np.isfinite(linear) else None
    return Made(picture, rows, agrees, found, seeds=len({trial.seed for trial in every}))


def taus(trials: Mapping[str, list[Trial]]) -> Made:
    """Fig. 20, of `trials`: the mean aes over layers and seeds by τ_X and τ_Y, a panel a share of
    the pairs."""
    every = [trial for found in trials.values() for trial in found]
    epsilon = min({trial.epsilon for trial in every}, key=lambda e: abs(e - EPSILON))
    lines = lines_of(
        Value(f"{trial.paired_fraction:.0%} paired", f"{trial.tau_y:g}", "paper", trial.tau_x,
              trial.seed, trial.aes)
        for trial in sorted(every, key=lambda t: (t.paired_fraction, t.tau_y))
        if trial.epsilon == epsilon
    )  # fmt: skip
    means: dict[float, list[float]] = {}
    for line in lines:
        if float(line.name) in line.x:
            means.setdefault(float(line.name), []).append(line.at(float(line.name)))
    of_tau = {tau: float(np.mean(found)) for tau, found in means.items()}
    best = max(of_tau, key=lambda tau: of_tau[tau])
    found = f"of equal τ, {best:g} has the largest mean aes, {of_tau[best]:.2f}, at ε = {epsilon:g}"
    if 0.99 in of_tau:
        found += f"; τ = .99 has {of_tau[0.99]:.2f}"
    agrees = best == 0.99 if 0.99 in of_tau else None
    return Made.of(heat_maps(lines, "τ_X", "τ_Y", "aes"), lines, agrees, found)
