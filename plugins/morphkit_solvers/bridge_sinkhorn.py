"""Sinkhorn for the bridge cost, on its two thin factors."""

import equinox as eqx
from jaxtyping import Array, Float, Scalar

from morphkit.checks import Count, Positive, Tau, Whole
from morphkit.devices import GATHERED, WHOLE, over_points
from morphkit.interfaces import OTSolver
from morphkit.precision import in_full_precision
from morphkit.transport.bridges import BridgeCoupling
from morphkit.transport.couplings import Convergence
from morphkit.transport.geometry import BridgeGeometry, Geometry, ask_bridges
from morphkit.transport.half import Factor, Half
from morphkit.types import Cloud

from .factored import FactoredKernel
from .scaling import anneal

ARRAYS = 3
"""How often arrays of the size of the factors are held at once, beside these: in a solve the two of
a kernel; then the tables to draw from, and what those are made with."""


class BridgeSinkhorn(OTSolver):
    """Entropic optimal transport (Eq. 1) with the bridge cost, never forming n × m numbers.

    With Eq. 6's minimum replaced by the soft minimum at the solver's own temperature,
    c_ij = -ε log Σ_p exp(-(a_ip + b_jp) / ε), the Gibbs kernel factors exactly:
    exp(-c/ε) = A Bᵀ with A = exp(-a/ε), B = exp(-b/ε). A half-iteration is two thin matrix
    products, O((n + m) l). The soft minimum is below the minimum by at most ε log l, l the number
    of bridges: within one, over the pairs of a shared point, the minimum is exact.

    `epsilon`, `tau_x`, `tau_y`, `threshold`, `max_iterations` and `halvings` are those of
    `Sinkhorn`; the cost's unit is that of the hard-minimum cost.
    """

    takes = (BridgeGeometry,)

    # Not static: with arrays here (made outside jit) one program serves all values.
    epsilon: Positive = 5e-3
    tau_x: Tau = 1.0
    tau_y: Tau = 1.0
    threshold: Positive = eqx.field(static=True, default=1e-3)
    max_iterations: Count = eqx.field(static=True, default=2000)
    halvings: Whole = eqx.field(static=True, default=3)

    @in_full_precision
    def solve(self, cost: Geometry, x: Cloud, y: Cloud) -> BridgeCoupling:
        """See `OTSolver.solve`. Raises MemoryError where there is none for tables of the size of
        its factors."""
        assert isinstance(cost, BridgeGeometry)
        halves = isinstance(cost.a, Half), False
        ask_bridges(cost.shape, cost.a.shape[1], arrays=ARRAYS, halves=halves)
        f, g, epsilon, convergence = self._solve(cost, x, y)
        return BridgeCoupling(cost.a, cost.b, epsilon, f, g, convergence)

    @eqx.filter_jit
    def _solve(
        self, cost: BridgeGeometry, x: Cloud, y: Cloud
    ) -> tuple[Float[Array, " n"], Float[Array, " m"], Scalar, Convergence]:
        scale = cost.scale(x.weights, y.weights)

        def part(
            a: Factor, mu: Array, b: Factor, nu: Array, scale: Array
        ) -> tuple[Array, Array, Convergence]:
            def kernel(epsilon: Scalar | float) -> FactoredKernel:
                return FactoredKernel(a, b, scale * epsilon, shared=True)

            return anneal(self, kernel, mu, nu)

        f, g, convergence = over_points(
            part, (cost.a, x.weights), (cost.b, y.weights, scale), (GATHERED, WHOLE, WHOLE)
        )
        return f, g, scale * self.epsilon, convergence
