"""The velocity field with adaptive layer normalisation of App. E.1, after DiT's adaLN-Zero."""

from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from morphkit.checks import Count, check
from morphkit.interfaces import VelocityField

from .embedding import TIME_FEATURES, Dense, Linear, Size, architecture, time_features

_SIZES = {"small": (5, 128), "medium": (7, 256), "large": (8, 1024)}


def _normalise(
    h: Float[Array, " d"], scale: Float[Array, " d"], shift: Float[Array, " d"]
) -> Float[Array, " d"]:
    """Layer normalisation whose only affine part is the given one."""
    centred = h - h.mean()
    return centred * jax.lax.rsqrt(jnp.mean(centred**2) + 1e-6) * (1 + scale) + shift


class Block(eqx.Module):
    """h + gate · MLP(LayerNorm(h) (1 + scale) + shift), all three regressed from the condition.

    h has `width` numbers; `key` draws the weights. The regression starts at zero, so the block
    starts as the identity.
    """

    modulation: Linear
    body: Dense

    def __init__(self, width: int, *, key: PRNGKeyArray):
        regression_key, body_key = jax.random.split(key)
        self.modulation = Linear(width, 3 * width, key=regression_key, scale=0.0)
        self.body = Dense([width] * 3, key=body_key)

    def __call__(self, h: Float[Array, " d"], condition: Float[Array, " d"]) -> Float[Array, " d"]:
        """The block at `h`, modulated by `condition`."""
        scale, shift, gate = jnp.split(self.modulation(condition), 3)
        return h + gate * self.body(_normalise(h, scale, shift))


class AdaLN(VelocityField):
    """v_θ(t, y | x) of Eq. 4 by `layers` N adaLN-Zero blocks of width `hidden` d (App. E.1,
    Table 1).

    h ← h + γ_c · MLP(LayerNorm(h) (1 + σ_c) + β_c), γ, σ, β regressed from c = e_t(t) + e_x(x).

    The latent noise y is projected to width d and passes through the blocks. Each normalises
    it without a learned affine part, scales and shifts it, applies a two-layer SiLU MLP, and
    adds the result back times a dimension-wise scale that starts at zero. Scales and shifts
    are regressed from the condition, the sum of the embedded time and source point. A last
    adaptive normalisation leads into the linear output. Takes t (), y (q,), x (p,), expected
    at unit scale, and gives (q,), small at the start.

    | size   | N | d    | Table 1 | p = 16, q = 4 | p = 768, q = 384 |
    |--------|---|------|---------|---------------|------------------|
    | small  | 5 | 128  | 700K    | 695,684       | 889,600          |
    | medium | 7 | 256  | 3M      | 3,097,860     | 3,485,312        |
    | large  | 8 | 1024 | 49M     | 50,669,572    | 52,218,240       |

    Raises ValueError if `size` is unknown or a dimension, `layers` or `hidden` is not a
    positive integer.
    """

    source_dim: Count = eqx.field(static=True)
    target_dim: Count = eqx.field(static=True)
    size: Size = eqx.field(static=True)
    layers: Count | None = eqx.field(static=True)
    hidden: Count | None = eqx.field(static=True)
    noise: Linear
    time: Dense
    condition: Dense
    blocks: Block
    modulation: Linear
    output: Linear

    def __init__(
        self,
        source_dim: int,
        target_dim: int,
        size: Size = "small",
        layers: int | None = None,
        hidden: int | None = None,
        *,
        key: PRNGKeyArray,
    ):
        check(
            AdaLN, source_dim=source_dim, target_dim=target_dim,
            size=size, layers=layers, hidden=hidden,
        )  # fmt: skip
        n, d = architecture(_SIZES[size], layers, hidden)
        self.source_dim, self.target_dim, self.size = source_dim, target_dim, size
        self.layers, self.hidden = layers, hidden
        keys = jax.random.split(key, 6)
        self.noise = Linear(target_dim, d, key=keys[0])
        self.time = Dense([TIME_FEATURES, 4 * d, d], key=keys[1])
        self.condition = Dense([source_dim, d, d], key=keys[2])
        self.blocks = eqx.filter_vmap(lambda k: Block(d, key=k))(jax.random.split(keys[3], n))
        self.modulation = Linear(d, 2 * d, key=keys[4], scale=0.0)
        self.output = Linear(d, target_dim, key=keys[5], scale=0.1)

    def __call__(
        self, t: Scalar, y: Float[Array, " q"], x: Float[Array, " p"]
    ) -> Float[Array, " q"]:
        condition = self.time(time_features(t)) + self.condition(x)
        weights, static = eqx.partition(self.blocks, eqx.is_array)

        def step(h, block):
            return eqx.combine(block, static)(h, condition), None

        h, _ = jax.lax.scan(step, self.noise(y), weights)
        scale, shift = jnp.split(self.modulation(condition), 2)
        return self.output(_normalise(h, scale, shift))

    def at_rest(self) -> Self:
        return eqx.tree_at(lambda field: field.output, self, self.output.zero())
