"""What evaluators take from a scene, with an error that names what is not there."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PRNGKeyArray

from morphkit.interfaces import Codec, Evaluator, RawMap, Scene


def labels_of(labels: Any, name: str, metric: Evaluator) -> Int[np.ndarray, " n"]:
    """`labels`. Raises ValueError, in the name of `metric`, if they are None, called `name`."""
    if labels is None:
        raise ValueError(
            f"{type(metric).__name__}: {name} is missing; load data with class labels, or "
            "leave this metric out"
        )
    return np.asarray(labels)


Estimate = Literal["expected", "draw"]
"""What of a map is judged: E[y | x] (`LatentMap.expected`), or one draw."""


def predictions(
    scene: Scene, metric: Evaluator, *, key: PRNGKeyArray, estimate: Estimate = "draw"
) -> Float[np.ndarray, "n q"]:
    """The predictions of the map of `scene` for all test source points, from one call with `key`:
    the `estimate` that is judged.

    Raises, in the name of `metric`, ValueError without a map, and FloatingPointError for
    predictions that are not finite.
    """
    if scene.map is None:
        raise ValueError(f"{type(metric).__name__}: scene.map is missing; it judges a fitted map")
    if isinstance(scene.map, RawMap):
        raise ValueError(f"{type(metric).__name__} judges features, and this map gives raw inputs")
    predict = scene.map if estimate == "draw" else scene.map.expected
    predicted = np.asarray(predict(scene.x.points, key=key))
    if not np.isfinite(predicted).all():
        raise FloatingPointError(f"{type(metric).__name__}: the predictions are not finite")
    return predicted


def decoded(
    scene: Scene, metric: Evaluator, *, key: PRNGKeyArray, estimate: Estimate = "draw"
) -> Float[np.ndarray, "n ..."]:
    """What the map of `scene` predicts for all test source points as target inputs: its raw
    predictions, or the features that are its `estimate`, decoded. `key` as in `predictions`, whose
    errors it raises, in the name of `metric`, and those of `decoder_of`."""
    if isinstance(scene.map, RawMap):
        return np.asarray(scene.map(scene.test.source, key=key))
    decoder = decoder_of(scene, metric)
    predicted = predictions(scene, metric, key=key, estimate=estimate)
    return np.asarray(decoder.decode(jnp.asarray(predicted)))


def decoder_of(scene: Scene, metric: Evaluator) -> Codec:
    """The target model of `scene`. Raises ValueError, in the name of `metric`, if it has no
    decoder."""
    if not isinstance(scene.target, Codec):
        raise ValueError(
            f"{type(metric).__name__}: the target model has no decoder; use a Codec as target "
            "extractor, or a metric on features such as NearestTargetAccuracy or PairedError"
        )
    return scene.target
