"""The three alignment strategies (Sec. 3.2, Algorithm 1). They differ only in their sampler."""

from typing import Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from morphkit.checks import Count, NonNegative
from morphkit.interfaces import Aligner, FittedCost, FusedCost, LatentMap, OTSolver, Sampler
from morphkit.transport.collapse import collapse, of_all
from morphkit.transport.couple import couple, prepared_geometry, taken
from morphkit.transport.couplings import Coupling, PairCoupling
from morphkit.transport.drawing import Table
from morphkit.transport.entropic import EntropicMap
from morphkit.transport.geometry import DenseGeometry, Geometry, dense
from morphkit.transport.sharpening import medoid, sharpen
from morphkit.types import Batch, Cloud, PairedData

STORED_BYTES = 2**24
"""The size of a cost that local alignment stores whole: to take a minibatch of it is to read it."""

DIAGNOSED = 20
"""How many minibatch problems of a local alignment are looked at."""


def tables(data: PairedData) -> tuple[Table, Table]:
    """Tables of the weights of the points of `data`, to draw batches from."""
    return Table.of(data.x.weights), Table.of(data.y.weights)


class CouplingSampler(Sampler):
    """Draws (x, y) from one coupling of the whole clouds of `data`, `drawn_from`, at every step.

    `eta` and `xi` are the densities π_X / μ and π_Y / ν (App. L.1), `points` the tables of μ and ν.
    `new` is what the coupling says of new points, if that is known; `story` has names and numbers
    of how the coupling was found.
    """

    data: PairedData
    drawn_from: Coupling
    eta: Array
    xi: Array
    points: tuple[Table, Table]
    new: LatentMap | None = None
    story: tuple[tuple[str, float], ...] = eqx.field(static=True, default=())

    @classmethod
    def of(
        cls, data: PairedData, coupling: Coupling, new: LatentMap | None = None,
        story: tuple[tuple[str, float], ...] = (),
    ) -> Self:  # fmt: skip
        """The sampler of `coupling`, between the clouds of `data`; `new` and `story` are those of
        the class."""
        eta, xi = (
            jnp.where(cloud.weights > 0, coupling.marginal(axis) / cloud.weights, 0)
            for axis, cloud in enumerate((data.x, data.y))
        )
        return cls(data, coupling, eta, xi, tables(data), new, story)

    def diagnostics(self, data: PairedData, batch_size: int, key: PRNGKeyArray) -> dict[str, float]:
        return super().diagnostics(data, batch_size, key) | dict(self.story)

    @property
    def map(self) -> LatentMap | None:
        return self.new

    @property
    def coupling(self) -> Coupling:
        return self.drawn_from

    def __call__(self, key: PRNGKeyArray, batch_size: int) -> Batch:
        key_pi, key_mu, key_nu = jax.random.split(key, 3)
        x, y = self.data.x, self.data.y
        i, j = self.drawn_from.sample(key_pi, batch_size)
        mu, nu = self.points
        i_mu, j_nu = mu.draws(key_mu, batch_size), nu.draws(key_nu, batch_size)
        return Batch(
            x.points[i], y.points[j], x.points[i_mu], y.points[j_nu],
            self.eta[i_mu], self.xi[j_nu], i,
        )  # fmt: skip


class TrueAlignment(Aligner):
    """Trains on the known pairs alone (Eq. 5); needs neither cost nor solver.

    π = (1/l) Σ_p δ(x_p, y_p) in Eq. 4.
    """

    def couple(self, data: PairedData, cost: FusedCost, solver: OTSolver) -> PairCoupling:
        return PairCoupling(data.pairs, (data.x.size, data.y.size))

    def sampler(self, data: PairedData, cost: FusedCost, solver: OTSolver) -> CouplingSampler:
        return CouplingSampler.of(data, self.couple(data, cost, solver))


class GlobalAlignment(Aligner):
    """Solves one problem over all points, then trains on draws of its coupling.

    π solves Eq. 1, 2 or 3 between all of μ and ν; Eq. 4's expectation is over (x, y) ~ π.
    `temperature` sharpens what is drawn from, see `morphkit.transport.sharpening`: 1 is the
    coupling itself, 0 its mode. With `draws` above 1 every source point has one target, the
    medoid of that many draws: what a smooth coupling, of a large ε, should be trained on, unless
    a target per class is too few (text to image).
    """

    temperature: NonNegative = eqx.field(static=True, default=1.0)
    draws: Count = eqx.field(static=True, default=1)

    def needs_pairs(self, cost: FusedCost) -> bool:
        """As `cost` does."""
        return cost.needs_pairs

    def couple(self, data: PairedData, cost: FusedCost, solver: OTSolver) -> Coupling:
        return self._drawn_from(couple(data, cost, solver), data)

    def sampler(self, data: PairedData, cost: FusedCost, solver: OTSolver) -> CouplingSampler:
        if type(cost).fit is FusedCost.fit:
            return CouplingSampler.of(data, self.couple(data, cost, solver))
        distinct = collapse(data)
        small = data if distinct is None else distinct.data
        fitted = cost.fit(small)
        coupling = solver.solve(taken(fitted.geometry, solver), small.x, small.y)
        new = entropic_map(fitted, coupling, small)
        return CouplingSampler.of(data, self._drawn_from(of_all(coupling, distinct), data), new)

    def _drawn_from(self, coupling: Coupling, data: PairedData) -> Coupling:
        coupling = sharpen(coupling, self.temperature)
        if self.draws == 1:
            return coupling
        return medoid(coupling, data.y.points, self.draws, jax.random.key(0))


def entropic_map(fitted: FittedCost, whole: Coupling, data: PairedData) -> EntropicMap | None:
    """What `whole`, a coupling of all of `data` under the cost `fitted`, says of new points; None
    where the cost or the coupling says nothing of them."""
    if whole.potential is None or not fitted.everywhere:
        return None
    return EntropicMap(fitted.settled(), whole.potential, data.y.points)


class LocalSampler(Sampler):
    """Solves a problem between two fresh minibatches of `data` at every step (Algorithm 1):
    `solver`, under `cost` between all points; `points` are tables of both weights, `temperature` is
    that of `LocalAlignment`."""

    data: PairedData
    cost: Geometry
    solver: OTSolver
    points: tuple[Table, Table]
    temperature: NonNegative = eqx.field(static=True, default=1.0)

    @property
    def coupling(self) -> None:
        return None

    def solve(
        self, key: PRNGKeyArray, batch_size: int
    ) -> tuple[Int[Array, " b"], Int[Array, " b"], Coupling]:
        """Indices of minibatches of `batch_size` on both sides, drawn by `key`, and the coupling
        between them."""
        key_x, key_y = jax.random.split(key)
        mu, nu = self.points
        i, j = mu.draws(key_x, batch_size), nu.draws(key_y, batch_size)
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
        return Batch(x[row], y[col], x, y, eta, xi, i[row])

    def draws(
        self, key: PRNGKeyArray, num: int, batch_size: int
    ) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
        def batch(key: PRNGKeyArray) -> tuple[Array, Array]:
            key_solve, key_pi = jax.random.split(key)
            i, j, coupling = self.solve(key_solve, batch_size)
            row, col = coupling.sample(key_pi, batch_size)
            return i[row], j[col]

        i, j = jax.lax.map(batch, jax.random.split(key, -(-num // batch_size)))
        return i.ravel()[:num], j.ravel()[:num]

    def diagnostics(self, data: PairedData, batch_size: int, key: PRNGKeyArray) -> dict[str, float]:
        """Means over DIAGNOSED minibatch problems: the share that the solver finishes, its
        iterations and error, the effective support and, where both clouds have labels, the exact
        matching accuracy."""
        found = [_diagnosed(self, batch_size, k) for k in jax.random.split(key, DIAGNOSED)]
        return {name: float(jnp.mean(jnp.array([f[name] for f in found]))) for name in found[0]}


@eqx.filter_jit
def _diagnosed(sampler: LocalSampler, batch_size: int, key: PRNGKeyArray) -> dict[str, Array]:
    i, j, coupling = sampler.solve(key, batch_size)
    state = coupling.convergence
    found = {
        "converged": state.converged, "iterations": state.iterations, "error": state.error,
        "effective_support": coupling.effective_support(),
    }  # fmt: skip
    labels_x, labels_y = sampler.data.x.labels, sampler.data.y.labels
    if labels_x is not None and labels_y is not None:
        found["matching_accuracy_exact"] = coupling.matching_accuracy(labels_x[i], labels_y[j])
    return found


class LocalAlignment(Aligner):
    """Solves a small problem at every training step; the cost of all points is prepared once, and
    stored up to STORED_BYTES.

    Algorithm 1: x_1, …, x_b ~ μ and y_1, …, y_b ~ ν, π_b solves Eq. 1, 2 or 3 between them, and
    (x, y) ~ π_b enter Eq. 4.
    `temperature` as in `GlobalAlignment`.
    """

    temperature: NonNegative = eqx.field(static=True, default=1.0)

    def couple(self, data: PairedData, cost: FusedCost, solver: OTSolver) -> None:
        return None

    def sampler(self, data: PairedData, cost: FusedCost, solver: OTSolver) -> LocalSampler:
        geometry = taken(prepared_geometry(data, cost), solver)
        n, m = geometry.shape
        if 4 * n * m <= STORED_BYTES and issubclass(DenseGeometry, solver.takes):
            geometry = DenseGeometry(dense(geometry), unit=geometry.unit)
        return LocalSampler(data, geometry, solver, tables(data), self.temperature)
