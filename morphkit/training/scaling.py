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

    `x_shift` and `y_shift` are the means that are taken off, `x_scale` and `y_scale` what is then
    divided by: above 0, and 1 for a constant coordinate.
    """

    x_shift: Float[Array, " p"]
    x_scale: Float[Array, " p"]
    y_shift: Float[Array, " q"]
    y_scale: Scalar

    @classmethod
    def fit(
        cls, x: Float[Array, "n p"], y: Float[Array, "m q"], standardise: Standardise
    ) -> "Scaling":
        """The maps for features `x` (n, p) and `y` (m, q); `standardise` is "each", "whole" or
        "none", see `Scaling`."""
        if standardise == "none":
            zeros = jnp.zeros(x.shape[1]), jnp.ones(x.shape[1]), jnp.zeros(y.shape[1])
            return cls(*zeros, jnp.array(1.0))

        def fitted(points: Array, axis: int | None) -> tuple[Array, Array]:
            """The mean, and the standard deviation over one axis or all."""
            largest = jnp.abs(points).max(axis)
            largest = jnp.where(largest > 0, largest, 1)
            points = points / largest  # their squares are in float32's range
            mean = points.mean(0)
            std = jnp.sqrt(((points - mean) ** 2).mean(axis))
            # What rounding leaves of a constant coordinate is no scale.
            return mean * largest, jnp.where(std > 1e-6, std * largest, 1)

        x_shift, x_scale = fitted(x, 0 if standardise == "each" else None)
        return cls(x_shift, jnp.broadcast_to(x_scale, x_shift.shape), *fitted(y, None))

    def x(self, points: Float[Array, "... p"]) -> Float[Array, "... p"]:
        """Source `points` as the networks see them."""
        return (points - self.x_shift) / self.x_scale

    def y(self, points: Float[Array, "... q"]) -> Float[Array, "... q"]:
        """Target `points` as the networks see them."""
        return (points - self.y_shift) / self.y_scale

    def y_inverse(self, points: Float[Array, "... q"]) -> Float[Array, "... q"]:
        """Target features, in their own units, of `points` that the networks made."""
        return points * self.y_scale + self.y_shift
