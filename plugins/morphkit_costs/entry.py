"""New points of a cost of two factors: how they come to the pairs."""

from abc import abstractmethod
from functools import reduce
from typing import Generic, Self, TypeVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from morphkit.interfaces import FittedCost
from morphkit.transport.geometry import Geometry
from morphkit.transport.half import full

from .graphs import Neighbours

Factored = TypeVar("Factored", bound=Geometry)
"""A geometry of two factors, its fields `a` (n, l) and `b` (m, l)."""


class Entry(eqx.Module):
    """How a source point, new or not, comes to the bridges."""

    @abstractmethod
    def __call__(self, x: Float[np.ndarray, "k p"]) -> Float[Array, "k l"]:
        """The left factor of the points `x` (k, p)."""


class FittedBridge(FittedCost, Generic[Factored]):
    """A cost of two factors, `prepared` between two clouds, and the `entry` of any source point."""

    prepared: Factored
    entry: Entry

    @property
    def geometry(self) -> Factored:
        return self.prepared

    def at(self, x: Float[np.ndarray, "k p"]) -> Factored:
        return eqx.tree_at(lambda geometry: geometry.a, self.prepared, self.entry(x))

    def settled(self) -> Self:
        none = eqx.tree_at(
            lambda geometry: geometry.a, self.prepared, replace_fn=lambda a: full(a[:0])
        )
        return super(FittedBridge, type(self)(none, self.entry)).settled()


class ByPath(Entry):
    """The shortest path into a neighbour graph: a(x) = min_i e(x, x_i) + a_i over x's
    `neighbours` x_i in the cloud, a_i being their rows of `factor` (n, l).

    An edge is e(x, x_i) = |x - x_i|^`power` / `unit` long, and 0 where both coincide, so that a
    point of the cloud has its own row. Where lengths are `squared`, a = (min_i e + √a_i)².
    """

    neighbours: Neighbours
    power: float = eqx.field(static=True)
    unit: float = eqx.field(static=True)
    squared: bool = eqx.field(static=True)
    factor: Float[Array, "n l"]

    def __call__(self, x: Float[np.ndarray, "k p"]) -> Float[Array, "k l"]:
        index, distance = self.neighbours(x)
        edges = np.where(distance > 0, distance**self.power / self.unit, 0)

        def path(i: np.ndarray, edge: Float[Array, " k"]) -> Float[Array, "k l"]:
            known = self.factor[i]
            return edge[:, None] + (jnp.sqrt(known) if self.squared else known)

        shortest = reduce(jnp.minimum, map(path, index.T, jnp.asarray(edges.T, jnp.float32)))
        return shortest**2 if self.squared else shortest


class ByHeat(Entry):
    """The heat at a point that joins a neighbour graph, and takes none from it.

    One implicit Euler step gives u(x) = Σ_i w_i u_i / (1 + Σ_i w_i) over x's `neighbours` x_i in
    the cloud, w_i = `rate` exp(-|x - x_i|^`power` / `unit`) the time times the conductance (as
    labels propagate to new points in Delalleau et al. 2005). -log u_i is the row i of `factor`
    (n, l); a point that coincides with one of the cloud has its row.
    """

    neighbours: Neighbours
    power: float = eqx.field(static=True)
    unit: float = eqx.field(static=True)
    rate: float = eqx.field(static=True)
    factor: Float[Array, "n l"]

    def __call__(self, x: Float[np.ndarray, "k p"]) -> Float[Array, "k l"]:
        index, distance = self.neighbours(x)
        flow = np.log(self.rate) - distance**self.power / self.unit
        total = np.logaddexp.reduce(flow, axis=1)
        share = (flow - np.logaddexp(0, total)[:, None]).astype(np.float32)
        warmth = reduce(
            jnp.logaddexp,
            (log[:, None] - self.factor[i] for i, log in zip(index.T, share.T, strict=True)),
        )
        return jnp.where(distance[:, :1] == 0, self.factor[index[:, 0]], -warmth)
