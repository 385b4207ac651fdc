"""Couplings of low non-negative rank, through OTT-JAX."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from ott.geometry.geometry import Geometry as OTTGeometry
from ott.geometry.low_rank import LRCGeometry
from ott.problems.linear.linear_problem import LinearProblem
from ott.problems.quadratic.quadratic_problem import QuadraticProblem
from ott.solvers.linear.sinkhorn_lr import LRSinkhorn
from ott.solvers.quadratic.gromov_wasserstein_lr import LRGromovWasserstein

from morphkit.checks import Count, Metric, NonNegative, Positive, Share, Tau
from morphkit.interfaces import OTSolver
from morphkit.precision import in_float32
from morphkit.transport.bridges import BridgeCoupling
from morphkit.transport.couplings import Convergence
from morphkit.transport.geometry import (
    Geometry,
    PointGeometry,
    factors,
    normalised,
)
from morphkit.types import Cloud

from .gromov import intra_space


class LowRankSinkhorn(OTSolver):
    """min_π <c, π> over couplings π = Q diag(1/g) Rᵀ of rank `rank`, balanced or not.

    Scetbon et al. 2021: mirror descent on Q (n, r), R (m, r) and g (r) with step `gamma`, the
    entropies of the three weighted by `epsilon`, c divided by its unit. τ is OTT's:
    λ = τ / (1 - τ), without the ε of Eq. 28. It stops when the relative change of the factors
    is below `threshold`. A cost between points of a joint space (`cost.KCCACost`) is used
    by its factors and never stored.

    Args:
        rank: r, at most the smaller number of points.
        epsilon: The weight of the entropies, 0 or above, in units of the mean cost.
        tau_x: τ of the source marginal, in (0, 1]; 1 keeps it exactly.
        tau_y: The same of the target marginal.
        gamma: The step of the mirror descent, above 0; OTT scales it by the gradient.
        threshold: The relative change of the factors below which it has converged.
        max_iterations: Steps, at the most.
    """

    rank: Count = eqx.field(static=True, default=32)
    epsilon: NonNegative = eqx.field(static=True, default=0.0)
    tau_x: Tau = eqx.field(static=True, default=1.0)
    tau_y: Tau = eqx.field(static=True, default=1.0)
    gamma: Positive = eqx.field(static=True, default=10.0)
    threshold: Positive = eqx.field(static=True, default=1e-3)
    max_iterations: Count = eqx.field(static=True, default=2000)

    @in_float32
    def solve(self, cost: Geometry, x: Cloud, y: Cloud) -> BridgeCoupling:
        """See `OTSolver.solve`; the coupling is a mixture over `rank` components."""
        return _linear(self, through(cost, x, y), x, y)


class LowRankGromovWasserstein(OTSolver):
    """Eq. 3 over couplings of rank `rank`, balanced or not; Eq. 2 for α = 1.

    Scetbon et al. 2022: as `LowRankSinkhorn`, with the cost linearised at each step; O(n + m)
    memory at α = 1, and at α = 0 the linear problem itself, with c_XY² or c_XY. The divergence of a
    relaxed marginal is KL, not KL⊗, and its λ = τ / (1 - τ), as in `LowRankSinkhorn`. c_XY is dense
    unless it has factors and is not squared.

    `alpha`, `squared`, `metric_x` and `metric_y` are those of `FusedGromovWasserstein`; `rank`,
    `epsilon`, `tau_x`, `tau_y`, `gamma`, `threshold` and `max_iterations` are those of
    `LowRankSinkhorn`.
    """

    rank: Count = eqx.field(static=True, default=32)
    epsilon: NonNegative = eqx.field(static=True, default=0.0)
    alpha: Share = eqx.field(static=True, default=0.5)
    tau_x: Tau = eqx.field(static=True, default=1.0)
    tau_y: Tau = eqx.field(static=True, default=1.0)
    metric_x: Metric = eqx.field(static=True, default="cosine")
    metric_y: Metric = eqx.field(static=True, default="cosine")
    squared: bool = eqx.field(static=True, default=True)
    gamma: Positive = eqx.field(static=True, default=10.0)
    threshold: Positive = eqx.field(static=True, default=1e-3)
    max_iterations: Count = eqx.field(static=True, default=2000)

    @in_float32
    def solve(self, cost: Geometry, x: Cloud, y: Cloud) -> BridgeCoupling:
        """See `OTSolver.solve`."""
        if self.alpha == 0:
            return _linear(self, through(cost, x, y, squared=self.squared), x, y)
        fused = None if self.alpha == 1 else through(cost, x, y, squared=self.squared)
        problem = QuadraticProblem(
            LRCGeometry(*intra_space(self.metric_x, x)),
            LRCGeometry(*intra_space(self.metric_y, y)),
            fused,
            # OTT weighs the terms by 1 / (1 + penalty) and penalty / (1 + penalty): α and 1 - α.
            fused_penalty=1.0 if fused is None else (1 - self.alpha) / self.alpha,
            a=x.weights,
            b=y.weights,
            tau_a=self.tau_x,
            tau_b=self.tau_y,
        )
        solver = LRGromovWasserstein(
            rank=min(self.rank, *cost.shape), epsilon=self.epsilon, gamma=self.gamma,
            threshold=self.threshold, inner_iterations=10, min_iterations=10,
            max_iterations=self.max_iterations,
        )  # fmt: skip
        return mixture(solver(problem))


def _linear(
    solver: LowRankSinkhorn | LowRankGromovWasserstein, cost: OTTGeometry, x: Cloud, y: Cloud
) -> BridgeCoupling:
    problem = LinearProblem(cost, x.weights, y.weights, tau_a=solver.tau_x, tau_b=solver.tau_y)
    minimise = LRSinkhorn(
        rank=min(solver.rank, *cost.shape), epsilon=solver.epsilon, gamma=solver.gamma,
        threshold=solver.threshold, max_iterations=solver.max_iterations,
    )  # fmt: skip
    return mixture(minimise(problem))


def through(cost: Geometry, x: Cloud, y: Cloud, squared: bool = False) -> OTTGeometry:
    """`cost` between `x` and `y` in its unit, or with `squared` its square, as OTT knows it, by its
    factors where it is one of points. Else it is dense; raises MemoryError where there is no memory
    for the three that are held at once."""
    if isinstance(cost, PointGeometry) and not squared:
        left, right = factors(cost.metric, cost.u, cost.v)
        return LRCGeometry(left / cost.scale(x.weights, y.weights), right)
    values = normalised(cost, x.weights, y.weights, arrays=3)
    return OTTGeometry(values**2 if squared else values)


def mixture(out: Any) -> BridgeCoupling:
    """Q diag(1/g) Rᵀ from OTT's `out`: a component takes the place of a bridge."""
    errors = jnp.asarray(out.errors)  # -1 where no iteration measured one
    error = errors[jnp.maximum(jnp.sum(errors != -1) - 1, 0)]
    state = Convergence(jnp.asarray(out.converged), jnp.asarray(out.n_iters), error)
    f, g = jnp.zeros(len(out.q)), jnp.zeros(len(out.r))
    a, b = -jnp.log(out.q), jnp.log(out.g) - jnp.log(out.r)
    return BridgeCoupling(a, b, 1.0, f, g, state, of_cost=False)
