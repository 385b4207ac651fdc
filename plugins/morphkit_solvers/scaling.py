"""Sinkhorn's iterations by matrix products: mixed, annealed, and kept in float32's range."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jaxtyping import Array, Float, Int, Scalar

from morphkit.couplings import Convergence

from .anderson import Memory

Product = Callable[[Array], Array]
RANGE = 1e8
"""How far scalings may leave 1 before they are absorbed: float32 ends at 1e±38, and a kernel
entry is a product with two of them."""


class Kernel(eqx.Module):
    """A Gibbs kernel exp(-c_ij / ε), known by its logarithm."""

    @abstractmethod
    def log_to_source(self, g: Float[Array, " m"]) -> Float[Array, " n"]:
        """log Σ_j exp(g_j - c_ij / ε)."""

    @abstractmethod
    def log_to_target(self, f: Float[Array, " n"]) -> Float[Array, " m"]:
        """log Σ_i exp(f_i - c_ij / ε)."""

    @abstractmethod
    def around(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> tuple[Product, Product]:
        """Products with exp(f_i + g_j - c_ij / ε): v (m,) to (n,), and u (n,) to (m,)."""


class DenseKernel(Kernel):
    """A stored n × m kernel."""

    log: Float[Array, "n m"]

    def log_to_source(self, g: Float[Array, " m"]) -> Float[Array, " n"]:
        largest, rows = self._rows(g)
        return largest + jnp.log(rows.sum(1))

    def log_to_target(self, f: Float[Array, " n"]) -> Float[Array, " m"]:
        return logsumexp(self.log + f[:, None], axis=0)

    def around(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> tuple[Product, Product]:
        largest, rows = self._rows(g)
        scale = jnp.exp(f + largest)
        return lambda v: scale * (rows @ v), lambda u: (u * scale) @ rows

    def _rows(self, g: Float[Array, " m"]) -> tuple[Float[Array, " n"], Float[Array, "n m"]]:
        """Each row of the kernel with g over its largest entry, and that entry's logarithm: both
        `log_to_source` and `around` need it, and a compiler takes the exponentials once."""
        rows = self.log + g
        largest = rows.max(1)
        return largest, jnp.exp(rows - largest[:, None])


class FactoredKernel(Kernel):
    """exp(-c_ij / ε) = Σ_p exp(-(a_ip + b_jp) / ε): O((n + m) l) memory and time."""

    a: Float[Array, "n l"]
    b: Float[Array, "m l"]
    epsilon: Scalar | float

    def left(self, f: Float[Array, " n"]) -> Float[Array, "n l"]:
        return self._after(self.a, f[:, None])

    def right(self, g: Float[Array, " m"]) -> Float[Array, "m l"]:
        return self._after(self.b, g[:, None])

    def _after(self, cost: Float[Array, "n l"], potential: Array) -> Float[Array, "n l"]:
        # Not potential - cost / ε: a compiler would keep cost / ε for a whole loop.
        return (self.epsilon * potential - cost) / self.epsilon

    def log_to_source(self, g: Float[Array, " m"]) -> Float[Array, " n"]:
        return logsumexp(self._after(self.a, logsumexp(self.right(g), axis=0)), axis=1)

    def log_to_target(self, f: Float[Array, " n"]) -> Float[Array, " m"]:
        return logsumexp(self._after(self.b, logsumexp(self.left(f), axis=0)), axis=1)

    def around(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> tuple[Product, Product]:
        left, right = self.left(f), self.right(g)
        # A bridge's mass is shared out between its two factors, so that neither overflows.
        balance = (logsumexp(right, axis=0) - logsumexp(left, axis=0)) / 2
        left, right = jnp.exp(left + balance), jnp.exp(right - balance)
        (n, bridges), m = left.shape, len(right)
        if n * m < (n + m) * bridges:  # a minibatch: the product itself is the thinner
            product = left @ right.T
            return lambda v: product @ v, lambda u: u @ product
        return lambda v: left @ (v @ right), lambda u: right @ (u @ left)


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
    start: Float[Array, " n"],
    tau_x: float,
    tau_y: float,
    threshold: Scalar | float,
    max_iterations: int,
) -> tuple[Float[Array, " n"], Float[Array, " m"], Convergence]:
    """Potentials f, g (divided by ε) with π_ij = exp(f_i + g_j - c_ij / ε), from Eq. 1 and 28.

    The entropy of Eq. 1 is relative to μ ⊗ ν, as in -KL(π | μ ⊗ ν): points that coincide then
    count as one, and for uniform weights only the total mass of unbalanced couplings differs.
    So g = log ν - τ_Y log Kᵀ exp(f) and f = log μ - τ_X log K exp(g), in turn, the fixed point
    of a map of f that Anderson's method finds in a fraction of the plain iterations; where mixing
    raises the error, the memory is emptied and plain iterations go on. One iteration in the log
    domain fixes the range; then scalings around (f, g) need two matrix products an iteration,
    until they leave [1/RANGE, RANGE]; a point that no mass reaches keeps its potential. `start` is
    a first guess of f. Stops when an update of f would move less than `threshold` of mass, of
    the coupling's mass where that is below 1 (balanced: the L1 error of the first marginal, the
    second being exact).
    """
    log_mu, log_nu = log_weights(mu), log_weights(nu)
    tiny = jnp.finfo(log_mu.dtype).tiny

    def running(s: _State) -> Array:
        return (s.error >= threshold) & (s.iteration < max_iterations)

    def near(*moves: Array) -> Array:
        return jnp.max(jnp.array([jnp.abs(move).max() for move in moves])) < jnp.log(RANGE)

    def recentre(s: _State) -> _State:
        old = s.f + s.u
        g = log_nu - tau_y * kernel.log_to_target(old)
        f = log_mu - tau_x * kernel.log_to_source(g)
        to_source, to_target = kernel.around(f, g)
        column = to_target(jnp.ones_like(f))
        log_column = jax.lax.cond(
            jnp.all(column > tiny),
            lambda: jnp.log(column) - g,
            lambda: kernel.log_to_target(f),
        )
        # Scalings around a centre that still moves far would leave float32's range at once.
        settled = near(f - old, log_nu - tau_y * log_column - g)

        def step(s: _State) -> _State:
            column = to_target(jnp.exp(s.u))
            log_column = jnp.log(jnp.maximum(column, tiny))
            v = jnp.where(column > tiny, (tau_y - 1) * g + log_nu - tau_y * log_column, 0)
            row = to_source(jnp.exp(v))
            log_row = jnp.log(jnp.maximum(row, tiny))
            image = jnp.where(row > tiny, (tau_x - 1) * f + log_mu - tau_x * log_row, s.u)
            moved = jnp.sum(jnp.abs(jnp.exp(image) - jnp.exp(s.u)) * row)
            error = moved / jnp.minimum(jnp.sum(jnp.exp(s.u) * row), 1)
            iteration = s.iteration + 1
            memory = s.memory.emptied(error > 2 * s.error).add(image, image - s.u)
            # At the end, the scalings that the error was measured at are the ones to keep.
            last = (error < threshold) | (iteration >= max_iterations)
            u = jnp.where(last, s.u, memory.mixture())
            return _State(f, g, u, v, memory, iteration, error)

        zero = jnp.zeros_like(f), jnp.zeros_like(g)
        inner = _State(f, g, *zero, s.memory.shift(s.f - f), s.iteration + 1, s.error)
        return jax.lax.while_loop(lambda s: settled & running(s) & near(s.u), step, inner)

    zero = jnp.zeros_like(log_mu), jnp.zeros_like(log_nu)
    s = _State(start, log_nu, *zero, Memory.empty(len(mu)), jnp.array(0), jnp.array(jnp.inf))
    s = jax.lax.while_loop(running, recentre, s)
    return s.f + s.u, s.g + s.v, Convergence(s.error < threshold, s.iteration, s.error)


def log_weights(weights: Float[Array, " n"]) -> Float[Array, " n"]:
    """The logarithm; of a weight of zero, that of one so small that its points get no mass, and
    still so large that their kernel entries stay in float32's range."""
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
    """`sinkhorn` at 2^k ε, …, 2 ε, ε, each from the last potentials; iterations are summed."""
    log_mu = log_weights(mu)
    epsilons = solver.epsilon * 2.0 ** jnp.arange(solver.halvings, -1, -1)

    def stage(carry, epsilon):
        f, _, before = carry
        # Potentials are divided by ε: halving it doubles them.
        start = log_mu + 2 * (f - log_mu)
        f, g, last = sinkhorn(
            kernel(epsilon), mu, nu, start=start, tau_x=solver.tau_x, tau_y=solver.tau_y,
            threshold=solver.threshold, max_iterations=solver.max_iterations,
        )  # fmt: skip
        iterations = before.iterations + last.iterations
        return (f, g, Convergence(last.converged, iterations, last.error)), None

    initial = log_mu, jnp.zeros_like(nu), Convergence.exact()
    return jax.lax.scan(stage, initial, epsilons)[0]
