"""The distance between what a baseline predicts and what is there."""

from dataclasses import replace
from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from sklearn.metrics import pairwise_distances_argmin

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

    A barycentre is no class: a classifier is taught argmax_j π_ij, the most probable target,
    instead. Where classes are labels, a target that no pair has told the label of is of the class
    whose paired targets have the nearest mean; without labels each target is a class, and one that
    no pair has is learned as well.
    """

    baseline: Baseline
    metric: Metric = eqx.field(static=True, default="cosine")

    def prepare(self, data: PairedData) -> PointGeometry:
        """See `FusedCost.prepare`. Raises ValueError as the baseline does."""
        return self.fit(data).geometry

    def fit(self, data: PairedData) -> "FittedTeacher":
        """See `FusedCost.fit`. Raises ValueError as the baseline does."""
        baseline = self.baseline.tuned(data)
        return FittedTeacher.of(self.metric, baseline, data, baseline.fit(data))


class FittedTeacher(FittedCost):
    """`TeacherCost` by `metric`, its `baseline` fitted to `data` as `teacher`; `predicted` (n, q)
    is what this says of the source cloud."""

    metric: str = eqx.field(static=True)
    baseline: Baseline
    data: PairedData
    teacher: LatentMap
    predicted: Float[Array, "n q"]

    @classmethod
    def of(cls, metric: str, baseline: Baseline, data: PairedData, teacher: LatentMap) -> Self:
        """The cost by `metric` to what `teacher` predicts, once, of the source cloud of `data`;
        `baseline` can be taught more."""
        return cls(metric, baseline, data, teacher, teacher(data.x.points))

    @property
    def geometry(self) -> PointGeometry:
        return self._to(self.predicted)

    def at(self, x: Float[Array | np.ndarray, "k p"]) -> PointGeometry:
        return self._to(self.predict(np.asarray(x)))

    def predict(self, x: Float[np.ndarray, "k p"]) -> Float[Array, "k q"]:
        return self.teacher(jnp.asarray(x, jnp.float32))

    def _to(self, predicted: Float[Array, "k q"]) -> PointGeometry:
        y = self.data.y
        mean = y.weights @ y.points
        return PointGeometry(predicted - mean, y.points - mean, self.metric)

    def settled(self) -> Self:
        x, pairs, predicted = jax.tree.map(
            lambda a: a[:0], (self.data.x, self.data.pairs, self.predicted)
        )
        data = PairedData(x, replace(self.data.y, labels=None), pairs)
        return super(FittedTeacher, replace(self, data=data, predicted=predicted)).settled()

    def learn(
        self, coupling: Coupling, i: Int[Array, " r"], j: Int[Array, " c"], weight: float
    ) -> Self:
        """See `FittedCost.learn`; `weight` is what a barycentre, or a most probable target, counts,
        a pair being 1. Raises ValueError for a baseline that takes no weights."""
        baseline, data = self.baseline, self.data
        if not isinstance(baseline, WeightedBaseline):
            raise ValueError(
                f"{type(baseline).__name__} cannot weigh its pairs, and so not learn from a "
                "coupling; take a WeightedBaseline, such as baseline.Ridge, or aligner."
                "GlobalAlignment"
            )
        mass = coupling.marginal(0)
        if baseline.classifies:
            y, target = told(data), j[coupling.most_probable()]
        else:
            means = coupling.barycentres(data.y.points[j]) / jnp.where(mass > 0, mass, 1)[:, None]
            y = Cloud.uniform(jnp.concatenate([data.y.points, means]))
            target = data.y.size + jnp.arange(len(i))
        pairs = Pairs(
            jnp.concatenate([data.pairs.source, i]), jnp.concatenate([data.pairs.target, target])
        )
        weights = np.concatenate([
            np.ones(data.pairs.size), np.where(np.asarray(mass) > 0, weight, 0.0)
        ])  # fmt: skip
        # The penalties were chosen for as many pairs as there are.
        weights *= data.pairs.size / weights.sum()
        taught = baseline.fit_weighted(PairedData(data.x, y, pairs), weights)
        return self.of(self.metric, baseline, data, taught)


def told(data: PairedData) -> Cloud:
    """The target cloud of `data` with no label but those of its paired targets: another target has
    that of the nearest mean of a label's paired targets. None has one where there are none."""
    y = data.y
    if y.labels is None:
        return y
    points, paired = np.asarray(y.points, np.float64), np.unique(data.pairs.target)
    names, index = np.unique(np.asarray(y.labels)[paired], return_inverse=True)
    means = np.stack([points[paired[index == k]].mean(0) for k in range(len(names))])
    labels = names[pairwise_distances_argmin(points, means)]
    labels[paired] = names[index]
    return replace(y, labels=jnp.asarray(labels))
