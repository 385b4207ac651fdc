"""Linear entropic optimal transport (Eq. 1)."""

import logging

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Scalar

from morphkit.checks import Count, Positive, Tau, Whole
from morphkit.interfaces import OTSolver
from morphkit.transport.couplings import BridgeCoupling, DenseCoupling, Potential
from morphkit.transport.geometry import BridgeGeometry, DenseGeometry, Geometry, dense
from morphkit.types import Cloud

from .bridge_sinkhorn import BridgeSinkhorn
from .scaling import DenseKernel, anneal

logger = logging.getLogger("morphkit")


class Sinkhorn(OTSolver):
    """Entropic optimal transport by Sinkhorn's iterations, for any cost (Eq. 1).

    min_π <c, π> - ε H(π) + λ_X KL(π_X | μ) + λ_Y KL(π_Y | ν), with c divided by its mean, or by its
    median where the cost asks for that. So `epsilon`, ε above 0, is in that unit. `tau_x`
    and `tau_y`, in (0, 1], are τ = λ / (λ + ε) (Eq. 28) of either marginal: 1 keeps it exactly,
    smaller values let mass go. H is relative to μ ⊗ ν; for uniform weights that matters only to the
    mass of an unbalanced coupling. It stops when an update of the second potential would move less
    than `threshold` of mass (balanced: the L1 error of the second marginal), at the latest after
    `max_iterations`. With `halvings` = k the problem is first solved at 2^k ε, 2^(k-1) ε, …
    (ε-annealing), each from the last and with as many iterations.

    The cost is stored, in at most `dense_bytes`; a larger bridge cost goes to `BridgeSinkhorn`,
    whose cost is the soft minimum of Eq. 6.
    """

    # Not static: with arrays here (made outside jit) one program serves all values.
    epsilon: Positive = 5e-3
    tau_x: Tau = 1.0
    tau_y: Tau = 1.0
    threshold: Positive = eqx.field(static=True, default=1e-3)
    max_iterations: Count = eqx.field(static=True, default=2000)
    halvings: Whole = eqx.field(static=True, default=3)
    dense_bytes: Whole = eqx.field(static=True, default=2**24)

    def solve(self, cost: Geometry, x: Cloud, y: Cloud) -> DenseCoupling | BridgeCoupling:
        """See `OTSolver.solve`. Raises MemoryError, bridge costs apart, where there is no
        memory for five arrays of the size of the cost: three, the coupling and its table."""
        n, m = cost.shape
        if isinstance(cost, BridgeGeometry) and 4 * n * m > self.dense_bytes:
            logger.info(
                f"the dense {n} × {m} cost would take {4 * n * m / 2**20:.0f} MiB, more than "
                f"Sinkhorn.dense_bytes: solved by its factors (BridgeSinkhorn)"
            )
            arguments = {k: v for k, v in vars(self).items() if k != "dense_bytes"}
            return BridgeSinkhorn(**arguments).solve(cost, x, y)
        return self._solve(DenseGeometry(dense(cost, arrays=5), unit=cost.unit), x, y)

    @eqx.filter_jit
    def _solve(self, cost: DenseGeometry, x: Cloud, y: Cloud) -> DenseCoupling:
        scale = cost.scale(x.weights, y.weights)

        def kernel(epsilon: Scalar | float) -> DenseKernel:
            return DenseKernel(-cost.values / (scale * epsilon))

        f, g, convergence = anneal(self, kernel, x.weights, y.weights)
        values = jnp.exp(kernel(self.epsilon).log + f[:, None] + g)
        return DenseCoupling(values, convergence, Potential(g, scale * self.epsilon))
