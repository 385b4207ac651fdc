"""The coupling of whole clouds, and costs prepared ahead of it."""

from ..interfaces import FusedCost, OTSolver
from ..types import PairedData
from .collapse import collapse, of_all
from .couplings import Coupling
from .geometry import Geometry


def couple(data: PairedData, cost: FusedCost, solver: OTSolver) -> Coupling:
    """The coupling of the whole clouds of `data` by `solver` under `cost`. Points that coincide are
    solved for as one.

    Raises ValueError if the solver cannot take the cost, see `taken`.
    """
    distinct = collapse(data)
    small = data if distinct is None else distinct.data
    return of_all(solver.solve(taken(cost.prepare(small), solver), small.x, small.y), distinct)


def taken(geometry: Geometry, solver: OTSolver) -> Geometry:
    """`geometry`, if it is one that `solver` takes; raises ValueError if it is not."""
    if isinstance(geometry, solver.takes):
        return geometry
    names = " or ".join(kind.__name__ for kind in solver.takes)
    raise ValueError(
        f"{type(solver).__name__} takes only costs that are a {names}, and this one is a "
        f"{type(geometry).__name__}; choose another cost, or a solver such as Sinkhorn, which "
        "takes any"
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
