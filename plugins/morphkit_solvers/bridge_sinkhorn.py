"""Sinkhorn for the bridge cost, on its two thin factors."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from morphkit.couplings import BridgeCoupling, Convergence
from morphkit.geometry import BridgeGeometry, Geometry
from morphkit.interfaces import OTSolver
from morphkit.types import Cloud

from .checks import check_entropic


class BridgeSinkhorn(OTSolver):
    """Entropic optimal transport (Eq. 1) with the bridge cost, never forming n × m numbers.

    With Eq. 6's minimum replaced by the soft minimum at the solver's own temperature,
    c_ij = -ε log Σ_p exp(-(a_ip + b_jp) / ε), the Gibbs kernel factors exactly:
    exp(-c/ε) = A Bᵀ with A = exp(-a/ε), B = exp(-b/ε). A half-iteration is two thin matrix
    products, O((n + m) l). The soft minimum is below the minimum by at most ε log l. As in
    `Sinkhorn`, costs are divided by the mean of the hard-minimum cost and τ follows Eq. 28.

    Between log-domain iterations, `absorb_every` cheap ones run on scalings around the last
    log potentials, so that float32 neither overflows nor loses a point. It stops when an update
    of the first potential would move less than `threshold` of mass (balanced: the L1 error of
    the first marginal).
    """

    epsilon: float = eqx.field(static=True, default=5e-3)
    tau_x: float = eqx.field(static=True, default=1.0)
    tau_y: float = eqx.field(static=True, default=1.0)
    threshold: float = eqx.field(static=True, default=1e-3)
    max_iterations: int = eqx.field(static=True, default=2000)
    absorb_every: int = eqx.field(static=True, default=40)

    def __check_init__(self) -> None:
        check_entropic("BridgeSinkhorn", self.epsilon, self.tau_x, self.tau_y)

    def solve(self, cost: Geometry, x: Cloud, y: Cloud) -> BridgeCoupling:
        """See `OTSolver.solve`. Raises ValueError unless `cost` is a bridge cost."""
        if not isinstance(cost, BridgeGeometry):
            raise ValueError(
                f"BridgeSinkhorn needs a bridge cost, not {type(cost).__name__}; "
                "use solver.Sinkhorn with other costs"
            )
        return _solve(self, cost.a, cost.b, cost.mean(), x.weights, y.weights)


@eqx.filter_jit
def _solve(
    solver: BridgeSinkhorn,
    a: Float[Array, "n l"],
    b: Float[Array, "m l"],
    scale: Float[Array, ""],
    mu: Float[Array, " n"],
    nu: Float[Array, " m"],
) -> BridgeCoupling:
    a, b = -a / (scale * solver.epsilon), -b / (scale * solver.epsilon)
    log_mu, log_nu = jnp.log(mu), jnp.log(nu)
    tau_x, tau_y = solver.tau_x, solver.tau_y

    def log_kernel(here: Array, there: Array, potential: Array) -> Array:
        """log of the kernel applied to exp(potential), from there to here."""
        return jax.nn.logsumexp(here + jax.nn.logsumexp(there + potential[:, None], axis=0), axis=1)

    def scaled_steps(f: Array, g: Array) -> tuple[Array, Array]:
        left, right = a + f[:, None], b + g[:, None]
        balance = (jax.nn.logsumexp(right, axis=0) - jax.nn.logsumexp(left, axis=0)) / 2
        left, right = jnp.exp(left + balance), jnp.exp(right - balance)
        (n, bridges), m = left.shape, len(right)
        # A minibatch has fewer points than bridges: the product itself is then the thinner.
        product = left @ right.T if n * m < (n + m) * bridges else None

        def to_source(v: Array) -> Array:
            return left @ (v @ right) if product is None else product @ v

        def to_target(u: Array) -> Array:
            return right @ (u @ left) if product is None else u @ product

        def step(_: int, scalings: tuple[Array, Array]) -> tuple[Array, Array]:
            v = scalings[1]
            u = jnp.exp(tau_x * (log_mu - jnp.log(to_source(v)) + f) - f)
            v = jnp.exp(tau_y * (log_nu - jnp.log(to_target(u)) + g) - g)
            return u, v

        ones = (jnp.ones_like(f), jnp.ones_like(g))
        u, v = jax.lax.fori_loop(0, solver.absorb_every, step, ones)
        new_f, new_g = f + jnp.log(u), g + jnp.log(v)
        fine = jnp.isfinite(new_f).all() & jnp.isfinite(new_g).all()
        return jnp.where(fine, new_f, f), jnp.where(fine, new_g, g)

    def cycle(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        f, g, iteration, _ = state
        f, g = scaled_steps(f, g)
        kernel = log_kernel(a, b, g)
        new_f = tau_x * (log_mu - kernel)
        error = jnp.sum(jnp.abs(jnp.exp(new_f + kernel) - jnp.exp(f + kernel)))
        new_g = tau_y * (log_nu - log_kernel(b, a, new_f))
        # The potentials the error was measured at are the ones to keep when it is small enough.
        stop = error < solver.threshold
        f, g = jnp.where(stop, f, new_f), jnp.where(stop, g, new_g)
        return f, g, iteration + jnp.where(stop, 0, 1) + solver.absorb_every, error

    def unfinished(state: tuple[Array, Array, Array, Array]) -> Array:
        _, _, iteration, error = state
        return (error >= solver.threshold) & (iteration < solver.max_iterations)

    f = tau_x * (log_mu - log_kernel(a, b, jnp.zeros_like(log_nu)))
    g = tau_y * (log_nu - log_kernel(b, a, f))
    start = (f, g, jnp.array(1), jnp.array(jnp.inf, a.dtype))
    f, g, iterations, error = jax.lax.while_loop(unfinished, cycle, start)
    convergence = Convergence(error < solver.threshold, iterations, error)
    return BridgeCoupling(a + f[:, None], b + g[:, None], convergence)
