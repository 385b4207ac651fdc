"""The velocity fields: sizes of Table 1, shapes, start, and what they depend on."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_fields.adaln import AdaLN
from morphkit_fields.embedding import TIME_FEATURES, parameter_count, time_features
from morphkit_fields.mlp import MLP

FIELDS = [MLP, AdaLN]
TABLE_1 = {"small": 700e3, "medium": 3e6, "large": 49e6}


def inputs(n=6, p=5, q=3):
    kt, ky, kx = jax.random.split(jax.random.key(1), 3)
    t = jax.random.uniform(kt, (n,))
    return t, jax.random.normal(ky, (n, q)), jax.random.normal(kx, (n, p))


@functools.cache
def build(field, p, q, layers, hidden, seed=0):
    return field(p, q, layers=layers, hidden=hidden, key=jax.random.key(seed))


def tiny(field):
    return build(field, 5, 3, 3, 16)


@eqx.filter_jit
def apply(module, t, y, x):
    return jax.vmap(module)(t, y, x)


@pytest.mark.parametrize("size", TABLE_1)
@pytest.mark.parametrize("field", FIELDS)
def test_parameter_counts_are_those_of_table_1_and_of_the_docstring(field, size):
    for p, q in ((16, 4), (768, 384)):
        shapes = eqx.filter_eval_shape(lambda k: field(p, q, size, key=k), jax.random.key(0))  # noqa: B023
        count = parameter_count(shapes)
        assert f"{count:,}" in field.__doc__
        if (p, q) == (16, 4):
            assert abs(count / TABLE_1[size] - 1) < 0.05


def test_parameter_count_counts_by_hand():
    n, d, p, q, f = 2, 8, 5, 3, TIME_FEATURES
    blocks = n * (3 * d * d + 3 * d + 2 * (d * d + d))
    time = f * 4 * d + 4 * d + 4 * d * d + d
    ends = (q * d + d) + (p * d + d + d * d + d) + (2 * d * d + 2 * d) + (d * q + q)
    field = eqx.filter_eval_shape(
        lambda k: AdaLN(p, q, layers=n, hidden=d, key=k), jax.random.key(0)
    )
    assert parameter_count(field) == blocks + time + ends


@pytest.mark.parametrize("field", FIELDS)
def test_one_sample_in_one_vector_out_and_small_at_the_start(field):
    module = build(field, 16, 4, None, None)
    t, y, x = inputs(256, 16, 4)
    out = apply(module, t, y, x)
    assert out.shape == (256, 4)
    assert 0 < float(jnp.sqrt(jnp.mean(out**2))) < 0.3


@pytest.mark.parametrize("field", FIELDS)
def test_vmap_equals_a_loop(field):
    module, batch = tiny(field), inputs()
    call = eqx.filter_jit(module)
    loop = jnp.stack([call(*(a[i] for a in batch)) for i in range(6)])
    np.testing.assert_allclose(apply(module, *batch), loop, atol=1e-5)


def test_adaln_blocks_start_as_the_identity():
    module = tiny(AdaLN)
    h, condition = jax.random.normal(jax.random.key(3), (2, 16))
    for i in range(3):
        block = jax.tree.map(lambda a: a[i] if eqx.is_array(a) else a, module.blocks)  # noqa: B023
        np.testing.assert_array_equal(block(h, condition), h)


def test_adaln_starts_as_a_normalised_linear_map_of_the_noise():
    module, (t, y, x) = tiny(AdaLN), inputs()
    h = np.asarray(y) @ np.asarray(module.noise.weight).T
    h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-6)
    expected = h @ np.asarray(module.output.weight).T
    np.testing.assert_allclose(apply(module, t, y, x), expected, atol=1e-5)


@pytest.mark.parametrize("field", FIELDS)
def test_depends_on_every_input_after_one_gradient_step(field):
    module, (t, y, x) = tiny(field), inputs()

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(module):
        return jnp.mean((jax.vmap(module)(t, y, x) - y - x[:, :3] * t[:, None]) ** 2)

    moved = eqx.apply_updates(module, jax.tree.map(lambda g: -0.3 * g, gradient(module)))
    base = apply(moved, t, y, x)
    for changed in ((1 - t, y, x), (t, y + 1, x), (t, y, x + 1)):
        assert float(jnp.abs(apply(moved, *changed) - base).max()) > 1e-6


@pytest.mark.parametrize("field", FIELDS)
def test_the_key_decides(field):
    again = build.__wrapped__(field, 5, 3, 3, 16)
    assert eqx.tree_equal(tiny(field), again)
    assert not eqx.tree_equal(tiny(field), build.__wrapped__(field, 5, 3, 3, 16, seed=1))


@pytest.mark.parametrize("field", FIELDS)
def test_bad_arguments_are_named(field):
    key = jax.random.key(0)
    for name, arguments in {
        "size": {"size": "huge"},
        "source_dim": {"source_dim": 0},
        "target_dim": {"target_dim": -1},
        "layers": {"layers": 0},
        "hidden": {"hidden": 2.5},
    }.items():
        with pytest.raises(ValueError, match=rf"^{field.__name__}\.{name} = "):
            field(**({"source_dim": 5, "target_dim": 3} | arguments), key=key)


def test_time_features_tell_times_apart():
    features = jax.vmap(time_features)(jnp.linspace(0, 1, 11))
    assert features.shape == (11, TIME_FEATURES)
    gaps = np.linalg.norm(features[:, None] - features[None], axis=2) + 99 * np.eye(11)
    assert gaps.min() > 1
