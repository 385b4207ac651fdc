"""Linear entropic optimal transport (Eq. 1)."""

import equinox as eqx
import jax.numpy as jnp
from ott.geometry.geometry import Geometry as OTTGeometry
from ott.problems.linear.linear_problem import LinearProblem
from ott.solvers.linear import sinkhorn as ott

from morphkit.couplings import Convergence, DenseCoupling
from morphkit.geometry import Geometry, dense
from morphkit.interfaces import OTSolver
from morphkit.types import Cloud

from .checks import check_entropic


class Sinkhorn(OTSolver):
    """Entropic optimal transport by OTT's log-domain Sinkhorn, on the dense cost (Eq. 1).

    min_π <c, π> - ε H(π) + λ_X KL(π_X | μ) + λ_Y KL(π_Y | ν), with c divided by its mean and
    τ = λ / (λ + ε) (Eq. 28); τ = 1 keeps a marginal exactly. It stops when the marginal error
    (unbalanced: the change of the potentials) is below `threshold`, at the latest after
    `max_iterations`.
    """

    epsilon: float = eqx.field(static=True, default=5e-3)
    tau_x: float = eqx.field(static=True, default=1.0)
    tau_y: float = eqx.field(static=True, default=1.0)
    threshold: float = eqx.field(static=True, default=1e-3)
    max_iterations: int = eqx.field(static=True, default=2000)

    def __check_init__(self) -> None:
        check_entropic("Sinkhorn", self.epsilon, self.tau_x, self.tau_y)

    def solve(self, cost: Geometry, x: Cloud, y: Cloud) -> DenseCoupling:
        """See `OTSolver.solve`. Needs 8 n m bytes beside the cost."""
        values = dense(cost)
        problem = LinearProblem(
            OTTGeometry(values / values.mean(), epsilon=self.epsilon),
            x.weights,
            y.weights,
            tau_a=self.tau_x,
            tau_b=self.tau_y,
        )
        solver = ott.Sinkhorn(threshold=self.threshold, max_iterations=self.max_iterations)
        out = solver(problem)
        errors = jnp.asarray(out.errors)  # -1 where no iteration measured one
        error = errors[jnp.maximum(jnp.sum(errors > -1) - 1, 0)]
        convergence = Convergence(jnp.asarray(out.converged), jnp.asarray(out.n_iters), error)
        return DenseCoupling(out.matrix, convergence)
