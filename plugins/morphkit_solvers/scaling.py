"""Sinkhorn's iterations by matrix products, kept in range by absorption into log potentials."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jaxtyping import Array, Bool, Float, Int

from morphkit.couplings import Convergence

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
        return logsumexp(self.log + g, axis=1)

    def log_to_target(self, f: Float[Array, " n"]) -> Float[Array, " m"]:
        return logsumexp(self.log + f[:, None], axis=0)

    def around(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> tuple[Product, Product]:
        kernel = jnp.exp(self.log + f[:, None] + g)
        return lambda v: kernel @ v, lambda u: u @ kernel


class FactoredKernel(Kernel):
    """exp(-c_ij / ε) = Σ_p exp(a_ip + b_jp): O((n + m) l) memory and time."""

    a: Float[Array, "n l"]
    b: Float[Array, "m l"]

    def log_to_source(self, g: Float[Array, " m"]) -> Float[Array, " n"]:
        return logsumexp(self.a + logsumexp(self.b + g[:, None], axis=0), axis=1)

    def log_to_target(self, f: Float[Array, " n"]) -> Float[Array, " m"]:
        return logsumexp(self.b + logsumexp(self.a + f[:, None], axis=0), axis=1)

    def around(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> tuple[Product, Product]:
        left, right = self.a + f[:, None], self.b + g[:, None]
        # A bridge's mass is shared out between its two factors, so that neither overflows.
        balance = (logsumexp(right, axis=0) - logsumexp(left, axis=0)) / 2
        left, right = jnp.exp(left + balance), jnp.exp(right - balance)
        (n, bridges), m = left.shape, len(right)
        if n * m < (n + m) * bridges:  # a minibatch: the product itself is the thinner
            product = left @ right.T
            return lambda v: product @ v, lambda u: u @ product
        return lambda v: left @ (v @ right), lambda u: right @ (u @ left)


class _State(eqx.Module):
    """Potentials, scalings around them, and where the iteration is."""

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    u: Float[Array, " n"]
    v: Float[Array, " m"]
    iteration: Int[Array, ""]
    error: Float[Array, ""]
    usable: Bool[Array, ""]


@eqx.filter_jit
def sinkhorn(
    kernel: Kernel,
    mu: Float[Array, " n"],
    nu: Float[Array, " m"],
    *,
    tau_x: float = 1.0,
    tau_y: float = 1.0,
    threshold: float = 1e-3,
    max_iterations: int = 2000,
    start: Float[Array, " m"] | None = None,
) -> tuple[Float[Array, " n"], Float[Array, " m"], Convergence]:
    """Potentials f, g (divided by ε) with π_ij = exp(f_i + g_j - c_ij / ε), from Eq. 1 and 28.

    The entropy of Eq. 1 is relative to μ ⊗ ν, as in -KL(π | μ ⊗ ν): points that coincide then
    count as one, and for uniform weights only the total mass of unbalanced couplings differs.
    So f = log μ - τ_X log K exp(g) and g = log ν - τ_Y log Kᵀ exp(f), in turn. One iteration in
    the log domain fixes the range; then scalings u, v around (f, g) need two matrix products an
    iteration, until they leave [1/RANGE, RANGE] and are absorbed into f, g. `start` is a first
    guess of g. Stops when an update of f would move less than `threshold` of mass (balanced:
    the L1 error of the first marginal, the second being exact).
    """
    log_mu, log_nu = jnp.log(mu), jnp.log(nu)

    def running(state: _State) -> Array:
        return (state.error >= threshold) & (state.iteration < max_iterations)

    def absorb(state: _State) -> _State:
        f = log_mu - tau_x * kernel.log_to_source(state.g)
        g = log_nu - tau_y * kernel.log_to_target(f)
        to_source, to_target = kernel.around(f, g)

        def step(s: _State) -> _State:
            mass = to_source(s.v)
            u = jnp.exp((tau_x - 1) * f + log_mu - tau_x * jnp.log(mass))
            error = jnp.sum(jnp.abs(u - s.u) * mass)
            # The scalings the error was measured at are the ones to keep when it is small.
            u = jnp.where(error < threshold, s.u, u)
            v = jnp.exp((tau_y - 1) * g + log_nu - tau_y * jnp.log(to_target(u)))
            v = jnp.where(error < threshold, s.v, v)
            far = jnp.maximum(jnp.abs(jnp.log(u)).max(), jnp.abs(jnp.log(v)).max())
            usable = far < jnp.log(RANGE)  # False for nan
            u, v = jnp.where(usable, u, s.u), jnp.where(usable, v, s.v)
            return _State(f, g, u, v, s.iteration + 1, error, usable)

        ones = jnp.ones_like(f), jnp.ones_like(g)
        inner = _State(f, g, *ones, state.iteration + 1, jnp.array(jnp.inf), jnp.array(True))
        inner = jax.lax.while_loop(lambda s: running(s) & s.usable, step, inner)
        f, g = f + jnp.log(inner.u), g + jnp.log(inner.v)
        return _State(f, g, *ones, inner.iteration, inner.error, inner.usable)

    g = log_nu if start is None else start
    zero = jnp.zeros_like(log_mu)
    state = _State(
        zero, g, zero, jnp.zeros_like(g), jnp.array(0), jnp.array(jnp.inf), jnp.array(True)
    )
    state = jax.lax.while_loop(running, absorb, state)
    return state.f, state.g, Convergence(state.error < threshold, state.iteration, state.error)


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
    kernel: Callable[[float], Kernel],
    mu: Float[Array, " n"],
    nu: Float[Array, " m"],
) -> tuple[Float[Array, " n"], Float[Array, " m"], Convergence]:
    """`sinkhorn` at 2^k ε, …, 2 ε, ε, each from the last potentials; iterations are summed."""

    def at(epsilon: float, start: Array | None) -> tuple[Array, Array, Convergence]:
        return sinkhorn(
            kernel(epsilon), mu, nu, tau_x=solver.tau_x, tau_y=solver.tau_y,
            threshold=solver.threshold, max_iterations=solver.max_iterations, start=start,
        )  # fmt: skip

    start, iterations = None, jnp.array(0)
    for halving in range(solver.halvings, 0, -1):
        _, g, convergence = at(solver.epsilon * 2**halving, start)
        start = jnp.log(nu) + 2 * (g - jnp.log(nu))
        iterations += convergence.iterations
    f, g, last = at(solver.epsilon, start)
    return f, g, Convergence(last.converged, iterations + last.iterations, last.error)
