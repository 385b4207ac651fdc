"""Sinkhorn's iterations by matrix products: mixed, annealed, and kept in float32's range."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jaxtyping import Array, Float, Int, Scalar

from morphkit.devices import log_total, total
from morphkit.transport.couplings import Convergence
from morphkit.transport.half import BLOCK, cut, over_rows

from .anderson import Memory

Circuit = Callable[[Array, Array, Scalar | float], tuple[Array, Array]]
RANGE = 1e8
"""How far scalings may leave 1 before they are absorbed: float32 ends at 1e±38, and a kernel
entry is a product with two of them."""

STREAMED = 2**23
"""Entries of a kernel that is not stored that are computed at once: enough rows for a product of
matrices to be fast."""


class Kernel(eqx.Module):
    """A Gibbs kernel exp(-c_ij / ε), known by its logarithm."""

    @abstractmethod
    def log_to_source(self, g: Float[Array, " m"]) -> Float[Array, " n"]:
        """log Σ_j exp(g_j - c_ij / ε), of the potential `g` over ε."""

    @abstractmethod
    def log_to_target(self, f: Float[Array, " n"]) -> Float[Array, " m"]:
        """log Σ_i exp(f_i - c_ij / ε), of the potential `f` over ε."""

    @abstractmethod
    def around(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> Circuit:
        """(v, offset, τ) to u = offset - τ log K exp(v) and Kᵀ exp(u), by products with
        K = exp(f_i + g_j - c_ij / ε), around the potentials `f` and `g`."""


class DenseKernel(Kernel):
    """A stored n × m kernel, by its logarithm `log`."""

    log: Float[Array, "n m"]

    def log_to_source(self, g: Float[Array, " m"]) -> Float[Array, " n"]:
        largest, rows = self._rows(g)
        return largest + jnp.log(rows.sum(1))

    def log_to_target(self, f: Float[Array, " n"]) -> Float[Array, " m"]:
        return logsumexp(self.log + f[:, None], axis=0)

    def around(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> Circuit:
        largest, rows = self._rows(g)
        scale = jnp.exp(f + largest)
        n, m = rows.shape
        size = min(n, max(1, BLOCK // m))

        def block(start: Array) -> tuple[Array, Array]:
            return cut(rows, start, size), cut(scale, start, size)

        return by_rows(block, n, size)

    def _rows(self, g: Float[Array, " m"]) -> tuple[Float[Array, " n"], Float[Array, "n m"]]:
        """Each row of the kernel with g over its largest entry, and that entry's logarithm: both
        `log_to_source` and `around` need it, and a compiler takes the exponentials once."""
        rows = self.log + g
        largest = rows.max(1)
        return largest, jnp.exp(rows - largest[:, None])


class StreamedKernel(Kernel):
    """exp(-max(a_i · b_j, 0)) of the rows a_i of `left` (n, r) and b_j of `right` (m, r), computed
    by blocks of rows whenever it is needed: O((n + m) r) memory, O(n m r) time. A `shared` kernel
    has one device's part of the rows, see `morphkit.devices.over_points`."""

    left: Float[Array, "n r"]
    right: Float[Array, "m r"]
    shared: bool = eqx.field(static=True, default=False)

    def log_to_source(self, g: Float[Array, " m"]) -> Float[Array, " n"]:
        def row(a: Float[Array, " r"]) -> Array:
            return logsumexp(g - jnp.maximum(a @ self.right.T, 0))

        return jax.lax.map(row, self.left, batch_size=self._size)

    def log_to_target(self, f: Float[Array, " n"]) -> Float[Array, " m"]:
        part = StreamedKernel(self.right, self.left).log_to_source(f)
        return log_total(part) if self.shared else part

    def around(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> Circuit:
        def block(start: Array) -> tuple[Array, Array]:
            log = g - jnp.maximum(cut(self.left, start, self._size) @ self.right.T, 0)
            largest = log.max(1)
            scale = jnp.exp(cut(f, start, self._size) + largest)
            return jnp.exp(log - largest[:, None]), scale

        circuit = by_rows(block, len(self.left), self._size)

        def shared(v: Array, offset: Array, tau: Scalar | float) -> tuple[Array, Array]:
            u, column = circuit(v, offset, tau)
            return u, total(column)

        return shared if self.shared else circuit

    @property
    def _size(self) -> int:
        return min(len(self.left), max(1, STREAMED // len(self.right)))


def by_rows(block: Callable[[Array], tuple[Array, Array]], n: int, size: int) -> Circuit:
    """The circuit of a kernel of `n` rows, of which `block`, given its start, has `size`: each row
    over its largest entry, and the scale that makes up for that.

    Block by block, since memory's speed is the limit: both products in one reading of the kernel.
    """

    def circuit(v: Array, offset: Array, tau: Scalar | float) -> tuple[Array, Array]:
        v = jnp.exp(v)

        def step(start: Array, new: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            rows, scale = block(start)
            u = updated(scale * (rows @ v), cut(offset, start, size), tau)
            column = jnp.where(new, scale * jnp.exp(u), 0) @ rows
            whole, total = state
            return jax.lax.dynamic_update_slice_in_dim(whole, u, start, 0), total + column

        return over_rows(step, n, size, (jnp.zeros_like(offset), jnp.zeros_like(v)))

    return circuit


def updated(mass: Float[Array, " n"], offset: Float[Array, " n"], tau: Scalar | float) -> Array:
    """Log scalings `offset` - τ log `mass`, τ being `tau`; a point that no mass reaches keeps its
    potential."""
    return jnp.where(mass > jnp.finfo(mass.dtype).tiny, offset - tau * _log(mass), 0)


def _log(mass: Float[Array, " n"]) -> Float[Array, " n"]:
    return jnp.log(jnp.maximum(mass, jnp.finfo(mass.dtype).tiny))


class _State(eqx.Module):
    """The centre (f, g), log scalings u, v around it, and where the iteration is."""

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    u: Float[Array, " n"]
    v: Float[Array, " m"]
    memory: Memory
    iteration: Int[Array, ""]
    error: Float[Array, ""]


@eqx.filter_jit
def sinkhorn(
    kernel: Kernel,
    mu: Float[Array, " n"],
    nu: Float[Array, " m"],
    *,
    start: Float[Array, " m"],
    tau_x: Scalar | float,
    tau_y: Scalar | float,
    threshold: Scalar | float,
    max_iterations: int,
) -> tuple[Float[Array, " n"], Float[Array, " m"], Convergence]:
    """Potentials f, g (divided by ε) with π_ij = exp(f_i + g_j - c_ij / ε), from Eq. 1 and 28.

    `kernel` is exp(-c_ij / ε), `mu` and `nu` are the weights, `tau_x` and `tau_y` their τ.

    The entropy of Eq. 1 is relative to μ ⊗ ν, as in -KL(π | μ ⊗ ν): points that coincide then
    count as one, and for uniform weights only the total mass of unbalanced couplings differs.
    So f = log μ - τ_X log K exp(g) and g = log ν - τ_Y log Kᵀ exp(f), in turn, the fixed point
    of a map of g that Anderson's method finds in a fraction of the plain iterations; where mixing
    raises the error, the memory is emptied and plain iterations go on. An iteration in the log
    domain gives a centre (f, g); scalings around it need only matrix products, until they leave
    [1/RANGE, RANGE]. `start` is a first guess of g. Stops when an update of g would move less than
    `threshold` of mass, of the coupling's mass where that is below 1 (balanced: the L1 error of the
    second marginal, the first being exact), at the latest after `max_iterations`.
    """
    log_mu, log_nu = log_weights(mu), log_weights(nu)

    def running(s: _State) -> Array:
        return (s.error >= threshold) & (s.iteration < max_iterations)

    def near(v: Array) -> Array:
        return jnp.abs(v).max() < jnp.log(RANGE)

    def advanced(s: _State, u: Array, log_column: Array, image: Array) -> _State:
        column = jnp.exp(s.v + log_column)
        moved = jnp.abs(jnp.exp(image + log_column) - column).sum()
        error = moved / jnp.minimum(column.sum(), 1)
        iteration = s.iteration + 1
        memory = s.memory.emptied(error > 2 * s.error).add(image, image - s.v)
        # Far moves are no use to a mixture, and at the end the scalings that the error was
        # measured at are the ones to keep.
        memory, v = jax.tree.map(
            partial(jnp.where, near(image)),
            (memory, memory.mixture()), (Memory.empty(nu), image),
        )  # fmt: skip
        last = (error < threshold) | (iteration >= max_iterations)
        return _State(s.f, s.g, u, jnp.where(last, s.v, v), memory, iteration, error)

    def recentre(s: _State) -> _State:
        g = s.g + s.v
        f = log_mu - tau_x * kernel.log_to_source(g)
        circuit = kernel.around(f, g)
        offset_x, offset_y = (tau_x - 1) * f + log_mu, (tau_y - 1) * g + log_nu

        def step(s: _State) -> _State:
            u, column = circuit(s.v, offset_x, tau_x)
            return advanced(s, u, _log(column), updated(column, offset_y, tau_y))

        zero = jnp.zeros_like(f), jnp.zeros_like(g)
        s = _State(f, g, *zero, s.memory.shift(-s.v), s.iteration, s.error)
        u, column = circuit(s.v, offset_x, tau_x)
        # Far from the fixed point, columns may be below float32's range.
        log_column = jax.lax.cond(
            jnp.all(column > jnp.finfo(column.dtype).tiny),
            lambda: jnp.log(column),
            lambda: g + kernel.log_to_target(f),
        )
        s = advanced(s, u, log_column, offset_y - tau_y * log_column)
        return jax.lax.while_loop(lambda s: running(s) & near(s.v), step, s)

    zero = jnp.zeros_like(log_mu), jnp.zeros_like(log_nu)
    memory, infinite = Memory.empty(nu), jnp.array(jnp.inf, nu.dtype)
    s = _State(log_mu, start, *zero, memory, jnp.array(0), infinite)
    s = jax.lax.while_loop(running, recentre, s)
    return s.f + s.u, s.g + s.v, Convergence(s.error < threshold, s.iteration, s.error)


def log_weights(weights: Float[Array, " n"]) -> Float[Array, " n"]:
    """The logarithm of `weights`; of a weight of zero, that of one so small that its points get no
    mass, and still so large that their kernel entries stay in float32's range."""
    return jnp.log(jnp.maximum(weights, 1e-25))


class Entropic(Protocol):
    """The arguments that linear solvers share; see `Sinkhorn`."""

    epsilon: float
    tau_x: float
    tau_y: float
    threshold: float
    max_iterations: int
    halvings: int


def anneal(
    solver: Entropic,
    kernel: Callable[[Scalar], Kernel],
    mu: Float[Array, " n"],
    nu: Float[Array, " m"],
) -> tuple[Float[Array, " n"], Float[Array, " m"], Convergence]:
    """`sinkhorn` with the arguments of `solver` at 2^k ε, …, 2 ε, ε, each from the last potentials;
    iterations are summed. `kernel` makes the kernel of an ε, `mu` and `nu` are the weights."""
    log_nu = log_weights(nu)
    epsilons = solver.epsilon * 2.0 ** jnp.arange(solver.halvings, -1, -1, dtype=nu.dtype)

    def stage(carry, epsilon):
        _, g, before = carry
        # Potentials are divided by ε: halving it doubles them.
        start = log_nu + 2 * (g - log_nu)
        f, g, last = sinkhorn(
            kernel(epsilon), mu, nu, start=start, tau_x=solver.tau_x, tau_y=solver.tau_y,
            threshold=solver.threshold, max_iterations=solver.max_iterations,
        )  # fmt: skip
        iterations = before.iterations + last.iterations
        return (f, g, Convergence(last.converged, iterations, last.error)), None

    initial = jnp.zeros_like(mu), log_nu, Convergence.exact(nu.dtype)
    return jax.lax.scan(stage, initial, epsilons)[0]
