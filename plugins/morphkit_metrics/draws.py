"""Are the draws of a map those of p(y | x)? One of them, or their mean, cannot tell."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray
from pydantic import Field

from morphkit.interfaces import Better, Evaluator, Scene

from .scene import predictions


class DrawScores(Evaluator):
    """`draws` draws y¹, …, yᵏ for the source point of each test pair, against its target y.

    - `energy_score`: E|Y - y| - ½ E|Y - Y'| (Gneiting and Raftery 2007, Eq. 21), without bias from
      the number of draws, the mean over pairs. Least for the distribution that y was drawn from;
      for a map that predicts a point it is the mean distance.
    - `coverage`: for how many coordinates y is within the central interval of the draws that holds
      the share `level` of as many exchangeable ones. It should be `level` itself, up to what the
      number of draws allows: 19 draws, from their least to their largest, hold .9 exactly.

    Raises ValueError without test pairs, and for a `level` that so few draws cannot tell.
    """

    draws: Annotated[int, Field(ge=2)] = eqx.field(static=True, default=19)
    level: Annotated[float, Field(gt=0, lt=1)] = eqx.field(static=True, default=0.9)
    subject: ClassVar[Literal["map", "coupling", "features"]] = "map"
    metrics: ClassVar[Mapping[str, Better]] = {"energy_score": "lower", "coverage": "neither"}

    def __check_init__(self) -> None:
        # Exchangeable: y is beyond the a-th least and largest draw with probability 2a / (k + 1).
        if isinstance(self.draws, int) and self._beyond < 1:
            raise ValueError(
                f"DrawScores.level = {self.level} needs {round(2 / (1 - self.level)) - 1} draws or "
                f"more, not {self.draws}"
            )

    @property
    def _beyond(self) -> int:
        return int((1 - self.level) / 2 * (self.draws + 1) + 1e-9)

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        pairs = np.asarray(scene.test.pairs)
        if len(pairs) == 0:
            raise ValueError("DrawScores: test.pairs is empty; give the test split known pairs")
        true = np.asarray(scene.y.points, np.float64)[pairs[:, 1]]
        drawn = np.stack(
            [
                predictions(scene, self, key=k)[pairs[:, 0]].astype(np.float64)
                for k in jax.random.split(key, self.draws)
            ]
        )
        ordered = np.sort(drawn, axis=0)
        low, high = ordered[self._beyond - 1], ordered[-self._beyond]
        return {
            "energy_score": float(np.mean(energy_score(drawn, true))),
            "coverage": float(np.mean((low <= true) & (true <= high))),
        }


def energy_score(
    drawn: Float[np.ndarray, "k n q"], true: Float[np.ndarray, "n q"]
) -> Float[np.ndarray, " n"]:
    """The energy score of k ≥ 2 draws `drawn` against `true`, for each of n points."""
    k = len(drawn)
    apart = sum(np.linalg.norm(drawn - one, axis=-1).sum(0) for one in drawn)
    return np.linalg.norm(drawn - true, axis=-1).mean(0) - apart / (2 * k * (k - 1))
