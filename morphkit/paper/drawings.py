"""Pictures of lines: curves, bars and heat maps, legible in print and to the colour-blind."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure as Picture

from ..report.figures import PALETTE, STYLE
from .lines import Line

MARKERS = "os^Dvph<>*X"
OURS = "#bd1f01"
OTHERS = tuple(colour for colour in PALETTE if colour not in (OURS, "#94a4a2", "#717581"))
MOST_COLUMNS = 4
LEVELS = ("#d63384", "#202124")
GREYS = ("#3c4043", "#5f6368", "#80868b", "#9aa0a6")


def styles(lines: Sequence[Line]) -> dict[str, dict[str, Any]]:
    """How each of `lines` is drawn, by its name: the paper's in colours, ours thick and red,
    baselines dashed and grey, told apart by their markers. Names that differ in what follows a
    comma have one colour, and are told apart by their dashes."""
    found: dict[str, dict[str, Any]] = {}
    families: dict[str, list[str]] = {}
    colours, greys = itertools.cycle(OTHERS), itertools.cycle(GREYS)
    markers, levels = itertools.cycle(MARKERS), itertools.cycle(LEVELS)
    dashes = itertools.cycle([(4, 2), (1, 1.5), (6, 2, 1, 2)])
    for line in lines:
        if line.name in found:
            continue
        if line.kind == "ours":
            found[line.name] = {"color": OURS, "linewidth": 2.4, "marker": "*", "markersize": 9,
                                "zorder": 4}  # fmt: skip
        elif line.kind == "paper":
            known = families.setdefault(line.name.partition(", ")[0], [])
            found[line.name] = {
                "color": found[known[0]]["color"] if known else next(colours), "linewidth": 1.6,
                "zorder": 3, "marker": found[known[0]]["marker"] if known else next(markers),
                "markersize": 4.5, "linestyle": ("-", "--", ":", "-.")[len(known) % 4],
            }  # fmt: skip
            known.append(line.name)
        elif line.kind == "baseline":
            found[line.name] = {"color": next(greys), "linewidth": 0.9, "zorder": 2,
                                "marker": next(markers), "markersize": 3.5,
                                "dashes": next(dashes)}  # fmt: skip
        else:
            found[line.name] = {"color": next(levels), "linewidth": 1.3, "linestyle": ":"}
    return found


def curves(
    lines: Sequence[Line], xlabel: str, ylabel: str, *, log: bool = True, ticks: bool = True
) -> Picture:
    """A panel beside the other, with mean and deviation of each of `lines`; a bound is a level.
    `xlabel` and `ylabel` name the axes; x is shown on a `log` scale, with `ticks` where there are
    values."""
    panels = list(dict.fromkeys(line.panel for line in lines))
    look = styles(lines)
    columns = min(MOST_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with rc_context(STYLE):
        width = max(6.4, 3.1 * columns + 0.6)
        size = width, 3.3 * rows + 0.4 + 0.17 * -(-len(look) // _columns(look, width))
        picture = Picture(figsize=size, layout="constrained")
        axes = picture.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            own = [line for line in lines if line.panel == panel]
            for line in own:
                _curve(axis, line, look[line.name])
            places = sorted({float(x) for line in own for x in line.x if line.kind != "bound"})
            if log and places and min(places) > 0:
                axis.set_xscale("log")
            if ticks:
                axis.set_xticks(places, [f"{x:g}" for x in places])
                axis.minorticks_off()
            axis.set(title=panel, xlabel=xlabel)
            axis.grid(axis="y", color="#eeeeee", linewidth=0.8)
        for axis in axes[len(panels) :]:
            axis.remove()
        for row in range(rows):
            axes[row * columns].set_ylabel(ylabel)
        _legend(picture, axes[0], look, size[0])
    return picture


def _curve(axis: Any, line: Line, look: dict[str, Any]) -> None:
    if line.kind == "bound":
        axis.axhline(line.mean[0], **look)
        return
    x, mean = np.asarray(line.x, float), np.asarray(line.mean)
    deviation = np.nan_to_num(line.deviation)
    axis.plot(x, mean, **look)
    if deviation.any():
        axis.fill_between(x, mean - deviation, mean + deviation, color=look["color"], alpha=0.12,
                          linewidth=0)  # fmt: skip


def _legend(picture: Picture, axis: Any, look: dict[str, dict[str, Any]], width: float) -> None:
    handles = [axis.plot([], [], label=name, **style)[0] for name, style in look.items()]
    columns = _columns(look, width)
    picture.legend(handles=handles, loc="outside lower center", ncols=columns)


def _columns(look: dict[str, dict[str, Any]], width: float) -> int:
    """Of the legend, in a picture that is `width` inches wide."""
    return min(len(look), max(1, int(15 * width / (6 + max(map(len, look))))))


def bars(lines: Sequence[Line], ylabel: str) -> Picture:
    """A group of bars at each x, a bar a line, with deviations; a panel of `lines` beside the
    other. `ylabel` names what is drawn, from nought."""
    panels = list(dict.fromkeys(line.panel for line in lines)) or ["nothing to show"]
    names = list(dict.fromkeys(line.name for line in lines))
    with rc_context(STYLE):
        picture = Picture(figsize=(max(5.2, 3.6 * len(panels)), 3.6), layout="constrained")
        axes = picture.subplots(1, len(panels), squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            own = [line for line in lines if line.panel == panel]
            places = list(dict.fromkeys(x for line in own for x in line.x))
            width = 0.8 / max(1, len(names))
            for line in own:
                k = names.index(line.name)
                axis.bar(
                    [places.index(x) + (k - (len(names) - 1) / 2) * width for x in line.x],
                    line.mean, width, yerr=np.nan_to_num(line.deviation), capsize=2.5,
                    color=OTHERS[k % len(OTHERS)], label=line.name, error_kw={"linewidth": 0.9},
                )  # fmt: skip
            axis.set_xticks(range(len(places)), [str(place) for place in places])
            axis.set(title=panel)
        axes[0].set_ylabel(ylabel)
        if lines:
            axes[0].legend()
    return picture


def heat_maps(lines: Sequence[Line], xlabel: str, ylabel: str, what: str) -> Picture:
    """A map a panel: a row a line of `lines`, whose name is its place on `ylabel`, a column an x of
    `xlabel`; cells have their value in them, which is `what`."""
    panels = list(dict.fromkeys(line.panel for line in lines))
    found = np.concatenate([line.mean for line in lines])
    found = found[np.isfinite(found)]
    low, high = (found.min(), found.max()) if found.size else (0, 1)
    with rc_context(STYLE):
        picture = Picture(figsize=(3.2 * len(panels) + 0.8, 3.4), layout="constrained")
        axes = picture.subplots(1, len(panels), squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            own = [line for line in lines if line.panel == panel]
            places = sorted({x for line in own for x in line.x})
            shown = np.array([[line.at(x) for x in places] for line in own])
            axis.imshow(shown, origin="lower", cmap="viridis", vmin=low, vmax=high)
            axis.set_xticks(range(len(places)), [f"{x:g}" for x in places])
            axis.set_yticks(range(len(own)), [line.name for line in own])
            axis.set(title=panel, xlabel=xlabel)
            for (i, j), value in np.ndenumerate(shown):
                if math.isfinite(value):
                    bright = (value - low) > 0.6 * (high - low)
                    axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6,
                              color="black" if bright else "white")  # fmt: skip
        axes[0].set_ylabel(ylabel)
        picture.colorbar(axes[0].images[0], ax=axes, label=what, shrink=0.8)
    return picture
