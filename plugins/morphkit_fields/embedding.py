"""What both fields are made of: time features, SiLU layers, and how many parameters there are."""

from collections.abc import Sequence
from typing import Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

TIME_FEATURES = 320

Size = Literal["small", "medium", "large"]
"""A preset of Table 1."""

# The fastest wave makes about ten turns in [0, 1]: an ODE solver of a few dozen steps can
# follow it. The slowest makes a sixth of a turn, so that t = 0 and t = 1 differ.
_SLOWEST, _FASTEST = 1.0, 64.0


def time_features(t: Scalar) -> Float[Array, " f"]:
    """Sines and cosines of `t` in [0, 1] at geometrically spaced frequencies, (TIME_FEATURES,)."""
    angles = t * jnp.geomspace(_SLOWEST, _FASTEST, TIME_FEATURES // 2)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


class Linear(eqx.Module):
    """weight @ x + bias, from `in_size` to `out_size` numbers. Weights start LeCun-uniform times
    `scale`, drawn by `key`, the bias at zero.

    Equinox's own layer starts with a third of that variance, which a stack of eight SiLU
    layers shrinks to nothing.
    """

    weight: Float[Array, "b a"]
    bias: Float[Array, " b"]

    def __init__(self, in_size: int, out_size: int, *, key: PRNGKeyArray, scale: float = 1.0):
        shape, bound = (out_size, in_size), scale * (3 / in_size) ** 0.5
        # Each new shape of draw is compiled, the slowest part of building a field.
        start = jax.random.uniform(key, shape, minval=-1, maxval=1) if scale else jnp.zeros(shape)
        self.weight = bound * start
        self.bias = jnp.zeros(out_size)

    def __call__(self, x: Float[Array, " a"]) -> Float[Array, " b"]:
        """The map at one point `x`."""
        return self.weight @ x + self.bias

    def zero(self) -> Self:
        """The layer that gives 0 for every point."""
        return jax.tree.map(jnp.zeros_like, self)


class Dense(eqx.Module):
    """Linear layers from each of `sizes` to the next, each followed by SiLU; `key` draws the
    weights."""

    layers: tuple[Linear, ...]

    def __init__(self, sizes: Sequence[int], *, key: PRNGKeyArray):
        keys = jax.random.split(key, len(sizes) - 1)
        steps = zip(sizes[:-1], sizes[1:], keys, strict=True)
        self.layers = tuple(Linear(a, b, key=k) for a, b, k in steps)

    def __call__(self, x: Float[Array, " a"]) -> Float[Array, " b"]:
        """The layers' output for one point `x`."""
        for layer in self.layers:
            x = jax.nn.silu(layer(x))
        return x


def parameter_count(module: eqx.Module) -> int:
    """The number of trainable numbers in `module`, or in its shapes (`eqx.filter_eval_shape`)."""
    numbers = eqx.filter(module, lambda leaf: isinstance(leaf, jax.Array | jax.ShapeDtypeStruct))
    return sum(leaf.size for leaf in jax.tree.leaves(numbers))


def architecture(
    preset: tuple[int, int], layers: int | None, hidden: int | None
) -> tuple[int, int]:
    """(layers N, hidden size d): those of `preset`, unless `layers` or `hidden` are given."""
    n, d = preset
    return n if layers is None else layers, d if hidden is None else hidden
