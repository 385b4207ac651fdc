"""Nearest-neighbour lookup among the paired points: the argmin of Eq. 6 taken literally."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from morphkit.interfaces import Baseline, LatentMap
from morphkit.transport.geometry import factors
from morphkit.types import PairedData

from .pairs import paired_points

_METRICS = ("cosine", "euclidean")


class AnchorMap(LatentMap):
    """The target (l, q) of the nearest anchor (l, p); of equally near ones the first."""

    anchors: Float[Array, "l p"]
    targets: Float[Array, "l q"]
    metric: str = eqx.field(static=True)

    def __call__(
        self, x: Float[Array, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        metric = "cosine" if self.metric == "cosine" else "sqeuclidean"
        anchors, points = factors(metric, self.anchors, jnp.asarray(x))
        # A row at a time in blocks: the n × l distances never exist at once.
        nearest = jax.lax.map(lambda row: jnp.argmin(anchors @ row), points, batch_size=4096)
        return self.targets[nearest]


class NearestAnchor(Baseline):
    """ŷ(x) = y_q with q = argmin_p c_X(x, x_p) over the pairs, by `metric` "cosine" or
    "euclidean". Raises ValueError on another metric, and in `fit` without pairs."""

    metric: str = eqx.field(static=True, default="cosine")

    def __check_init__(self):
        if self.metric not in _METRICS:
            raise ValueError(f"metric: {self.metric!r} is unknown; choose {' or '.join(_METRICS)}")

    def fit(self, data: PairedData) -> LatentMap:
        x, y = paired_points(data)
        return AnchorMap(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), self.metric)
