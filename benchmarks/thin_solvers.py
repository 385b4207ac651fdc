"""What `thin.py` compares: solvers between points that never store the cost, and their settings.

All end with potentials f, g over ε of π_ij = exp(f_i + g_j - c_ij / ε), and the number of their
iterations.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from morphkit_solvers.scaling import Kernel, StreamedKernel, sinkhorn
from morphkit_solvers.sinkhorn import Sinkhorn
from morphkit_solvers.tiles import TiledKernel

from morphkit.precision import in_full_precision
from morphkit.transport.geometry import PointGeometry, factors
from morphkit.types import Cloud

DIM, MOST = 64, 1_000
OURS = "morphkit, streamed"
Solve = Callable[..., tuple[Any, Any, int]]
"""(x, y, ε, iterations, error) to potentials: so many iterations where the error is 0."""


@dataclass(frozen=True)
class Setting:
    """`needs` are the packages that it imports."""

    needs: str
    name: str
    solve: Solve
    counted: bool = False
    """Whether it stops at no error, so that the number of iterations has to be found."""

    def knobs(self, threshold: float) -> list[tuple[int, float]]:
        """Most iterations, and an error: one after the other, until both marginals are right."""
        if self.counted:
            return [(round(200 * 2 ** (k / 2)), 0.0) for k in range(8)]
        return [(MOST, threshold * 0.8**k) for k in range(8)]


def points(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(n, DIM)).astype(np.float32) for _ in "xy")
    return x, y


def error(x: np.ndarray, y: np.ndarray, epsilon: float, f: Any, g: Any) -> float:
    """The larger L1 error of both marginals, in float64, of potentials over ε."""
    f, g = np.asarray(f, float), np.asarray(g, float)
    x, y, rows, column = x.astype(float), y.astype(float), [], np.zeros(len(y))
    for part in np.array_split(np.arange(len(x)), -(-len(x) // 500)):
        cost = (x[part] ** 2).sum(1)[:, None] + (y**2).sum(1) - 2 * x[part] @ y.T
        plan = np.exp(f[part, None] + g - cost / epsilon)
        rows.append(plan.sum(1))
        column += plan.sum(0)
    return max(float(np.abs(m - 1 / len(m)).sum()) for m in (np.concatenate(rows), column))


@in_full_precision
def iterated(kernel: Callable[..., Kernel], x, y, epsilon: float, count: int, _: float) -> Any:
    """Of ours, so many iterations from the weights."""
    left, right = factors("sqeuclidean", jnp.asarray(x), jnp.asarray(y))
    mu, nu = (jnp.full(len(side), 1 / len(side), jnp.float32) for side in (x, y))
    f, g, found = sinkhorn(
        kernel(left / epsilon, right), mu, nu, start=jnp.log(nu), tau_x=1.0, tau_y=1.0,
        threshold=0.0, max_iterations=count,
    )  # fmt: skip
    return f, g, found.iterations


def scalings() -> dict[str, Solve]:
    """By blocks of rows, and in tiles."""
    kernels = {"streamed": StreamedKernel, "tiled": TiledKernel}
    return {name: functools.partial(iterated, kernel) for name, kernel in kernels.items()}


def ours(x, y, epsilon: float, count: int, threshold: float) -> Any:
    """To an error, `Sinkhorn` with a part to start from that is a quarter: no size is dense."""
    if not threshold:
        return iterated(StreamedKernel, x, y, epsilon, count, threshold)
    x, y = Cloud.uniform(x), Cloud.uniform(y)
    cost = PointGeometry(x.points, y.points, "sqeuclidean")
    solver = Sinkhorn(
        float(epsilon / cost.scale(x.weights, y.weights)), threshold=threshold,
        max_iterations=count, points=x.size // 4,
    )  # fmt: skip
    found: Any = solver.solve(cost, x, y)
    return found.f, found.g, found.convergence.iterations


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def ott(size: int, x, y, epsilon: float, count: int, threshold: float) -> Any:
    """In batches of `size` rows; to an error, with adaptive momentum, of its best settings."""
    from jax.interpreters import batching
    from ott.geometry.pointcloud import PointCloud
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.acceleration import Momentum
    from ott.solvers.linear.sinkhorn import Sinkhorn as OTTSinkhorn

    if not hasattr(batching, "is_vmappable"):  # OTT 0.6 asks for it, JAX 0.10 has it no more
        batching.is_vmappable = lambda leaf: False  # pyright: ignore
    solver = OTTSinkhorn(
        threshold=threshold or -1.0, max_iterations=count, min_iterations=0 if threshold else count,
        momentum=Momentum(start=50) if threshold else None,
    )  # fmt: skip
    out = solver(LinearProblem(PointCloud(x, y, epsilon=epsilon, batch_size=size)))
    # Its coupling is exp((f + g - c) / ε), as ours.
    return out.f / epsilon, out.g / epsilon, out.n_iters


def pot(make: Callable, size: int, x, y, epsilon: float, count: int, threshold: float) -> Any:
    """In batches of `size`, of arrays that `make` makes."""
    from ot.bregman import empirical_sinkhorn

    found: Any = empirical_sinkhorn(
        make(x), make(y), epsilon, isLazy=True, batchSize=size, numIterMax=count,
        stopThr=threshold, warn=False, log=True,
    )  # fmt: skip
    f, g, log = found
    return f, g, log["niter"] + 1


def geomloss(x, y, epsilon: float, count: int, _: float) -> Any:
    """Its cost is half of ours. It anneals from a diameter, which is told to be next to nothing:
    from the points' own, slowly or not, it comes nowhere near the error. A softmin each way is for
    the start, each ε and the end."""
    import torch
    from geomloss import SamplesLoss  # pyright: ignore

    blur = math.sqrt(epsilon / 2)
    loss = SamplesLoss(
        "sinkhorn", p=2, blur=blur, diameter=1.01 * blur, scaling=1.01 ** (-1 / (count - 4)),
        debias=False, potentials=True, backend="online",
    )  # fmt: skip
    f, g = loss(torch.from_numpy(x), torch.from_numpy(y))
    f, g = (k.numpy().ravel() / blur**2 - math.log(len(x)) for k in (f, g))
    return f, g, count


def as_torch(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array)


def as_double(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


SETTINGS: dict[str, list[Setting]] = {
    OURS: [Setting("morphkit", "", ours)],
    "OTT, online": [
        Setting("ott", f"batches of {size:,}", functools.partial(ott, size))
        for size in (256, 1_024, 4_096)
    ],
    "POT, lazy": [
        Setting("ot", f"batches of {size:,}, {name}", functools.partial(pot, make, size))
        for size, name, make in (
            (100, "NumPy, float32", np.asarray),
            (1_000, "NumPy, float32", np.asarray),
            (100, "NumPy, float64", as_double),
            (100, "torch, float32", as_torch),
        )
    ],
    "GeomLoss, online": [Setting("torch geomloss pykeops", "KeOps", geomloss, counted=True)],
}
"""Of each library, of which the fastest counts."""
