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
from morphkit.types import Cloud, PairedData, Pairs, distinct

logger = logging.getLogger("morphkit")


class HeldOutPairs(Evaluator):
    """Cross-validates the coupling on the known pairs; it needs no labels.

    The source points with a pair are split into `folds`; each part in turn is held out with all of
    its pairs, the coupling is found from the others, and compared with what is known of a held-out
    x: its partner y, or several, of which the nearest counts. Gives

    - `held_out_accuracy`: the probability that a draw y' of π(· | x) is among the share `within`
      of all target points that are nearest to y; `within` for chance;
    - `held_out_distance`: E[c_Y(y', y)] for such a draw, over the same for y' ~ ν: 0 for the
      partner itself, 1 for chance. c_Y is `metric`. The better guide where few pairs are known.

    Solves `folds` problems of the run's size. Gives nothing if fewer than 2 source points have a
    pair, and for true alignment, which says nothing of other points. Raises ValueError without a
    coupling.
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
        sources, row = distinct(np.asarray(data.pairs.source))
        if len(sources) < 2:
            logger.info("HeldOutPairs: the pairs of a single source point cannot be held out")
            return {}
        partners = _partners(row, np.asarray(data.pairs.target))
        order = np.asarray(jax.random.permutation(key, len(sources)))
        parts = np.array_split(order, min(self.folds, len(order)))
        found = [
            self._fold(scene, sources[part], partners[part], ~np.isin(row, part)) for part in parts
        ]
        accuracy, distance, chance = np.concatenate(found, axis=1)
        if len(accuracy) == 0:
            return {}
        return {
            "held_out_accuracy": float(accuracy.mean()),
            "held_out_distance": float(distance.mean() / max(chance.mean(), 1e-12)),
        }

    def _fold(
        self, scene: Scene, source: np.ndarray, partners: np.ndarray, known: np.ndarray
    ) -> np.ndarray:
        """For every held-out source point that has mass: the probability of a target near a
        partner, the expected distance to the nearest partner, and the same for a draw of ν."""
        x, y, pairs = scene.train.x, scene.train.y, scene.train.pairs
        assert scene.couple is not None
        rest = Pairs(pairs.source[known], pairs.target[known])
        coupling = scene.couple(PairedData(x, y, rest))
        if coupling is None:
            return np.zeros((3, 0))
        judged = _judge(
            coupling, y, jnp.asarray(source), jnp.asarray(partners), self.metric, self.within
        )
        return np.asarray(judged)[np.asarray(coupling.marginal(0)[source] > 0)].T


def _partners(row: Int[np.ndarray, " l"], target: Int[np.ndarray, " l"]) -> Int[np.ndarray, "s r"]:
    """The targets of each source point, its last repeated where others have more."""
    counts = np.bincount(row)
    place = np.minimum(np.arange(counts.max()), counts[:, None] - 1)
    return target[np.argsort(row, kind="stable")][(np.cumsum(counts) - counts)[:, None] + place]


@eqx.filter_jit
def _judge(
    coupling: Coupling,
    y: Cloud,
    source: Int[Array, " k"],
    partners: Int[Array, "k r"],
    metric: str,
    within: float,
) -> Float[Array, "k 3"]:
    def one(pair: tuple[Array, Array]) -> Float[Array, " 3"]:
        i, j = pair
        conditional = jnp.exp(coupling.log_conditional(i[None])[0])
        distances = pairwise(metric, y.points[j], y.points).min(0)
        near = distances <= jnp.sort(distances)[round(within * (y.size - 1))]
        accuracy = jnp.sum(conditional, where=near)
        return jnp.stack([accuracy, conditional @ distances, y.weights @ distances])

    batch = max(1, min(64 // partners.shape[1], len(source)))
    return jax.lax.map(one, (source, partners), batch_size=batch)
