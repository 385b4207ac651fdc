"""Features of a data set, from extractors that are trained once and cached."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ..files import load_arrays, read_tensors, reading, save_arrays, write_tensors
from ..interfaces import FeatureExtractor
from ..loggers import Log
from ..precision import doubts
from ..types import Cloud, Dataset, Split
from ..wiring.records import arguments
from ..wiring.registry import registry
from .cache import cache_folder, fingerprint, from_cache, try_to_cache

EXTRACTOR_SEED = 0
"""Extractors are trained, and features drawn, with this seed: like any pretrained model they
stay the same when the seed of a run changes."""


class Features(eqx.Module):
    """Both extractors, `source` and `target`, trained, and the clouds they make: `x` and `y` of the
    train split, `x_test` and `y_test` of the test split."""

    source: FeatureExtractor
    target: FeatureExtractor
    x: Cloud
    y: Cloud
    x_test: Cloud
    y_test: Cloud

    def fingerprint(self) -> str:
        """A hash of all points: equal for runs on the same features, whatever their pairs."""
        clouds = (self.x, self.y, self.x_test, self.y_test)
        return fingerprint(*(np.asarray(cloud.points) for cloud in clouds))


def features_of(
    data: Dataset,
    source: type[FeatureExtractor],
    target: type[FeatureExtractor],
    log: Log,
) -> Features:
    """Trains or loads both extractors, of the classes `source` and `target`, and encodes the train
    and the test split of `data`; `log` tells how far it is."""

    def side(build: type[FeatureExtractor], name: str) -> tuple[FeatureExtractor, Cloud, Cloud]:
        def inputs(split: Split) -> np.ndarray:
            return getattr(split, name)

        pretrain = inputs(data.pretrain or data.train)
        extractor, identity = trained(build, pretrain, log, f"{name} extractor")

        def cloud(split: Split, salt: int) -> Cloud:
            points = encoded(extractor, identity, inputs(split), salt, log)
            for doubt in doubts(np.asarray(points)):
                log.warn(f"{name} features have {doubt}")
            return Cloud.uniform(points, getattr(split, f"{name}_labels"))

        return extractor, cloud(data.train, 0), cloud(data.test, 1)

    source_extractor, x, x_test = side(source, "source")
    target_extractor, y, y_test = side(target, "target")
    return Features(source_extractor, target_extractor, x, y, x_test, y_test)


def trained(
    build: type[FeatureExtractor], inputs: np.ndarray, log: Log, label: str
) -> tuple[FeatureExtractor, str]:
    """An extractor of the class `build` fitted to `inputs`, from the cache when one of this
    configuration fits; `log` shows the progress as `label`.

    Also returns its identity: a hash of class, arguments and training inputs. Arguments that
    only `encode` reads are no reason to train again.
    """
    key = jax.random.key(EXTRACTOR_SEED)

    def skeleton() -> FeatureExtractor:
        return build(input_shape=inputs.shape[1:], key=key)  # pyright: ignore[reportCallIssue]

    shapes = eqx.filter_eval_shape(skeleton)
    cls = type(shapes)
    known = registry.of(shapes)
    given = arguments(shapes)
    trained_by = {k: v for k, v in given.items() if k not in cls.encoding_arguments}
    weights = fingerprint(known.selector, known.version, trained_by, inputs)
    path = cache_folder() / "extractors" / f"{cls.__name__}-{weights}.safetensors"
    cached = from_cache(path, lambda path, remedy: load_arrays(path, shapes, remedy), log)
    if cached is not None:
        log.info(f"{label}: {cls.__name__} from the cache, {path}")
        return cached, fingerprint(weights, given, {})
    with log.progress(label) as tell:
        extractor = skeleton().fit(inputs, key=jax.random.fold_in(key, 1), tell=tell)
    weighs = jax.tree.leaves(eqx.filter(extractor, eqx.is_array))
    if weighs and try_to_cache(lambda: save_arrays(path, extractor), log):
        log.info(f"{label}: {cls.__name__} trained and cached in {path}")
    return extractor, fingerprint(weights, given, extractor.provenance())


def encoded(
    extractor: FeatureExtractor, identity: str, inputs: np.ndarray, salt: int, log: Log
) -> jax.Array:
    """Features of `inputs` by `extractor`, of that `identity` (`trained`), from the cache when they
    are there; `salt` tells the splits' random encodings apart, and `log` is warned of a bad
    entry."""
    key = jax.random.fold_in(jax.random.key(EXTRACTOR_SEED), 2 + salt)
    if not jax.tree.leaves(eqx.filter(extractor, eqx.is_array)) and not extractor.provenance():
        return finite_features(extractor, extractor.encode(inputs, key=key))
    name = fingerprint(identity, salt, inputs)
    path = cache_folder() / "features" / f"{type(extractor).__name__}-{name}.safetensors"

    def read(path: Path, remedy: str) -> jax.Array:
        with reading(path, remedy):
            features = read_tensors(path, remedy)["features"]
            if len(features) != len(inputs):
                raise ValueError(f"{len(features)} rows for {len(inputs)} inputs")
            return jnp.asarray(features)

    features = from_cache(path, read, log)
    if features is None:
        features = finite_features(extractor, extractor.encode(inputs, key=key))
        content = {"features": np.asarray(features)}
        try_to_cache(lambda: write_tensors(path, content), log)
    return features


def finite_features(extractor: FeatureExtractor, features: jax.Array) -> jax.Array:
    """`features`, if they are finite. Raises FloatingPointError, naming `extractor`, if not."""
    if not bool(jnp.isfinite(features).all()):
        raise FloatingPointError(f"{type(extractor).__name__} produced NaN or infinite features")
    return features
