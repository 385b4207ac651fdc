"""Quadratic and fused entropic optimal transport (Eq. 2 and 3)."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Scalar

from morphkit.checks import Count, Metric, Positive, Share, Tau
from morphkit.interfaces import StartedSolver
from morphkit.precision import in_full_precision
from morphkit.transport.couplings import Convergence, Coupling, DenseCoupling
from morphkit.transport.geometry import (
    Geometry,
    PointGeometry,
    factors,
    near_one,
    nonzero,
    normalised,
)
from morphkit.types import Cloud

from .anderson import Memory
from .scaling import DenseKernel, log_weights, sinkhorn


class FusedGromovWasserstein(StartedSolver):
    """Entropic fused Gromov-Wasserstein, balanced or not (Eq. 3; Eq. 2 for α = 1).

    min_π Σ (α |c_X - c_Y|² + (1 - α) c_XY²) π ⊗ π - ε H(π) + λ_X KL⊗(π_X | μ) + λ_Y KL⊗(π_Y | ν),
    with every cost divided by its mean (c_XY before it is squared), H relative to μ ⊗ ν as in
    `Sinkhorn`, and λ = ε τ / (1 - τ) (Eq. 28). It is linearised at the last coupling γ, of mass m,
    and the next one found by Sinkhorn's iterations, from their last potentials and the more
    precisely the less γ moves, on 2 α (L ⊗ γ) + (1 - α) m c_XY², until such a step changes it by
    less than `threshold` in L1.

    Balanced, m = 1: the mirror descent of Peyré et al. 2016, its end sped up by Anderson's method;
    at α = 0 it is `Sinkhorn`'s problem with c_XY², or with c_XY. With τ < 1 it is the biconvex
    relaxation of Séjourné et al. 2021. KL⊗(p | μ) = 2 m Σ p log(p / μ) - m² + 1, so λ is 2 m λ in
    the linear problem, and τ is 2 m τ / (2 m τ + 1 - τ). γ is given the mass that is best for its
    shape. The costs grow with m², the entropy with m: the less mass τ leaves, the larger ε / m,
    to which the shape is due, and the mass ends above nought.

    Eq. 3 is not convex for α > 0: where it ends depends on where it begins, by default at μ ⊗ ν.
    `solve` takes a coupling to start from, and `starts` > 1 tries others (`random_coupling`) and
    keeps what has the least `objective`. For one-to-one data take the cost unsquared: squared, as
    in Eq. 3, it can give up known pairs for the intra-space costs.

    Args:
        epsilon: ε, above 0, in units of the mean costs.
        alpha: The weight α of the intra-space costs, in [0, 1].
        tau_x: τ of the source marginal, in (0, 1]; 1 keeps it exactly.
        tau_y: The same of the target marginal.
        metric_x: The intra-space cost c_X of the source points, kept as thin factors.
        metric_y: The same of the target points.
        squared: Whether c_XY is squared, as in Eq. 3, or taken as it is, as in Eq. 1.
        threshold: The L1 change, of the coupling over its mass, below which it has converged.
        max_iterations: Linear problems, at the most.
        inner_iterations: Sinkhorn's iterations for each, at the most.
        starts: From how many couplings to start, the first of them given or μ ⊗ ν, the others
            random, always the same.
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
    starts: Count = eqx.field(static=True, default=1)

    @in_full_precision
    def solve(
        self, cost: Geometry, x: Cloud, y: Cloud, start: Coupling | None = None
    ) -> DenseCoupling:
        """See `StartedSolver.solve`. `error` is the last change, of the coupling over its mass.

        `start` is the coupling (n × m) that the first cost is linearised at, of whatever mass; by
        default μ ⊗ ν. Raises ValueError for one of another shape, MemoryError where `ARRAYS` times
        the dense cost is not available, and one more for a start, three more for several.
        """
        if start is not None and start.shape != cost.shape:
            raise ValueError(
                f"start: a coupling of {start.shape} points is no start for a cost of "
                f"{cost.shape}; give one of the same clouds"
            )
        arrays = ARRAYS + (start is not None) + 3 * (self.starts > 1)
        linear = normalised(cost, x.weights, y.weights, arrays=arrays)
        best = _solve(self, linear, x, y, None if start is None else start.to_dense())
        for k in range(1, self.starts):
            other = _solve(self, linear, x, y, random_coupling(jax.random.key(k), x, y))
            kept, new = (objective(self, linear, x, y, c.values) for c in (best, other))
            best = jax.tree.map(partial(jnp.where, new < kept), other, best)
        return best


ARRAYS = 8
"""The n × m arrays that a solve holds at once: the cost, the coupling and its table to draw from,
and five of its own."""


@jax.jit
def random_coupling(key: PRNGKeyArray, x: Cloud, y: Cloud) -> Float[Array, "n m"]:
    """A coupling that matches the clouds `x` and `y` in the order of their points along a direction
    of each, by `key`: a start that is far from μ ⊗ ν, with both marginals."""

    def intervals(key: PRNGKeyArray, cloud: Cloud) -> tuple[Array, Array]:
        """The part of [0, 1] that each point takes, in that order."""
        order = jnp.argsort(cloud.points @ jax.random.normal(key, (cloud.dim,)))
        end = jnp.zeros_like(cloud.weights).at[order].set(jnp.cumsum(cloud.weights[order]))
        return end - cloud.weights, end

    (start_x, end_x), (start_y, end_y) = map(intervals, jax.random.split(key), (x, y))
    common = jnp.minimum(end_x[:, None], end_y) - jnp.maximum(start_x[:, None], start_y)
    return jnp.maximum(common, 0)


MIX_BELOW = 0.02
"""The change of the coupling below which Anderson's method may look for the fixed point: before,
plain steps choose which local minimum it will be. Near a saddle point steps first get shorter,
then longer, and a mixture would turn back to it: one that lengthens the step halves the bound."""

SHARES, STALLED = (1e-2, 1e-3), 0.8
"""The share of the coupling's last change that Sinkhorn's iterations may leave in the marginals, at
first and at the least: it falls where a change is above STALLED times the one before. At small ε
what is left can move a coupling a hundred times as far as its marginals are off."""


class _State(eqx.Module):
    """The last coupling (unbalanced, over its mass) and its second potential, the moment
    C_Xᵀ γ C_Y between the factors of the intra-space costs to linearise at next, the change below
    which to mix, whether the last moment was `plain` (of a coupling, no mixture), the share of a
    change that may be left in the marginals, and where the iteration is."""

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
def objective(
    solver: FusedGromovWasserstein,
    linear: Float[Array, "n m"],
    x: Cloud,
    y: Cloud,
    values: Float[Array, "n m"],
) -> Scalar:
    """Eq. 3 with the arguments of `solver`, of the coupling `values` (n, m) of `x` and `y`.

    `linear` (n, m) is c_XY over its mean. H and KL⊗ are relative to the weights, with the terms
    that make them divergences of any mass, 0 at μ ⊗ ν.
    """
    mass, marginals, weights = values.sum(), (values.sum(1), values.sum(0)), (x.weights, y.weights)
    intra_x, intra_y = intra_space(solver.metric_x, x), intra_space(solver.metric_y, y)
    quadratic = marginals[0] @ _squares(intra_x, marginals[0])
    quadratic += marginals[1] @ _squares(intra_y, marginals[1])
    moment = intra_x[1].T @ values @ intra_y[0]
    quadratic -= 2 * jnp.sum(moment * (intra_x[0].T @ values @ intra_y[1]))
    found = solver.alpha * quadratic + mass * jnp.sum(_linear(solver, linear) * values)
    entropy = xlogy(values, values / (weights[0][:, None] * weights[1])).sum()
    found += solver.epsilon * (entropy - mass + 1)
    for tau, p, w in zip((solver.tau_x, solver.tau_y), marginals, weights, strict=True):
        if tau < 1:
            divergence = 2 * mass * xlogy(p, p / w).sum() - mass**2 + 1
            found += solver.epsilon * tau / (1 - tau) * divergence
    return found


def _linear(solver: FusedGromovWasserstein, cost: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """(1 - α) c_XY², or c_XY, of the `cost` c_XY over its mean."""
    return (1 - solver.alpha) * (cost**2 if solver.squared else cost)


@eqx.filter_jit
def _solve(
    solver: FusedGromovWasserstein,
    linear: Float[Array, "n m"],
    x: Cloud,
    y: Cloud,
    first: Float[Array, "n m"] | None = None,
) -> DenseCoupling:
    alpha, epsilon, tau_x, tau_y = solver.alpha, solver.epsilon, solver.tau_x, solver.tau_y
    balanced = tau_x == tau_y == 1
    mu, nu = x.weights, y.weights
    linear = _linear(solver, linear)
    intra_x, intra_y = intra_space(solver.metric_x, x), intra_space(solver.metric_y, y)
    # The smaller ε, the further they move it. No iteration can end below float32's rounding.
    most_precise = solver.threshold * min(max(10 * epsilon, 1 / 100), 1 / 20)
    most_precise = jnp.maximum(most_precise, 2 * jnp.finfo(mu.dtype).eps)
    # Changes of the coupling below the error of its marginals would be noise.
    precise = jnp.maximum(solver.threshold / 20, most_precise)

    def moment_of(gamma: Array) -> Array:
        return intra_x[1].T @ gamma @ intra_y[0]

    def linearised(gamma: Array, moment: Array) -> tuple[Array, Scalar]:
        """The cost of the next linear problem, and the mass of `gamma` that it supposes."""
        left, right = (mu, nu) if balanced else (gamma.sum(1), gamma.sum(0))
        quadratic = _squares(intra_x, left)[:, None] + _squares(intra_y, right)
        quadratic -= 2 * intra_x[0] @ moment @ intra_y[1].T
        cost = 2 * alpha * quadratic + linear
        if balanced:
            return cost, jnp.array(1, mu.dtype)
        slope, entropy = jnp.sum(cost * gamma), xlogy(gamma, gamma / (mu[:, None] * nu)).sum()
        total, divergence = 0.0, jnp.array(0, mu.dtype)
        for tau, marginal, weights in ((tau_x, left, mu), (tau_y, right, nu)):
            if tau < 1:
                total += epsilon * tau / (1 - tau)
                divergence += epsilon * tau / (1 - tau) * xlogy(marginal, marginal / weights).sum()
        mass = jnp.array(1, mu.dtype)
        if max(tau_x, tau_y) < 1:
            twice = slope + jnp.sum(linear * gamma) + 4 * divergence
            mass = _mass(twice, 4 * total, epsilon, entropy)
        # A constant moves only the mass of the solution: of `gamma`, if that is it, it shall be 1.
        return mass * (cost - slope - 2 * divergence) - epsilon * entropy, mass

    def step(s: _State) -> _State:
        cost, mass = linearised(s.gamma, s.moment)
        kernel = DenseKernel(-cost / epsilon)
        f, g, inner = sinkhorn(
            kernel, mu, nu, start=s.g,
            tau_x=_linear_tau(tau_x, mass), tau_y=_linear_tau(tau_y, mass),
            threshold=jnp.clip(s.share * s.change, most_precise, 0.05),
            max_iterations=solver.inner_iterations,
        )  # fmt: skip
        pi = jnp.exp(kernel.log + f[:, None] + g)
        if not balanced:
            pi /= pi.sum()
        change = jnp.abs(pi - s.gamma).sum()
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

    infinite, share = jnp.array(jnp.inf, mu.dtype), jnp.array(SHARES[0], mu.dtype)
    gamma = mu[:, None] * nu if first is None else first / first.sum()
    moment = moment_of(gamma)
    start = _State(
        gamma=gamma, g=log_weights(nu), moment=moment, memory=Memory.empty(moment),
        mix_below=jnp.array(MIX_BELOW, mu.dtype), plain=jnp.array(True), share=share,
        iteration=jnp.array(0),
        # A rough first step would leave the start that was given.
        change=infinite if first is None else precise / share, inner_error=infinite,
    )  # fmt: skip
    s = jax.lax.while_loop(unfinished, step, start)
    values = s.gamma if balanced else s.gamma * linearised(s.gamma, s.moment)[1]
    return DenseCoupling(values, Convergence(done(s), s.iteration, s.change))


def _linear_tau(tau: float, mass: Scalar) -> Scalar | float:
    """τ of the linear problem: of 2 m λ, as λ is of KL⊗."""
    return 1.0 if tau == 1 else 2 * mass * tau / (2 * mass * tau + 1 - tau)


def _mass(costs: Scalar, total: float, epsilon: float, entropy: Scalar) -> Scalar:
    """The mass m that is best for a coupling's shape: m (costs + total log m) + ε (entropy + log m)
    is the derivative of Eq. 3 by it. By bisection of log m, in float32's range."""

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        slope = jnp.exp(middle) * (costs + total * middle) + epsilon * (entropy + middle)
        return jnp.where(slope > 0, low, middle), jnp.where(slope > 0, middle, high)

    bounds = jnp.full_like(costs, -80), jnp.full_like(costs, 80)
    return jnp.exp(jax.lax.fori_loop(0, 40, halve, bounds)[0])


def intra_space(metric: str, cloud: Cloud) -> tuple[Float[Array, "n r"], Float[Array, "n r"]]:
    """The intra-space cost `metric` of `cloud`, divided by its mean, as left @ right.T."""
    points = near_one(cloud.points)
    left, right = factors(metric, points, points)
    mean = PointGeometry(points, points, metric).mean(cloud.weights, cloud.weights)
    return left / nonzero(mean), right


def _squares(
    cost: tuple[Float[Array, "n r"], Float[Array, "n r"]], weights: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Σ_k c_ik² w_k from the factors, without the n × n cost."""
    left, right = cost
    return jnp.sum((left @ (right.T @ (weights[:, None] * right))) * left, axis=1)
