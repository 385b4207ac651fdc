"""How a coupling came out, and warnings where that is bad; needs no labels."""

import jax
import numpy as np

from ..interfaces import Sampler
from ..loggers import Log
from ..types import PairedData


def diagnose(sampler: Sampler, data: PairedData, batch_size: int, log: Log) -> dict[str, float]:
    """How the solver ended and what the coupling is like, with a warning where that is bad."""
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
    return {f"coupling/{name}": value for name, value in found.items()}


def check_finite(*values: float) -> None:
    """Raises FloatingPointError for what a coupling that is not finite leaves behind."""
    if not np.isfinite(values).all():
        raise FloatingPointError(
            "the coupling is not finite: look for huge features, or for a tau so small that no "
            "mass is left; a larger epsilon helps against both"
        )
