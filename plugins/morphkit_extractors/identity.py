"""The extractor for inputs that are features already."""

import math
from typing import Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from morphkit.interfaces import Codec, Tell, silent
from morphkit.precision import points_as_float32


class Identity(Codec):
    """Features are the inputs themselves: (n, *input_shape) flattened to (n, d) float32.

    Nothing is normalised and nothing is trained. Raises ValueError for inputs of another shape,
    and for those that float32 cannot tell apart, see `morphkit.precision`.
    """

    input_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, input_shape: tuple[int, ...], *, key: PRNGKeyArray):
        self.input_shape = tuple(input_shape)

    def fit(self, inputs: np.ndarray, *, key: PRNGKeyArray, tell: Tell = silent) -> Self:
        return self

    def encode(self, inputs: np.ndarray, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        if tuple(inputs.shape[1:]) != self.input_shape:
            raise ValueError(
                f"inputs has shape {inputs.shape}, but Identity was built for rows of shape "
                f"{self.input_shape}"
            )
        rounded = jnp.asarray(points_as_float32("inputs", inputs))
        return rounded.reshape(len(inputs), math.prod(self.input_shape))

    def decode(self, features: Float[Array, "n d"]) -> Float[Array, "n ..."]:
        return features.reshape(features.shape[0], *self.input_shape)
