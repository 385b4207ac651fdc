"""The same problems through OTT-JAX: a reference for ours, in the log domain throughout."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float
from ott.geometry.geometry import Geometry as OTTGeometry
from ott.geometry.low_rank import LRCGeometry
from ott.problems.linear.linear_problem import LinearProblem
from ott.problems.quadratic.quadratic_problem import QuadraticProblem
from ott.solvers.linear import sinkhorn as ott_linear
from ott.solvers.quadratic import gromov_wasserstein as ott_quadratic

from morphkit.checks import Count, Metric, Positive, Share, Tau
from morphkit.interfaces import OTSolver
from morphkit.precision import in_float32
from morphkit.transport.couplings import Convergence, DenseCoupling
from morphkit.transport.geometry import Geometry, normalised
from morphkit.types import Cloud

from .gromov import intra_space

ARRAYS = 5
"""The n × m arrays that a solve holds at once, by the compiler's account: the cost, OTT's two, the
coupling and its table to draw from."""


class OTTSinkhorn(OTSolver):
    """`Sinkhorn` by OTT-JAX, on the dense cost (Eq. 1); several times slower.

    min_π <c, π> - ε H(π) + λ_X KL(π_X | μ) + λ_Y KL(π_Y | ν), τ = λ / (λ + ε) (Eq. 28).

    OTT's entropy is relative to the counting measure, which changes nothing but the mass of an
    unbalanced coupling. It stops when the marginal error (unbalanced: the change of the
    potentials) is below `threshold`, at the latest after `max_iterations`. `epsilon`, `tau_x` and
    `tau_y` are those of `Sinkhorn`.
    """

    epsilon: Positive = eqx.field(static=True, default=5e-3)
    tau_x: Tau = eqx.field(static=True, default=1.0)
    tau_y: Tau = eqx.field(static=True, default=1.0)
    threshold: Positive = eqx.field(static=True, default=1e-3)
    max_iterations: Count = eqx.field(static=True, default=2000)

    @in_float32
    def solve(self, cost: Geometry, x: Cloud, y: Cloud) -> DenseCoupling:
        """See `OTSolver.solve`. Raises MemoryError where ARRAYS times the cost is not available."""
        values = normalised(cost, x.weights, y.weights, arrays=ARRAYS)
        return _linear(self, values, x, y, self.max_iterations)


def _linear(
    solver: "OTTSinkhorn | OTTFusedGromovWasserstein",
    cost: Float[Array, "n m"],
    x: Cloud,
    y: Cloud,
    iterations: int,
) -> DenseCoupling:
    geometry = OTTGeometry(cost, epsilon=solver.epsilon)
    problem = LinearProblem(
        geometry, x.weights, y.weights, tau_a=solver.tau_x, tau_b=solver.tau_y
    )  # fmt: skip
    out = ott_linear.Sinkhorn(threshold=solver.threshold, max_iterations=iterations)(problem)
    errors = jnp.asarray(out.errors)  # -1 where no iteration measured one
    error = errors[jnp.maximum(jnp.sum(errors > -1) - 1, 0)]
    convergence = Convergence(jnp.asarray(out.converged), jnp.asarray(out.n_iters), error)
    return DenseCoupling(out.matrix, convergence)


class OTTFusedGromovWasserstein(OTSolver):
    """`FusedGromovWasserstein` by OTT-JAX (Eq. 3; Eq. 2 for α = 1); several times slower.

    OTT leaves the factor 2 of the gradient 2 α (L ⊗ π) + (1 - α) c_XY² out, so it gets
    fused_penalty = (1 - α) / 2α and ε / 2α; at α = 0 it gets the linear problem. Unbalanced, it is
    another problem than Eq. 3: its entropy is (ε / 2) KL⊗(π | μ ⊗ ν), its linear term does not
    grow with the mass, and it may stop unconverged. λ is Eq. 3's there: OTT, whose τ is that of
    (λ / 2) KL⊗, gets 2 τ / (1 + τ).

    `epsilon`, `alpha`, `tau_x`, `tau_y`, `metric_x`, `metric_y`, `squared` and `inner_iterations`
    are those of `FusedGromovWasserstein`. It stops when the relative change of the cost, which is
    the `error`, is below `threshold`, at the latest after `max_iterations` linear problems; at
    α = 0 it is `OTTSinkhorn`, with `inner_iterations` at the most.
    """

    epsilon: Positive = eqx.field(static=True, default=5e-3)
    alpha: Share = eqx.field(static=True, default=0.5)
    tau_x: Tau = eqx.field(static=True, default=1.0)
    tau_y: Tau = eqx.field(static=True, default=1.0)
    metric_x: Metric = eqx.field(static=True, default="cosine")
    metric_y: Metric = eqx.field(static=True, default="cosine")
    squared: bool = eqx.field(static=True, default=True)
    threshold: Positive = eqx.field(static=True, default=1e-3)
    max_iterations: Count = eqx.field(static=True, default=20)
    inner_iterations: Count = eqx.field(static=True, default=1000)

    @in_float32
    def solve(self, cost: Geometry, x: Cloud, y: Cloud) -> DenseCoupling:
        """See `OTSolver.solve`. Raises MemoryError as `OTTSinkhorn` does."""
        values = normalised(cost, x.weights, y.weights, arrays=ARRAYS)
        values = values**2 if self.squared else values
        if self.alpha == 0:
            return _linear(self, values, x, y, self.inner_iterations)
        problem = QuadraticProblem(
            LRCGeometry(*intra_space(self.metric_x, x)),
            LRCGeometry(*intra_space(self.metric_y, y)),
            OTTGeometry(values) if self.alpha < 1 else None,
            fused_penalty=(1 - self.alpha) / (2 * self.alpha) if self.alpha < 1 else 1.0,
            a=x.weights,
            b=y.weights,
            tau_a=2 * self.tau_x / (1 + self.tau_x),
            tau_b=2 * self.tau_y / (1 + self.tau_y),
        )
        solver = ott_quadratic.GromovWasserstein(
            ott_linear.Sinkhorn(threshold=self.threshold, max_iterations=self.inner_iterations),
            epsilon=self.epsilon / (2 * self.alpha),
            threshold=self.threshold,
            max_iterations=self.max_iterations,
        )
        out = solver(problem)
        costs = jnp.asarray(out.costs)  # -1 after the last iteration
        count = jnp.sum(costs != -1)
        last, before = costs[count - 1], costs[jnp.maximum(count - 2, 0)]
        error = jnp.abs(last - before) / jnp.abs(before)
        convergence = Convergence(jnp.asarray(out.converged), count, error)
        return DenseCoupling(out.matrix, convergence)
