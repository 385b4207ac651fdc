"""What every variational auto-encoder shares: training, encoding and decoding in chunks."""

from abc import abstractmethod
from typing import Any, Protocol, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from morphkit.interfaces import Codec, Tell, silent

CHUNK = 500
"""Inputs that are encoded or decoded at a time: what keeps memory flat."""

STEPS_PER_DISPATCH = 25


class VariationalAutoencoder(Codec):
    """A Gaussian posterior, a standard normal prior, and Adam on the negative ELBO."""

    input_shape: eqx.AbstractVar[tuple[int, ...]]
    batch_size: eqx.AbstractVar[int]
    learning_rate: eqx.AbstractVar[float]
    beta: eqx.AbstractVar[float]
    sample: eqx.AbstractVar[bool]
    encoding_arguments = ("sample",)

    @abstractmethod
    def moments(self, inputs: Float[Array, "n ..."]) -> tuple[Array, Array]:
        """Mean and log-variance of the posterior of `inputs`, (n, latent) each."""

    @abstractmethod
    def logits(self, z: Float[Array, "n d"]) -> Float[Array, "n ..."]:
        """What the decoder makes of the latents `z`."""

    @abstractmethod
    def probabilities(self, logits: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """The probabilities, of pixels or classes, that `logits` stand for."""

    @abstractmethod
    def loss(self, logits: Array, inputs: Array, divergence: Float[Array, " n"]) -> Scalar:
        """From the `logits` of a draw, its `inputs` and its KL `divergence` to the prior, summed
        over latents."""

    @abstractmethod
    def epochs_for(self, n: int) -> int:
        """How often the training runs through `n` inputs."""

    def fit(self, inputs: np.ndarray, *, key: PRNGKeyArray, tell: Tell = silent) -> Self:
        self._check(inputs)
        n, batch = len(inputs), min(self.batch_size, len(inputs))
        order_key, key = jax.random.split(key)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(order_key)))
        epochs = np.tile(np.arange(n, dtype=np.int32), (self.epochs_for(n), 1))
        order = rng.permuted(epochs, axis=1)[:, : n // batch * batch].reshape(-1, batch)
        images = jnp.asarray(inputs, jnp.float32)
        model: Any = self
        state = optax.adam(self.learning_rate).init(eqx.filter(self, eqx.is_inexact_array))
        for start in range(0, len(order), STEPS_PER_DISPATCH):
            steps = jnp.asarray(order[start : start + STEPS_PER_DISPATCH])
            key, step_key = jax.random.split(key)
            model, state, loss = _descend(model, state, images, steps, step_key)
            tell(start + len(steps), len(order), {"loss": float(loss)})
        return model

    def encode(self, inputs: np.ndarray, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        self._check(inputs)
        parts = [
            _encode(
                self, jnp.asarray(inputs[i : i + CHUNK], jnp.float32), jax.random.fold_in(key, i)
            )
            for i in range(0, len(inputs), CHUNK)
        ]
        return jnp.concatenate(parts)

    def decode(self, features: Float[Array, "n d"]) -> Float[Array, "n ..."]:
        chunks = range(0, len(features), CHUNK)
        return jnp.concatenate([_decode(self, features[i : i + CHUNK]) for i in chunks])

    def _check(self, inputs: np.ndarray) -> None:
        name = type(self).__name__
        if tuple(inputs.shape[1:]) != tuple(self.input_shape) or len(inputs) == 0:
            raise ValueError(
                f"{name} takes inputs (n, {', '.join(map(str, self.input_shape))}) with n ≥ 1, "
                f"not {inputs.shape}"
            )
        low, high = inputs.min(), inputs.max()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"{name} takes inputs between 0 and 1, but these range from {low} to {high} "
                "(NaN counts as outside); scale them first"
            )


class Dense(eqx.Module):
    """An affine map on batches, from `inputs` to `outputs` numbers; `key` draws the weights."""

    weight: Float[Array, "i o"]
    bias: Float[Array, " o"]

    def __init__(self, inputs: int, outputs: int, *, key: PRNGKeyArray):
        self.weight = jax.random.normal(key, (inputs, outputs)) / inputs**0.5
        self.bias = jnp.zeros(outputs)

    def __call__(self, x: Float[Array, "n i"]) -> Float[Array, "n o"]:
        """The map at each row of `x`."""
        return x @ self.weight + self.bias


class Coder(Protocol):
    """The part of a `VariationalAutoencoder` that a loss is made of."""

    def moments(self, inputs: Array) -> tuple[Array, Array]:
        """Mean and log-variance of the posterior of `inputs`."""
        ...

    def logits(self, z: Array) -> Array:
        """What the decoder makes of the latents `z`."""
        ...

    def probabilities(self, logits: Array) -> Array:
        """What `logits` stand for."""
        ...

    def loss(self, logits: Array, inputs: Array, divergence: Array) -> Scalar:
        """From `logits`, their `inputs` and the KL `divergence` of the draw."""
        ...


def posterior(
    model: Coder, inputs: Float[Array, "n ..."], key: PRNGKeyArray | None
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """A draw of the posterior q(z | `inputs`) of `model` by `key`, and the KL divergence of that to
    the prior, summed over latents; without a key its mean, and 0."""
    mean, log_variance = model.moments(inputs)
    if key is None:
        return mean, jnp.zeros(len(mean))
    z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
    return z, (jnp.exp(log_variance) + mean**2 - 1 - log_variance).sum(-1) / 2


def negative_elbo(
    first: Coder, second: Coder, pairs: tuple[Array, Array], key: PRNGKeyArray | None
) -> Scalar:
    """-E log p(y | z) + β KL(q(z | x) | p(z)), z ~ q(z | x) by `key`, of the encoder of `first` and
    the decoder of `second` at `pairs` (x, y); without a key, of the mean of q, and without KL."""
    z, divergence = posterior(first, pairs[0], key)
    return second.loss(second.logits(z), pairs[1], divergence)


@eqx.filter_jit
def _descend(model, state, inputs: Array, order: Array, key: PRNGKeyArray):
    """One Adam step for each row of indices in `order`; also the mean loss."""
    weights, rest = eqx.partition(model, eqx.is_inexact_array)
    optimiser = optax.adam(model.learning_rate)

    def step(carry, batch_and_key):
        weights, state = carry
        batch, key = batch_and_key
        loss, gradient = jax.value_and_grad(
            lambda w: negative_elbo(
                eqx.combine(w, rest), eqx.combine(w, rest), (inputs[batch], inputs[batch]), key
            )
        )(weights)
        updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(weights, updates), state), loss

    keys = jax.random.split(key, len(order))
    (weights, state), losses = jax.lax.scan(step, (weights, state), (order, keys))
    return eqx.combine(weights, rest), state, losses.mean()


@eqx.filter_jit
def _encode(model: VariationalAutoencoder, inputs: Array, key: PRNGKeyArray) -> Array:
    return posterior(model, inputs, key if model.sample else None)[0]


@eqx.filter_jit
def _decode(model: VariationalAutoencoder, features: Array) -> Array:
    return model.probabilities(model.logits(features))
