"""The data that flows through a run: clouds of points, known pairs, and both together."""

from typing import NamedTuple, Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from .precision import fits_int32, points_as_float32


class Cloud(eqx.Module):
    """A weighted point cloud: the discrete measure sum_i weights[i] * delta(points[i]).

    `points` is (n, d); `weights` is (n,), non-negative, summing to 1; `labels` is (n,) or
    None. Labels are read by evaluators, and those of paired targets by baselines; never by a cost,
    a solver or the training.
    """

    points: Float[Array, "n d"]
    weights: Float[Array, " n"]
    labels: Int[Array, " n"] | None

    @classmethod
    def uniform(
        cls,
        points: Float[Array | np.ndarray, "n d"],
        labels: Int[Array | np.ndarray, " n"] | None = None,
    ) -> Self:
        """The cloud of `points` with equal weights, and with `labels` if known. Raises ValueError
        for NumPy points that float32 cannot tell apart, see `morphkit.precision`, and for NumPy
        labels that need more than 32 bits."""
        if isinstance(points, np.ndarray):
            points = points_as_float32("points", points)
        if isinstance(labels, np.ndarray) and not fits_int32(labels):
            raise ValueError(
                "labels need more than 32 bits: number the classes from 0, as "
                "np.unique(labels, return_inverse=True)[1] does"
            )
        n = len(points)
        labels = None if labels is None else jnp.asarray(labels, jnp.int32)
        return cls(
            jnp.asarray(points, jnp.float32), jnp.full(n, 1 / max(n, 1), jnp.float32), labels
        )

    @property
    def size(self) -> int:
        return self.points.shape[0]

    @property
    def dim(self) -> int:
        return self.points.shape[1]

    def take(self, index: Int[Array, " k"]) -> "Cloud":
        """The sub-cloud of the points `index` (k,), its weights renormalised to sum to 1."""
        weights = self.weights[index]
        labels = None if self.labels is None else self.labels[index]
        return Cloud(self.points[index], weights / weights.sum(), labels)


class Pairs(eqx.Module):
    """The known correspondences: source point `source[k]` goes with target point `target[k]`.

    `source` and `target` are (l,), indices from 0; a point may be in several pairs.
    """

    source: Int[Array, " l"]
    target: Int[Array, " l"]

    @classmethod
    def from_array(cls, pairs: Int[np.ndarray, "l 2"]) -> Self:
        """The rows (source, target) of `pairs`."""
        return cls(jnp.asarray(pairs[:, 0], jnp.int32), jnp.asarray(pairs[:, 1], jnp.int32))

    @property
    def size(self) -> int:
        return self.source.shape[0]


class PairedData(eqx.Module):
    """What an alignment learns from: two clouds, `x` (n points) and `y` (m points), and l `pairs`
    between them."""

    x: Cloud
    y: Cloud
    pairs: Pairs

    @property
    def x_paired(self) -> Float[Array, "l p"]:
        return self.x.points[self.pairs.source]

    @property
    def y_paired(self) -> Float[Array, "l q"]:
        return self.y.points[self.pairs.target]


class Split(NamedTuple):
    """Raw inputs of both models, before feature extraction (NumPy, leading axis = points).

    `source` is (n, ...) and `target` is (m, ...). `pairs` (k, 2) lists every correspondence
    that is known; a run uses a fraction of them. `source_labels` (n,) and `target_labels`
    (m,) are class indices for evaluation, or None; `reliability`, if known, is the share of
    signal in the variance of each target coordinate, in [0, 1]. `source_rows` (n,) and
    `target_rows` (m,) say where the points are in the arrays that they were taken from; None where
    these are all of them, in order.
    """

    source: np.ndarray
    target: np.ndarray
    pairs: Int[np.ndarray, "k 2"]
    source_labels: Int[np.ndarray, " n"] | None = None
    target_labels: Int[np.ndarray, " m"] | None = None
    reliability: Float[np.ndarray, " q"] | None = None
    source_rows: Int[np.ndarray, " n"] | None = None
    target_rows: Int[np.ndarray, " m"] | None = None


class Dataset(NamedTuple):
    """The three splits of an experiment, `name` as it is shown.

    `pretrain` trains the feature extractors (None if there is nothing to train them on),
    `train` trains the morph, `test` evaluates it. `class_names` has one name per label.
    """

    name: str
    pretrain: Split | None
    train: Split
    test: Split
    class_names: tuple[str, ...] | None = None


class Batch(NamedTuple):
    """One training batch of b points for Eq. 4.

    `x`, `y` are draws (x_k, y_k) of the coupling. `x_marginal`, `y_marginal` are draws of the
    clouds' own weights mu and nu, and `eta`, `xi` (b,) the densities of the coupling's
    marginals there, pi_X / mu and pi_Y / nu: all ones for a balanced coupling. `i` says which of
    the source points each `x` is; a sampler that gives none cannot be anchored or validated.
    """

    x: Float[Array, "b p"]
    y: Float[Array, "b q"]
    x_marginal: Float[Array, "b p"]
    y_marginal: Float[Array, "b q"]
    eta: Float[Array, " b"]
    xi: Float[Array, " b"]
    i: Int[Array, " b"] | None = None


def distinct(values: Shaped[np.ndarray, " k"]) -> tuple[np.ndarray, Int[np.ndarray, " k"]]:
    """Every one of `values` once, in the order in which they first appear, and which of them each
    is."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return values[first[order]], np.argsort(order)[inverse]
