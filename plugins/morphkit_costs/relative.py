"""The cost between relative representations: points by their similarities to the pairs."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import rel_entr
from jaxtyping import Array, Float

from morphkit.checks import Positive
from morphkit.interfaces import FittedCost, FusedCost
from morphkit.transport.geometry import (
    DenseGeometry,
    Geometry,
    PointGeometry,
    ask_bridges,
    embed,
)
from morphkit.transport.memory import ask_memory
from morphkit.types import Cloud, PairedData

BLOCK = 2**24
"""Numbers that the divergences of a block of rows hold at once."""

ARRAYS = 3
"""How often the profiles are held at once: as they are, at unit length, and as factors."""

Comparison = Literal["cosine", "jensen-shannon"]


class RelativeCost(FusedCost):
    """How differently x_i and y_j lie to the known pairs (Moschella et al. 2023).

    The profile of a source point is a_ip = cos(x_i - x̄, x_p - x̄) over the pairs p, x̄ being the mean
    of its side, that of a target b_jp = cos(y_j - ȳ, y_p - ȳ). Unlike a bridge cost, which asks for
    the nearest pair, it hears all of them. `comparison` says how two profiles are compared:

    - "cosine": 1 - cos(a_i, b_j), from O((n + m) min(l, p + q)) numbers for l pairs and spaces of
      p and q dimensions. Of more pairs only what they span is kept, which changes no cost.
    - "jensen-shannon": the divergence, in nats, between softmax(a_i / τ) and softmax(b_j / τ) at
      the `temperature` τ, the guidance of keypoint-guided transport (Gu et al. 2022, with 1 - cos
      as the distance to a keypoint, and τ in its unit). An n × m array, in O(n m l) time.

    It is the same whatever a coupling says, but defined for new points.
    """

    comparison: Comparison = eqx.field(static=True, default="cosine")
    temperature: Positive = eqx.field(static=True, default=0.1)

    def prepare(self, data: PairedData) -> Geometry:
        """See `FusedCost.prepare`. Raises ValueError without pairs, MemoryError where there is none
        for the profiles, or for the dense cost of "jensen-shannon"."""
        return self.fit(data).geometry

    def fit(self, data: PairedData) -> "FittedRelative":
        """See `FusedCost.fit`. Raises as `prepare` does."""
        if data.pairs.size == 0:
            raise ValueError("RelativeCost: data.pairs is empty; give at least one pair")
        dense = self.comparison == "jensen-shannon"
        span = data.pairs.size if dense else min(data.pairs.size, data.x.dim + data.y.dim)
        ask_bridges((data.x.size, data.y.size), span, arrays=ARRAYS)
        mean_x, mean_y = (cloud.weights @ cloud.points for cloud in (data.x, data.y))
        x = embed("cosine", data.x_paired - mean_x)
        y = embed("cosine", data.y_paired - mean_y)
        if span < data.pairs.size:
            both = np.concatenate([x, y], axis=1).astype(np.float64)
            basis = jnp.asarray(np.linalg.qr(both).Q.T, jnp.float32)
            x, y = basis @ x, basis @ y
        return FittedRelative(self, data.x, mean_x, x, _profiles(data.y.points, mean_y, y))


class FittedRelative(FittedCost):
    """`RelativeCost`, the `asked`, made from pairs.

    `mean` (p,) is the mean of the source cloud `x`, `anchors` (k, p) are its paired points, from
    there and of unit length, or their coordinates in what the pairs of both sides span.
    `profiles` (m, k) are those of the targets."""

    asked: RelativeCost
    x: Cloud
    mean: Float[Array, " p"]
    anchors: Float[Array, "k p"]
    profiles: Float[Array, "m k"]

    @property
    def geometry(self) -> Geometry:
        return self.at(self.x.points)

    def at(self, x: Float[Array | np.ndarray, "r p"]) -> Geometry:
        """See `FittedCost.at`. Raises MemoryError for a dense cost that there is none for."""
        a = _profiles(jnp.asarray(x, jnp.float32), self.mean, self.anchors)
        if self.asked.comparison == "cosine":
            return PointGeometry(a, self.profiles, "cosine")
        (n, m), temperature = (len(a), len(self.profiles)), self.asked.temperature
        ask_memory(
            f"the dense {n} × {m} cost of keypoint guidance",
            2 * 4 * n * m + 2 * 4 * min(BLOCK, n * self.profiles.size),
            "set RelativeCost.comparison = 'cosine', or give fewer points",
        )
        p, q = (jax.nn.softmax(profile / temperature) for profile in (a, self.profiles))
        return DenseGeometry(jensen_shannon(p, q))


def _profiles(
    points: Float[Array, "n p"], mean: Float[Array, " p"], anchors: Float[Array, "k p"]
) -> Float[Array, "n k"]:
    return embed("cosine", points - mean) @ anchors.T


@jax.jit
def jensen_shannon(p: Float[Array, "n l"], q: Float[Array, "m l"]) -> Float[Array, "n m"]:
    """The Jensen-Shannon divergence, in [0, log 2] nats, between each of the distributions `p`
    (n, l) and each of `q` (m, l), whose rows sum to 1. By blocks of rows: no n × m × l numbers."""

    def row(p: Float[Array, " l"]) -> Float[Array, " m"]:
        middle = (p + q) / 2
        return (rel_entr(p, middle) + rel_entr(q, middle)).sum(1) / 2

    return jnp.maximum(jax.lax.map(row, p, batch_size=max(1, min(len(p), BLOCK // q.size))), 0)
