"""What the benchmarks compare with: OTT-JAX's Sinkhorn on a bridge cost, dense, or recomputing the
cost by blocks of rows wherever it is needed, in O((n + m) l) memory; POT's; and plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from ott.geometry.geometry import Geometry
from ott.problems.linear.linear_problem import LinearProblem
from ott.solvers.linear.sinkhorn import Sinkhorn
from scipy.special import logsumexp

from morphkit.transport.geometry import BridgeGeometry, min_plus


@jax.tree_util.register_pytree_node_class
class OnlineBridge(Geometry):
    """min_p (a_ip + b_jp), never stored."""

    def __init__(self, a, b, epsilon) -> None:
        super().__init__(epsilon=epsilon)
        self.a, self.b = a, b

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.a), len(self.b)

    @property
    def dtype(self):
        return self.a.dtype

    def apply_lse_kernel(self, f, g, eps, vec=None, axis=0):
        assert vec is None
        a, b, here, there = (self.b, self.a, g, f) if axis == 0 else (self.a, self.b, f, g)
        size = 250

        def block(part):
            rows, shift = part
            z = (shift[:, None] + there - min_plus(rows, b)) / eps
            return eps * jax.nn.logsumexp(z, axis=1) - shift

        blocks = a.reshape(-1, size, a.shape[1]), here.reshape(-1, size)
        values = jax.lax.map(block, blocks).ravel()
        return values, jnp.ones_like(values)

    def tree_flatten(self):
        return (self.a, self.b, self._epsilon_init), {}

    @classmethod
    def tree_unflatten(cls, aux_data, children):
        return cls(*children)


def by_ott(cost, mean, epsilon: float, threshold: float):
    """Potentials divided by ε, and the iterations."""
    if isinstance(cost, BridgeGeometry):
        geometry = OnlineBridge(cost.a / mean, cost.b / mean, epsilon)
    else:
        geometry = Geometry(cost.values / mean, epsilon=epsilon)
    out = Sinkhorn(threshold=threshold, max_iterations=2000)(LinearProblem(geometry))
    f, g = out.potentials
    return (f / epsilon, g / epsilon), out.n_iters


def by_pot(cost: np.ndarray, epsilon: float, threshold: float) -> tuple[np.ndarray, int]:
    """POT's log-domain Sinkhorn. It stops on the L2 error of a marginal, at most L1's over √n,
    so its threshold is divided by √n: it may do more than the others, never less."""
    import ot  # here, so that OTT's process is without it when its memory is measured

    weights = np.full(len(cost), 1 / len(cost))
    coupling, log = ot.sinkhorn(
        weights, weights, cost, epsilon, method="sinkhorn_log", log=True,
        stopThr=threshold / np.sqrt(len(cost)), numItermax=5000,
    )  # fmt: skip
    return coupling, int(log["niter"])


def by_numpy(cost: np.ndarray, epsilon: float, threshold: float) -> tuple[np.ndarray, int]:
    """Sinkhorn's iterations in the log domain, as one writes them down."""
    log_mu = -np.log(len(cost))
    kernel, g = -cost / epsilon, np.zeros(len(cost))
    iteration, error = 0, np.inf
    while error > threshold:
        f = log_mu - logsumexp(kernel + g, axis=1)
        g = log_mu - logsumexp(kernel + f[:, None], axis=0)
        iteration += 1
        if iteration % 10 == 0:
            error = np.abs(np.exp(f + logsumexp(kernel + g, axis=1)) - 1 / len(cost)).sum()
    return np.exp(kernel + f[:, None] + g), iteration
