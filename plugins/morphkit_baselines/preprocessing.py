"""What is done to source points before a baseline looks at them."""

from collections.abc import Callable
from typing import Annotated, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pydantic import Field

from morphkit.types import Cloud

Kind = Literal["centred", "standardised", "unit", "cosine"]

Kinds = Annotated[tuple[Kind, ...], Field(min_length=1)]
"""Ways of preprocessing to choose from, see `Preprocessing.of`."""


BLOCK = 2**22
"""Numbers that a map may hold at once for the points it is asked about."""


class Preprocessing(eqx.Module):
    """(x - `center`) / `scale`, with shapes (p,), and then, if `unit`, every point to one length.

    The mean square of a coordinate is 1 over the points it was made from, in whatever way, so
    that one penalty means as much in all of them.
    """

    center: Float[Array | np.ndarray, " p"]
    scale: Float[Array | np.ndarray, " p"]
    unit: bool = eqx.field(static=True)

    @classmethod
    def of(cls, kind: Kind, cloud: Cloud) -> "Preprocessing":
        """The `kind` of it, by the weighted mean of all points of `cloud`, paired or not. "centred"
        divides by one number, "standardised" by each coordinate's standard deviation, "unit" by
        each point's own length; "cosine" does so, too, but leaves the origin where it is."""
        points, weights = (np.asarray(a, np.float64) for a in (cloud.points, cloud.weights))
        center = weights @ points / weights.sum()
        variance = weights @ (points - center) ** 2 / weights.sum()
        varies = np.ptp(points, axis=0) > 0
        scale = np.full(len(center), np.sqrt(variance.mean()) if varies.any() else 1.0)
        if kind == "standardised":
            scale = np.where(varies, np.sqrt(variance), 1.0)
        if kind == "cosine":
            center = np.zeros_like(center)
        return cls(center, scale, kind in ("unit", "cosine"))

    def __call__(self, x: Float[Array | np.ndarray, "n p"]) -> Float[Array | np.ndarray, "n p"]:
        """The points `x`, preprocessed."""
        x = (x - self.center) / self.scale
        return to_unit(x) if self.unit else x

    def single(self) -> "Preprocessing":
        """In float32, for a map that is used on the device."""
        return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), self)


def by_rows(
    function: Callable[[Float[Array, " p"]], Array], x: Float[Array, "n p"], width: int
) -> Array:
    """`function` of every row of `x`; each holds `width` numbers, and so many rows are taken at
    once that together they hold BLOCK."""
    return jax.lax.map(function, x, batch_size=max(1, min(len(x), BLOCK // width)))


def to_unit(x: Float[Array | np.ndarray, "n p"]) -> Float[Array | np.ndarray, "n p"]:
    """The points `x` scaled to a mean square of 1 over their coordinates; one at the origin
    stays."""
    return x / ((x**2).mean(-1, keepdims=True) ** 0.5 + 1e-12)
