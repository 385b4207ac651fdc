"""Does the coupling find pairs that it was not told? (label-free)"""

import logging
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field

from morphkit.checks import Metric
from morphkit.interfaces import Better, Evaluator, Scene
from morphkit.transport.couplings import Coupling
from morphkit.transport.geometry import pairwise
from morphkit.types import Cloud, PairedData, Pairs

logger = logging.getLogger("morphkit")


class HeldOutPairs(Evaluator):
    """Cross-validates the coupling on the known pairs; it needs no labels.

    The pairs are split into `folds`; each part in turn is held out, the coupling is found from
    the others, and compared with what is known of a held-out (x, y). Gives

    - `held_out_accuracy`: the probability that a draw y' of π(· | x) is among the share `within`
      of all target points that are nearest to y; `within` for chance;
    - `held_out_distance`: E[c_Y(y', y)] for such a draw, over the same for y' ~ ν: 0 for the
      partner itself, 1 for chance. c_Y is `metric`. The better guide where few pairs are known.

    Solves `folds` problems of the run's size. Gives nothing for fewer than 2 pairs, and for
    true alignment, which says nothing of other points. Raises ValueError without a coupling.
    """

    folds: Annotated[int, Field(ge=2)] = eqx.field(static=True, default=5)
    within: Annotated[float, Field(gt=0, lt=1)] = eqx.field(static=True, default=0.05)
    metric: Metric = eqx.field(static=True, default="cosine")
    subject: ClassVar[Literal["map", "coupling", "features"]] = "coupling"
    metrics: ClassVar[Mapping[str, Better]] = {
        "held_out_accuracy": "higher",
        "held_out_distance": "lower",
    }

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        if scene.couple is None:
            raise ValueError("HeldOutPairs: scene.couple is missing; it judges a coupling")
        data = scene.train
        if data.pairs.size < 2:
            logger.info("HeldOutPairs: a single pair cannot be held out")
            return {}
        order = np.asarray(jax.random.permutation(key, data.pairs.size))
        parts = np.array_split(order, min(self.folds, len(order)))
        found = [self._fold(scene, part, np.setdiff1d(order, part)) for part in parts]
        accuracy, distance, chance = np.concatenate(found, axis=1)
        if len(accuracy) == 0:
            return {}
        return {
            "held_out_accuracy": float(accuracy.mean()),
            "held_out_distance": float(distance.mean() / max(chance.mean(), 1e-12)),
        }

    def _fold(self, scene: Scene, held: np.ndarray, known: np.ndarray) -> np.ndarray:
        """For every held-out pair whose source point has mass: the probability of a target near
        the partner, the expected distance to the partner, and the same for a draw of ν."""
        x, y, pairs = scene.train.x, scene.train.y, scene.train.pairs
        assert scene.couple is not None
        rest = Pairs(pairs.source[known], pairs.target[known])
        coupling = scene.couple(PairedData(x, y, rest))
        if coupling is None:
            return np.zeros((3, 0))
        source, target = pairs.source[held], pairs.target[held]
        judged = _judge(coupling, y, source, target, self.metric, self.within)
        return np.asarray(judged)[np.asarray(coupling.marginal(0)[source] > 0)].T


@eqx.filter_jit
def _judge(
    coupling: Coupling,
    y: Cloud,
    source: Int[Array, " k"],
    target: Int[Array, " k"],
    metric: str,
    within: float,
) -> Float[Array, "k 3"]:
    def one(pair: tuple[Array, Array]) -> Float[Array, " 3"]:
        i, j = pair
        conditional = jnp.exp(coupling.log_conditional(i[None])[0])
        distances = pairwise(metric, y.points[j][None], y.points)[0]
        near = distances <= jnp.sort(distances)[round(within * (y.size - 1))]
        accuracy = jnp.sum(conditional, where=near)
        return jnp.stack([accuracy, conditional @ distances, y.weights @ distances])

    return jax.lax.map(one, (source, target), batch_size=min(64, len(source)))
