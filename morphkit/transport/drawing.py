"""Draws from discrete distributions, by bisection of their cumulative ones."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


def cumulative(weights: Float[Array, "... k"]) -> Float[Array, "... k"]:
    """Cumulative distribution of `weights` along the last axis; uniform where a row has no mass.

    The last entry is exactly 1, so that no draw can fall beyond the support.
    """
    total = weights.sum(-1, keepdims=True)
    weights = jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), 1 / weights.shape[-1])
    cdf = jnp.cumsum(weights, axis=-1)
    return cdf / cdf[..., -1:]


def draw(
    key: PRNGKeyArray, cdf: Float[Array, "r k"], row: Int[Array, " num"]
) -> Int[Array, " num"]:
    """One draw by `key` from each of the distributions cdf[`row`], by bisection: O(num log k).

    Only the entries that the bisection visits are read, so `cdf` may be large.
    """
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


def draw_marginal(key: PRNGKeyArray, cdf: Float[Array, " n"], num: int) -> Int[Array, " num"]:
    """`num` draws by `key` from one distribution, given its cumulative one, `cdf`."""
    return draw(key, cdf[None], jnp.zeros(num, jnp.int32))
