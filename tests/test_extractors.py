"""The extractors against XLA's own convolutions, closed forms and scikit-learn."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_extractors.convolutions import convolve, convolve_transpose
from morphkit_extractors.identity import Identity
from morphkit_extractors.vae import VAEImage, VAEText
from sklearn.neighbors import KNeighborsClassifier

from morphkit.data.digits import Digits

KEY = jax.random.key(0)
LAYOUT = ("HWNC", "HWIO", "HWNC")


def with_gradients(function, x, kernel):
    """Value, and the gradients of a non-linear function of it."""

    def total(x, kernel):
        value = function(x, kernel)
        return jnp.sin(value).mean(), value

    (_, value), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(x, kernel)
    return value, *gradients


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(28, 28), (14, 14), (7, 7), (8, 4), (2, 7), (1, 1), (5, 2)])
def test_convolutions_agree_with_xla(size, stride):
    keys = jax.random.split(KEY, 3)
    x = jax.random.normal(keys[0], (*size, 3, 4))
    kernel = jax.random.normal(keys[1], (3, 3, 4, 5))
    back = jax.random.normal(keys[2], (3, 3, 5, 4))

    def reference(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=LAYOUT
        )

    def transposed(x, kernel):
        return jax.lax.conv_transpose(
            x, kernel, (stride, stride), "SAME", dimension_numbers=LAYOUT, transpose_kernel=True
        )

    for ours, theirs, weight in (
        (lambda x, k: convolve(x, k, stride), reference, kernel),
        (lambda x, k: convolve_transpose(x, k, stride), transposed, back),
    ):
        for a, b in zip(
            with_gradients(ours, x, weight), with_gradients(theirs, x, weight), strict=True
        ):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_identity_flattens_and_restores():
    inputs = np.random.default_rng(0).normal(size=(5, 2, 3))
    identity = Identity(input_shape=(2, 3), key=KEY)
    features = identity.fit(inputs, key=KEY).encode(inputs, key=KEY)
    np.testing.assert_array_equal(features, inputs.reshape(5, 6).astype(np.float32))
    np.testing.assert_array_equal(identity.decode(features), inputs.astype(np.float32))
    with pytest.raises(ValueError, match="built for rows of shape"):
        identity.encode(inputs[:, :1], key=KEY)


def test_image_vae_has_the_layers_of_table_2():
    vae = eqx.filter_eval_shape(lambda: VAEImage(input_shape=(28, 28, 1), key=KEY))
    kernels = [layer.kernel.shape for layer in (*vae.down, *vae.up)]
    assert kernels == [
        (3, 3, 1, 128), (3, 3, 128, 256), (3, 3, 256, 512),
        (3, 3, 256, 512), (3, 3, 128, 256), (3, 3, 1, 128),
    ]  # fmt: skip
    assert vae.posterior.weight.shape == (4 * 4 * 512, 32)
    assert vae.spread.weight.shape == (16, 7 * 7 * 512)
    images = eqx.filter_eval_shape(lambda v: v.logits(jnp.zeros((2, 16))), vae)
    assert images.shape == (2, 28, 28, 1)


def test_losses_are_negative_elbos():
    rng = np.random.default_rng(0)
    image = VAEImage(input_shape=(8, 8, 1), channels=(2, 3, 4), beta=0.7, key=KEY)
    logits, inputs = rng.normal(size=(3, 8, 8, 1)), rng.random((3, 8, 8, 1)) > 0.5
    divergence = rng.random(3)
    p = 1 / (1 + np.exp(-logits))
    expected = -np.log(np.where(inputs, p, 1 - p)).sum() / 3 + 0.7 * divergence.mean()
    found = image.loss(jnp.array(logits), jnp.array(inputs, float), jnp.array(divergence))
    np.testing.assert_allclose(found, expected, rtol=1e-5)

    text = VAEText(input_shape=(5,), latent=4, beta=0.5, key=KEY)
    logits, labels = rng.normal(size=(3, 5)), np.array([0, 3, 4])
    q = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log(q[np.arange(3), labels]).mean() + 0.5 * divergence.mean() / 4
    found = text.loss(jnp.array(logits), jnp.eye(5)[labels], jnp.array(divergence))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_image_vae_learns_digits():
    data = Digits(pretrain_fraction=0.6).load()
    reports = []
    vae = VAEImage(
        input_shape=(8, 8, 1),
        channels=(8, 16, 32),
        latent=8,
        epochs=30,
        batch_size=32,
        learning_rate=3e-3,
        beta=0.2,
        key=KEY,
    ).fit(data.pretrain.source, key=KEY, tell=lambda *r: reports.append(r))
    steps = [r[0] for r in reports]
    assert steps == sorted(set(steps))
    assert steps[-1] == reports[-1][1] == 30 * (len(data.pretrain.source) // 32)
    assert reports[-1][2]["loss"] < 0.8 * reports[0][2]["loss"]

    x = vae.encode(data.pretrain.source, key=KEY)
    x_test = vae.encode(data.test.source, key=KEY)
    neighbours = KNeighborsClassifier(5).fit(x, data.pretrain.source_labels)
    assert neighbours.score(x_test, data.test.source_labels) > 0.8

    untrained = VAEImage((8, 8, 1), vae.channels, latent=8, sample=False, key=KEY)
    weights = eqx.filter(vae, eqx.is_array)
    means = jax.tree.unflatten(jax.tree.structure(untrained), jax.tree.leaves(weights))
    exact = means.encode(data.test.source, key=KEY)
    np.testing.assert_allclose(exact, vae.moments(jnp.asarray(data.test.source))[0], atol=1e-5)
    assert float(jnp.abs(exact - x_test).mean()) > 0.05
    error = np.mean((np.asarray(vae.decode(exact)) - data.test.source) ** 2)
    blank = np.mean((data.pretrain.source.mean(0) - data.test.source) ** 2)
    assert error < 0.5 * blank


@pytest.mark.parametrize("n", [500, 50_000])
def test_text_vae_separates_all_labels(n):
    one_hot = np.eye(10, dtype=np.float32)
    vae = VAEText(input_shape=(10,), key=KEY)
    vae = vae.fit(one_hot[np.random.default_rng(0).integers(0, 10, n)], key=KEY)
    labels = np.arange(20_000) % 10
    z = vae.encode(one_hot[labels], key=KEY)
    assert z.shape == (20_000, 4)
    probabilities = np.asarray(vae.decode(z))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert np.mean(probabilities.argmax(1) == labels) > 0.999


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="divisible by 4"):
        VAEImage(input_shape=(30, 30, 1), key=KEY)
    with pytest.raises(ValueError, match=r"VAEImage\.epochs"):
        VAEImage(input_shape=(8, 8, 1), epochs=0, key=KEY)
    for wrong in ((2, 2), (2, 0, 2)):
        with pytest.raises(ValueError, match=r"VAEImage\.channels = "):
            VAEImage(input_shape=(8, 8, 1), channels=wrong, key=KEY)
    with pytest.raises(ValueError, match=r"input_shape"):
        VAEText(input_shape=(8, 8), key=KEY)
    with pytest.raises(ValueError, match=r"VAEText\.steps"):
        VAEText(input_shape=(8,), steps=0, key=KEY)
    vae = VAEImage(input_shape=(8, 8, 1), channels=(2, 2, 2), key=KEY)
    with pytest.raises(ValueError, match="between 0 and 1"):
        vae.fit(np.full((3, 8, 8, 1), 255.0), key=KEY)
    with pytest.raises(ValueError, match="between 0 and 1"):
        vae.encode(np.full((3, 8, 8, 1), np.nan), key=KEY)
    with pytest.raises(ValueError, match="not \\(3, 8, 8\\)"):
        vae.encode(np.zeros((3, 8, 8)), key=KEY)
