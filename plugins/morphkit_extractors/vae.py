"""The variational auto-encoders of App. G.1.1 (Table 2), for images and for one-hot labels."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from morphkit.checks import Count, NonNegative, Positive, check

from .convolutions import Convolution, TransposedConvolution
from .variational import Dense, VariationalAutoencoder


class VAEImage(VariationalAutoencoder):
    """VAE_image of Table 2, for images (h, w, 1) with values in [0, 1].

    Trained by -E log p(x | z) + β KL(q(z | x) | N(0, I)), z ~ q(z | x).

    Encoder: a 3×3 convolution with stride 2 and ReLU for each of the three `channels`, then
    linear maps to mean and log-variance. Decoder: a linear map to (h/4, w/4, channels[2]),
    transposed 3×3 convolutions to channels[1], channels[0] and 1 with strides 2, 2, 1, and a
    sigmoid. The loss is the binary cross-entropy summed over an image plus `beta` times the
    KL divergence, averaged over the batch (the authors' code), minimised by Adam with
    `learning_rate`, above 0, over `epochs` of batches of `batch_size` images.

    Features (n, `latent`) are samples of the posterior, or its means unless `sample`; the prior
    is standard normal, and they are not normalised further. `decode` gives the pixels'
    probabilities (n, h, w, 1). A batch larger than the data set is cut to its size; an
    incomplete last batch of an epoch is left out.

    Raises ValueError for images with h or w not divisible by 4, with more than one channel or
    with values outside [0, 1], and for sizes that are not positive.
    """

    input_shape: tuple[int, ...] = eqx.field(static=True)
    channels: tuple[Count, Count, Count] = eqx.field(static=True)
    latent: Count = eqx.field(static=True)
    epochs: Count = eqx.field(static=True)
    batch_size: Count = eqx.field(static=True)
    learning_rate: Positive = eqx.field(static=True)
    beta: NonNegative = eqx.field(static=True)
    sample: bool = eqx.field(static=True)
    down: list[Convolution]
    posterior: Dense
    spread: Dense
    up: list[TransposedConvolution]

    def __init__(
        self,
        input_shape: tuple[int, ...],
        channels: tuple[int, int, int] = (128, 256, 512),
        latent: int = 16,
        epochs: int = 101,
        batch_size: int = 1024,
        learning_rate: float = 1e-3,
        beta: float = 1.0,
        sample: bool = True,
        *,
        key: PRNGKeyArray,
    ):
        if len(input_shape) != 3 or input_shape[0] % 4 or input_shape[1] % 4 or input_shape[2] != 1:
            raise ValueError(
                f"VAEImage.input_shape = {tuple(input_shape)} must be (h, w, 1) with h and w "
                "divisible by 4; crop or pad the images"
            )
        check(VAEImage, channels=tuple(channels), latent=latent)
        a, b, c = channels
        self.input_shape, self.channels, self.latent = tuple(input_shape), (a, b, c), latent
        self.epochs, self.batch_size, self.learning_rate = epochs, batch_size, learning_rate
        self.beta, self.sample = beta, sample
        height, width, _ = input_shape
        keys = jax.random.split(key, 8)
        self.down = [
            Convolution(1, a, key=keys[0]),
            Convolution(a, b, key=keys[1]),
            Convolution(b, c, key=keys[2]),
        ]
        self.posterior = Dense(-(-height // 8) * -(-width // 8) * c, 2 * latent, key=keys[3])
        self.spread = Dense(latent, height // 4 * (width // 4) * c, key=keys[4])
        self.up = [
            TransposedConvolution(c, b, 2, key=keys[5]),
            TransposedConvolution(b, a, 2, key=keys[6]),
            TransposedConvolution(a, 1, 1, key=keys[7]),
        ]

    def moments(self, inputs: Float[Array, "n h w 1"]) -> tuple[Array, Array]:
        x = inputs.transpose(1, 2, 0, 3)
        for layer in self.down:
            x = jax.nn.relu(layer(x))
        mean, log_variance = jnp.split(
            self.posterior(x.transpose(2, 0, 1, 3).reshape(len(inputs), -1)), 2, axis=-1
        )
        return mean, log_variance

    def logits(self, z: Float[Array, "n d"]) -> Float[Array, "n h w 1"]:
        height, width, _ = self.input_shape
        x = self.spread(z).reshape(len(z), height // 4, width // 4, -1).transpose(1, 2, 0, 3)
        for layer in self.up:
            x = layer(jax.nn.relu(x))
        return x.transpose(2, 0, 1, 3)

    def probabilities(self, logits: Float[Array, "n h w 1"]) -> Float[Array, "n h w 1"]:
        return jax.nn.sigmoid(logits)

    def loss(self, logits: Array, inputs: Array, divergence: Float[Array, " n"]) -> Scalar:
        entropy = optax.sigmoid_binary_cross_entropy(logits, inputs).sum((1, 2, 3))
        return (entropy + self.beta * divergence).mean()

    def epochs_for(self, n: int) -> int:
        return self.epochs


class VAEText(VariationalAutoencoder):
    """VAE_text of Table 2, for one-hot labels (c,).

    Trained by -E log p(x | z) + β/d KL(q(z | x) | N(0, I)), z ~ q(z | x) of dimension d.

    Fully connected with ReLU: hidden layers `encoder`, then mean and log-variance; hidden
    layers `decoder`, then a softmax over the c classes. The loss is the softmax cross-entropy
    plus `beta` times the KL divergence divided by the latent size (the authors' code),
    averaged over the batch of `batch_size`, minimised by Adam with `learning_rate`, above 0. Labels
    are few distinct inputs, so training counts `steps`, whatever their number, rounded up to whole
    epochs.

    Features (n, `latent`) are samples of the posterior, or its means unless `sample`; the prior
    is standard normal. `decode` gives the classes' probabilities (n, c).

    Raises ValueError for inputs that are not (n, c) with values in [0, 1], and for sizes that
    are not positive.
    """

    input_shape: tuple[int, ...] = eqx.field(static=True)
    encoder: tuple[Count, ...] = eqx.field(static=True)
    decoder: tuple[Count, ...] = eqx.field(static=True)
    latent: Count = eqx.field(static=True)
    steps: Count = eqx.field(static=True)
    batch_size: Count = eqx.field(static=True)
    learning_rate: Positive = eqx.field(static=True)
    beta: NonNegative = eqx.field(static=True)
    sample: bool = eqx.field(static=True)
    inward: list[Dense]
    outward: list[Dense]

    def __init__(
        self,
        input_shape: tuple[int, ...],
        encoder: tuple[int, ...] = (64, 32),
        decoder: tuple[int, ...] = (32, 16),
        latent: int = 4,
        steps: int = 2000,
        batch_size: int = 1024,
        learning_rate: float = 1e-2,
        beta: float = 0.01,
        sample: bool = True,
        *,
        key: PRNGKeyArray,
    ):
        if len(input_shape) != 1:
            raise ValueError(f"VAEText.input_shape = {tuple(input_shape)} must be (classes,)")
        encoder, decoder = tuple(encoder), tuple(decoder)
        check(VAEText, encoder=encoder, decoder=decoder, latent=latent)
        self.input_shape, self.latent, self.steps = tuple(input_shape), latent, steps
        self.encoder, self.decoder = encoder, decoder
        self.batch_size, self.learning_rate = batch_size, learning_rate
        self.beta, self.sample = beta, sample
        inward, outward = jax.random.split(key)
        self.inward = stack([*input_shape, *encoder, 2 * latent], key=inward)
        self.outward = stack([latent, *decoder, *input_shape], key=outward)

    def moments(self, inputs: Float[Array, "n c"]) -> tuple[Array, Array]:
        mean, log_variance = jnp.split(through(self.inward, inputs), 2, axis=-1)
        return mean, log_variance

    def logits(self, z: Float[Array, "n d"]) -> Float[Array, "n c"]:
        return through(self.outward, z)

    def probabilities(self, logits: Float[Array, "n c"]) -> Float[Array, "n c"]:
        return jax.nn.softmax(logits)

    def loss(self, logits: Array, inputs: Array, divergence: Float[Array, " n"]) -> Scalar:
        entropy = optax.softmax_cross_entropy(logits, inputs)
        return (entropy + self.beta / self.latent * divergence).mean()

    def epochs_for(self, n: int) -> int:
        return -(-self.steps // max(1, n // self.batch_size))


def stack(sizes: list[int], *, key: PRNGKeyArray) -> list[Dense]:
    """Layers from each of the `sizes` to the next; `key` draws their weights."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [Dense(i, o, key=k) for i, o, k in zip(sizes, sizes[1:], keys, strict=False)]


def through(layers: list[Dense], x: Float[Array, "n i"]) -> Float[Array, "n o"]:
    """What `layers`, with ReLU between them, make of `x`."""
    for layer in layers[:-1]:
        x = jax.nn.relu(layer(x))
    return layers[-1](x)
