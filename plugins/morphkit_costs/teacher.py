"""The distance between what a baseline predicts and what is there."""

from typing import Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from morphkit.checks import Metric
from morphkit.interfaces import Baseline, FittedCost, FusedCost, LatentMap, WeightedBaseline
from morphkit.transport.couplings import Coupling
from morphkit.transport.geometry import PointGeometry
from morphkit.types import Cloud, PairedData, Pairs


class TeacherCost(FusedCost):
    """`metric` between f(x_i) and y_j, f being `baseline` fitted to the pairs.

    Both are taken from the mean of the targets. With `RefinedAlignment` a baseline whose pairs may
    be weighted (`WeightedBaseline`, such as `baseline.Ridge`) learns from the coupling as well: its
    arguments are chosen on the known pairs, once; then it is fitted to these and to the barycentre
    ȳ_i = Σ_j π_ij y_j / Σ_j π_ij of every unpaired x_i, which counts `weight` times a pair. So a
    response that f never predicts is still somebody's. .3 is a good weight for noisy responses.
    """

    baseline: Baseline
    metric: Metric = eqx.field(static=True, default="cosine")

    def prepare(self, data: PairedData) -> PointGeometry:
        """See `FusedCost.prepare`. Raises ValueError as the baseline does."""
        return self.fit(data).geometry

    def fit(self, data: PairedData) -> "FittedTeacher":
        """See `FusedCost.fit`. Raises ValueError as the baseline does."""
        baseline = self.baseline.tuned(data)
        return FittedTeacher(self.metric, baseline, data, baseline.fit(data))


class FittedTeacher(FittedCost):
    """`TeacherCost` by `metric`, its `baseline` fitted to `data` as `teacher`."""

    metric: str = eqx.field(static=True)
    baseline: Baseline
    data: PairedData
    teacher: LatentMap

    @property
    def geometry(self) -> PointGeometry:
        return self.at(self.data.x.points)

    def at(self, x: Float[Array | np.ndarray, "k p"]) -> PointGeometry:
        y = self.data.y
        mean = y.weights @ y.points
        return PointGeometry(self.teacher(jnp.asarray(x)) - mean, y.points - mean, self.metric)

    def learn(
        self, coupling: Coupling, i: Int[Array, " r"], j: Int[Array, " c"], weight: float
    ) -> Self:
        """See `FittedCost.learn`; `weight` is what a barycentre counts, a pair being 1. Raises
        ValueError for a baseline that takes no weights."""
        baseline, data = self.baseline, self.data
        if not isinstance(baseline, WeightedBaseline):
            raise ValueError(
                f"{type(baseline).__name__} cannot weigh its pairs, and so not learn from a "
                "coupling; take a WeightedBaseline, such as baseline.Ridge, or aligner."
                "GlobalAlignment"
            )
        mass = coupling.marginal(0)
        means = coupling.barycentres(data.y.points[j]) / jnp.where(mass > 0, mass, 1)[:, None]
        points = jnp.concatenate([data.y.points, means])
        added = data.y.size + jnp.arange(len(i))
        pairs = Pairs(
            jnp.concatenate([data.pairs.source, i]), jnp.concatenate([data.pairs.target, added])
        )
        weights = np.concatenate([np.ones(data.pairs.size), np.full(len(i), weight)])
        weights[data.pairs.size :][np.asarray(mass) <= 0] = 0
        # The penalties were chosen for as many pairs as there are.
        weights *= data.pairs.size / weights.sum()
        taught = baseline.fit_weighted(
            PairedData(data.x, Cloud.uniform(points), pairs), np.asarray(weights)
        )
        return type(self)(self.metric, baseline, data, taught)
