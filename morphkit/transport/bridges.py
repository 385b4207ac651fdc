"""Couplings of a cost by bridges, on its two thin factors."""

from functools import partial
from math import isqrt

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from ..devices import gathered
from .couplings import Convergence, Coupling, Potential
from .drawing import ROWS, Table, choose
from .half import Factor, cut, entries, full, log_sums, over_rows, rows_at_once

AT_ONCE = 2**25
"""Entries of the tables of targets that are made at once."""


class BridgeCoupling(Coupling):
    """A mixture over l bridges: π_ij = Σ_p exp(left_ip + right_jp), left_ip = f_i - a_ip / ε and
    right_jp = g_j - b_jp / ε.

    Draws pick a source point, then the bridge it leaves by, then the target point that the
    bridge leads to. The bridge is drawn in two steps, of which the first, one of √l blocks, has a
    table. Memory is O((n + m) l): the table of the targets, and `a` (n, l) and `b` (m, l), which
    are kept as they are given, since a cost has them anyway. `mass` (l,) is the logarithm of what
    comes from a bridge, per what enters it. `epsilon` is ε in their units,
    `f` (n,) and `g` (m,) are the potentials over ε; `convergence` is how its solver ended. Without
    `of_cost` the bridges are components of a mixture, whose potentials say nothing of new points.
    """

    a: Factor
    b: Factor
    epsilon: Scalar | float
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    mass: Float[Array, " l"]
    sources: Table
    blocks: Table
    from_bridges: Table
    convergence: Convergence
    of_cost: bool = eqx.field(static=True)

    def __init__(
        self,
        a: Factor,
        b: Factor,
        epsilon: Scalar | float,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        convergence: Convergence,
        of_cost: bool = True,
    ) -> None:
        self.a, self.b, self.epsilon, self.f, self.g = a, b, epsilon, f, g
        self.convergence, self.of_cost = convergence, of_cost
        self.mass, self.from_bridges = _to_targets(b, epsilon, g)
        self.sources, self.blocks = _from_sources(a, epsilon, f, self.mass)

    @property
    def left(self) -> Float[Array, "n l"]:
        return _exponents(self.f, self.a, self.epsilon)

    @property
    def right(self) -> Float[Array, "m l"]:
        return _exponents(self.g, self.b, self.epsilon)

    @property
    def shape(self) -> tuple[int, int]:
        return self.a.shape[0], self.b.shape[0]

    @property
    def potential(self) -> Potential | None:
        if not self.of_cost:
            return None
        return Potential(self.g, self.epsilon, softness=self.epsilon)

    def rows(self, i: Int[Array, " k"]) -> Float[Array, "k m"]:
        # By what leaves by each bridge, and where that goes: neither factor overflows.
        return jnp.exp(self._leaving(i)) @ jnp.exp(self.right - _finite(self.mass)).T

    def barycentres(self, values: Float[Array, "m q"]) -> Float[Array, "n q"]:
        return gathered(_through_bridges(self, values))

    def marginal(self, axis: int) -> Float[Array, " n"]:
        if axis == 0:
            return gathered(jnp.exp(log_sums(self.a, self.epsilon, self.f, self.mass, axis=1)))
        leaving = log_sums(self.a, self.epsilon, self.f, jnp.zeros_like(self.mass), axis=0)
        return jnp.exp(log_sums(self.b, self.epsilon, self.g, leaving, axis=1))

    def sample(self, key: PRNGKeyArray, num: int) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
        key_i, key_j = jax.random.split(key)
        i = self.sources.draws(key_i, num)
        return i, self.targets(key_j, i)

    def targets(self, key: PRNGKeyArray, i: Int[Array, " num"]) -> Int[Array, " num"]:
        key_block, key_p, key_j = jax.random.split(key, 3)
        width = _width(self.a)
        p = self.blocks.draw(key_block, i)[:, None] * width + jnp.arange(width)
        log = jnp.where(
            p < len(self.mass), self._leaving_by(i, jnp.minimum(p, len(self.mass) - 1)), -jnp.inf
        )
        within = choose(key_p, jax.nn.softmax(log, axis=1))
        return self.from_bridges.draw(key_j, p[jnp.arange(len(i)), within])

    def _leaving(self, i: Int[Array, " k"]) -> Float[Array, "k l"]:
        """log of the mass that goes from the source points `i` over each bridge."""
        return _exponents(self.f[i], self.a[i], self.epsilon) + self.mass

    def _leaving_by(self, i: Int[Array, " k"], p: Int[Array, "k c"]) -> Float[Array, "k c"]:
        """The same for the bridges `p` of each point alone."""
        return _exponents(self.f[i], entries(self.a, i, p), self.epsilon) + self.mass[p]


def _exponents(potential: Array, cost: Factor, epsilon: Array | float) -> Array:
    return potential[:, None] - full(cost) / epsilon


def _width(a: Factor) -> int:
    return isqrt(a.shape[1] - 1) + 1


# Compiled apart: the working memory of the one is free again when the other needs its own.
@jax.jit
def _from_sources(a: Factor, epsilon: Array, f: Array, mass: Array) -> tuple[Table, Table]:
    """Tables of the sources, and of the blocks of bridges by which each is left."""
    (n, bridges), width = a.shape, _width(a)
    size = rows_at_once(a)

    def fill(start: Array, new: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        log = _exponents(cut(f, start, size), cut(a, start, size), epsilon) + mass
        largest = log.max(1, keepdims=True)
        largest = jnp.where(jnp.isfinite(largest), largest, 0)  # a point without mass
        weights = jnp.pad(jnp.exp(log - largest), ((0, 0), (0, -bridges % width)))
        blocks = weights.reshape(size, -1, width).sum(2)
        marginal = jnp.exp(largest[:, 0]) * blocks.sum(1)
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return jax.tree.map(put, found, (marginal, blocks))

    nothing = jnp.zeros(n, f.dtype), jnp.zeros((n, -(-bridges // width)), f.dtype)
    marginal, blocks = over_rows(fill, n, size, nothing)
    return Table.of(marginal), Table.of(blocks)


@jax.jit
def _to_targets(b: Factor, epsilon: Array, g: Array) -> tuple[Array, Table]:
    """The mass of each bridge, and tables of the targets that it leads to; made by blocks of
    bridges, since of very many targets the tables alone are what memory has."""
    m, bridges = b.shape
    mass = log_sums(b, epsilon, g, jnp.zeros(bridges, g.dtype), axis=0)

    size = min(bridges, max(1, AT_ONCE // m))

    def table(p: Array) -> Table:
        column = entries(b, jnp.arange(m), jnp.full((m, 1), p))
        log = _exponents(g, column, epsilon)[:, 0]
        return Table.of(jnp.exp(log - _finite(mass)[p]))

    def fill(start: Array, new: Array, found: Table) -> Table:
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return jax.tree.map(put, found, jax.vmap(table)(start + jnp.arange(size)))

    nothing = jax.tree.map(
        lambda level: jnp.zeros((bridges, *level.shape), level.dtype),
        jax.eval_shape(table, jnp.zeros((), jnp.int32)),
    )
    tables = over_rows(fill, bridges, size, nothing)
    return mass, jax.tree.map(lambda level: level.reshape(-1, level.shape[-1]), tables)


def _finite(mass: Float[Array, " l"]) -> Float[Array, " l"]:
    """0 for a bridge without mass, to divide by."""
    return jnp.where(jnp.isfinite(mass), mass, 0)


@eqx.filter_jit
def _through_bridges(coupling: BridgeCoupling, values: Float[Array, "m q"]) -> Float[Array, "n q"]:
    of_bridges = jnp.exp(coupling.right - _finite(coupling.mass)).T @ values
    n = coupling.shape[0]
    return jax.lax.map(
        lambda i: (jnp.exp(coupling._leaving(i[None])) @ of_bridges)[0],
        jnp.arange(n), batch_size=min(ROWS, n),
    )  # fmt: skip
