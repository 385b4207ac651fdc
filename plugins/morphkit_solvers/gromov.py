"""Quadratic and fused entropic optimal transport (Eq. 2 and 3)."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float
from ott.geometry.geometry import Geometry as OTTGeometry
from ott.geometry.low_rank import LRCGeometry
from ott.problems.quadratic.quadratic_problem import QuadraticProblem
from ott.solvers.linear import sinkhorn as ott_linear
from ott.solvers.quadratic import gromov_wasserstein as ott

from morphkit.couplings import Convergence, DenseCoupling
from morphkit.geometry import Geometry, check_metric, dense, factors
from morphkit.interfaces import OTSolver
from morphkit.types import Cloud

from .checks import check_entropic


class FusedGromovWasserstein(OTSolver):
    """Entropic fused Gromov-Wasserstein by OTT (Eq. 3; Eq. 2 for α = 1).

    min_π Σ (α |c_X - c_Y|² + (1 - α) c_XY²) π ⊗ π - ε H(π) + λ KL⊗ terms, each cost divided by
    its mean; τ = λ / (λ + ε) (Eq. 28). Each iteration is a Sinkhorn solve on the gradient at
    the last coupling, 2 α (L ⊗ π) + (1 - α) c_XY². OTT leaves the factor 2 out, so it gets
    fused_penalty = (1 - α) / 2α and ε / 2α. `squared=False` takes c_XY instead of c_XY².
    Intra-space costs are kept as thin factors; c_XY and π are dense.
    """

    epsilon: float = eqx.field(static=True, default=5e-3)
    alpha: float = eqx.field(static=True, default=0.5)
    tau_x: float = eqx.field(static=True, default=1.0)
    tau_y: float = eqx.field(static=True, default=1.0)
    metric_x: str = eqx.field(static=True, default="cosine")
    metric_y: str = eqx.field(static=True, default="cosine")
    squared: bool = eqx.field(static=True, default=True)
    threshold: float = eqx.field(static=True, default=1e-3)
    max_iterations: int = eqx.field(static=True, default=20)
    inner_iterations: int = eqx.field(static=True, default=1000)

    def __check_init__(self) -> None:
        check_entropic(self, self.epsilon, self.tau_x, self.tau_y)
        check_metric("FusedGromovWasserstein.metric_x", self.metric_x)
        check_metric("FusedGromovWasserstein.metric_y", self.metric_y)
        if not 0 < self.alpha <= 1:
            raise ValueError(
                f"FusedGromovWasserstein.alpha = {self.alpha} must be in (0, 1]; "
                "for α = 0 use solver.Sinkhorn"
            )

    def solve(self, cost: Geometry, x: Cloud, y: Cloud) -> DenseCoupling:
        """See `OTSolver.solve`. `error` is the relative change of the last cost."""
        fused = dense(cost)
        fused = fused / fused.mean()
        problem = QuadraticProblem(
            _intra_space(self.metric_x, x.points),
            _intra_space(self.metric_y, y.points),
            OTTGeometry(fused**2 if self.squared else fused) if self.alpha < 1 else None,
            fused_penalty=(1 - self.alpha) / (2 * self.alpha) if self.alpha < 1 else 1.0,
            a=x.weights,
            b=y.weights,
            tau_a=self.tau_x,
            tau_b=self.tau_y,
        )
        solver = ott.GromovWasserstein(
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


def _intra_space(metric: str, points: Float[Array, "n d"]) -> LRCGeometry:
    left, right = factors(metric, points, points)
    return LRCGeometry(left / (left.mean(0) @ right.mean(0)), right)
