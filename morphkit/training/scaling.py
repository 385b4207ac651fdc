"""The affine maps between features and what the networks see."""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

Standardise = Literal["each", "whole", "none"]


class Scaling(eqx.Module):
    """The affine maps between features and what the networks see.

    Both sides are centred, and target coordinates all divided by one number, so that directions
    (and cosines) keep their meaning. Source coordinates are divided by "each" one's standard
    deviation, or, "whole", likewise all by one number: better where those of little variance
    are noise, as of principal components. With "none" both sides are left as they are.
    """

    x_shift: Float[Array, " p"]
    x_scale: Float[Array, " p"]
    y_shift: Float[Array, " q"]
    y_scale: Scalar

    @classmethod
    def fit(
        cls, x: Float[Array, "n p"], y: Float[Array, "m q"], standardise: Standardise
    ) -> "Scaling":
        if standardise == "none":
            zeros = jnp.zeros(x.shape[1]), jnp.ones(x.shape[1]), jnp.zeros(y.shape[1])
            return cls(*zeros, jnp.array(1.0))

        def usable(std: Array, points: Array) -> Array:
            # What rounding leaves of a constant coordinate is no scale.
            return jnp.where(std > 1e-6 * jnp.abs(points).max(0), std, 1.0)

        def whole(points: Array) -> Scalar:
            std = jnp.sqrt(((points - points.mean(0)) ** 2).mean())
            return usable(std, jnp.abs(points).max()[None])

        x_scale = usable(x.std(0), x) if standardise == "each" else jnp.full(x.shape[1], whole(x))
        return cls(x.mean(0), x_scale, y.mean(0), whole(y))

    def x(self, points: Float[Array, "... p"]) -> Float[Array, "... p"]:
        return (points - self.x_shift) / self.x_scale

    def y(self, points: Float[Array, "... q"]) -> Float[Array, "... q"]:
        return (points - self.y_shift) / self.y_scale

    def y_inverse(self, points: Float[Array, "... q"]) -> Float[Array, "... q"]:
        return points * self.y_scale + self.y_shift
