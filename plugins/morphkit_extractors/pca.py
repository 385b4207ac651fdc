"""Principal components of inputs that are features already."""

import math
from typing import Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from sklearn import decomposition

from morphkit.checks import Count, check
from morphkit.interfaces import Codec, Tell, silent
from morphkit.precision import as_float32


class PCA(Codec):
    """z = W (x - mean): scores on the leading principal components of the inputs it is fitted to.

    App. G.3.1 keeps the first 1,000 components of each layer, found on 1,000 validation images.
    Inputs (n, *input_shape) are flattened to (n, d); features are (n, min(`components`, d)), with
    the variances of the components. Fitted by scikit-learn, on the pretrain split where the data
    has one. `decode` gives Wᵀ z + mean. Raises ValueError for fewer than 1 component, and in `fit`
    for fewer inputs than components.
    """

    input_shape: tuple[int, ...] = eqx.field(static=True)
    components: Count = eqx.field(static=True)
    mean: Float[Array, " d"]
    weight: Float[Array, "k d"]

    def __init__(self, input_shape: tuple[int, ...], components: int = 1000, *, key: PRNGKeyArray):
        check(PCA, components=components)
        self.input_shape, self.components = tuple(input_shape), components
        width = math.prod(input_shape)
        self.mean = jnp.zeros(width)
        self.weight = jnp.zeros((min(components, width), width))

    def fit(self, inputs: np.ndarray, *, key: PRNGKeyArray, tell: Tell = silent) -> Self:
        flat = _flat(inputs)
        kept = len(self.weight)
        if len(flat) < kept:
            raise ValueError(
                f"PCA.components = {self.components}: {kept} components need as many inputs, not "
                f"{len(flat)}; take fewer components, or data with more to pretrain on"
            )
        # scikit-learn may take the mean from squares that were summed with it.
        mean = flat.mean(0, dtype=np.float64).astype(flat.dtype)
        model = decomposition.PCA(kept, random_state=0).fit(flat - mean)
        found = jnp.asarray(mean + model.mean_), jnp.asarray(model.components_)
        return eqx.tree_at(lambda pca: (pca.mean, pca.weight), self, found)

    def encode(self, inputs: np.ndarray, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        if tuple(inputs.shape[1:]) != self.input_shape:
            raise ValueError(
                f"inputs has shape {inputs.shape}, but PCA was built for rows of shape "
                f"{self.input_shape}"
            )
        centred = as_float32("inputs", _flat(inputs) - np.asarray(self.mean))
        return jnp.asarray(centred) @ self.weight.T

    def decode(self, features: Float[Array, "n d"]) -> Float[Array, "n ..."]:
        return (features @ self.weight + self.mean).reshape(len(features), *self.input_shape)


def _flat(inputs: np.ndarray) -> Float[np.ndarray, "n d"]:
    """A row an input, in float32 or, where inputs have more digits, in float64: a mean may be
    much larger than what varies around it."""
    inputs = np.asarray(inputs)
    return inputs.astype(np.result_type(inputs, np.float32), copy=False).reshape(len(inputs), -1)
