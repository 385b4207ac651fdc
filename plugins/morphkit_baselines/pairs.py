"""The pairs a baseline learns from."""

import numpy as np
from jaxtyping import Float

from morphkit.types import PairedData


def paired_points(data: PairedData) -> tuple[Float[np.ndarray, "l p"], Float[np.ndarray, "l q"]]:
    """Both ends of every pair, in float64. Raises ValueError if there is no pair."""
    if data.pairs.size == 0:
        raise ValueError("data.pairs: a baseline needs at least one pair, got none")
    return np.asarray(data.x_paired, np.float64), np.asarray(data.y_paired, np.float64)
