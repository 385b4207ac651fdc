"""What the picture of a run needs of its models, as arrays; `report.figures` draws them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from sklearn.decomposition import PCA

from ..interfaces import Codec, LatentMap, Scene
from ..types import Cloud, PairedData

MAX_POINTS = 2_000
MAX_CLASSES = 200
MAX_BINS = 40
_SHOWN_CLASSES = 10
_SHOWN_PER_CLASS = 6
_SHOWN_IMAGES = 24
_MAX_SIDE = 48
_REACH = 10
"""How far outliers may be, in distances that hold nine tenths of the points."""
_FAR = 1e38


def collect(
    scene: Scene,
    morph: LatentMap,
    drawn: tuple[Int[Array, " k"], Int[Array, " k"]] | None,
    class_names: Sequence[str] | None,
    *,
    key: PRNGKeyArray,
) -> dict[str, np.ndarray]:
    """The arrays the pictures of a run need, from `scene` and one draw of `morph` by `key`; a few
    hundred kilobytes, no object arrays.

    `source`, `target`, `predicted` (k, 2): principal components of at most 2,000 test features, the
    source in its own plane, the other two in the plane of the true target features.
    `source_labels`, `target_labels` (k,); predictions are in the order of the source points.
    `coupling` (c, c): the share of the `drawn` pairs that join two classes (at most the first 200
    classes); without labels `coupling_bins`, between equal parts of both sides, in the order of the
    first principal component. `class_true` (c, h, w, ch) and `class_decoded` (c, r, h, w, ch), or
    `test_images` (r, h, w, ch) with `test_predicted` and `test_true` (r,), are uint8 images and
    classes, `class_names` one name a label. What the scene has no labels, images or decoder for is
    left out.
    """
    choose, predict = jax.random.split(key)
    mass = {} if drawn is None else _mass(drawn, scene.train)
    if 0 in (scene.x.size, scene.y.size):
        return mass
    rng = np.random.default_rng(int(jax.random.bits(choose)))
    rows = _subset(rng, scene.x.size)
    columns = _subset(rng, scene.y.size)
    predictions = morph(scene.x.points[rows], key=predict)

    source, target = np.asarray(scene.x.points), np.asarray(scene.y.points)
    in_source, in_target = _plane(source), _plane(target)
    arrays = {
        "source": in_source(source[rows]),
        "target": in_target(target[columns]),
        "predicted": in_target(np.asarray(predictions)),
    }
    if scene.x.labels is not None:
        arrays["source_labels"] = np.asarray(scene.x.labels)[rows]
    if scene.y.labels is not None:
        arrays["target_labels"] = np.asarray(scene.y.labels)[columns]
    if class_names is not None:
        arrays["class_names"] = np.asarray([str(name)[:24] for name in class_names])
    return arrays | mass | _decoded(scene, predictions, rows)


def _subset(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.sort(rng.choice(size, min(size, MAX_POINTS), replace=False))


def _plane(points: Float[np.ndarray, "n d"]) -> Callable[[np.ndarray], np.ndarray]:
    """The map to the plane of the first two principal components, of `points` without outliers:
    one far away would be the first component alone. In float64, which holds the squares of
    whatever float32 has."""
    points = points.astype(np.float64)
    if min(points.shape) < 2:
        return lambda x: np.pad(x[:, :1], ((0, 0), (0, 1))).astype(np.float32)
    distance = np.linalg.norm(points - np.median(points, axis=0), axis=1)
    reach = _REACH * np.quantile(distance, 0.9, method="lower")
    pca: Any = PCA(2, random_state=0).fit(points[distance <= (reach or np.inf)])

    def project(x: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", over="ignore"):  # not finite: left out of the picture
            plane = (x.astype(np.float64) - pca.mean_) @ pca.components_.T
        return np.clip(plane, -_FAR, _FAR).astype(np.float32)

    return project


def _mass(drawn: tuple[Any, Any], train: PairedData) -> dict[str, np.ndarray]:
    """How much of the drawn pairs joins which parts of the two clouds."""
    i, j = map(np.asarray, drawn)
    if train.x.labels is None or train.y.labels is None:
        a, b = _bins(train.x)[i], _bins(train.y)[j]
        return {"coupling_bins": _table(a, b, max(a.max(), b.max()) + 1)}
    a, b = np.asarray(train.x.labels)[i], np.asarray(train.y.labels)[j]
    classes = min(MAX_CLASSES, 1 + max(int(train.x.labels.max()), int(train.y.labels.max())))
    if classes < 1:  # all unknown
        return {}
    return {"coupling": _table(a, b, classes)}


def _bins(cloud: Cloud) -> np.ndarray:
    """Each point's part of MAX_BINS, by rank along the first principal component."""
    points = np.asarray(cloud.points)
    rank = np.argsort(np.argsort(_plane(points)(points)[:, 0], kind="stable"))
    return rank * min(MAX_BINS, len(points)) // len(points)


def _table(a: np.ndarray, b: np.ndarray, size: int) -> np.ndarray:
    shown = (np.minimum(a, b) >= 0) & (np.maximum(a, b) < size)
    mass = np.zeros((size, size), np.float32)
    np.add.at(mass, (a[shown], b[shown]), 1 / len(a))
    return mass


def _decoded(scene: Scene, predictions: Any, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Image panels; `predictions` are those of the source points `rows`."""
    if scene.x.labels is None or not isinstance(scene.target, Codec):
        return {}
    labels = np.asarray(scene.x.labels)[rows]
    raw = scene.test.target
    if raw.ndim == 4 and scene.y.labels is not None:
        return _per_class(scene.target, raw, np.asarray(scene.y.labels), predictions, labels)
    if scene.test.source.ndim != 4 or scene.y.labels is None or not _one_hot(raw):
        return {}
    class_of_column = np.full(raw.shape[1], -1)
    class_of_column[raw.argmax(1)] = np.asarray(scene.y.labels)
    decoded = np.asarray(scene.target.decode(predictions[:_SHOWN_IMAGES]))
    return {
        "test_images": _small(scene.test.source[rows[:_SHOWN_IMAGES]]),
        "test_predicted": class_of_column[decoded.argmax(1)],
        "test_true": labels[:_SHOWN_IMAGES],
    }


def _per_class(
    codec: Codec, images: np.ndarray, image_labels: np.ndarray, predictions: Any, labels: Any
) -> dict[str, np.ndarray]:
    classes, counts = np.unique(labels, return_counts=True)
    per_class = min(_SHOWN_PER_CLASS, int(counts.max()))
    shown = classes[(counts >= per_class) & np.isin(classes, image_labels)][:_SHOWN_CLASSES]
    if not len(shown):
        return {}
    true = np.array([np.flatnonzero(image_labels == c)[0] for c in shown])
    picked = np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in shown])
    decoded = _small(np.asarray(codec.decode(predictions[picked])))
    return {
        "class_ids": shown,
        "class_true": _small(images[true]),
        "class_decoded": decoded.reshape(len(shown), per_class, *decoded.shape[1:]),
    }


def _one_hot(rows: np.ndarray) -> bool:
    return rows.ndim == 2 and bool(((rows == 0) | (rows == 1)).all() and (rows.sum(1) == 1).all())


def _small(images: np.ndarray) -> np.ndarray:
    """At most 48 pixels a side, as uint8; floats are taken to be in [0, 1]."""
    stride = max(1, -(-max(images.shape[1:3]) // _MAX_SIDE))
    images = np.asarray(images)[:, ::stride, ::stride]
    if images.dtype != np.uint8:
        images = images * 255
    return np.clip(np.nan_to_num(images), 0, 255).astype(np.uint8)
