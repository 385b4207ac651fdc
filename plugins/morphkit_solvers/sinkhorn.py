"""Linear entropic optimal transport (Eq. 1)."""

import logging
import math
from collections.abc import Callable
from dataclasses import fields

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from morphkit.checks import Count, Positive, Tau, Whole
from morphkit.devices import GATHERED, WHOLE, over_points
from morphkit.interfaces import OTSolver
from morphkit.precision import in_full_precision
from morphkit.transport.bridges import BridgeCoupling
from morphkit.transport.couplings import Convergence, DenseCoupling, Potential
from morphkit.transport.geometry import (
    BridgeGeometry,
    DenseGeometry,
    Geometry,
    PointGeometry,
    dense,
    factors,
)
from morphkit.transport.memory import ask_memory
from morphkit.transport.streamed import EntropicCoupling
from morphkit.types import Cloud

from .bridge_sinkhorn import BridgeSinkhorn
from .scaling import DenseKernel, Kernel, StreamedKernel, anneal, log_weights, sinkhorn

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
    whose cost is the soft minimum of Eq. 6. A cost between points (`PointGeometry`) of more than
    `points`² entries is computed anew in each iteration, in O(n + m) memory. Such a problem is
    first solved between at most `points` points a side, drawn at random and the same each time.
    The potential extends to all points by g = log ν - τ_Y log Kᵀ exp(f), K and f being of the
    drawn points. From there the whole problem is iterated until it meets `threshold`, at most
    `streamed_iterations` times, by default `max_iterations`. At a hundred thousand points a side
    one of these takes as long as all that comes before. Iterations and error are those of the whole
    problem.

    With `tiled` these iterations go by tiles that never leave the chip of a GPU, where blocks are
    written to its memory (`tiles.TiledKernel`, by Pallas). On an H200 it takes twice as long as
    blocks; `python benchmarks/thin.py --gpu` compares the two on your card. Elsewhere it is
    interpreted, which is for tests only, and slow.
    """

    # Not static: with arrays here (made outside jit) one program serves all values.
    epsilon: Positive = 5e-3
    tau_x: Tau = 1.0
    tau_y: Tau = 1.0
    threshold: Positive = eqx.field(static=True, default=1e-3)
    max_iterations: Count = eqx.field(static=True, default=2000)
    halvings: Whole = eqx.field(static=True, default=3)
    dense_bytes: Whole = eqx.field(static=True, default=2**24)
    points: Count = eqx.field(static=True, default=8000)
    streamed_iterations: Count | None = eqx.field(static=True, default=None)
    tiled: bool = eqx.field(static=True, default=False)

    @in_full_precision
    def solve(
        self, cost: Geometry, x: Cloud, y: Cloud
    ) -> DenseCoupling | BridgeCoupling | EntropicCoupling:
        """See `OTSolver.solve`. Raises MemoryError where there is no memory for five arrays of the
        size of a cost that is stored: three, the coupling and its table; or for three of the size
        of the cost between the drawn points, and twice the factors of the whole."""
        n, m = cost.shape
        if isinstance(cost, BridgeGeometry) and 4 * n * m > self.dense_bytes:
            logger.info(
                f"the dense {n} × {m} cost would take {4 * n * m / 2**20:.0f} MiB, more than "
                f"Sinkhorn.dense_bytes: solved by its factors (BridgeSinkhorn)"
            )
            names = {field.name for field in fields(BridgeSinkhorn)}
            arguments = {name: value for name, value in vars(self).items() if name in names}
            return BridgeSinkhorn(**arguments).solve(cost, x, y)
        if isinstance(cost, PointGeometry) and n * m > self.points**2:
            logger.info(
                f"the {n} × {m} cost has more than Sinkhorn.points² entries: computed by blocks, "
                f"from a solution between at most {self.points} points a side"
            )
            drawn = min(n, self.points), min(m, self.points)
            ask_memory(
                f"the cost between {drawn[0]} × {drawn[1]} drawn points, three times held at once, "
                f"and the factors of all {n} + {m}, twice,",
                4 * (3 * math.prod(drawn) + 2 * (n + m) * (cost.u.shape[1] + 2)),
                "lower Sinkhorn.points, or give fewer points",
            )  # fmt: skip
            if self.tiled and jax.default_backend() != "gpu":
                logger.warning(
                    "Sinkhorn.tiled is for GPUs: its kernel is interpreted on "
                    f"{jax.default_backend()}, which is slow"
                )
            return EntropicCoupling(*self._streamed(cost, x, y))
        return self._solve(DenseGeometry(dense(cost, arrays=5), unit=cost.unit), x, y)

    @eqx.filter_jit
    def _solve(self, cost: DenseGeometry, x: Cloud, y: Cloud) -> DenseCoupling:
        scale = cost.scale(x.weights, y.weights)

        def kernel(epsilon: Scalar | float) -> DenseKernel:
            return DenseKernel(-cost.values / (scale * epsilon))

        f, g, convergence = anneal(self, kernel, x.weights, y.weights)
        values = jnp.exp(kernel(self.epsilon).log + f[:, None] + g)
        return DenseCoupling(values, convergence, Potential(g, scale * self.epsilon))

    @eqx.filter_jit
    def _streamed(
        self, cost: PointGeometry, x: Cloud, y: Cloud
    ) -> tuple[
        Float[Array, "n r"], Float[Array, "m r"], Scalar, Float[Array, " n"], Float[Array, " m"],
        Convergence,
    ]:  # fmt: skip
        epsilon = cost.scale(x.weights, y.weights) * self.epsilon
        left, right = factors(cost.metric, cost.u, cost.v)
        left /= epsilon
        i, j = (
            jax.random.permutation(key, cloud.size)[: self.points]
            for key, cloud in zip(jax.random.split(jax.random.key(0)), (x, y), strict=True)
        )
        few = jnp.maximum(left[i] @ right[j].T, 0)

        def kernel(epsilon: Scalar | float) -> DenseKernel:
            return DenseKernel(-few * (self.epsilon / epsilon))

        f, _, _ = anneal(self, kernel, x.take(i).weights, y.take(j).weights)
        most = self.max_iterations if self.streamed_iterations is None else self.streamed_iterations
        computed = self._computed
        reached = computed(left[i], right).log_to_target(f)

        def part(
            left: Array, mu: Array, right: Array, nu: Array, start: Array
        ) -> tuple[Array, Array, Convergence]:
            return sinkhorn(
                computed(left, right, shared=True), mu, nu, start=start, tau_x=self.tau_x,
                tau_y=self.tau_y, threshold=self.threshold, max_iterations=most,
            )  # fmt: skip

        start = log_weights(y.weights) - self.tau_y * reached
        f, g, convergence = over_points(
            part, (left, x.weights), (right, y.weights, start), (GATHERED, WHOLE, WHOLE)
        )
        return left, right, epsilon, f, g, convergence

    @property
    def _computed(self) -> Callable[..., Kernel]:
        """The kernel that is computed from its factors whenever it is needed."""
        if not self.tiled:
            return StreamedKernel
        from .tiles import TiledKernel  # Pallas is experimental: only for who asks for it

        return TiledKernel
