"""Couplings of which the known pairs are a part."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..types import Cloud, PairedData
from .couplings import Convergence, Coupling
from .drawing import Table

LEFT = 1e-6
"""The share of its weight above which a target point is left something by the pairs."""


class Unpaired(NamedTuple):
    """What the pairs leave: the source points `i` without a pair and the target points `j` with
    weight left, the clouds `x` and `y` of these, each of mass 1, and `known` (l,), the mass of each
    pair."""

    i: Int[Array, " r"]
    j: Int[Array, " c"]
    x: Cloud
    y: Cloud
    known: Float[Array, " l"]

    def some(self, points: int, seed: int) -> "Unpaired":
        """Of a problem of more than `points`² entries, one between at most `points` points a side,
        drawn by `seed`, their weights renormalised; else itself."""
        if len(self.i) * len(self.j) <= points**2:
            return self
        rng = np.random.default_rng(seed)
        rows, cols = (
            jnp.asarray(np.sort(rng.choice(len(side), min(points, len(side)), replace=False)))
            for side in (self.i, self.j)
        )
        return self._replace(
            i=self.i[rows], j=self.j[cols], x=self.x.take(rows), y=self.y.take(cols)
        )


def unpaired(data: PairedData) -> Unpaired | None:
    """What the pairs of `data` leave to be coupled; None if every source point has a pair.

    A paired source point shares its weight equally among its pairs, and a target point keeps of its
    own what these do not take. Where they take more than a target has, it is left nothing; if no
    target has anything left, all keep their weights.
    """
    source, target = np.asarray(data.pairs.source), np.asarray(data.pairs.target)
    weights_x, weights_y = (np.asarray(c.weights, np.float64) for c in (data.x, data.y))
    pairs_of = np.bincount(source, minlength=data.x.size)
    known = weights_x[source] / pairs_of[source]
    i = np.flatnonzero((pairs_of == 0) & (weights_x > 0))
    if len(i) == 0:
        return None
    left = weights_y - np.bincount(target, known, minlength=data.y.size)
    j = np.flatnonzero(left > LEFT * weights_y)
    if len(j) == 0:
        left, j = weights_y, np.flatnonzero(weights_y > 0)

    y = Cloud(data.y.points, jnp.asarray(left, jnp.float32), data.y.labels)
    i, j = jnp.asarray(i), jnp.asarray(j)
    return Unpaired(i, j, data.x.take(i), y.take(j), jnp.asarray(known, jnp.float32))


class PartlyKnownCoupling(Coupling):
    """The pairs, and `rest` between the source points `i` and the target points `j` beside them.

    Pair k joins `source`[k] and `target`[k] with mass `known`[k], of which `pairs` is the table;
    they have `share` of all mass. `rest` counts with what mass of the source weights is left, in
    all `mass`. `size` is (n, m), `position` (n,) where a point is in `i`, or -1. `convergence` is
    that of `rest`.
    """

    rest: Coupling
    i: Int[Array, " r"]
    j: Int[Array, " c"]
    source: Int[Array, " l"]
    target: Int[Array, " l"]
    known: Float[Array, " l"]
    mass: Float[Array, ""]
    pairs: Table | None
    share: Float[Array, ""]
    position: Int[Array, " n"]
    size: tuple[int, int] = eqx.field(static=True)
    convergence: Convergence

    @classmethod
    def of(cls, data: PairedData, part: Unpaired, rest: Coupling) -> "PartlyKnownCoupling":
        """The pairs of `data` with `rest`, a coupling of what they leave, `part`."""
        position = jnp.full(data.x.size, -1).at[part.i].set(jnp.arange(len(part.i)))
        known = part.known.sum()
        mass, pairs = 1 - known, Table.of(part.known) if len(part.known) else None
        return cls(
            rest=rest, i=part.i, j=part.j, source=data.pairs.source, target=data.pairs.target,
            known=part.known, mass=mass, pairs=pairs,
            share=known / (known + mass * rest.marginal(0).sum()), position=position,
            size=(data.x.size, data.y.size), convergence=rest.convergence,
        )  # fmt: skip

    @property
    def shape(self) -> tuple[int, int]:
        return self.size

    def rows(self, i: Int[Array, " k"]) -> Float[Array, "k m"]:
        hit = (i[:, None] == self.source) * self.known
        rows = jnp.zeros((len(i), self.shape[1]), hit.dtype).at[:, self.target].add(hit)
        position = self.position[i]
        found = self.mass * self.rest.rows(jnp.maximum(position, 0))
        return rows.at[:, self.j].add(jnp.where(position[:, None] >= 0, found, 0))

    def marginal(self, axis: int) -> Float[Array, " n"]:
        known, rest = (self.source, self.i) if axis == 0 else (self.target, self.j)
        found = jnp.zeros(self.shape[axis], jnp.float32).at[known].add(self.known)
        return found.at[rest].add(self.mass * self.rest.marginal(axis))

    def sample(self, key: PRNGKeyArray, num: int) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
        key_which, key_known, key_rest = jax.random.split(key, 3)
        i, j = self.rest.sample(key_rest, num)
        if self.pairs is None:
            return self.i[i], self.j[j]
        pair = self.pairs.draws(key_known, num)
        here = jax.random.uniform(key_which, (num,)) < self.share
        return (
            jnp.where(here, self.source[pair], self.i[i]),
            jnp.where(here, self.target[pair], self.j[j]),
        )
