"""What `performance.py` compares with: POT and OTT-JAX on the dense bridge cost, in every setting
that solves the same problem, and ours.

POT stops on another error than the others (L2, of one marginal), so it is told how many iterations
to make: `Setting.tuning` says how the number, or OTT's threshold, is found.
"""

import functools
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from morphkit.transport.geometry import BridgeGeometry, DenseGeometry
from morphkit.types import PairedData

EPSILON, THRESHOLD = 5e-3, 1e-3
OTT_ITERATIONS = 2_500


@dataclass(frozen=True)
class Problem:
    """A bridge cost, as its factors and as the matrix that all others are given."""

    data: PairedData
    bridge: BridgeGeometry
    dense: DenseGeometry

    @functools.cached_property
    def cost(self) -> np.ndarray:
        """The matrix over its mean, in float64."""
        values = np.asarray(self.dense.values, np.float64)
        return values / values.mean()


@dataclass(frozen=True)
class Setting:
    """`prepare` makes arrays of the library's own, `solve` is what is timed and takes what
    `tuning` finds, `plan` the coupling as NumPy's float64 matrix."""

    library: str
    name: str
    prepare: Callable[[Problem], Any]
    solve: Callable[[Any, Any], Any]
    plan: Callable[[Problem, Any], np.ndarray]
    tuning: str
    """plain: the number of Sinkhorn's iterations; search: that of its own; threshold; none."""
    double: bool = False

    def context(self) -> Any:
        """JAX in float64, where the setting wants it."""
        return jax.enable_x64(True) if self.double else nullcontext()

    def error(self, problem: Problem, result: Any) -> float:
        """The larger L1 error of the two marginals, which are uniform."""
        if self.library == "ours":  # which may be too large for a matrix
            marginals = [np.asarray(result[0].marginal(k), np.float64) for k in (0, 1)]
        else:
            plan = self.plan(problem, result)
            marginals = [plan.sum(1), plan.sum(0)]
        return max(float(np.abs(marginal - 1 / len(marginal)).sum()) for marginal in marginals)

    def iterations(self, knob: Any, result: Any) -> int:
        return int(result[-1]) if self.tuning in ("threshold", "none") else knob


def settings(*libraries: str) -> Iterator[Setting]:
    """Of these libraries, which alone are imported: memory is measured, too."""
    for library in libraries or ("ours", "OTT", "POT"):
        yield from {"ours": ours, "OTT": ott, "POT": pot}[library]()


def ours() -> Iterator[Setting]:
    from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn
    from morphkit_solvers.sinkhorn import Sinkhorn

    for name, solver, of in (
        ("Sinkhorn (dense)", Sinkhorn(EPSILON, threshold=THRESHOLD), lambda p: p.dense),
        ("BridgeSinkhorn", BridgeSinkhorn(EPSILON, threshold=THRESHOLD), lambda p: p.bridge),
    ):

        def solve(arrays, _, solver=solver):
            coupling = solver.solve(*arrays)
            return coupling, coupling.convergence.iterations

        yield Setting(
            "ours", name, lambda p, of=of: (of(p), p.data.x, p.data.y), solve,
            lambda _, result: np.asarray(result[0].to_dense(), np.float64), "none",
        )  # fmt: skip


def ott() -> Iterator[Setting]:
    """In the log domain, and by products with the kernel, which need float64 here."""
    from ott.solvers.linear.acceleration import AndersonAcceleration, Momentum

    plain: dict[str, dict] = {"plain": {}}
    momentum = {f"momentum {w}": {"momentum": Momentum(value=w)} for w in (1.5, 1.7, 1.8)}
    momentum |= {
        f"adaptive momentum from {k}": {"momentum": Momentum(start=k)} for k in (20, 50, 100)
    }
    anderson = {f"Anderson {k}": {"anderson": AndersonAcceleration(memory=k)} for k in (5, 8)}
    every = plain | momentum | anderson
    annealed = {
        f"{name}, annealed from {start} ε": every[name] | {"annealing": (float(start), 0.9)}
        for name, start in (
            ("plain", 8), ("plain", 64), ("momentum 1.7", 64), ("momentum 1.8", 8),
            ("momentum 1.8", 64), ("adaptive momentum from 50", 8),
            ("adaptive momentum from 100", 8), ("adaptive momentum from 100", 64),
        )
    }  # fmt: skip
    for name, options in (every | annealed).items():
        yield _ott(name, lse_mode=True, **options)
    yield _ott("kernel, float32", lse_mode=False)
    for name in ("momentum 1.7", "adaptive momentum from 50"):
        yield _ott(f"kernel, float64, {name}", double=True, lse_mode=False, **every[name])


def _ott(
    name: str, double: bool = False, annealing: tuple[float, float] = (1.0, 1.0), **options: Any
) -> Setting:
    from ott.geometry.epsilon_scheduler import Epsilon
    from ott.geometry.geometry import Geometry as OTTGeometry
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn as OTTSinkhorn

    @jax.jit
    def solve(cost, threshold):
        solver = OTTSinkhorn(threshold=threshold, max_iterations=OTT_ITERATIONS, **options)
        geometry = OTTGeometry(cost, epsilon=Epsilon(jnp.array(EPSILON), *annealing))
        out = solver(LinearProblem(geometry))
        return *out.potentials, out.n_iters

    def plan(problem: Problem, result) -> np.ndarray:
        f, g = (np.asarray(potential, np.float64) for potential in result[:2])
        return np.exp((f[:, None] + g - problem.cost) / EPSILON)

    dtype = jnp.float64 if double else jnp.float32
    return Setting(
        "OTT", name, lambda p: jnp.asarray(p.cost, dtype), solve, plan, "threshold", double
    )


def pot() -> Iterator[Setting]:
    """Each method, with the arrays of the backends that may suit it."""
    both, single = ("NumPy, float64", "torch, float64"), ("JAX, float32", "torch, float32")
    stabilized = {"print_period": 10**6}  # it prints nothing, and would compute an error
    for method, label, backends, options in (
        ("sinkhorn_knopp", "sinkhorn", (*both, "NumPy, float32", "JAX, float64"), {}),
        (
            "sinkhorn_stabilized", "sinkhorn_stabilized", (*both, "NumPy, float32", *single),
            stabilized,
        ),
        (
            "sinkhorn_stabilized", "sinkhorn_stabilized, τ = 1e8", both,
            stabilized | {"tau": 1e8},
        ),
        ("sinkhorn_log", "sinkhorn_log", ("NumPy, float64", *single), {}),
    ):  # fmt: skip
        for backend in backends:
            library, dtype = backend.split(", ")
            if importlib.util.find_spec(library.lower()):
                make = functools.partial(_array, library, dtype)
                yield _pot(method, f"{label} ({backend})", make, "plain", **options)
    float64 = functools.partial(_array, "NumPy", "float64")
    yield _pot(
        "sinkhorn_epsilon_scaling", "sinkhorn_epsilon_scaling (at each of 35 ε, the least)",
        float64, "search", "numInnerItermax", numItermax=35, epsilon0=1.0,
    )  # fmt: skip
    yield _pot("greenkhorn", "greenkhorn", float64, "search")
    for method in ("smooth_ot_dual", "smooth_ot_semi_dual"):
        yield _pot(method, f"{method} (L-BFGS)", float64, "search", reg_type="kl")


def _array(library: str, dtype: str, values: np.ndarray) -> Any:
    if library == "JAX":
        return jnp.asarray(values, dtype)
    if library == "NumPy":
        return np.asarray(values, dtype)
    import torch  # only where it is asked for: memory is measured, too

    return torch.from_numpy(np.asarray(values, dtype))


def _pot(
    method: str, name: str, make: Callable, tuning: str, count: str = "numItermax", **options: Any
) -> Setting:
    import ot

    function = getattr(ot.smooth if method.startswith("smooth") else ot.bregman, method)
    quiet = {} if method.startswith("smooth") else {"warn": False}

    def prepare(problem: Problem) -> Any:
        n, m = problem.cost.shape
        return tuple(make(x) for x in (np.full(n, 1 / n), np.full(m, 1 / m), problem.cost))

    def solve(arrays, iterations: int):
        knob = options | quiet | {count: iterations}
        return function(*arrays, EPSILON, stopThr=0, **knob)

    return Setting(
        "POT", name, prepare, solve, lambda _, result: np.asarray(result, np.float64), tuning,
        "JAX, float64" in name,
    )  # fmt: skip


def reference(cost: np.ndarray) -> np.ndarray:
    """The coupling to an L1 error of 1e-6, by over-relaxed iterations."""
    return _scaled(cost, 1e-6, 1.7)[0]


def plain_iterations(cost: np.ndarray) -> int:
    """How many of Sinkhorn's plain iterations reach THRESHOLD, in tens."""
    return _scaled(cost, THRESHOLD, 1.0)[1]


def _scaled(cost: np.ndarray, threshold: float, weight: float) -> tuple[np.ndarray, int]:
    n, m = cost.shape
    kernel, count = np.exp(-cost / EPSILON), 0
    u, v = np.full(n, 1 / n), np.ones(m)
    while True:
        for _ in range(10):
            v = v ** (1 - weight) * (1 / m / (u @ kernel)) ** weight
            u = u ** (1 - weight) * (1 / n / (kernel @ v)) ** weight
        count += 10
        row, column = u * (kernel @ v), v * (u @ kernel)
        if max(np.abs(row - 1 / n).sum(), np.abs(column - 1 / m).sum()) < threshold:
            return u[:, None] * kernel * v, count
