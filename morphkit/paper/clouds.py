"""Figures of points: how noise becomes texts (Fig. 4), classes that overlap (Fig. 5D), the way from
the Swiss roll to the spiral (Fig. 15)."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from matplotlib import rc_context
from matplotlib.figure import Figure as Picture
from sklearn.neighbors import NearestNeighbors

from ..api import asked
from ..extras import imported
from ..morph import load
from ..report.figures import PALETTE, STYLE
from ..report.labels import Run
from ..types import Dataset
from .figure import Made, Runs

NEIGHBOURS = 15
"""k of Eq. 21, and of UMAP."""

SHOWN = 6
"""Classes of a picture."""

MARKERS = "os^DvXP*<>"
"""Of the classes of a picture, so that these are told apart without colours, too. Of those of
curves, three are alike at the size of a point."""

DRAWS = 20
"""Of as many classes, for comparison."""

TIMES = (0.0, 0.5, 1.0)
SPIRAL_TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)


def _data(run: Run) -> Dataset:
    """The data of `run`, read again."""
    experiment, _ = asked([run.path / "config.gin"], ["run.wandb = 'disabled'"])
    return experiment.data.load()


def class_overlap(
    points: Float[np.ndarray, "n p"], labels: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " c"], Float[np.ndarray, "c c"]]:
    """The classes of `labels`, and, of `points` so labelled, how many of the neighbours of a point
    of class i are of class j: shares, of NEIGHBOURS nearest ones. The diagonal is 1 - the overlap
    of Eq. 21."""
    classes, index = np.unique(labels, return_inverse=True)
    near = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(points).kneighbors(return_distance=False)
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (np.repeat(index, NEIGHBOURS), index[near].ravel()), 1)
    return classes, counts / counts.sum(1, keepdims=True)


def overlap_among(
    those: Int[np.ndarray, " k"], points: Float[np.ndarray, "n p"], labels: Int[np.ndarray, " n"]
) -> float:
    """Eq. 21 among those of `points` alone whose `labels` are `those` classes: more classes overlap
    more."""
    own = np.isin(labels, those)
    return 1 - float(np.diag(class_overlap(points[own], labels[own])[1]).mean())


def apart_and_alike(shares: Float[np.ndarray, "c c"], number: int) -> tuple[list[int], list[int]]:
    """Of `class_overlap`'s `shares`: the `number` classes with the least overlap, and those that
    overlap each other most: the pair that shares most neighbours, and then one after the other that
    shares most with these."""
    number = min(number, len(shares))
    apart = list(map(int, np.argsort(-np.diag(shares), kind="stable")[:number]))
    between = shares + shares.T
    np.fill_diagonal(between, -1)
    alike = list(map(int, np.unravel_index(between.argmax(), between.shape)))
    while len(alike) < number:
        with_these = between[alike].sum(0)
        with_these[alike] = -np.inf
        alike.append(int(with_these.argmax()))
    return apart, alike


def _flat(points: Float[np.ndarray, "n d"], owner: str) -> Float[np.ndarray, "n 2"]:
    """`points` by UMAP, cosine distances, always in the same way."""
    (umap,) = imported(owner, "figures", "umap")
    neighbours = min(NEIGHBOURS, len(points) - 1)
    model = umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=0, n_jobs=1)
    return model.fit_transform(points)


def noise_to_texts(runs: Runs) -> Made:
    """Fig. 4, of the first of `runs`: the source features of a few classes, and the flow to their
    texts at three times; above classes that do not overlap, below such as do. It agrees if most
    draws of the former end nearest to their own text, and more than of the latter."""
    run = runs[0]
    data, morph = _data(run), load(run.path / "morph")
    points, labels = data.train.source, data.train.source_labels
    assert labels is not None
    assert data.class_names is not None
    classes, shares = class_overlap(points, labels)
    rows: list[list[Any]] = [["classes", "panel", "class", "x", "y"]]
    right: dict[str, float] = {}
    titles = ("image features", *(f"t = {time:g}" for time in TIMES), "texts")
    with rc_context(STYLE):
        picture = Picture(figsize=(13, 5.6), layout="constrained")
        axes = picture.subplots(2, len(titles))
        for line, (name, chosen) in zip(
            axes, zip(("apart", "alike"), apart_and_alike(shares, SHOWN), strict=True), strict=True
        ):
            own = np.flatnonzero(np.isin(labels, classes[chosen]))
            place = np.searchsorted(classes[np.sort(chosen)], labels[own])
            path = np.asarray(morph.path(points[own], TIMES, key=jax.random.key(0)))
            texts = data.train.target[own]
            _, first = np.unique(place, return_index=True)
            right[name] = _nearest_is_right(path[-1], texts[first], place)
            flat = _flat(np.concatenate([*path, texts[first]]), "Fig. 4")
            targets = flat[len(path) * len(own) :]
            shown = [_flat(points[own], "Fig. 4"), *flat[: len(path) * len(own)].reshape(3, -1, 2)]
            for axis, title, cloud in zip(line, titles, [*shown, targets], strict=True):
                which = place if len(cloud) == len(place) else np.arange(len(cloud))
                for k in range(len(chosen)):
                    axis.scatter(*cloud[which == k].T, **_look(k, 9 if which is place else 60))
                axis.set(title=title, xticks=[], yticks=[])
                rows += [
                    [name, title, data.class_names[classes[np.sort(chosen)][c]], *map(float, p)]
                    for c, p in zip(which, cloud, strict=True)
                ]
            for axis in line[1:]:  # one map of the target space
                axis.set(xlim=_limits(flat[:, 0]), ylim=_limits(flat[:, 1]))
            names = [data.class_names[c] for c in classes[np.sort(chosen)]]
            line[0].set_ylabel(f"classes that are {name}")
            handles = [
                line[0].scatter([], [], label=text[:22], **_look(k, 25))
                for k, text in enumerate(names)
            ]
            line[-1].legend(handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5))
    found = (
        f"{right['apart']:.0%} of the draws are nearest to the text of their class, among those "
        f"shown, where classes lie apart, {right['alike']:.0%} where they overlap"
    )
    return Made(picture, rows, right["apart"] > max(right["alike"], 0.5), found)


def _look(k: int, size: float) -> dict[str, Any]:
    """How points of the class number `k` of a picture are drawn."""
    return {"color": PALETTE[k], "marker": MARKERS[k], "s": size, "linewidths": 0}


def _limits(values: Float[np.ndarray, " n"]) -> tuple[float, float]:
    margin = 0.06 * float(np.ptp(values))
    return float(values.min()) - margin, float(values.max()) + margin


def _nearest_is_right(
    drawn: Float[np.ndarray, "n q"], texts: Float[np.ndarray, "c q"], place: Int[np.ndarray, " n"]
) -> float:
    """How often the text with the largest cosine is that of the class."""
    unit = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    return float(np.mean((drawn @ unit.T).argmax(1) == place))


def classes_that_overlap(runs: Runs) -> Made:
    """Fig. 5D, of that of `runs` with most classes: the source features of those that overlap
    most."""
    run = max(runs, key=lambda run: float(run.labels["SomeClasses.number"]))
    data = _data(run)
    points, labels = data.train.source, data.train.source_labels
    assert labels is not None
    assert data.class_names is not None
    classes, shares = class_overlap(points, labels)
    _, chosen = apart_and_alike(shares, len(PALETTE))
    own = np.flatnonzero(np.isin(labels, classes[chosen]))
    flat = _flat(points[own], "Fig. 5D")
    rows: list[list[Any]] = [["class", "x", "y"]]
    with rc_context(STYLE):
        picture = Picture(figsize=(6.6, 4.2), layout="constrained")
        axis = picture.subplots()
        for k, c in enumerate(chosen):
            cloud, name = flat[labels[own] == classes[c]], data.class_names[classes[c]]
            axis.scatter(*cloud.T, label=name[:28], **_look(k, 14))
            rows += [[name, *map(float, point)] for point in cloud]
        axis.set(xticks=[], yticks=[], title="image features (UMAP)")
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    draw, number = np.random.default_rng(0), len(chosen)
    drawn = [draw.choice(classes, number, replace=False) for _ in range(DRAWS)]
    alike, *others = (overlap_among(those, points, labels) for those in (classes[chosen], *drawn))
    found = (
        f"the overlap among these {number} classes is {alike:.2f}, among {number} at random "
        f"{np.mean(others):.2f} (the mean of {DRAWS} draws)"
    )
    return Made(picture, rows, alike > max(others), found)


def roll_to_spiral(runs: Runs) -> Made:
    """Fig. 15, of the first of `runs`: from noise to the spiral, coloured by the angle."""
    run = runs[0]
    data, morph = _data(run), load(run.path / "morph")
    test = data.test
    path = np.asarray(morph.path(test.source, SPIRAL_TIMES, key=jax.random.key(0)))
    angle = np.linalg.norm(test.target, axis=1)
    panels: Sequence[tuple[str, np.ndarray]] = [
        ("Swiss roll, from above", test.source[:, [0, 2]]),
        *((f"t = {time:g}", cloud) for time, cloud in zip(SPIRAL_TIMES, path, strict=True)),
        ("spiral", test.target),
    ]
    with rc_context(STYLE):
        picture = Picture(figsize=(15, 2.6), layout="constrained")
        for axis, (title, cloud) in zip(picture.subplots(1, len(panels)), panels, strict=True):
            axis.scatter(*cloud.T, c=angle, s=3, cmap="viridis", linewidths=0)
            axis.set(title=title, xticks=[], yticks=[], xlim=(-17, 17), ylim=(-17, 17))
            axis.set_aspect("equal")
    rows: list[list[Any]] = [["panel", "angle", "x", "y"]]
    rows += [
        [title, float(a), *map(float, point)]
        for title, cloud in panels for a, point in zip(angle, cloud, strict=True)
    ]  # fmt: skip
    near = NearestNeighbors(n_neighbors=1).fit(test.target).kneighbors(path[-1])[0]
    start = NearestNeighbors(n_neighbors=1).fit(test.target).kneighbors(path[0])[0]
    found = (
        f"draws end {np.median(near):.2f} from the spiral (median), {np.median(start):.1f} where "
        "they start"
    )
    return Made(picture, rows, bool(np.median(near) < 0.25 * np.median(start)), found)
