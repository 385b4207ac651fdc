"""The Swiss roll in three dimensions and a spiral in two (App. I)."""

import equinox as eqx
import numpy as np
from sklearn.datasets import make_swiss_roll

from ..checks import Count, NonNegative, Seed
from ..interfaces import Data
from ..types import Dataset, Split

ARCS = 8
"""Classes: arcs of equal angle, counted from the centre."""

INNER, OUTER = 1.5 * np.pi, 4.5 * np.pi


class SwissRoll(Data):
    """scikit-learn's Swiss roll (n, 3) and the spiral (n, 2) that it is seen from above.

    Source point i is at a random height over target point i, so their distances agree but for
    the height, and nothing but distances is needed to match them (Gromov-Wasserstein, Eq. 2).
    `points` train the morph, `test_points` evaluate it; `noise` is the standard deviation of
    normal noise on both, the radius going from 4.7 to 14.1. `seed`, 0 or above, draws the points
    and their noise. Labels are arcs of the spiral.
    """

    points: Count = eqx.field(static=True, default=4000)
    test_points: Count = eqx.field(static=True, default=2000)
    noise: NonNegative = eqx.field(static=True, default=0.1)
    seed: Seed = eqx.field(static=True, default=0)

    def load(self) -> Dataset:
        rng = np.random.RandomState(self.seed)
        train, test = (self._split(size, rng) for size in (self.points, self.test_points))
        return Dataset("Swiss roll", None, train, test)

    def _split(self, size: int, rng: np.random.RandomState) -> Split:
        roll, angle = make_swiss_roll(size, noise=self.noise, random_state=rng)
        spiral = angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        spiral += self.noise * rng.normal(size=spiral.shape)
        arcs = ((angle - INNER) / (OUTER - INNER) * ARCS).astype(np.int32).clip(0, ARCS - 1)
        pairs = np.stack([np.arange(size)] * 2, 1)
        return Split(roll.astype(np.float32), spiral.astype(np.float32), pairs, arcs, arcs)
