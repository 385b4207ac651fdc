"""The entropic map: what a coupling says of source points that it has never seen."""

from dataclasses import replace
from typing import Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..checks import Checked, Positive
from ..devices import gathered, number, shared_out
from ..interfaces import FittedCost, LatentMap
from .couplings import Potential
from .geometry import BridgeGeometry, Geometry
from .memory import empty

BLOCK = 2**24
"""Costs between new points and targets that are held at once."""

Estimate = Literal["mean", "mode", "draw", "cost"]


class Reading(Checked):
    """How `EntropicMap` is read: π(y_j | x) ∝ exp((g_j - c(x, y_j) / ε) / T) at the `temperature`
    T, or without g where it is not `balanced`.

    The potential g makes up for how often each target is near: it is what keeps the marginal of the
    targets. Where these were known too little to be kept, a map is better off without. `estimate`
    is what the map gives: the "mean" of π(· | x), or what the "cost" itself predicts, such as a
    teacher.
    """

    balanced: bool = eqx.field(static=True, default=True)
    temperature: Positive = eqx.field(static=True, default=1.0)
    estimate: Literal["mean", "cost"] = eqx.field(static=True, default="mean")

    @overload
    def of(self, map: "EntropicMap") -> "EntropicMap": ...
    @overload
    def of(self, map: LatentMap | None) -> LatentMap | None: ...
    def of(self, map: LatentMap | None) -> LatentMap | None:
        """`map` read in this way, if it is an `EntropicMap`; else as it is. Raises ValueError for
        the estimate of a cost that makes none."""
        if not isinstance(map, EntropicMap):
            return map
        if self.estimate == "cost" and type(map.cost).predict is FittedCost.predict:
            raise ValueError(
                f"Reading.estimate = 'cost': {type(map.cost).__name__} predicts nothing itself; "
                "take cost.TeacherCost, or Reading.estimate = 'mean'"
            )
        g, epsilon = map.potential.g, map.potential.epsilon
        g = g / self.temperature if self.balanced else jnp.zeros_like(g)
        potential = replace(map.potential, g=g, epsilon=epsilon * self.temperature)
        return replace(map, potential=potential, estimate=self.estimate)


class EntropicMap(LatentMap):
    """The conditional π(y_j | x) ∝ exp(g_j - c(x, y_j) / ε) of any source point x, new or not
    (Pooladian and Niles-Weed 2021; Eq. 1's own conditional at the points that it was solved for).

    `cost` is the cost c to the `targets` y (m, q), `potential` has g and ε, and may say that the
    minimum of a bridge cost is soft. A call gives the `estimate`: the "mean" of π(· | x), its
    "mode", a "draw" by the key, or what the "cost" itself predicts (`FittedCost.predict`).
    """

    cost: FittedCost
    potential: Potential
    targets: Float[Array, "m q"]
    estimate: Estimate = eqx.field(static=True, default="mean")

    def log_conditional(self, x: Float[Array | np.ndarray, "n p"]) -> Float[Array, "n m"]:
        """log π(y_j | x) for source points `x` (n, p), as a dense array."""
        return gathered(_log_conditional(self.potential, self.cost.at(np.asarray(x))))

    def __call__(
        self, x: Float[Array, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        key = jax.random.key(0) if key is None else key
        points = np.asarray(x)
        if self.estimate == "cost":
            predicted = self.cost.predict(points)
            assert predicted is not None
            return predicted
        size = min(max(1, BLOCK // len(self.targets)), max(1, len(points)))
        size += -size % number()
        found = empty((len(points), self.targets.shape[1]))
        for k, start in enumerate(range(0, max(len(points), 1), size)):
            block = points[start : start + size]
            # All blocks have one shape: one program.
            padded = np.pad(block, ((0, size - len(block)), (0, 0)))
            geometry, key_k = self.cost.at(padded), jax.random.fold_in(key, k)
            read = _read(self.potential, geometry, self.targets, self.estimate, key_k)
            found[start : start + len(block)] = read[: len(block)]
        return jax.device_put(found)

    def expected(
        self, x: Float[Array, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        return self(x) if self.estimate == "cost" else replace(self, estimate="mean")(x)


@eqx.filter_jit
def _log_conditional(potential: Potential, cost: Geometry) -> Float[Array, "n m"]:
    if potential.softness is None:
        values = cost.matrix()
    else:
        assert isinstance(cost, BridgeGeometry)
        values = cost.softened(potential.softness)
    return jax.nn.log_softmax(potential.g - shared_out(values) / potential.epsilon, axis=1)


@eqx.filter_jit
def _read(
    potential: Potential, cost: Geometry, targets: Array, estimate: Estimate, key: PRNGKeyArray
) -> Float[Array, "n q"]:
    log = _log_conditional(potential, cost)
    if estimate == "mean":
        return gathered(jnp.exp(log) @ targets)
    index = log.argmax(1) if estimate == "mode" else jax.random.categorical(key, log)
    return gathered(targets[index])
