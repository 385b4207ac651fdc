"""Nearest-neighbour lookup among the paired points: the argmin of Eq. 6 taken literally."""

from typing import Annotated, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field
from sklearn.neighbors import NearestNeighbors

from morphkit.interfaces import Baseline, LatentMap
from morphkit.types import PairedData

from .pairs import TUNING_PAIRS, candidates, paired_points
from .preprocessing import Kind, Preprocessing, by_rows

KINDS: dict[str, Kind] = {"cosine": "cosine", "centred cosine": "unit", "euclidean": "centred"}


class AnchorMap(LatentMap):
    """The one of `targets` (l, q) of the nearest of `anchors` (l, p), in Euclidean distance after
    `preprocessing`; of equally near ones the first."""

    preprocessing: Preprocessing
    anchors: Float[Array, "l p"]
    targets: Float[Array, "l q"]

    def __call__(
        self, x: Float[Array, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        centre = self.anchors.mean(0)  # distances are the same, cancellation in float32 is less
        anchors = self.anchors - centre
        bias = 0.5 * jnp.sum(anchors**2, axis=1)
        points = jnp.asarray(self.preprocessing(x) - centre)
        nearest = by_rows(lambda row: jnp.argmax(anchors @ row - bias), points, len(bias))
        return self.targets[nearest]


class NearestAnchor(Baseline):
    """ŷ(x) = y_q with q = argmin_p c_X(x, x_p) over the pairs.

    c_X among `metric`, "cosine", "centred cosine" (of points less the mean of all) and
    "euclidean", has the least leave-one-out error on the pairs; one value fixes it. Raises
    ValueError on another metric, and in `fit` without pairs.
    """

    metric: Annotated[
        tuple[Literal["cosine", "centred cosine", "euclidean"], ...], Field(min_length=1)
    ] = eqx.field(static=True, default=tuple(KINDS), converter=candidates)

    def fit(self, data: PairedData) -> LatentMap:
        x, y = paired_points(data)
        found = [Preprocessing.of(KINDS[metric], data.x) for metric in self.metric]
        preprocessing = found[0]
        if len(x) > 1 and len(found) > 1:
            rows = np.random.default_rng(0).permutation(len(x))[:TUNING_PAIRS]
            errors = [_leave_one_out(np.asarray(z(x[rows])), y[rows]) for z in found]
            preprocessing = found[int(np.argmin(errors))]
        anchors, targets = (jnp.asarray(a, jnp.float32) for a in (preprocessing(x), y))
        return AnchorMap(preprocessing.single(), anchors, targets)


def _leave_one_out(z: Float[np.ndarray, "l p"], y: Float[np.ndarray, "l q"]) -> float:
    """The mean squared error of the target of the nearest other point."""
    nearest = NearestNeighbors(n_neighbors=1).fit(z).kneighbors(return_distance=False)[:, 0]
    return float(((y[nearest] - y) ** 2).mean())
