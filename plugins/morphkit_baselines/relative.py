"""Relative representations: points by their similarities to the paired anchors."""

from typing import Annotated

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from pydantic import Field

from morphkit.checks import Count, NonNegative
from morphkit.interfaces import Baseline, LatentMap
from morphkit.transport.memory import ask_memory
from morphkit.types import PairedData

from .pairs import candidates, folds, paired_points
from .preprocessing import Preprocessing, by_rows, to_unit


class RelativeMap(LatentMap):
    """The one of `targets` (m, q) whose profile, of `profiles` (m, l), is most like that of x over
    the `anchors` (l, p), or the mean of all, weighted by exp(cos / `temperature`); x and anchors
    after `preprocessing`."""

    preprocessing: Preprocessing
    anchors: Float[Array, "l p"]
    profiles: Float[Array, "m l"]
    targets: Float[Array, "m q"]
    temperature: float = eqx.field(static=True)

    def __call__(
        self, x: Float[Array, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        def predict(row: Float[Array, " p"]) -> Float[Array, " q"]:
            cosines = self.profiles @ to_unit(self.anchors @ row) / len(self.anchors)
            if self.temperature == 0:
                return self.targets[jnp.argmax(cosines)]
            return jax.nn.softmax(cosines / self.temperature) @ self.targets

        return by_rows(predict, jnp.asarray(self.preprocessing(x)), len(self.profiles))


class RelativeRepresentation(Baseline):
    """The target whose similarities to the paired anchors are those of x (Moschella et al. 2023).

    The profile of x is r(x)_p = cos(x, x_p) over the pairs, that of a target r(y)_p = cos(y, y_p),
    of points less the mean of all points of their side. ŷ(x) is the training target, paired or
    not, with the largest cos(r(x), r(y)); or, at a temperature τ > 0, the mean of the targets
    weighted by exp(cos(r(x), r(y)) / τ). τ = 0 is the paper's, for retrieval; of several in
    `temperature` the one with the least squared error on held-out pairs is taken. Of more than
    `anchors` pairs a random part serves. Raises ValueError in `fit` without pairs, MemoryError
    where there is none for the profiles of the targets.
    """

    temperature: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = eqx.field(
        static=True, default=(0.0,), converter=candidates
    )
    anchors: Count = eqx.field(static=True, default=500)

    def fit(self, data: PairedData) -> LatentMap:
        x, y = paired_points(data)
        rows = np.random.default_rng(0).permutation(len(x))[: self.anchors]
        x, y = x[rows], y[rows]
        to_x, to_y = (Preprocessing.of("unit", cloud) for cloud in (data.x, data.y))
        targets = np.unique(np.asarray(data.y.points), axis=0)
        ask_memory(
            f"the profiles of {len(targets)} targets over {len(x)} anchors",
            3 * 4 * len(targets) * len(x),
            "set RelativeRepresentation.anchors lower, or leave this baseline out",
        )
        a, b, points = (np.asarray(p, np.float32) for p in (to_x(x), to_y(y), to_y(targets)))

        def fitted(kept: np.ndarray, temperature: float) -> RelativeMap:
            profiles = to_unit(points @ b[kept].T)
            anchors, known, wanted = (
                jnp.asarray(v, jnp.float32) for v in (a[kept], profiles, targets)
            )
            return RelativeMap(to_x.single(), anchors, known, wanted, temperature)

        errors = np.zeros(len(self.temperature))
        for learned, held in folds(len(x)) if len(errors) > 1 else []:
            for k, temperature in enumerate(self.temperature):
                found = np.asarray(fitted(learned, temperature)(jnp.asarray(x[held], jnp.float32)))
                errors[k] += np.sum((found - y[held]) ** 2)
        return fitted(np.arange(len(x)), self.temperature[int(errors.argmin())])
