"""What is trained, and the U-GENOT loss (Eq. 4)."""

from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from ..checks import Positive
from ..interfaces import VelocityField
from ..types import Batch
from .scaling import Scaling

Time = Literal["uniform", "logit_normal"]
"""How t is drawn: from U[0, 1], or as the logistic function of a standard normal number, which
dwells in the middle (Esser et al. 2024)."""


class Reweighting(eqx.Module):
    """A non-negative function of one point (η or ξ of App. L.1): an MLP as in Klein et al. 2023.

    `dim` is the dimension of the point, `key` draws the weights.
    """

    network: eqx.nn.MLP

    def __init__(self, dim: int, *, key: PRNGKeyArray) -> None:
        self.network = eqx.nn.MLP(dim, "scalar", 256, 3, jax.nn.silu, jax.nn.softplus, key=key)

    def __call__(self, point: Float[Array, " d"]) -> Scalar:
        """The density at one scaled `point`, above 0."""
        return self.network(point)


class Preconditioned(VelocityField):
    """The exact velocity of a standard Gaussian, and what `field` has to add to it.

    v(t, r | x) = (t - (1 - t) s²) / (t² + (1 - t)² s²) r + field(t, r | x), from N(0, s² I) to
    N(0, I), where s is `noise_scale`. With `field` at rest the flow only rescales its noise.
    """

    source_dim: int = eqx.field(static=True)
    target_dim: int = eqx.field(static=True)
    field: VelocityField
    noise_scale: Positive = eqx.field(static=True)

    def __init__(self, field: VelocityField, noise_scale: float) -> None:
        self.source_dim, self.target_dim = field.source_dim, field.target_dim
        self.field, self.noise_scale = field, noise_scale

    def __call__(
        self, t: Scalar, y: Float[Array, " q"], x: Float[Array, " p"]
    ) -> Float[Array, " q"]:
        noise = (1 - t) * self.noise_scale**2
        return (t - noise) / (t**2 + (1 - t) * noise) * y + self.field(t, y, x)


class Networks(eqx.Module):
    """Everything that is trained: the velocity `field` and, when asked for, `eta` (η) and `xi`
    (ξ)."""

    field: VelocityField
    eta: Reweighting | None
    xi: Reweighting | None


class Noise(NamedTuple):
    """The random part of the loss, as `flow_loss` has it: `scale` is its `noise_scale`; `time`,
    `at_zero` and `dropout` are called the same there."""

    scale: float = 1.0
    time: Time = "uniform"
    at_zero: float = 0.0
    dropout: float = 0.0


def flow_loss(
    field: VelocityField,
    x: Float[Array, "b p"],
    y: Float[Array, "b q"],
    key: PRNGKeyArray,
    noise_scale: float = 1.0,
    time: Time = "uniform",
    at_zero: float = 0.0,
    dropout: float = 0.0,
) -> Scalar:
    """The conditional flow matching term of Eq. 4, averaged over the batch.

    |v_θ(t, t y + (1 - t) z | x) - (y - z)|², summed over target coordinates, with t ~ U[0, 1] and
    z ~ N(0, `noise_scale`² I) drawn by `key`. `field` is v_θ; `x` (b, p) and `y` (b, q) are scaled
    draws of the coupling.

    Beyond Eq. 4, t may be drawn by another `time`, and a share `at_zero` of the draws has t = 0,
    where the velocity tells E[y | x]. `dropout` is the probability that a coordinate of `x` is left
    out; the others grow by as much.
    """
    key_t, key_z = jax.random.split(key)
    if time == "uniform":
        t = jax.random.uniform(key_t, (len(y), 1))
    else:
        t = jax.nn.sigmoid(jax.random.normal(key_t, (len(y), 1)))
    if at_zero:
        t = jnp.where(jax.random.bernoulli(jax.random.fold_in(key_t, 1), at_zero, t.shape), 0, t)
    z = noise_scale * jax.random.normal(key_z, y.shape)
    if dropout:
        kept = jax.random.bernoulli(jax.random.fold_in(key_z, 1), 1 - dropout, x.shape)
        x = jnp.where(kept, x / (1 - dropout), 0)
    velocity = jax.vmap(field)(t[:, 0], t * y + (1 - t) * z, x)
    return jnp.mean(jnp.sum((velocity - (y - z)) ** 2, axis=1))


def genot_loss(
    networks: Networks, scaling: Scaling, batch: Batch, key: PRNGKeyArray, noise: Noise
) -> Scalar:
    """The whole of Eq. 4: the flow term, and the regressions of η and ξ where `networks` has them.

    `batch` is in the units of the features, `scaling` brings it to the networks'; `key` and
    `noise` are those of `flow_loss`.
    """
    loss = flow_loss(networks.field, scaling.x(batch.x), scaling.y(batch.y), key, *noise)
    if networks.eta is not None:
        eta = jax.vmap(networks.eta)(scaling.x(batch.x_marginal))
        loss += jnp.mean((eta - batch.eta) ** 2)
    if networks.xi is not None:
        xi = jax.vmap(networks.xi)(scaling.y(batch.y_marginal))
        loss += jnp.mean((xi - batch.xi) ** 2)
    return loss
