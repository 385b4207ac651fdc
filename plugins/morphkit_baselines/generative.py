"""The paper's baselines that are trained end to end on the known pairs (App. G.1.2, Table 3)."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, Scalar
from morphkit_extractors.vae import VAEImage, VAEText, stack, through
from morphkit_extractors.variational import CHUNK, Dense, posterior
from pydantic import Field

from morphkit.checks import Count, NonNegative, Positive
from morphkit.interfaces import Baseline, LatentMap, RawBaseline, RawMap
from morphkit.types import PairedData, Split
from morphkit_baselines.pairs import candidates

EVERY = 25
"""Steps of a dispatch, and between looks at the held-out pairs."""

HELD_OUT = 0.2
"""The share of the pairs that says how many steps to take."""

PATIENCE = 0.25
"""The share of all steps after which no better look ends the search."""

Models = tuple[Any, Any]
"""Of source and target: a `Coder` each."""

Loss = Callable[[Models, tuple[Array, Array], PRNGKeyArray | None, Any], Scalar]
"""Of both models at paired inputs, with β; by a key with noise and divergence, without one as they
predict."""

Betas = Annotated[tuple[NonNegative, ...], Field(min_length=1)]

BETAS = (1.0, 0.1, 0.01)
"""Weights of the divergence to choose from: the paper's first."""


def translation(
    models: Models, pairs: tuple[Array, Array], key: PRNGKeyArray | None, beta: Any
) -> Scalar:
    """-E log p(y | z) + `beta` KL(q(z | x) | p(z)), z ~ q(z | x) by `key`, of `models` at `pairs`
    (x, y); without a key, of the mean of q, and without KL."""
    first, second = models
    z, divergence = posterior(first, pairs[0], key)
    return second.loss(second.logits(z), pairs[1], beta * divergence)


def fused(
    models: Models, pairs: tuple[Array, Array], key: PRNGKeyArray | None, beta: Any
) -> Scalar:
    """Eq. 19 for the encoders of both `models` at `pairs`, and their sum, Eq. 20, as a loss, with
    divergences that weigh `beta`; without a `key` only how each side is reconstructed from the
    other."""
    total = jnp.zeros(())
    for k, own in enumerate((None, None) if key is None else jax.random.split(key)):
        z, divergence = posterior(models[k], pairs[k], own)
        # Counted once, and by itself: in a model's own loss it may be scaled.
        total += beta * divergence.mean()
        for j, model in enumerate(models):
            if key is not None or j != k:
                total += model.loss(model.logits(z), pairs[j], jnp.zeros_like(divergence))
    return total


class Translation(RawMap):
    """The decoder of `second` at the posterior's mean of `first`."""

    first: Any
    second: Any

    def __call__(
        self, inputs: Float[np.ndarray, "n ..."], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n ..."]:
        parts = [inputs[i : i + CHUNK] for i in range(0, len(inputs), CHUNK)]
        return jnp.concatenate([_translated(self, jnp.asarray(p, jnp.float32)) for p in parts])


@eqx.filter_jit
def _translated(found: Translation, inputs: Array) -> Array:
    return found.second.probabilities(found.second.logits(found.first.moments(inputs)[0]))


class VAE(RawBaseline):
    """VAE small (`latent` 16) and large (128) of Table 3: from one modality to the other, end to
    end.

    Trained on the known pairs of raw inputs by -E log p(y | z) + β KL(q(z | x) | N(0, I)),
    z ~ q(z | x): encoder and decoder are those of `extractor.VAEImage` with `channels`, for images
    (h, w, 1), or of `extractor.VAEText` with hidden layers `encoder` and `decoder`, for vectors;
    the reconstruction error is the cross-entropy of pixels (summed) or classes, and β weighs the
    divergence as these do. Adam with `learning_rate` takes at most `steps` on batches of
    `batch_size`: how many, and which β among `beta`, is chosen on a fifth of the pairs, and then
    all are trained on; of three values the search takes three times as long. One value fixes β. The
    paper has 1, and so has a fit to too few pairs to hold one out. Predicts by the posterior's
    mean.

    Raises ValueError for images that are not (h, w, 1) with h and w divisible by 4, for inputs
    outside [0, 1] and for target vectors that are not one-hot.
    """

    latent: Count = eqx.field(static=True, default=16)
    channels: tuple[Count, Count, Count] = eqx.field(static=True, default=(512, 1024, 2048))
    encoder: tuple[Count, ...] = eqx.field(static=True, default=(64, 32))
    decoder: tuple[Count, ...] = eqx.field(static=True, default=(32, 16))
    beta: Betas = eqx.field(static=True, default=BETAS, converter=candidates)
    steps: Count = eqx.field(static=True, default=2000)
    batch_size: Count = eqx.field(static=True, default=256)
    learning_rate: Positive = eqx.field(static=True, default=1e-3)

    def fit_raw(self, data: PairedData, inputs: Split) -> RawMap:
        return Translation(*_fitted_raw(self, translation, data, inputs))


class FusedVAE(RawBaseline):
    """Fused VAE (E2E) of Table 3: an encoder and a decoder of each modality, one latent space.

    Trained on the known pairs of raw inputs by Eq. 19 and 20: from the draw of either encoder both
    sides are reconstructed. `latent`, `channels`, `encoder`, `decoder`, `beta`, `steps`,
    `batch_size` and `learning_rate` are those of `baseline.VAE`, and so are its errors. Predicts by
    the posterior's mean of the source encoder.
    """

    latent: Count = eqx.field(static=True, default=128)
    channels: tuple[Count, Count, Count] = eqx.field(static=True, default=(512, 1024, 2048))
    encoder: tuple[Count, ...] = eqx.field(static=True, default=(64, 32))
    decoder: tuple[Count, ...] = eqx.field(static=True, default=(32, 16))
    beta: Betas = eqx.field(static=True, default=BETAS, converter=candidates)
    steps: Count = eqx.field(static=True, default=2000)
    batch_size: Count = eqx.field(static=True, default=256)
    learning_rate: Positive = eqx.field(static=True, default=1e-3)

    def fit_raw(self, data: PairedData, inputs: Split) -> RawMap:
        return Translation(*_fitted_raw(self, fused, data, inputs))


class FusedLatentVAE(Baseline):
    """Fused VAE (latent) of Table 3: the same on the features of both models.

    Encoders and decoders have `layers` fully connected ones of `width` with ReLU, and share a
    space of `latent` dimensions. Features are standardised, and reconstructed in squared error
    (Eq. 19 with Gaussians of variance 1). `beta`, `steps`, `batch_size` and `learning_rate` are
    those of `baseline.FusedVAE`. Predicts by the posterior's mean.
    """

    latent: Count = eqx.field(static=True, default=128)
    width: Count = eqx.field(static=True, default=1024)
    layers: Count = eqx.field(static=True, default=8)
    beta: Betas = eqx.field(static=True, default=BETAS, converter=candidates)
    steps: Count = eqx.field(static=True, default=2000)
    batch_size: Count = eqx.field(static=True, default=256)
    learning_rate: Positive = eqx.field(static=True, default=1e-3)

    def fit(self, data: PairedData) -> LatentMap:
        keys = jax.random.split(jax.random.key(0), 3)
        sides = [
            PerceptronVAE.of(cloud.points, self, key=key)
            for cloud, key in zip((data.x, data.y), keys, strict=False)
        ]
        pairs = (np.asarray(data.x_paired), np.asarray(data.y_paired))
        first, second = _trained((sides[0], sides[1]), fused, pairs, self, keys[2])
        return LatentTranslation(first, second)


class LatentTranslation(LatentMap):
    """The decoder of `second` at the posterior's mean of `first`, from features to features."""

    first: Any
    second: Any

    def __call__(
        self, x: Float[Array, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        return self.second.probabilities(self.second.logits(self.first.moments(x)[0]))


class PerceptronVAE(eqx.Module):
    """A `Coder`, fully connected, of features (n, d): layers `inward` to the posterior, and
    `outward` from it. `shift` and `scale` (d,) standardise features."""

    shift: Float[Array, " d"]
    scale: Float[Array, " d"]
    inward: list[Dense]
    outward: list[Dense]

    @classmethod
    def of(
        cls, points: Float[Array, "n d"], asked: FusedLatentVAE, *, key: PRNGKeyArray
    ) -> "PerceptronVAE":
        """For `points` (n, d), of the sizes that `asked` has; `key` draws the weights."""
        d, hidden, keys = points.shape[1], [asked.width] * asked.layers, jax.random.split(key)
        scale = jnp.std(points, axis=0)
        inward, outward = (
            _scaled(stack([i, *hidden, o], key=k))
            for i, o, k in ((d, 2 * asked.latent, keys[0]), (asked.latent, d, keys[1]))
        )
        shift, scale = jnp.mean(points, axis=0), jnp.where(scale > 0, scale, 1)
        return cls(shift, scale, inward, outward)

    def moments(self, inputs: Float[Array, "n d"]) -> tuple[Array, Array]:
        """Mean and log-variance of the posterior of `inputs`, (n, latent) each."""
        mean, log_variance = jnp.split(through(self.inward, self._standard(inputs)), 2, axis=-1)
        return mean, log_variance

    def logits(self, z: Float[Array, "n k"]) -> Float[Array, "n d"]:
        """Standardised features, from the latents `z`."""
        return through(self.outward, z)

    def probabilities(self, logits: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """The features that `logits` are when standardised."""
        return logits * self.scale + self.shift

    def loss(self, logits: Array, inputs: Array, divergence: Float[Array, " n"]) -> Scalar:
        """Half the squared error of `logits`, given `inputs`, and the `divergence`."""
        error = ((logits - self._standard(inputs)) ** 2).sum(-1) / 2
        return (error + divergence).mean()

    def _standard(self, inputs: Array) -> Array:
        return (inputs - jax.lax.stop_gradient(self.shift)) / jax.lax.stop_gradient(self.scale)


def _scaled(layers: list[Dense]) -> list[Dense]:
    """`layers` with those before the last scaled for the ReLU after them."""
    wide = [eqx.tree_at(lambda d: d.weight, d, d.weight * 2**0.5) for d in layers[:-1]]
    return [*wide, layers[-1]]


def _fitted_raw(asked: VAE | FusedVAE, loss: Loss, data: PairedData, inputs: Split) -> Models:
    """Both models that `asked` describes, trained by `loss` on the pairs of `data`, whose raw
    `inputs` these are."""
    name = type(asked).__name__
    keys = jax.random.split(jax.random.key(0), 3)
    sides = []
    for key, raw, side in zip(keys, (inputs.source, inputs.target), ("source", "target"),
                              strict=False):  # fmt: skip
        shape = raw.shape[1:]
        if raw.dtype.kind not in "fiub" or not (raw.min() >= 0 and raw.max() <= 1):
            raise ValueError(f"{name}: the {side} inputs are no numbers between 0 and 1")
        if len(shape) == 3:
            built: Any = VAEImage(
                shape, asked.channels, asked.latent, beta=1.0, sample=False, key=key
            )
        elif len(shape) == 1:
            if side == "target" and not np.array_equal(raw.sum(1), (raw == 1).sum(1)):
                raise ValueError(f"{name}: target vectors have to be one-hot labels")
            built = VAEText(
                shape, asked.encoder, asked.decoder, asked.latent, beta=1.0, sample=False, key=key
            )
        else:
            raise ValueError(f"{name}: the {side} inputs have to be images or vectors, not {shape}")
        sides.append(built)
    pairs = (
        inputs.source[np.asarray(data.pairs.source)],
        inputs.target[np.asarray(data.pairs.target)],
    )
    return _trained((sides[0], sides[1]), loss, pairs, asked, keys[2])


def _trained(
    models: Models, loss: Loss, pairs: tuple[np.ndarray, np.ndarray],
    asked: VAE | FusedVAE | FusedLatentVAE, key: PRNGKeyArray,
) -> Models:  # fmt: skip
    """`models` after as many steps on all `pairs`, and with the β, as are best for those that were
    held out."""
    count = len(pairs[0])
    order = np.random.default_rng(0).permutation(count)
    held = order[: round(HELD_OUT * count)]
    best, beta, steps = np.inf, asked.beta[0], asked.steps
    told, asked_of = _rows(pairs, np.setdiff1d(order, held)), _rows(pairs, held)
    start = _optimiser(asked).init(eqx.filter(models, eqx.is_inexact_array))
    for candidate in asked.beta if len(held) else ():
        found, state, least, last = models, start, np.inf, 0
        weight = jnp.asarray(candidate)
        for k in range(0, asked.steps, EVERY):
            batches, noise = _batches(told, key, k, asked.batch_size)
            found, state = _descend(found, state, loss, batches, asked, noise, weight)
            error = float(_error(found, loss, asked_of))
            if error < least:
                least, last = error, k + EVERY
            elif k + EVERY - last > PATIENCE * asked.steps:
                break
        if least < best:
            best, beta, steps = least, candidate, last
    found, state, arrays, weight = models, start, _rows(pairs, order), jnp.asarray(beta)
    for k in range(0, steps, EVERY):
        batches, noise = _batches(arrays, key, k, asked.batch_size)
        found, state = _descend(found, state, loss, batches, asked, noise, weight)
    return found


def _rows(pairs: tuple[np.ndarray, np.ndarray], rows: np.ndarray) -> tuple[Array, Array]:
    return jnp.asarray(pairs[0][rows], jnp.float32), jnp.asarray(pairs[1][rows], jnp.float32)


def _optimiser(asked: Any) -> optax.GradientTransformation:
    return optax.adam(asked.learning_rate)


@partial(jax.jit, static_argnames="batch_size")
def _batches(
    pairs: tuple[Array, Array], key: PRNGKeyArray, first: int, batch_size: int
) -> tuple[tuple[Array, Array], PRNGKeyArray]:
    """Of `pairs` the batches of EVERY steps from the step `first` on, (EVERY, size, ...), by `key`,
    and a key for the noise of each. Not drawn in `_descend`, which would be compiled for every
    number of pairs."""
    count = len(pairs[0])

    def step(number: Array) -> tuple[Array, PRNGKeyArray]:
        chosen, noise = jax.random.split(jax.random.fold_in(key, number))
        return jax.random.choice(chosen, count, (min(batch_size, count),), replace=False), noise

    rows, noise = jax.vmap(step)(first + jnp.arange(EVERY))
    return (pairs[0][rows], pairs[1][rows]), noise


@eqx.filter_jit
def _descend(
    models: Models, state: Any, loss: Loss, batches: tuple[Array, Array], asked: Any,
    noise: PRNGKeyArray, beta: Array,
) -> tuple[Models, Any]:  # fmt: skip
    """A step of Adam on each of `batches`, by the keys `noise`, with `beta`."""
    weights, rest = eqx.partition(models, eqx.is_inexact_array)

    def step(carry: Any, drawn: tuple[Array, Array, PRNGKeyArray]) -> tuple[Any, None]:
        weights, state = carry
        x, y, key = drawn
        gradient = jax.grad(lambda w: loss(eqx.combine(w, rest), (x, y), key, beta))(weights)
        updates, state = _optimiser(asked).update(gradient, state)
        return (optax.apply_updates(weights, updates), state), None

    (weights, state), _ = jax.lax.scan(step, (weights, state), (*batches, noise))
    return eqx.combine(weights, rest), state


@eqx.filter_jit
def _error(models: Models, loss: Loss, pairs: tuple[Array, Array]) -> Scalar:
    return loss(models, pairs, None, 0.0)
