"""The baseline velocity field of App. E: three embeddings, one concatenation, one block."""

from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from morphkit.checks import Count, check
from morphkit.interfaces import VelocityField

from .embedding import TIME_FEATURES, Dense, Linear, Size, architecture, time_features

_SIZES = {"small": (4, 256), "medium": (6, 512), "large": (8, 1680)}


class MLP(VelocityField):
    """GENOT's velocity field v_θ(t, y | x) of Eq. 4 (Klein et al., 2023; App. E, Table 1).

    v = out(f(e_y(y) ‖ e_t(t) ‖ e_x(x))), with ‖ for concatenation.

    Latent noise y, time t and condition x pass through a block of SiLU layers each; the three
    outputs are concatenated and pass through a final block and a linear output. `layers` N
    counts the d × d layers between an input and the output, d being `hidden`; the layers that
    project in, merge the three embeddings and project out come on top. The paper does not say
    how N is split: here 2⌊N/4⌋ − 1 of them lie in each embedding, the others in the final
    block. Takes t (), y (q,), x (p,), expected at unit scale, and gives (q,), small at the start.

    | size   | N | d    | Table 1 | p = 16, q = 4 | p = 768, q = 384 |
    |--------|---|------|---------|---------------|------------------|
    | small  | 4 | 256  | 700K    | 680,452       | 1,067,904        |
    | medium | 6 | 512  | 3M      | 3,065,860     | 3,840,384        |
    | large  | 8 | 1680 | 49M     | 48,588,964    | 51,129,504       |

    Raises ValueError if `size` is unknown or a dimension, `layers` or `hidden` is not a
    positive integer.
    """

    source_dim: Count = eqx.field(static=True)
    target_dim: Count = eqx.field(static=True)
    size: Size = eqx.field(static=True)
    layers: Count | None = eqx.field(static=True)
    hidden: Count | None = eqx.field(static=True)
    noise: Dense
    time: Dense
    condition: Dense
    merge: Dense
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
            MLP, source_dim=source_dim, target_dim=target_dim,
            size=size, layers=layers, hidden=hidden,
        )  # fmt: skip
        n, d = architecture(_SIZES[size], layers, hidden)
        self.source_dim, self.target_dim, self.size = source_dim, target_dim, size
        self.layers, self.hidden = layers, hidden
        own = max(0, 2 * (n // 4) - 1)
        keys = jax.random.split(key, 5)
        self.noise = Dense([target_dim, *[d] * (1 + own)], key=keys[0])
        self.time = Dense([TIME_FEATURES, *[d] * (1 + own)], key=keys[1])
        self.condition = Dense([source_dim, *[d] * (1 + own)], key=keys[2])
        self.merge = Dense([3 * d, *[d] * (1 + n - own)], key=keys[3])
        self.output = Linear(d, target_dim, key=keys[4], scale=0.1)

    def __call__(
        self, t: Scalar, y: Float[Array, " q"], x: Float[Array, " p"]
    ) -> Float[Array, " q"]:
        embedded = self.noise(y), self.time(time_features(t)), self.condition(x)
        return self.output(self.merge(jnp.concatenate(embedded)))

    def at_rest(self) -> Self:
        return eqx.tree_at(lambda field: field.output, self, self.output.zero())
