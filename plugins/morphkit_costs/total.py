"""Several costs as one."""

from typing import Self

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Scalar

from morphkit.checks import NonNegative
from morphkit.interfaces import FittedCost, FusedCost
from morphkit.transport.couplings import Coupling
from morphkit.transport.geometry import Geometry
from morphkit.types import PairedData


class SumGeometry(Geometry):
    """Σ_k factor_k c_k of the costs `parts`, of one shape, and `factors` (k,); each stays as it is
    until it is asked for."""

    parts: tuple[Geometry, ...]
    factors: Float[Array, " k"]

    @property
    def shape(self) -> tuple[int, int]:
        return self.parts[0].shape

    def take(self, rows: Int[Array, " r"], cols: Int[Array, " c"]) -> "SumGeometry":
        """See `Geometry.take`; each cost stays in the units of the whole."""
        parts = tuple(part.take(rows, cols) for part in self.parts)
        return SumGeometry(parts, self.factors, unit=self.unit)

    def matrix(self) -> Float[Array, "n m"]:
        return sum(
            (factor * part.matrix() for factor, part in self._terms()),
            start=jnp.zeros(self.shape, self.factors.dtype),
        )

    def mean(self, mu: Float[Array, " n"], nu: Float[Array, " m"]) -> Scalar:
        means = [factor * part.mean(mu, nu) for factor, part in self._terms()]
        return jnp.stack(means).sum()

    def _terms(self) -> list[tuple[Array, Geometry]]:
        return list(zip(self.factors, self.parts, strict=True))


class SumCost(FusedCost):
    """Σ_k w_k c_k / m_k: several `costs`, each in its own unit m_k, times its weight.

    m_k is the mean of c_k under the weights of both clouds, or the median where the cost asks for
    that (`Geometry.scale`).

    One may know what another does not: a bridge cost the neighbourhood of the pairs, a relative
    or canonical one what is far from all of them. Those that learn from a coupling do so, the
    others stay as they are. `weights` are w_k, 0 or above, as many as costs; empty for 1 each.
    """

    costs: tuple[FusedCost, ...] = eqx.field(converter=tuple)
    weights: tuple[NonNegative, ...] = eqx.field(static=True, default=(), converter=tuple)

    def __check_init__(self) -> None:
        if not self.costs or not all(isinstance(cost, FusedCost) for cost in self.costs):
            raise ValueError(
                f"SumCost.costs = {self.costs!r} must be one cost or more, such as "
                "[BridgeCost(), RelativeCost()]"
            )
        if self.weights and (len(self.weights) != len(self.costs) or not any(self.weights)):
            raise ValueError(
                f"SumCost.weights = {self.weights!r} must be a number for each of the "
                f"{len(self.costs)} costs, one above 0 at least"
            )

    def prepare(self, data: PairedData) -> SumGeometry:
        """See `FusedCost.prepare`. Raises what any of the costs does."""
        parts = tuple(cost.prepare(data) for cost in self.costs)
        return SumGeometry(parts, self._factors(parts, data))

    def fit(self, data: PairedData) -> "FittedSum":
        """See `FusedCost.fit`. Raises what any of the costs does."""
        fitted = tuple(_fitted(cost, data) for cost in self.costs)
        return FittedSum.of(self, data, fitted)

    def _factors(self, parts: tuple[Geometry, ...], data: PairedData) -> Float[Array, " k"]:
        units = [part.scale(data.x.weights, data.y.weights) for part in parts]
        return jnp.asarray(self.weights or (1.0,) * len(parts)) / jnp.stack(units)


class Fixed(FittedCost):
    """A cost between two clouds alone, `prepared`, of the class `name`."""

    prepared: Geometry
    name: str = eqx.field(static=True)

    @property
    def geometry(self) -> Geometry:
        return self.prepared

    @property
    def everywhere(self) -> bool:
        return False

    def at(self, x: Float[np.ndarray, "k p"]) -> Geometry:
        raise ValueError(f"{self.name} is not defined for new points")


def _fitted(cost: FusedCost, data: PairedData) -> FittedCost:
    if type(cost).fit is FusedCost.fit:
        return Fixed(cost.prepare(data), type(cost).__name__)
    return cost.fit(data)


class FittedSum(FittedCost):
    """`SumCost`, the `asked`, as learned from `data`: its costs as `fitted`, and the `factors` (k,)
    that they count with."""

    asked: SumCost
    data: PairedData
    fitted: tuple[FittedCost, ...]
    factors: Float[Array, " k"]

    @classmethod
    def of(cls, asked: SumCost, data: PairedData, fitted: tuple[FittedCost, ...]) -> Self:
        """The sum of the costs `fitted` to `data`, as `asked`, each in its unit as it is now."""
        parts = tuple(cost.geometry for cost in fitted)
        return cls(asked, data, fitted, asked._factors(parts, data))

    @property
    def geometry(self) -> SumGeometry:
        return SumGeometry(tuple(cost.geometry for cost in self.fitted), self.factors)

    @property
    def everywhere(self) -> bool:
        return all(cost.everywhere for cost in self.fitted)

    @property
    def learns(self) -> bool:
        return any(cost.learns for cost in self.fitted)

    def at(self, x: Float[np.ndarray, "k p"]) -> SumGeometry:
        """See `FittedCost.at`; in the units of the cloud. Raises ValueError where one of the costs
        is not defined for new points."""
        return SumGeometry(tuple(cost.at(x) for cost in self.fitted), self.factors)

    def learn(
        self, coupling: Coupling, i: Int[Array, " r"], j: Int[Array, " c"], weight: float
    ) -> Self:
        """See `FittedCost.learn`. Raises ValueError where none of the costs learns."""
        if not self.learns:
            return super().learn(coupling, i, j, weight)
        learned = tuple(
            cost.learn(coupling, i, j, weight) if cost.learns else cost for cost in self.fitted
        )
        return self.of(self.asked, self.data, learned)
