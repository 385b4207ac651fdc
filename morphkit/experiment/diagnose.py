"""How a coupling came out, and warnings where that is bad; needs no labels."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..hosts import ends_all
from ..interfaces import FusedCost, OTSolver, Sampler
from ..loggers import Log
from ..transport.collapse import collapse
from ..transport.couplings import Coupling
from ..transport.geometry import near_one, nonzero, pairwise
from ..types import PairedData, Pairs
from ..wiring.records import arguments

RELAXED = 0.9
"""The τ of both marginals that a balanced coupling is compared with."""

RELAXED_SIZE = 2**21
"""The largest number n m of pairs of distinct points at which that is done."""


def diagnose(
    sampler: Sampler,
    data: PairedData,
    cost: FusedCost,
    solver: OTSolver,
    batch_size: int,
    log: Log,
) -> dict[str, float]:
    """How the solver ended and what the coupling is like, with a warning where that is bad.

    `data`, `cost` and `solver` are what `sampler` was made from, `batch_size` is what it will be
    asked for; warnings go to `log`.
    """
    found = sampler.diagnostics(data, batch_size, jax.random.key(0))
    if not found:
        return {}
    check_finite(found["effective_support"], found["error"])
    if found["converged"] < 1 and sampler.coupling is None:
        log.warn(
            f"the solver finished on {found['converged']:.0%} of the minibatches looked at; raise "
            "max_iterations"
        )
    elif found["converged"] < 1:
        log.warn(
            f"the solver did not converge: error {found['error']:.2g} after "
            f"{found['iterations']:.0f} iterations; raise its iteration limits or epsilon"
        )
    targets = batch_size if sampler.coupling is None else data.y.size
    if targets > 1 and found["effective_support"] > 0.99 * targets:
        log.warn(
            "the coupling does not tell target points apart: the cost may be zero everywhere "
            "(cosine, in one dimension, is), or epsilon far too large"
        )
    if found["iterations"] > 0:  # known couplings need none
        _compare_relaxed(data, cost, solver, log)
    return {f"coupling/{name}": value for name, value in found.items()}


def check_finite(*values: float) -> None:
    """Raises FloatingPointError for `values` that a coupling that is not finite leaves behind."""
    if not np.isfinite(values).all():
        raise FloatingPointError(
            "the coupling is not finite: look for huge features, or for a tau so small that no "
            "mass is left; a larger epsilon helps against both"
        )


def _compare_relaxed(data: PairedData, cost: FusedCost, solver: OTSolver, log: Log) -> None:
    """Warns where a balanced coupling finds held-out pairs less well than a relaxed one.

    Where a cluster has more weight than its counterpart, a balanced coupling has to send the rest
    to other clusters, and converges. Half of the pairs are held out, and the problem solved twice
    without them, as asked for and with τ = RELAXED on both sides. Not done for fewer than 10 pairs,
    nor beyond RELAXED_SIZE.
    """
    given = arguments(solver)
    if given.get("tau_x") != 1 or given.get("tau_y") != 1:
        return
    distinct = collapse(data)
    data = data if distinct is None else distinct.data
    x, y, pairs = data.x, data.y, data.pairs
    if pairs.size < 10 or x.size * y.size > RELAXED_SIZE:
        return
    held, known = np.split(np.random.default_rng(0).permutation(pairs.size), [pairs.size // 2])
    try:
        geometry = cost.prepare(PairedData(x, y, Pairs(pairs.source[known], pairs.target[known])))
    except (ValueError, RuntimeError) as error:  # too few pairs for it; a diagnosis ends no run
        if ends_all(error):
            raise
        log.info(f"whether relaxed marginals would help is not known: {error}")
        return
    source, target = pairs.source[held], pairs.target[held]
    points = near_one(y.points)
    distance = jnp.sqrt(pairwise("sqeuclidean", points[target], points))
    distance /= nonzero(distance @ y.weights)[:, None]

    def missed_by(coupling: Coupling) -> Float[np.ndarray, " held"]:
        """E |y' - y| for y' ~ π(· | x) over the same for y' ~ ν; 1 where x has no mass."""
        rows = coupling.rows(source)
        mass = rows.sum(1)
        return np.asarray(jnp.where(mass > 0, (rows * distance).sum(1) / nonzero(mass), 1))

    balanced = missed_by(solver.solve(geometry, x, y))
    relaxing = replace(solver, tau_x=RELAXED, tau_y=RELAXED)
    relaxed = missed_by(relaxing.solve(geometry, x, y))
    gain = balanced - relaxed
    if gain.mean() > max(0.05, 2 * gain.std() / np.sqrt(len(gain))):
        log.warn(
            f"held-out pairs improve from {balanced.mean():.2f} to {relaxed.mean():.2f} of the "
            f"distance by chance when both marginals are relaxed (tau_x = tau_y = {RELAXED}): "
            "cluster sizes may differ between the sides"
        )
