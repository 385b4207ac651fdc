"""From raw data to what a run learns from and is judged on."""

import numpy as np
from jaxtyping import Int

from ..features.cache import fingerprint
from ..features.extract import Features, features_of
from ..interfaces import Scene
from ..loggers import Log
from ..types import Dataset, PairedData, Pairs
from ..wiring.records import as_asked, record
from .experiment import Experiment
from .sharing import Shared


def prepare(experiment: Experiment, log: Log, shared: Shared | None = None) -> Scene:
    """The features of both sides, or as `shared` has them, with the pairs that the run of
    `experiment` may know; `log` tells how far it is.

    Raises ValueError for data without pairs, where the aligner needs one, and whatever loading and
    extraction raise.
    """
    source, target = experiment.source, experiment.target

    def extract() -> tuple[Dataset, Features]:
        raw = experiment.data.load()
        return raw, features_of(raw, source, target, log)

    identity = fingerprint(record(experiment.data), as_asked(source), as_asked(target))
    raw, features = (shared or Shared()).once("features", identity, extract)
    if len(raw.train.pairs) == 0 and experiment.aligner.needs_pairs(experiment.cost):
        raise ValueError(
            f"the data has no known pairs, and {type(experiment.aligner).__name__} needs one at "
            "least; give some, or take gin/unpaired.gin"
        )
    pairs = choose_pairs(raw.train.pairs, experiment.paired_fraction, experiment.seed)
    data = PairedData(features.x, features.y, Pairs.from_array(pairs))
    log.info(
        f"{raw.name}: {data.x.size} source points ({data.x.dim}-d), {data.y.size} target "
        f"points ({data.y.dim}-d), {data.pairs.size} pairs, {features.x_test.size} to test"
    )
    return Scene(
        features.source, features.target, data, features.x_test, features.y_test, raw.test,
        raw.train, raw.class_names,
    )  # fmt: skip


def choose_pairs(
    pairs: Int[np.ndarray, "k 2"], fraction: float, seed: int
) -> Int[np.ndarray, "l 2"]:
    """A random `fraction` in (0, 1] of the known `pairs`, by `seed`, at least one; nested for
    growing fractions; none of none."""
    order = np.random.default_rng(seed).permutation(len(pairs))
    return pairs[np.sort(order[: max(1, round(fraction * len(pairs)))])]
