"""The mean of several predictions."""

from dataclasses import replace
from typing import Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from morphkit.interfaces import LatentMap, WeightedBaseline
from morphkit.types import PairedData

from .cca import RidgeCCA
from .linear import PLS, Ridge


class AverageMap(LatentMap):
    """The mean of the expected values of `maps`."""

    maps: tuple[LatentMap, ...]

    def __call__(
        self, x: Float[Array, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        predicted = [found.expected(x, key=key) for found in self.maps]
        return jnp.mean(jnp.stack(predicted), axis=0)


class Average(WeightedBaseline):
    """ŷ(x) = Σ_k f_k(x) / K: the mean of what K `baselines` predict, each tuned for itself.

    Its squared error is the mean of theirs less the mean of (f_k - ŷ)², never above their mean
    (Krogh and Vedelsby 1995): regressions that are about as good, and wrong in different ways, are
    better together. Raises ValueError without baselines, and for one that takes no weights or
    predicts classes, which have no mean.
    """

    baselines: tuple[WeightedBaseline, ...] = eqx.field(
        converter=tuple, default=(Ridge(), RidgeCCA(), PLS())
    )

    def __check_init__(self) -> None:
        able = [isinstance(b, WeightedBaseline) and not b.classifies for b in self.baselines]
        if not able or not all(able):
            raise ValueError(
                f"Average.baselines = {self.baselines!r} must be one regression or more whose "
                "pairs may be weighted, such as [baseline.Ridge(), baseline.PLS()]"
            )

    def tuned(self, data: PairedData) -> Self:
        return replace(self, baselines=tuple(b.tuned(data) for b in self.baselines))

    def fit_weighted(self, data: PairedData, weights: Float[np.ndarray, " l"]) -> LatentMap:
        return AverageMap(tuple(b.fit_weighted(data, weights) for b in self.baselines))
