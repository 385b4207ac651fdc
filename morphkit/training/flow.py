"""What is trained, and the U-GENOT loss (Eq. 4)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from ..interfaces import VelocityField
from ..types import Batch
from .scaling import Scaling


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


class Networks(eqx.Module):
    """Everything that is trained: the velocity `field` and, when asked for, `eta` (η) and `xi`
    (ξ)."""

    field: VelocityField
    eta: Reweighting | None
    xi: Reweighting | None


def flow_loss(
    field: VelocityField,
    x: Float[Array, "b p"],
    y: Float[Array, "b q"],
    key: PRNGKeyArray,
    noise_scale: float = 1.0,
) -> Scalar:
    """The conditional flow matching term of Eq. 4, averaged over the batch.

    |v_θ(t, t y + (1 - t) z | x) - (y - z)|², summed over target coordinates, with t ~ U[0, 1] and
    z ~ N(0, `noise_scale`² I) drawn by `key`. `field` is v_θ; `x` (b, p) and `y` (b, q) are scaled
    draws of the coupling.
    """
    key_t, key_z = jax.random.split(key)
    t = jax.random.uniform(key_t, (len(y), 1))
    z = noise_scale * jax.random.normal(key_z, y.shape)
    velocity = jax.vmap(field)(t[:, 0], t * y + (1 - t) * z, x)
    return jnp.mean(jnp.sum((velocity - (y - z)) ** 2, axis=1))


def genot_loss(
    networks: Networks, scaling: Scaling, batch: Batch, key: PRNGKeyArray, noise_scale: float
) -> Scalar:
    """The whole of Eq. 4: the flow term, and the regressions of η and ξ where `networks` has them.

    `batch` is in the units of the features, `scaling` brings it to the networks'; `key` and
    `noise_scale` are those of `flow_loss`.
    """
    loss = flow_loss(networks.field, scaling.x(batch.x), scaling.y(batch.y), key, noise_scale)
    if networks.eta is not None:
        eta = jax.vmap(networks.eta)(scaling.x(batch.x_marginal))
        loss += jnp.mean((eta - batch.eta) ** 2)
    if networks.xi is not None:
        xi = jax.vmap(networks.xi)(scaling.y(batch.y_marginal))
        loss += jnp.mean((xi - batch.xi) ** 2)
    return loss
