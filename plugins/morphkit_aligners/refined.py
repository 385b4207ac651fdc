"""Alignment by a cost that learns from its own coupling."""

import logging
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp

from morphkit.checks import Count, NonNegative, Share, Whole
from morphkit.interfaces import Aligner, FittedCost, FusedCost, OTSolver, StartedSolver
from morphkit.transport.collapse import collapse, of_all
from morphkit.transport.couple import taken
from morphkit.transport.couplings import Coupling, PairCoupling
from morphkit.transport.geometry import Geometry
from morphkit.transport.partly import PartlyKnownCoupling, Unpaired, unpaired
from morphkit.types import PairedData

from .aligners import CouplingSampler, entropic_map

logger = logging.getLogger("morphkit")

WATCHED = 1000
"""Points a side between which a large coupling is watched from round to round."""


class Refined(NamedTuple):
    """What refinement ends with: the `coupling` of the distinct points, the cost as `fitted` last,
    and how far the coupling of the unpaired points, or of those that are watched, moved in each
    round, `moves`, in L1."""

    coupling: Coupling
    fitted: FittedCost
    moves: list[float]


class RefinedAlignment(Aligner):
    """Couples, lets the cost learn from what the coupling says of the unpaired points, and again.

    Round 0 couples the points that no pair joins, under the cost as the pairs make it. Each of
    `rounds` more first lets the cost learn: to the share `weight` from the coupling, else from the
    pairs, see `FittedCost.learn`. It ends earlier when the coupling moves by less than `rest`, in
    L1, between 0 and 2. Known pairs keep their mass, and targets that are paired have so much less
    left for others. Marginals are the solver's, kept or, by its τ, relaxed.

    Of a problem of more than `points`² entries, all rounds but the last `whole` couple a random
    part, at most `points` points a side with the round's number as seed, and learn from that. How
    far it moves is then told by the coupling of WATCHED points a side, the same in all rounds. It
    keeps moving as long as other parts teach other things, so that `rest` seldom ends it. A part
    has few partners in common and so teaches less than the whole; `whole` = 0 saves the time of
    learning from that, but all points are coupled in the end. Where they are too many for memory,
    that asks for a solver that computes the cost by blocks, as `Sinkhorn` does between points.

    With `finish`, a solver that can start from a coupling, such as `FusedGromovWasserstein`, the
    coupling of the last round is where that starts, and the cost learns once more from where it
    ends: what the distances within each side say is then in the map, too. Problems of more than
    `points`² entries are left as they are.

    Training draws from the pairs and the coupling of all unpaired points. New points are mapped by
    the potential of one more problem, of all points under the last cost, since that of the
    unpaired part would leave paired targets nothing (`EntropicMap`).

    With `start`, another cost, round 0 couples under that, and the cost first learns from what it
    says: a handful of pairs may be too few for one cost to begin with, and enough for another.

    Few pairs of one-to-one data want a `weight` of .9 or more, targets that repeat about .6. The
    solver's ε decides how fast it commits itself: .05 and .025 are of the right size, the default
    of `Sinkhorn` (.005) too small.
    """

    rounds: Count = eqx.field(static=True, default=10)
    weight: Share = eqx.field(static=True, default=0.9)
    rest: NonNegative = eqx.field(static=True, default=0.01)
    points: Count = eqx.field(static=True, default=5000)
    whole: Whole = eqx.field(static=True, default=2)
    start: FusedCost | None = None
    finish: StartedSolver | None = None

    def needs_pairs(self, cost: FusedCost) -> bool:
        """Not with a start that does not."""
        return self.start is None or self.start.needs_pairs

    def couple(self, data: PairedData, cost: FusedCost, solver: OTSolver) -> Coupling:
        distinct = collapse(data)
        refined = self.refine(data if distinct is None else distinct.data, cost, solver)
        return of_all(refined.coupling, distinct)

    def sampler(self, data: PairedData, cost: FusedCost, solver: OTSolver) -> CouplingSampler:
        distinct = collapse(data)
        small = data if distinct is None else distinct.data
        refined = self.refine(small, cost, solver)
        fitted, new = refined.fitted, None
        if fitted.everywhere:
            whole = solver.solve(taken(fitted.geometry, solver), small.x, small.y)
            new = entropic_map(fitted, whole, small)
        story = (("rounds", float(len(refined.moves))), *(("moved", m) for m in refined.moves[-1:]))
        return CouplingSampler.of(data, of_all(refined.coupling, distinct), new, story)

    def refine(self, data: PairedData, cost: FusedCost, solver: OTSolver) -> Refined:
        """The rounds on `data`, whose points are distinct. Raises ValueError for a `cost` that
        cannot learn, or that `solver` does not take."""
        fitted = cost.fit(data)
        if not fitted.learns:
            raise ValueError(
                f"RefinedAlignment: {type(cost).__name__} learns nothing from a coupling; take a "
                "cost that learns, such as cost.CanonicalCost, or aligner.GlobalAlignment"
            )
        return self._rounds(data, fitted, solver)

    def _rounds(self, data: PairedData, fitted: FittedCost, solver: OTSolver) -> Refined:
        part = unpaired(data)
        if part is None:
            return Refined(PairCoupling(data.pairs, (data.x.size, data.y.size)), fitted, [])
        moves: list[float] = []

        def coupled(geometry: Geometry, part: Unpaired) -> Coupling:
            return solver.solve(geometry.take(part.i, part.j), part.x, part.y)

        large = part.some(self.points, 0) is not part
        # A seed that no round has.
        watched = part.some(min(WATCHED, self.points), self.rounds) if large else part
        first = fitted.geometry if self.start is None else self.start.prepare(data)
        geometry = taken(first, solver)
        seen = coupled(geometry, watched)
        for k in range(self.rounds):
            some = part.some(self.points, k) if k < self.rounds - self.whole else part
            coupling = coupled(geometry, some) if large else seen
            fitted = fitted.learn(coupling, some.i, some.j, self.weight)
            geometry = taken(fitted.geometry, solver)
            last, seen = seen, coupled(geometry, watched)
            moves.append(_moved(last, seen))
            logger.info(f"round {k + 1} of {self.rounds}: the coupling moves by {moves[-1]:.3f}")
            if moves[-1] < self.rest:
                break
        coupling = coupled(geometry, part) if large else seen
        if self.finish is not None and not large:
            last = taken(geometry, self.finish).take(part.i, part.j)
            coupling = self.finish.solve(last, part.x, part.y, coupling)
            fitted = fitted.learn(coupling, part.i, part.j, self.weight)
        return Refined(PartlyKnownCoupling.of(data, part, coupling), fitted, moves)


@eqx.filter_jit
def _distance(a: Coupling, b: Coupling):
    return a.fold(lambda row, i: jnp.abs(row - b.rows(i[None])[0]).sum()).sum()


def _moved(a: Coupling, b: Coupling) -> float:
    return float(_distance(a, b))
