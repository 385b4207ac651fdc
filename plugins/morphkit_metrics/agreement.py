"""What speaks for a coupling that no pair can check."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray
from pydantic import Field

from morphkit.interfaces import Better, Evaluator, Scene
from morphkit.types import PairedData, Pairs

from .alignable import linear_cka


class Agreement(Evaluator):
    """How far a coupling depends on the very points that it was found from.

    Two random parts of the source points, each the share `part` in (0, 1) of them, are coupled to
    the target cloud anew. Gives

    - `agreement`: of source points in both parts, how many have the same most probable target in
      both. Near 1 for an alignment that the data decide; one that rests elsewhere for other points
      is not to be trusted. It is no proof: of two clouds that have a symmetry, both parts may find
      the same wrong map.
    - `matched_cka`: the linear centred kernel alignment (`Alignability`) of source points and their
      most probable targets, where neither all coincide. 1 where the coupling is a rotation and a
      scale. A wrong coupling can have a high one, a right one of spaces that differ a low one.

    Pairs in the data are told to neither part. Raises ValueError without a coupling of all points.
    """

    part: Annotated[float, Field(gt=0, lt=1)] = eqx.field(static=True, default=0.8)
    subject: ClassVar[Literal["map", "coupling", "features"]] = "coupling"
    metrics: ClassVar[Mapping[str, Better]] = {"agreement": "higher", "matched_cka": "higher"}

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        if scene.coupling is None or scene.couple is None:
            raise ValueError("Agreement: scene.coupling is missing; it judges a coupling")
        data = scene.train
        x, y = (np.asarray(cloud.points, np.float64) for cloud in (data.x, data.y))
        matched, found = y[np.asarray(scene.coupling.most_probable())], {}
        if np.ptp(x, axis=0).any() and np.ptp(matched, axis=0).any():
            found["matched_cka"] = linear_cka(x, matched)
        none, targets = Pairs.from_array(np.zeros((0, 2), int)), []
        for k in jax.random.split(key):
            rows = self._part(k, data.x.size)
            coupling = scene.couple(PairedData(data.x.take(rows), data.y, none))
            if coupling is None:
                return found
            targets.append(np.full(data.x.size, -1))
            targets[-1][rows] = coupling.most_probable()
        both = (targets[0] >= 0) & (targets[1] >= 0)
        if both.any():
            found["agreement"] = float(np.mean(targets[0][both] == targets[1][both]))
        return found

    def _part(self, key: PRNGKeyArray, size: int) -> Int[Array, " k"]:
        return jnp.sort(jax.random.permutation(key, size)[: max(3, round(self.part * size))])
