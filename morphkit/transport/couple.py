"""The coupling of whole clouds, and costs prepared ahead of it."""

from ..interfaces import FusedCost, OTSolver
from ..types import PairedData
from .collapse import CollapsedCoupling, collapse
from .couplings import Coupling
from .geometry import Geometry


def couple(data: PairedData, cost: FusedCost, solver: OTSolver) -> Coupling:
    """The coupling of the whole clouds of `data` by `solver` under `cost`. Points that coincide are
    solved for as one."""
    distinct = collapse(data)
    if distinct is None:
        return solver.solve(cost.prepare(data), data.x, data.y)
    small = distinct.data
    coupling = solver.solve(cost.prepare(small), small.x, small.y)
    return CollapsedCoupling(
        groups=coupling, x=distinct.x, y=distinct.y, convergence=coupling.convergence
    )


class Prepared(FusedCost):
    """A cost that was prepared before, as `geometry`, for `couple` on the same data."""

    geometry: Geometry

    def prepare(self, data: PairedData) -> Geometry:
        return self.geometry


def prepared(data: PairedData, cost: FusedCost) -> Prepared:
    """Prepares `cost` on `data` once, for several solvers. Points that coincide are prepared as
    one."""
    distinct = collapse(data)
    return Prepared(cost.prepare(data if distinct is None else distinct.data))


def prepared_geometry(data: PairedData, cost: FusedCost) -> Geometry:
    """The geometry of `cost` between all points of `data`, prepared on the distinct ones."""
    distinct = collapse(data)
    if distinct is None:
        return cost.prepare(data)
    return cost.prepare(distinct.data).take(distinct.x.index, distinct.y.index)
