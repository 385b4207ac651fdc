"""Draws from discrete distributions, by bisection of their cumulative ones.

In float32 a cumulative distribution of a million entries gives some a fifth too much. Long ones are
so cut into blocks: a draw chooses the block, and then within it.
"""

from collections.abc import Callable
from math import isqrt

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

WIDTH = 2048
"""Entries of a cumulative distribution at most: rounding is 3e-4 of one entry of as many."""

ROWS = 256
"""Distributions that are computed for a draw and held at once."""


class Table(eqx.Module):
    """Distributions over `size` entries each, to draw from as often as one likes.

    `levels` are cumulative distributions, coarse to fine: the first has a row for each
    distribution, over blocks of at most WIDTH entries where there are more; each next one has a row
    for every block.
    """

    levels: tuple[Float[Array, "r k"], ...]
    size: int = eqx.field(static=True)

    @classmethod
    def of(cls, weights: Float[Array, "*r k"]) -> "Table":
        """The distributions in the last axis of `weights`, of any sum; uniform where it is 0."""
        weights = weights.reshape(-1, weights.shape[-1])
        size, levels = weights.shape[1], []
        while weights.shape[1] > WIDTH:
            number = -(-weights.shape[1] // WIDTH)
            blocks = _blocks(weights, -(-weights.shape[1] // number))
            levels.append(_cumulative(blocks.reshape(-1, blocks.shape[2])))
            weights = blocks.sum(2)
        return cls((_cumulative(weights), *reversed(levels)), size)

    def draw(self, key: PRNGKeyArray, row: Int[Array, " num"]) -> Int[Array, " num"]:
        """One draw by `key` from each of the distributions `row` (num,), in O(num log size): only
        what the bisection visits is read."""
        found, rows = jnp.zeros_like(row), len(self.levels[0])
        keys = jax.random.split(key, len(self.levels)) if len(self.levels) > 1 else [key]
        for key_k, level in zip(keys, self.levels, strict=True):
            blocks = len(level) // rows
            found = found * level.shape[1] + _bisected(key_k, level, row * blocks + found)
        return jnp.minimum(found, self.size - 1)

    def draws(self, key: PRNGKeyArray, num: int) -> Int[Array, " num"]:
        """`num` draws by `key` from the first distribution."""
        return self.draw(key, jnp.zeros(num, jnp.int32))


def choose(key: PRNGKeyArray, weights: Float[Array, "r k"]) -> Int[Array, " r"]:
    """One draw by `key` from each row of `weights` (r, k), of any sum; of anything, where that is
    0. For distributions that are drawn from once: only one block of each is summed up."""
    rows, size = weights.shape
    blocks = _blocks(weights, isqrt(size - 1) + 1)
    key_block, key_within = jax.random.split(key)
    index = jnp.arange(rows)
    block = _bisected(key_block, _cumulative(blocks.sum(2)), index)
    within = _bisected(key_within, _cumulative(blocks[index, block]), index)
    return jnp.minimum(block * blocks.shape[2] + within, size - 1)


def choose_each(
    key: PRNGKeyArray,
    i: Int[Array, " num"],
    rows: Callable[[Int[Array, " k"]], Float[Array, "k m"]],
) -> Int[Array, " num"]:
    """`choose` by `key` from rows(`i`), of which at most ROWS are held at once; `rows` gives the
    weights of each of the points that it is asked for."""

    def one(keyed: tuple[PRNGKeyArray, Array]) -> Array:
        key, i = keyed
        return choose(key, rows(i[None]))[0]

    return jax.lax.map(one, (jax.random.split(key, len(i)), i), batch_size=min(ROWS, len(i)))


def _blocks(weights: Float[Array, "r k"], width: int) -> Float[Array, "r b width"]:
    rows, size = weights.shape
    return jnp.pad(weights, ((0, 0), (0, -size % width))).reshape(rows, -1, width)


def _cumulative(weights: Float[Array, "r k"]) -> Float[Array, "r k"]:
    """It rises where there is weight and nowhere else, as sums in float32 may not, and ends at
    exactly 1: no draw falls beyond the support."""
    total = weights.sum(-1, keepdims=True)
    weights = jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), 1 / weights.shape[-1])
    cdf = jax.lax.cummax(jnp.where(weights > 0, jnp.cumsum(weights, axis=-1), 0), axis=1)
    return cdf / cdf[..., -1:]


@jax.jit
def _bisected(
    key: PRNGKeyArray, cdf: Float[Array, "r k"], row: Int[Array, " num"]
) -> Int[Array, " num"]:
    size = cdf.shape[1]
    u = jax.random.uniform(key, row.shape, cdf.dtype)
    bounds = (jnp.zeros_like(row), jnp.full_like(row, size - 1))
    return bisect(lambda middle: cdf[row, middle] <= u, bounds, size)


def bisect(
    beyond: Callable[[Array], Array], bounds: tuple[Array, Array], size: int
) -> Int[Array, " num"]:
    """The first index between `bounds`, both included and at most `size` apart, that the answer
    does not lie beyond, as `beyond` says of any index."""

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        right = beyond(middle) & (low < high)
        return jnp.where(right, middle + 1, low), jnp.where(right, high, middle)

    return jax.lax.fori_loop(0, max(size - 1, 1).bit_length(), halve, bounds)[0]
