"""The three alignment strategies (Sec. 3.2, Algorithm 1). They differ only in their sampler."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from . import hookimpl
from .collapse import CollapsedCoupling, collapse
from .couplings import Coupling, PairCoupling
from .geometry import Geometry
from .interfaces import Aligner, FusedCost, OTSolver, Sampler
from .sharpening import check_temperature, medoid, sharpen
from .types import Batch, Cloud, PairedData


@hookimpl
def morphkit_register(registry) -> None:
    for aligner in (TrueAlignment, GlobalAlignment, LocalAlignment):
        registry.add(aligner)


def _draw(key: PRNGKeyArray, cloud: Cloud, num: int) -> Int[Array, " num"]:
    return jax.random.choice(key, cloud.size, (num,), p=cloud.weights)


def _density(coupling: Coupling, data: PairedData) -> tuple[Array, Array]:
    """π_X / μ and π_Y / ν, the targets of the reweighting functions η and ξ (App. L.1)."""
    return coupling.marginal(0) / data.x.weights, coupling.marginal(1) / data.y.weights


class CouplingSampler(Sampler):
    """Draws (x, y) from one coupling of the whole clouds, afresh at every step."""

    data: PairedData
    drawn_from: Coupling
    eta: Array
    xi: Array

    @property
    def coupling(self) -> Coupling:
        return self.drawn_from

    def __call__(self, key: PRNGKeyArray, batch_size: int) -> Batch:
        key_pi, key_mu, key_nu = jax.random.split(key, 3)
        x, y = self.data.x, self.data.y
        i, j = self.drawn_from.sample(key_pi, batch_size)
        i_mu, j_nu = _draw(key_mu, x, batch_size), _draw(key_nu, y, batch_size)
        return Batch(
            x.points[i], y.points[j], x.points[i_mu], y.points[j_nu], self.eta[i_mu], self.xi[j_nu]
        )


class TrueAlignment(Aligner):
    """Trains on the known pairs alone (Eq. 5); needs neither cost nor solver.

    π = (1/l) Σ_p δ(x_p, y_p) in Eq. 4.
    """

    def prepare(self, data: PairedData, cost: FusedCost, solver: OTSolver) -> CouplingSampler:
        coupling = PairCoupling(data.pairs, (data.x.size, data.y.size))
        return CouplingSampler(data, coupling, *_density(coupling, data))


def couple(data: PairedData, cost: FusedCost, solver: OTSolver) -> Coupling:
    """The coupling of whole clouds. Points that coincide are solved for as one."""
    distinct = collapse(data)
    if distinct is None:
        return solver.solve(cost.prepare(data), data.x, data.y)
    small = distinct.data
    coupling = solver.solve(cost.prepare(small), small.x, small.y)
    return CollapsedCoupling(
        groups=coupling, x=distinct.x, y=distinct.y, convergence=coupling.convergence
    )


class Prepared(FusedCost):
    """A cost that was prepared before, for `couple` on the same data."""

    geometry: Geometry

    def prepare(self, data: PairedData) -> Geometry:
        return self.geometry


def prepared(data: PairedData, cost: FusedCost) -> Prepared:
    """Prepares a cost once, for several solvers. Points that coincide are prepared as one."""
    distinct = collapse(data)
    return Prepared(cost.prepare(data if distinct is None else distinct.data))


class GlobalAlignment(Aligner):
    """Solves one problem over all points, then trains on draws of its coupling.

    π solves Eq. 1, 2 or 3 between all of μ and ν; Eq. 4's expectation is over (x, y) ~ π.
    `temperature` sharpens what is drawn from, see `morphkit.sharpening.sharpen`: 1 is the
    coupling itself, 0 its mode. With `draws` above 1 every source point has one target, the
    medoid of that many draws (`morphkit.sharpening.medoid`): what a smooth coupling, of a large
    ε, should be trained on, unless a target per class is too few (text to image).
    """

    temperature: float = eqx.field(static=True, default=1.0)
    draws: int = eqx.field(static=True, default=1)

    def __check_init__(self) -> None:
        check_temperature("GlobalAlignment.temperature", self.temperature)
        if self.draws < 1:
            raise ValueError(f"GlobalAlignment.draws = {self.draws} must be at least 1")

    def prepare(self, data: PairedData, cost: FusedCost, solver: OTSolver) -> CouplingSampler:
        coupling = sharpen(couple(data, cost, solver), self.temperature)
        if self.draws > 1:
            coupling = medoid(coupling, data.y.points, self.draws, jax.random.key(0))
        return CouplingSampler(data, coupling, *_density(coupling, data))


class LocalSampler(Sampler):
    """Solves a problem between two fresh minibatches at every step (Algorithm 1)."""

    data: PairedData
    cost: Geometry
    solver: OTSolver
    temperature: float = eqx.field(static=True, default=1.0)

    @property
    def coupling(self) -> None:
        return None

    def solve(
        self, key: PRNGKeyArray, batch_size: int
    ) -> tuple[Int[Array, " b"], Int[Array, " b"], Coupling]:
        """Minibatch indices on both sides, and the coupling between them."""
        key_x, key_y = jax.random.split(key)
        i = _draw(key_x, self.data.x, batch_size)
        j = _draw(key_y, self.data.y, batch_size)
        # Drawn by weight, so that every drawn point counts the same.
        x, y = Cloud.uniform(self.data.x.points[i]), Cloud.uniform(self.data.y.points[j])
        coupling = self.solver.solve(self.cost.take(i, j), x, y)
        return i, j, sharpen(coupling, self.temperature)

    def __call__(self, key: PRNGKeyArray, batch_size: int) -> Batch:
        key_solve, key_pi = jax.random.split(key)
        i, j, coupling = self.solve(key_solve, batch_size)
        x, y = self.data.x.points[i], self.data.y.points[j]
        row, col = coupling.sample(key_pi, batch_size)
        eta, xi = batch_size * coupling.marginal(0), batch_size * coupling.marginal(1)
        return Batch(x[row], y[col], x, y, eta, xi)

    def pairs(
        self, key: PRNGKeyArray, num: int, batch_size: int
    ) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
        def batch(key: PRNGKeyArray) -> tuple[Array, Array]:
            key_solve, key_pi = jax.random.split(key)
            i, j, coupling = self.solve(key_solve, batch_size)
            row, col = coupling.sample(key_pi, batch_size)
            return i[row], j[col]

        i, j = jax.lax.map(batch, jax.random.split(key, -(-num // batch_size)))
        return i.ravel()[:num], j.ravel()[:num]


class LocalAlignment(Aligner):
    """Solves a small problem at every training step; the cost of all points is prepared once.

    Algorithm 1: x_1, …, x_b ~ μ and y_1, …, y_b ~ ν, π_b solves Eq. 1, 2 or 3 between them, and
    (x, y) ~ π_b enter Eq. 4.
    `temperature` as in `GlobalAlignment`.
    """

    temperature: float = eqx.field(static=True, default=1.0)

    def __check_init__(self) -> None:
        check_temperature("LocalAlignment.temperature", self.temperature)

    def prepare(self, data: PairedData, cost: FusedCost, solver: OTSolver) -> LocalSampler:
        return LocalSampler(data, _prepared(data, cost), solver, self.temperature)


def _prepared(data: PairedData, cost: FusedCost) -> Geometry:
    """The cost of all points, from the distinct ones."""
    distinct = collapse(data)
    if distinct is None:
        return cost.prepare(data)
    return cost.prepare(distinct.data).take(distinct.x.index, distinct.y.index)


def local_diagnostics(
    sampler: LocalSampler, batch_size: int, key: PRNGKeyArray, num: int = 20
) -> dict[str, float]:
    """Means over `num` minibatch problems: the share that the solver finishes, its iterations and
    error, the effective support and, where both clouds have labels, the exact matching accuracy."""
    labels_x, labels_y = sampler.data.x.labels, sampler.data.y.labels

    @eqx.filter_jit
    def one(sampler: LocalSampler, key: PRNGKeyArray) -> dict[str, Array]:
        i, j, coupling = sampler.solve(key, batch_size)
        state = coupling.convergence
        found = {
            "converged": state.converged, "iterations": state.iterations, "error": state.error,
            "effective_support": coupling.effective_support(),
        }  # fmt: skip
        if labels_x is not None and labels_y is not None:
            accuracy = coupling.matching_accuracy(labels_x[i], labels_y[j])
            found["matching_accuracy_exact"] = accuracy
        return found

    results = [one(sampler, k) for k in jax.random.split(key, num)]
    return {
        f"coupling/{k}": float(jnp.mean(jnp.array([r[k] for r in results]))) for k in results[0]
    }
