"""Choosing τ and ε without training (App. L.2): a grid of couplings, judged by aes (Eq. 29–30)."""

import csv
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import PolynomialFeatures

import gin

from ..checks import Checked, Count, Positive, Share, Tau
from ..files import replace_file
from ..interfaces import FusedCost, OTSolver, Tell, silent
from ..report.figures import PALETTE
from ..report.page import pictured
from ..transport.couple import couple, prepared
from ..types import PairedData, Pairs
from ..wiring.records import arguments
from .prepare import choose_pairs

TAUS = (0.5, 0.8, 0.9, 0.95, 0.99, 1.0)
EPSILONS = (1e-3, 3e-3, 1e-2, 3e-2)
FRACTIONS = (0.2, 0.4, 0.6, 0.8)


class Trial(NamedTuple):
    """One coupling: how it was found, and what it is worth.

    `tau_x`, `tau_y` and `epsilon` are the solver's, `paired_fraction` in (0, 1] of the pairs was
    known, chosen by `seed`. `matching_accuracy` and `excluded_ratio` are in [0, 1], `aes` is their
    ratio (Eq. 30), infinite where nothing is excluded. `converged` is 1 or 0.
    """

    tau_x: float
    tau_y: float
    epsilon: float
    paired_fraction: float
    seed: int
    matching_accuracy: float
    excluded_ratio: float
    aes: float
    converged: int


class Search(Checked):
    """What a search tries, in gin called `search`: the `taus`, `epsilons` and `fractions` of
    `search_grid`, and how many `seeds`."""

    taus: tuple[Tau, ...] = eqx.field(static=True, default=TAUS)
    epsilons: tuple[Positive, ...] = eqx.field(static=True, default=EPSILONS)
    fractions: tuple[Share, ...] = eqx.field(static=True, default=FRACTIONS)
    seeds: Count = eqx.field(static=True, default=3)


gin.register("search", module="morphkit")(Search)


def search_grid(
    data: PairedData,
    cost: FusedCost,
    solver: OTSolver,
    *,
    taus: Sequence[float] = TAUS,
    epsilons: Sequence[float] = EPSILONS,
    fractions: Sequence[float] = FRACTIONS,
    seeds: int = 3,
    tell: Tell = silent,
) -> list[Trial]:
    """The coupling of `data` for every τ_X and τ_Y of `taus` in (0, 1], ε of `epsilons` above 0 and
    paired fraction of `fractions` in (0, 1], `seeds` times each.

    `tell` is told how many are done, and the last aes. `data` has all pairs, of validation
    points; a fraction of them, chosen by the seed, is told to `cost`, and `solver` gets the τ and
    ε. aes is the exact matching accuracy by the labels of `data` over the expected excluded ratio.
    A solver whose τ and ε are static fields compiles anew for each (seconds); `solver.Sinkhorn`
    does not. Raises ValueError for data without labels, for a solver without the arguments epsilon,
    tau_x and tau_y, and whatever the solver raises for their values.
    """
    labels_x, labels_y = data.x.labels, data.y.labels
    if labels_x is None or labels_y is None:
        raise ValueError("data has no labels, and aes is of a matching accuracy")
    if missing := {"epsilon", "tau_x", "tau_y"} - set(arguments(solver)):
        raise ValueError(f"{type(solver).__name__} has no {', '.join(sorted(missing))} to choose")
    grid = {"taus": taus, "epsilons": epsilons, "fractions": fractions, "seeds": range(seeds)}
    if empty := [name for name, values in grid.items() if len(values) == 0]:
        raise ValueError(f"{empty[0]} leaves nothing to try")
    if wrong := [f for f in fractions if not 0 < f <= 1]:
        raise ValueError(f"fractions: {wrong[0]:g} must be in (0, 1]")
    pairs = np.stack([data.pairs.source, data.pairs.target], 1)
    settings = list(itertools.product(epsilons, taus, taus))
    solvers = [_with(solver, epsilon, tau_x, tau_y) for epsilon, tau_x, tau_y in settings]
    problems = list(itertools.product(fractions, range(seeds)))
    found = []
    for fraction, seed in problems:
        told = choose_pairs(pairs, fraction, seed)
        known = PairedData(data.x, data.y, Pairs.from_array(told))
        ready = prepared(known, cost)
        for (epsilon, tau_x, tau_y), tried in zip(settings, solvers, strict=True):
            coupling = couple(known, ready, tried)
            accuracy = float(coupling.matching_accuracy(labels_x, labels_y))
            excluded = float(coupling.excluded_ratio())
            aes = accuracy / excluded if excluded else float("inf")
            converged = int(coupling.convergence.converged)
            found.append(
                Trial(
                    tau_x, tau_y, epsilon, fraction, seed, accuracy, excluded, aes, converged
                )
            )  # fmt: skip
            tell(len(found), len(problems) * len(solvers), {"aes": aes})
    return found


def _with(solver: OTSolver, epsilon: float, tau_x: float, tau_y: float) -> OTSolver:
    chosen = {"epsilon": epsilon, "tau_x": tau_x, "tau_y": tau_y}
    static = {f.name for f in dataclasses.fields(solver) if f.metadata.get("static")}
    traced = {k: v if k in static else jnp.float32(v) for k, v in chosen.items()}
    return type(solver)(**arguments(solver) | traced)


def best(trials: Sequence[Trial]) -> tuple[float, float, float]:
    """The τ_X, τ_Y and ε with the largest mean aes in `trials`, of those that converged each time.

    Raises ValueError if no aes is finite.
    """
    # Infinite where no point is excluded, NaN where no mass is left.
    groups = _grouped([t for t in trials if np.isfinite(t.aes)], "tau_x", "tau_y", "epsilon")
    if not groups:
        raise ValueError("no trial has a finite aes")
    sure = {k: v for k, v in groups.items() if all(t.converged for t in v)} or groups
    tau_x, tau_y, epsilon = max(sure, key=lambda k: _mean_aes(sure[k]))
    return tau_x, tau_y, epsilon


class Regression(NamedTuple):
    """Ordinary least squares of aes: how much it explains (`adjusted_r2`, at most 1), what is
    `predicted` of each trial whose aes is finite, and how many others were `left_out`."""

    adjusted_r2: float
    predicted: Float[np.ndarray, " trials"]
    left_out: int


def regress(trials: Sequence[Trial], degree: int = 1) -> Regression:
    """OLS of the aes of `trials` on log10 ε, τ_X, τ_Y and the paired fraction, and their products
    up to `degree`.

    Fig. 19. The adjusted R² is 1 - (1 - R²)(n - 1) / (n - k - 1), for n trials of finite aes and k
    independent regressors; NaN for too few trials.
    """
    finite = [t for t in trials if np.isfinite(t.aes)]
    left_out = len(trials) - len(finite)
    if not finite:
        return Regression(float("nan"), np.empty(0), left_out)
    settings = np.array(
        [(np.log10(t.epsilon), t.tau_x, t.tau_y, t.paired_fraction) for t in finite]
    )
    terms = PolynomialFeatures(degree, include_bias=False).fit_transform(settings)
    aes = np.array([t.aes for t in finite])
    n, k = len(terms), int(np.linalg.matrix_rank(terms - terms.mean(0)))
    model = LinearRegression().fit(terms, aes)
    predicted = model.predict(terms)
    if n < k + 2:
        return Regression(float("nan"), predicted, left_out)
    r2 = float(model.score(terms, aes))
    return Regression(1 - (1 - r2) * (n - 1) / (n - k - 1), predicted, left_out)


def read_search(out: Path) -> list[Trial]:
    """What `write_search` wrote to the folder `out`; none where it did not. Raises ValueError for a
    file that is damaged."""
    if not (path := out / "trials.csv").is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            kinds = Trial.__annotations__.values()
            return [
                Trial(*(kind(row[name]) for name, kind in zip(Trial._fields, kinds, strict=True)))
                for row in csv.DictReader(file)
            ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); remove it, and search again") from error


def write_search(trials: Sequence[Trial], out: Path) -> list[str]:
    """Writes `trials` as trials.csv and search.png into the folder `out`, over older ones; where
    the picture cannot be drawn it is left out, and the reason returned."""

    def table(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(Trial._fields)
            writer.writerows(trials)

    replace_file(out / "trials.csv", table)
    (out / "search.png").unlink(missing_ok=True)  # an older one would be of other trials
    return pictured("search.png", lambda: plot(trials), out / "search.png")[1]


def plot(trials: Sequence[Trial]) -> Figure:
    """Heat maps of the mean aes of `trials` over τ_X and τ_Y, an ε a row and a paired fraction a
    column (Fig. 20), and predicted against true aes (Fig. 19). A cell with an aes that is not
    finite is blank, and the trial not among the predicted."""
    epsilons, fractions, taus = (
        sorted({getattr(t, name) for t in trials})
        for name in ("epsilon", "paired_fraction", "tau_x")
    )
    groups = _grouped(trials, "epsilon", "paired_fraction", "tau_x", "tau_y")
    mean = {key: _mean_aes(group) for key, group in groups.items()}
    size = 2.3 * (len(fractions) + 1), 2.1 * len(epsilons) + 0.5
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(epsilons), len(fractions) + 1, squeeze=False)
    for column, fraction in enumerate(fractions):
        shown = [
            np.array([[mean[e, fraction, tx, ty] for tx in taus] for ty in taus]) for e in epsilons
        ]
        finite = np.array(shown)[np.isfinite(shown)]
        low, high = (finite.min(), finite.max()) if finite.size else (0, 1)
        for row, (epsilon, values) in enumerate(zip(epsilons, shown, strict=True)):
            axis = axes[row, column]
            image = axis.imshow(values, origin="lower", vmin=low, vmax=high, cmap="viridis")
            axis.set_xticks(range(len(taus)), [f"{t:g}" for t in taus], rotation=90, fontsize=7)
            axis.set_yticks(range(len(taus)), [f"{t:g}" for t in taus], fontsize=7)
            if row == 0:
                axis.set_title(f"{fraction:.0%} paired", fontsize=9)
            if row == len(epsilons) - 1:
                axis.set_xlabel("τ_X")
                figure.colorbar(image, ax=axes[:, column], location="bottom", label="aes", pad=0.02)
            if column == 0:
                axis.set_ylabel(f"ε = {epsilon:g}\nτ_Y")
    for axis in axes[1:, -1]:
        axis.remove()
    aes = [t.aes for t in trials if np.isfinite(t.aes)]
    for degree, colour in zip((1, 2), PALETTE, strict=False):
        fit = regress(trials, degree)
        label = f"degree {degree}, R² = {fit.adjusted_r2:.2f}"
        label += f", {fit.left_out} not finite" if fit.left_out else ""
        axes[0, -1].plot(aes, fit.predicted, ".", ms=3, color=colour, label=label, alpha=0.4)
    axes[0, -1].axline((0, 0), slope=1, color="0.5", lw=1)
    axes[0, -1].set(xlabel="aes", ylabel="predicted")
    axes[0, -1].legend(fontsize=6)
    return figure


def _grouped(trials: Sequence[Trial], *names: str) -> dict[tuple[float, ...], list[Trial]]:
    groups: dict[tuple[float, ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(tuple(getattr(trial, name) for name in names), []).append(trial)
    return groups


def _mean_aes(trials: Sequence[Trial]) -> float:
    return float(np.mean([trial.aes for trial in trials]))
