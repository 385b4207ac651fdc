"""Thin factors of a cost in half precision, and sums over them by blocks of rows."""

from collections.abc import Callable
from typing import Self, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jaxtyping import Array, Bool, Float, Float16, Int, Scalar

LARGEST = 65504.0
"""The largest number of float16."""

BLOCK = 2**18
"""Entries of a factor that are in single precision at once: what stays in a cache."""

State = TypeVar("State")


class Half(eqx.Module):
    """A factor a_ip = `least`_i + `excess`_ip, (n,) and (n, l), the latter in float16 and not
    negative.

    Of a kernel exp(-a / ε) the entries near the least of their row count. Here they are rounded
    by at most 2^-11 of what they are above it (and 3e-8): k ε above, the kernel is off by at most
    k 2^-11 of itself. In bfloat16 it would be eight times as much.
    """

    least: Float[Array, " n"]
    excess: Float16[Array, "n l"]

    @classmethod
    def of(cls, costs: Float[Array, "n l"]) -> Self:
        """`costs`, which may be no further than LARGEST above the least of their row: what is, is
        moved there."""
        least = costs.min(1)
        excess = jnp.minimum(costs - least[:, None], LARGEST)
        return cls(least, excess.astype(jnp.float16))

    @property
    def shape(self) -> tuple[int, int]:
        n, bridges = self.excess.shape
        return n, bridges

    def __len__(self) -> int:
        return len(self.least)

    def __getitem__(self, rows: Int[Array, " r"] | slice) -> Self:
        return type(self)(self.least[rows], self.excess[rows])


Factor = Float[Array, "n l"] | Half
"""A thin factor of a cost, in single or in half precision."""


def full(factor: Factor) -> Float[Array, "n l"]:
    """`factor` in single precision."""
    if isinstance(factor, Half):
        return factor.least[:, None] + factor.excess.astype(factor.least.dtype)
    return factor


def entries(factor: Factor, i: Int[Array, " k"], p: Int[Array, "k c"]) -> Float[Array, "k c"]:
    """Of the rows `i` of `factor` the columns `p` of each, in single precision."""
    if isinstance(factor, Half):
        return full(Half(factor.least[i], factor.excess[i[:, None], p]))
    return factor[i[:, None], p]


def cut(factor: Factor, start: Int[Array, ""], size: int) -> Float[Array, "size l"]:
    """The `size` rows of `factor` from `start` on, in single precision."""

    def of(leaf: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(leaf, start, size)

    return full(jax.tree.map(of, factor))


def rows_at_once(factor: Factor) -> int:
    """How many rows of `factor` make a block of at most BLOCK entries."""
    n, bridges = factor.shape
    return min(n, max(1, BLOCK // bridges))


def over_rows(
    step: Callable[[Int[Array, ""], Bool[Array, " size"], State], State],
    n: int,
    size: int,
    initial: State,
) -> State:
    """The state after `step`(start, new, state) on every block of `size` of `n` rows, from
    `initial` on; `new` says which rows of a block were in none before."""

    def block(k: Array, state: State) -> State:
        # The last block begins earlier than its turn, so that all have one shape.
        start = jnp.minimum(k * size, n - size)
        return step(start, start + jnp.arange(size) >= k * size, state)

    return jax.lax.fori_loop(0, -(-n // size), block, initial)


def log_sums(
    factor: Factor,
    epsilon: Scalar | float,
    rows: Float[Array, " n"],
    columns: Float[Array, " l"],
    axis: int,
) -> Float[Array, " k"]:
    """log Σ exp(r_i + s_p - a_ip / ε) over the `axis`, 0 or 1, of a `factor` a, `epsilon`, `rows` r
    and `columns` s; of a factor in half precision, by blocks."""
    # Not r - a / ε: a compiler would keep a / ε for a whole loop.
    if not isinstance(factor, Half):
        shift = epsilon * (rows[:, None] + columns)
        return logsumexp((shift - factor) / epsilon, axis=axis)
    size = rows_at_once(factor)

    def exponents(start: Array) -> Array:
        shift = epsilon * (cut(rows, start, size)[:, None] + columns)
        return (shift - cut(factor, start, size)) / epsilon

    def across(start: Array, new: Array, found: Array) -> Array:
        sums = logsumexp(exponents(start), axis=1)
        return jax.lax.dynamic_update_slice_in_dim(found, sums, start, 0)

    def down(start: Array, new: Array, found: Array) -> Array:
        log = jnp.where(new[:, None], exponents(start), -jnp.inf)
        return jnp.logaddexp(found, logsumexp(log, axis=0))

    if axis == 1:
        return over_rows(across, len(factor), size, jnp.zeros_like(rows))
    return over_rows(down, len(factor), size, jnp.full_like(columns, -jnp.inf))
