"""Quadratic and fused entropic optimal transport (Eq. 2 and 3)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Bool, Float, Int, Scalar

from morphkit.checks import Count, Metric, Positive, Share, Tau
from morphkit.interfaces import OTSolver
from morphkit.transport.couplings import Convergence, DenseCoupling
from morphkit.transport.geometry import Geometry, dense, factors, nonzero
from morphkit.types import Cloud

from .anderson import Memory
from .scaling import DenseKernel, log_weights, sinkhorn


class FusedGromovWasserstein(OTSolver):
    """Entropic fused Gromov-Wasserstein, balanced or not (Eq. 3; Eq. 2 for α = 1).

    min_π Σ (α |c_X - c_Y|² + (1 - α) c_XY²) π ⊗ π - ε H(π) + KL⊗ terms, every cost divided by
    its mean. It is linearised at the last coupling, γ of mass m, and the next one found by
    Sinkhorn's iterations, from their last potentials and the more precisely the less γ moves, on

        2 α (L ⊗ γ) + (1 - α) (m c_XY² + <c_XY², γ>) + offset,  temperature ε m,

    until such a step changes it by less than `threshold` in L1. Balanced, m = 1 and the offset is
    nought: the mirror descent of Peyré et al. 2016, its end sped up by Anderson's method. With
    τ < 1 it is the biconvex relaxation of Séjourné et al. 2021 for the tensorised terms
    (ε/2) KL⊗(π | μ ⊗ ν) and (λ/2) KL⊗, with offset
    ε <log γ/μν, γ> + λ_X <log γ_X/μ, γ_X> + λ_Y <log γ_Y/ν, γ_Y>; then the linear problem has
    Eq. 28's λ = ε τ / (1 - τ), and γ gets the geometric mean of both masses.

    `squared=False` takes c_XY instead of c_XY². `metric_x` and `metric_y` are intra-space
    costs, kept as thin factors; c_XY and π are dense.
    """

    epsilon: Positive = eqx.field(static=True, default=5e-3)
    alpha: Share = eqx.field(static=True, default=0.5)
    tau_x: Tau = eqx.field(static=True, default=1.0)
    tau_y: Tau = eqx.field(static=True, default=1.0)
    metric_x: Metric = eqx.field(static=True, default="cosine")
    metric_y: Metric = eqx.field(static=True, default="cosine")
    squared: bool = eqx.field(static=True, default=True)
    threshold: Positive = eqx.field(static=True, default=1e-3)
    max_iterations: Count = eqx.field(static=True, default=50)
    inner_iterations: Count = eqx.field(static=True, default=1000)

    def solve(self, cost: Geometry, x: Cloud, y: Cloud) -> DenseCoupling:
        """See `OTSolver.solve`. `error` is the last change of the coupling in L1, as a share of its
        mass where that is below 1."""
        return _solve(self, dense(cost), x, y)


MIX_BELOW = 0.02
"""The change of the coupling below which Anderson's method may look for the fixed point: before,
plain steps choose which local minimum it will be. Near a saddle point steps first get shorter,
then longer, and a mixture would turn back to it: one that lengthens the step halves the bound."""

SHARES, STALLED = (1e-2, 1e-3), 0.8
"""The share of the coupling's last change that Sinkhorn's iterations may leave in the marginals, at
first and at the least: it falls where a change is above STALLED times the one before. At small ε
what is left can move a coupling a hundred times as far as its marginals are off."""


class _State(eqx.Module):
    """The last coupling and its second potential, the moment C_Xᵀ γ C_Y between the factors of the
    intra-space costs to linearise at next, the change below which to mix, whether the last moment
    was `plain` (of a coupling, no mixture), the share of a change that may be left in the
    marginals, and where the iteration is."""

    gamma: Float[Array, "n m"]
    g: Float[Array, " m"]
    moment: Float[Array, "r s"]
    memory: Memory
    mix_below: Scalar
    plain: Bool[Array, ""]
    share: Scalar
    iteration: Int[Array, ""]
    change: Float[Array, ""]
    inner_error: Float[Array, ""]


@eqx.filter_jit
def _solve(
    solver: FusedGromovWasserstein, linear: Float[Array, "n m"], x: Cloud, y: Cloud
) -> DenseCoupling:
    alpha, epsilon, tau_x, tau_y = solver.alpha, solver.epsilon, solver.tau_x, solver.tau_y
    balanced = tau_x == tau_y == 1
    mu, nu = x.weights, y.weights
    linear = linear / nonzero(mu @ linear @ nu)
    linear = (1 - alpha) * (linear**2 if solver.squared else linear)
    intra_x, intra_y = intra_space(solver.metric_x, x), intra_space(solver.metric_y, y)
    # Changes of the coupling below the error of its marginals would be noise.
    precise = solver.threshold / 20
    # The smaller ε, the further they move it. No iteration can end below float32's rounding.
    most_precise = solver.threshold * min(max(10 * epsilon, 1 / 100), 1 / 20)
    most_precise = jnp.maximum(most_precise, 2 * jnp.finfo(mu.dtype).eps)

    def moment_of(gamma: Array) -> Array:
        return intra_x[1].T @ gamma @ intra_y[0]

    def linearised(gamma: Array, moment: Array) -> tuple[Array, Scalar]:
        left, right = (mu, nu) if balanced else (gamma.sum(1), gamma.sum(0))
        quadratic = _squares(intra_x, left)[:, None] + _squares(intra_y, right)
        quadratic -= 2 * intra_x[0] @ moment @ intra_y[1].T
        if balanced:
            return 2 * alpha * quadratic + linear, jnp.array(1.0)
        mass = left.sum()
        offset = jnp.sum(linear * gamma)
        offset += epsilon * xlogy(gamma, gamma / (mu[:, None] * nu)).sum()
        for tau, marginal, weights in ((tau_x, left, mu), (tau_y, right, nu)):
            if tau < 1:
                offset += epsilon * tau / (1 - tau) * xlogy(marginal, marginal / weights).sum()
        return 2 * alpha * quadratic + mass * linear + offset, mass

    def step(s: _State) -> _State:
        cost, mass = linearised(s.gamma, s.moment)
        kernel = DenseKernel(-cost / (epsilon * mass))
        f, g, inner = sinkhorn(
            kernel, mu, nu, start=s.g, tau_x=tau_x, tau_y=tau_y,
            threshold=jnp.clip(s.share * s.change, most_precise, 0.05),
            max_iterations=solver.inner_iterations,
        )  # fmt: skip
        pi = jnp.exp(kernel.log + f[:, None] + g)
        if not balanced:
            pi *= jnp.sqrt(mass / pi.sum())
        change = jnp.abs(pi - s.gamma).sum() / jnp.minimum(pi.sum(), 1)
        plain = s.memory.filled <= 1
        moment, memory, mix_below = moment_of(pi), s.memory, s.mix_below
        if balanced:
            mix_below = jnp.where(~plain & (change > s.change), s.change / 2, mix_below)
            # Mixtures can come to rest where plain steps would not: the last step is a plain one.
            memory = memory.emptied((change > mix_below) | (change < solver.threshold))
            memory = memory.add(moment.ravel(), (moment - s.moment).ravel())
            moment = memory.mixture().reshape(moment.shape)
        finer = jnp.maximum(s.share / 3, SHARES[1])
        share = jnp.where(change > STALLED * s.change, finer, s.share)
        return _State(
            pi, g, moment, memory, mix_below, plain, share, s.iteration + 1, change, inner.error
        )

    def done(s: _State) -> Array:
        return s.plain & (s.change < solver.threshold) & (s.inner_error < precise)

    def unfinished(s: _State) -> Array:
        return ~done(s) & (s.iteration < solver.max_iterations)

    independent, infinite = mu[:, None] * nu, jnp.array(jnp.inf)
    moment = moment_of(independent)
    start = _State(
        gamma=independent, g=log_weights(nu), moment=moment, memory=Memory.empty(moment.size),
        mix_below=jnp.array(MIX_BELOW), plain=jnp.array(True), share=jnp.array(SHARES[0]),
        iteration=jnp.array(0), change=infinite, inner_error=infinite,
    )  # fmt: skip
    s = jax.lax.while_loop(unfinished, step, start)
    return DenseCoupling(s.gamma, Convergence(done(s), s.iteration, s.change))


def intra_space(metric: str, cloud: Cloud) -> tuple[Float[Array, "n r"], Float[Array, "n r"]]:
    """The intra-space cost, divided by its mean, as left @ right.T."""
    left, right = factors(metric, cloud.points, cloud.points)
    mean = (cloud.weights @ left) @ (cloud.weights @ right)
    # Points that coincide, or all lie in one direction: what is left is rounding, not a cost.
    size = (cloud.weights @ jnp.abs(left)) @ (cloud.weights @ jnp.abs(right))
    mean = jnp.where(mean > jnp.finfo(mean.dtype).eps * size, mean, 0)
    return left / nonzero(mean), right


def _squares(
    cost: tuple[Float[Array, "n r"], Float[Array, "n r"]], weights: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Σ_k c_ik² w_k from the factors, without the n × n cost."""
    left, right = cost
    return jnp.sum((left @ (right.T @ (weights[:, None] * right))) * left, axis=1)
