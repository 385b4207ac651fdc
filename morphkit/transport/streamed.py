"""Entropic couplings of points: rows are computed when they are asked for, nothing is n × m."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from ..devices import GATHERED, WHOLE, first_row, over_points, total
from ..precision import in_full_precision
from .couplings import Convergence, Coupling, Potential
from .drawing import ROWS, Table, choose_each
from .half import cut, over_rows


class EntropicCoupling(Coupling):
    """π_ij = exp(f_i + g_j - c_ij / ε) of a cost with thin factors, c_ij / ε = max(a_i · b_j, 0).

    `left` (n, r) has the rows a_i and `right` (m, r) the rows b_j, as `geometry.factors` makes
    them of points, one of the two over ε; `epsilon` is ε in units of the cost. `f` (n,) and `g`
    (m,) are the potentials over ε; `convergence` is how its solver ended. Memory is
    O((n + m) r), and O(m) for each row that is held at once. A draw takes O(m r) time, since it
    computes its row.
    """

    left: Float[Array, "n r"]
    right: Float[Array, "m r"]
    epsilon: Scalar | float
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    marginals: tuple[Float[Array, " n"], Float[Array, " m"]]
    sources: Table
    convergence: Convergence

    def __init__(
        self,
        left: Float[Array, "n r"],
        right: Float[Array, "m r"],
        epsilon: Scalar | float,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        convergence: Convergence,
    ) -> None:
        self.left, self.right, self.epsilon, self.f, self.g = left, right, epsilon, f, g
        self.marginals = _marginals(left, right, f, g)
        self.sources = Table.of(self.marginals[0])
        self.convergence = convergence

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.left), len(self.right)

    @property
    def potential(self) -> Potential:
        return Potential(self.g, self.epsilon)

    def rows(self, i: Int[Array, " k"]) -> Float[Array, "k m"]:
        return jnp.exp(self.f[i][:, None] + _exponents(self.left[i], self.right, self.g))

    def marginal(self, axis: int) -> Float[Array, " n"]:
        return self.marginals[axis]

    def sample(self, key: PRNGKeyArray, num: int) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
        key_i, key_j = jax.random.split(key)
        i = self.sources.draws(key_i, num)
        return i, self.targets(key_j, i)

    def targets(self, key: PRNGKeyArray, i: Int[Array, " num"]) -> Int[Array, " num"]:
        return choose_each(key, i, self.rows)

    def log_conditional(self, i: Int[Array, " k"]) -> Float[Array, "k m"]:
        return jax.nn.log_softmax(_exponents(self.left[i], self.right, self.g), axis=1)


@in_full_precision
def _exponents(left: Array, right: Array, g: Array) -> Float[Array, "... m"]:
    return g - jnp.maximum(left @ right.T, 0)


@jax.jit
@in_full_precision
def _marginals(
    left: Array, right: Array, f: Array, g: Array
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """Of rows and columns, in one reading."""

    def part(left: Array, f: Array, right: Array, g: Array) -> tuple[Array, Array]:
        f = jnp.where(first_row(len(f)) + jnp.arange(len(f)) < n, f, -jnp.inf)  # not what is padded
        rows, columns = _sums(left, right, f, g)
        return rows, total(columns)

    n = len(f)
    return over_points(part, (left, f), (right, g), (GATHERED, WHOLE))


def _sums(left: Array, right: Array, f: Array, g: Array) -> tuple[Array, Array]:
    size = min(ROWS, len(left))

    def step(start: Array, new: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        values = _exponents(cut(left, start, size), right, g)
        largest = values.max(1)
        values, scale = jnp.exp(values - largest[:, None]), jnp.exp(cut(f, start, size) + largest)
        rows = jax.lax.dynamic_update_slice_in_dim(sums[0], scale * values.sum(1), start, 0)
        return rows, sums[1] + jnp.where(new, scale, 0) @ values

    return over_rows(step, len(left), size, (jnp.zeros_like(f), jnp.zeros_like(g)))
