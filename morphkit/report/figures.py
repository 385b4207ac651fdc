"""The pictures of a run: what they need of its models, and how they are drawn from that."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.figure import Figure

# Petroff (2021), "Accessible color sequences for data visualization"
PALETTE = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9aa0a6",
    "axes.labelcolor": "#444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.color": "#5f6368",
    "ytick.color": "#5f6368",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,  # names are names, whatever dollars are in them
}


def plot_overview(
    arrays: Mapping[str, np.ndarray], loss: Float[np.ndarray, "k 2"], kept: int | None = None
) -> Figure | None:
    """The one picture of a run from `collect`'s `arrays` and its curve `loss` of (step, loss);
    `kept` is the step whose networks were kept, by default the last.

    Panels without data are left out; None if there is nothing to draw.
    """
    panels: list[Callable[[Any], None]] = []
    if "source" in arrays:
        panels += [
            lambda ax: _scatter(ax, arrays, "source", "Source latents (test)"),
            lambda ax: _scatter(ax, arrays, "target", "Target latents (test)"),
            lambda ax: _scatter(ax, arrays, "predicted", "Predicted from the source"),
        ]
    panels += _couplings(arrays)
    if len(loss):
        panels.append(lambda ax: _curve(ax, loss, kept))
    if "class_true" in arrays:
        panels.append(lambda ax: _class_images(ax, arrays))
    elif "test_images" in arrays:
        panels.append(lambda ax: _test_images(ax, arrays))
    return _drawn(panels, arrays)


def plot_coupling(arrays: Mapping[str, np.ndarray]) -> Figure | None:
    """The coupling alone, from `collect`'s `arrays`, as `plot_overview` has it; None without."""
    return _drawn(_couplings(arrays), {})


def _couplings(arrays: Mapping[str, np.ndarray]) -> list[Callable[[Any], None]]:
    """The panels of the coupling: one, or none."""
    panels: list[Callable[[Any], None]] = []
    if "coupling" in arrays:
        panels.append(lambda ax: _matrix(ax, arrays))
    if "coupling_bins" in arrays:
        panels.append(lambda ax: _bin_matrix(ax, arrays["coupling_bins"]))
    return panels


def _drawn(
    panels: Sequence[Callable[[Any], None]], arrays: Mapping[str, np.ndarray]
) -> Figure | None:
    """All `panels` in one picture, with the legend of the classes in `arrays`."""
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(4.3 * columns, 3.9 * rows + 0.35), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr]
        for k, panel in enumerate(panels):
            panel(figure.add_subplot(rows, columns, k + 1))
        if "source" in arrays and "source_labels" in arrays:
            _legend(figure, arrays)
    return figure


def _name(arrays: Mapping[str, np.ndarray], label: int) -> str:
    names = arrays.get("class_names", ())
    text = str(names[label]) if 0 <= label < len(names) else str(label)
    return "".join(c if c.isprintable() else "?" for c in text)


def _coloured(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.unique(arrays["source_labels"])[: len(PALETTE)]


def _scatter(ax: Any, arrays: Mapping[str, np.ndarray], space: str, title: str) -> None:
    points = arrays[space].astype(float)
    labels = arrays.get("target_labels" if space == "target" else "source_labels")
    size = float(np.clip(6_000 / len(points), 4, 18))
    style: dict[str, Any] = {"s": size, "alpha": 0.75, "linewidths": 0, "rasterized": True}
    if labels is None or "source_labels" not in arrays:
        ax.scatter(*points.T, color=PALETTE[0], **style)
    else:
        coloured = _coloured(arrays)
        others = ~np.isin(labels, coloured)
        ax.scatter(*points[others].T, color="#dddddd", zorder=1, **style)
        order = np.random.default_rng(0).permutation(np.flatnonzero(~others))
        colours = np.asarray(PALETTE)[np.searchsorted(coloured, labels[order])]
        ax.scatter(*points[order].T, c=colours, zorder=2, **style)
    low, high = _frame(points if space == "source" else arrays["target"].astype(float))
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(low[1], high[1])
    side = "source" if space == "source" else "target"
    ax.set(title=title, xlabel=f"{side} PC 1", ylabel=f"{side} PC 2", xticks=[], yticks=[])
    outside = np.mean(~((points >= low) & (points <= high)).all(1))
    if outside > 0:
        note = f"{100 * outside:.1f} % outside the frame"
        ax.text(0.99, 0.01, note, transform=ax.transAxes, ha="right", va="bottom", color="#666")


def _frame(points: Float[np.ndarray, "n 2"]) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds that have all points in them, but for those that are out by more than
    three times the span of the middle 90 % in some coordinate."""
    points = points[np.isfinite(points).all(1)]
    if not len(points):
        return np.full(2, -1.0), np.full(2, 1.0)
    low, high = points.min(0), points.max(0)
    first = np.quantile(points, 0.05, axis=0, method="higher")
    last = np.quantile(points, 0.95, axis=0, method="lower")
    span = np.where(last > first, last - first, high - low)
    low, high = np.maximum(low, first - 3 * span), np.minimum(high, last + 3 * span)
    margin = 0.08 * (high - low) + 1e-6 * np.maximum(1, np.maximum(abs(low), abs(high)))
    return low - margin, high + margin


def _legend(figure: Figure, arrays: Mapping[str, np.ndarray]) -> None:
    shown = _coloured(arrays)
    total = len(np.unique(arrays["source_labels"]))
    entries = [(c, _name(arrays, label)) for c, label in zip(PALETTE, shown, strict=False)]
    if total > len(shown):
        entries.append(("#dddddd", f"{total - len(shown)} more classes"))
    widest = 4 + max(len(name) for _, name in entries)
    ax = figure.axes[0]
    figure.legend(
        handles=[ax.scatter([], [], s=28, color=c, label=name) for c, name in entries],
        loc="outside lower center",
        ncols=min(len(entries), max(3, 110 // widest)),
        handletextpad=0.1,
        columnspacing=1.2,
    )


def _matrix(ax: Any, arrays: Mapping[str, np.ndarray]) -> None:
    mass = arrays["coupling"]
    rows = mass / np.maximum(mass.sum(1, keepdims=True), 1e-12)
    image = ax.imshow(rows, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    right = f"{100 * np.trace(mass) / max(mass.sum(), 1e-12):.1f} % on the diagonal"
    unit = "%" if len(mass) <= 12 else "share"
    ax.set(title=f"Coupling by class: {right}", ylabel="source class")
    ax.set_xlabel(f"target class ({unit} of each source class)")
    ax.spines[["top", "right"]].set_visible(True)
    if len(mass) <= 12:
        ticks = [_name(arrays, k) for k in range(len(mass))]
        long = max(map(len, ticks)) > 3
        ax.set_xticks(range(len(mass)), ticks, rotation=45 if long else 0)
        ax.set_yticks(range(len(mass)), ticks)
        for i, j in np.argwhere(rows >= 0.005):
            colour = "white" if rows[i, j] > 0.6 else "#33475b"
            text = f"{100 * rows[i, j]:.0f}"
            ax.text(j, i, text, ha="center", va="center", color=colour, fontsize=6.5)
    else:
        bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.02, 0.2, 0.025, 0.6)))
        bar.outline.set_visible(False)
    ax.tick_params(length=0)


def _bin_matrix(ax: Any, mass: Float[np.ndarray, "b b"]) -> None:
    rows = mass / np.maximum(mass.sum(1, keepdims=True), 1e-12)
    image = ax.imshow(rows, cmap="Blues", vmin=0, interpolation="nearest")
    ax.set(title="Coupling, points in order of PC 1", ylabel="source points")
    ax.set(xlabel="target points (share of each source part)", xticks=[], yticks=[])
    ax.spines[["top", "right"]].set_visible(True)
    bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.02, 0.2, 0.025, 0.6)))
    bar.outline.set_visible(False)


def _curve(ax: Any, loss: Float[np.ndarray, "k 2"], kept: int | None) -> None:
    step, value = loss.T
    ax.plot(step, value, color=PALETTE[0], alpha=0.3, linewidth=0.9)
    window = max(1, len(value) // 25)
    padded = np.pad(value, (window // 2, window - 1 - window // 2), mode="edge")
    smooth = np.convolve(padded, np.ones(window) / window, mode="valid")
    ax.plot(step, smooth, color=PALETTE[0], linewidth=1.8)
    if value.min() > 0 and value.max() > 5 * value.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}" if value.max() < 20 * value.min() else "")
    title = f"Training loss: {smooth[-1]:.4g} at the end"
    if kept is not None:
        ax.axvline(kept, color="#555555", linewidth=1.2, linestyle=":")
        title = f"Training loss; networks of step {kept} kept"
    ax.set(title=title, xlabel="step", ylabel="loss")
    ax.grid(axis="y", color="#eeeeee", linewidth=0.8)
    ax.set_axisbelow(True)


def _show(ax: Any, image: np.ndarray, left: float, top: float, scale: float = 0.92) -> None:
    """An image of one, three or four channels; of others, the first."""
    if image.shape[-1] not in (1, 3, 4):
        image = image[..., :1]
    extent = (left, left + scale, top + scale, top)
    grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if image.shape[-1] == 1 else {}
    ax.imshow(image.squeeze(-1) if grey else image, extent=extent, **grey)


def _class_images(ax: Any, arrays: Mapping[str, np.ndarray]) -> None:
    true, decoded = arrays["class_true"], arrays["class_decoded"]
    for c, label in enumerate(arrays["class_ids"]):
        ax.text(c + 0.46, -0.12, _name(arrays, int(label))[:8], ha="center", fontsize=7.5)
        _show(ax, true[c], c, 0)
        for r, image in enumerate(decoded[c]):
            _show(ax, image, c, 1.25 + r)
    ax.set(xlim=(0, len(true)), ylim=(1.2 + decoded.shape[1], -0.7), xticks=[])
    ax.set_yticks([0.46, 1.25 + decoded.shape[1] / 2], ["true", "predicted"], rotation=90)
    for tick in ax.get_yticklabels():
        tick.set_verticalalignment("center")
    _bare(ax, "Predictions decoded, by class of the source")


def _test_images(ax: Any, arrays: Mapping[str, np.ndarray]) -> None:
    images, predicted, true = (
        arrays[name] for name in ("test_images", "test_predicted", "test_true")
    )
    columns = 6
    for k, image in enumerate(images):
        left, top = k % columns, 1.28 * (k // columns)
        right = predicted[k] == true[k]
        text = _name(arrays, int(predicted[k]))[:10]
        text = text if right else f"✗ {text}"
        colour = "#1f6fb5" if right else "#bd1f01"
        ax.text(left + 0.46, top - 0.04, text, ha="center", color=colour, fontsize=7.5)
        _show(ax, image, left, top)
    ax.set(xlim=(0, columns), ylim=(1.28 * -(-len(images) // columns), -0.4), xticks=[], yticks=[])
    _bare(ax, "Predicted class of test points (✗ wrong)")


def _bare(ax: Any, title: str) -> None:
    ax.set(title=title, aspect="equal", anchor="N")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
