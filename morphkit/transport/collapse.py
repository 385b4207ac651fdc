"""Points that coincide, as one point with their weight."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from ..types import Cloud, PairedData, Pairs
from .couplings import Convergence, Coupling
from .drawing import ROWS, bisect
from .memory import ask_memory

BLOCK = 2**16
"""Points that are hashed at once."""


def distinct(
    points: Float[np.ndarray, "n d"],
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " n"]]:
    """Of `points`, in float32, those that none before coincides with, `first` (k,), and which of
    these each one is, `index` (n,).

    Points of one hash are compared. Where different ones share it, which of a million happens once
    in some ten million times, rows are sorted.
    """
    factors = np.random.default_rng(0).integers(0, 2**64, points.shape[1], np.uint64) | np.uint64(1)
    blocks = range(0, len(points), BLOCK)
    hashes = [_bits(points[k : k + BLOCK]) @ factors for k in blocks]
    hashes = np.concatenate([np.zeros(0, np.uint64), *hashes])
    _, first, index = np.unique(hashes, return_index=True, return_inverse=True)
    same = ((points[k : k + BLOCK] == points[first[index[k : k + BLOCK]]]).all() for k in blocks)
    if len(first) < len(points) and not all(same):
        _, first, index = np.unique(points, axis=0, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return np.sort(first), rank[index.ravel()]


def _bits(points: Float[np.ndarray, "n d"]) -> np.ndarray:
    """The bits of `points`, 0 and -0 alike, spread over 64: of whole numbers only few differ."""
    bits = (points + np.float32(0)).view(np.uint32) * np.uint64(0x9E3779B97F4A7C15)
    return bits ^ (bits >> np.uint64(32))


class Groups(eqx.Module):
    """Which of n points coincide: `index` (n,) is each point's group, `share` (n,) its part of
    the group's weight. `order` (n,) lists the points group by group, `start` (groups + 1,) where
    each begins in it, and `cdf` (n,) the running sum of shares within each."""

    index: Int[Array, " n"]
    share: Float[Array, " n"]
    order: Int[Array, " n"]
    start: Int[Array, " groups_and_one"]
    cdf: Float[Array, " n"]

    @classmethod
    def of(cls, cloud: Cloud) -> "tuple[Cloud, Groups]":
        """The distinct points of `cloud` with the summed weights of their groups (and the label of
        one of their points), in the order of their first appearance."""
        first, index = distinct(np.asarray(cloud.points))
        weights = np.asarray(cloud.weights, np.float64)
        order = np.argsort(index, kind="stable")
        start = np.searchsorted(index[order], np.arange(len(first) + 1))
        total = np.bincount(index, weights)
        share = weights / np.where(total > 0, total, 1)[index]
        running = np.cumsum(share[order])
        cdf = running - np.concatenate([[0], running])[start[index[order]]]
        groups = cls(
            jnp.asarray(index, jnp.int32), jnp.asarray(share, jnp.float32),
            jnp.asarray(order, jnp.int32), jnp.asarray(start, jnp.int32),
            jnp.asarray(cdf, jnp.float32),
        )  # fmt: skip
        labels = None if cloud.labels is None else cloud.labels[first]
        return Cloud(cloud.points[first], jnp.asarray(total, jnp.float32), labels), groups

    @eqx.filter_jit
    def draw(self, key: PRNGKeyArray, group: Int[Array, " num"]) -> Int[Array, " num"]:
        """A member of each of the groups `group` (num,), drawn by `key` and share."""
        u = jax.random.uniform(key, group.shape)
        bounds = self.start[group], self.start[group + 1] - 1
        return self.order[bisect(lambda k: self.cdf[k] <= u, bounds, len(self.order))]


class Collapsed(NamedTuple):
    """`data` whose points are distinct, and which points are in each: `x` of the sources, `y` of
    the targets."""

    data: PairedData
    x: Groups
    y: Groups


def collapse(data: PairedData) -> Collapsed | None:
    """The distinct points of `data`, weights summed, repeated pairs dropped; None if nothing is
    repeated.

    Exact for every problem of Eq. 1 to 3: points with equal costs share the mass of their
    group in proportion to their weights.
    """
    (x, groups_x), (y, groups_y) = Groups.of(data.x), Groups.of(data.y)
    pairs = np.stack([groups_x.index[data.pairs.source], groups_y.index[data.pairs.target]], 1)
    pairs = np.unique(pairs, axis=0)
    if (x.size, y.size, len(pairs)) == (data.x.size, data.y.size, data.pairs.size):
        return None
    return Collapsed(PairedData(x, y, Pairs.from_array(pairs)), groups_x, groups_y)


class CollapsedCoupling(Coupling):
    """The coupling `groups` of groups of points, `x` and `y`, as one of the points in them;
    `convergence` is how its solver ended. Nothing takes time or memory of n × m, where the groups
    do not."""

    groups: Coupling
    x: Groups
    y: Groups
    convergence: Convergence

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.x.index), len(self.y.index)

    def rows(self, i: Int[Array, " k"]) -> Float[Array, "k m"]:
        rows = self.groups.rows(self.x.index[i])[:, self.y.index]
        return rows * self.y.share * self.x.share[i][:, None]

    def marginal(self, axis: int) -> Float[Array, " n"]:
        side = (self.x, self.y)[axis]
        return self.groups.marginal(axis)[side.index] * side.share

    def barycentres(self, values: Float[Array, "m q"]) -> Float[Array, "n q"]:
        means = jnp.zeros((self.groups.shape[1], values.shape[1]), values.dtype)
        means = means.at[self.y.index].add(self.y.share[:, None] * values)
        return self.groups.barycentres(means)[self.x.index] * self.x.share[:, None]

    def most_probable(self) -> Int[Array, " n"]:
        """See `Coupling.most_probable`: the member with the largest share, of the group of the
        largest such mass."""
        return _most_probable(self)[self.x.index]

    def agreement(self, labels_x: Int[Array, " n"], labels_y: Int[Array, " m"]) -> Scalar:
        both = np.concatenate([labels_x, labels_y])
        names, label = np.unique(both, return_inverse=True)
        shape = self.groups.shape[1], len(names)
        ask_memory(
            f"the classes of {shape[0]} target points, {shape[1]} each,", 4 * shape[0] * shape[1],
            "measure the matching accuracy by draws (a key)",
        )  # fmt: skip
        label_x, label_y = jnp.split(jnp.asarray(label.ravel(), jnp.int32), [len(labels_x)])
        shares = jnp.zeros(shape, self.y.share.dtype).at[self.y.index, label_y].add(self.y.share)
        return _agreement(self, label_x, shares)

    def entropy(self) -> Scalar:
        """H(π) of the groups, and of which member of its group a point is."""
        mass = self.groups.marginal(0).sum()
        members = (
            jax.scipy.special.entr(side.share) @ self.groups.marginal(axis)[side.index] / mass
            for axis, side in enumerate((self.x, self.y))
        )
        return self.groups.entropy() + sum(members)

    def sample(self, key: PRNGKeyArray, num: int) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
        key_groups, key_x, key_y = jax.random.split(key, 3)
        i, j = self.groups.sample(key_groups, num)
        return self.x.draw(key_x, i), self.y.draw(key_y, j)

    def targets(self, key: PRNGKeyArray, i: Int[Array, " num"]) -> Int[Array, " num"]:
        key_groups, key_y = jax.random.split(key)
        return self.y.draw(key_y, self.groups.targets(key_groups, self.x.index[i]))


@eqx.filter_jit
def _most_probable(coupling: CollapsedCoupling) -> Int[Array, " groups"]:
    y, groups = coupling.y, coupling.groups
    most = jnp.zeros(groups.shape[1], y.share.dtype).at[y.index].max(y.share)
    size = len(y.index)
    whose = jnp.where(y.share == most[y.index], jnp.arange(size), size)
    first = jnp.full(groups.shape[1], size).at[y.index].min(whose)
    return first[groups.fold(lambda row, i: jnp.argmax(row * most))]


@eqx.filter_jit
def _agreement(
    coupling: CollapsedCoupling, labels_x: Int[Array, " n"], shares: Float[Array, "groups c"]
) -> Scalar:
    def one(point: tuple[Array, Array, Array]) -> Array:
        group, share, label = point
        return share * (coupling.groups.rows(group[None])[0] @ shares[:, label])

    points = coupling.x.index, coupling.x.share, labels_x
    return jax.lax.map(one, points, batch_size=min(ROWS, len(labels_x))).sum()


def of_all(coupling: Coupling, distinct: Collapsed | None) -> Coupling:
    """`coupling`, of the points of `distinct`, as one of all points; itself where none coincide."""
    if distinct is None:
        return coupling
    return CollapsedCoupling(
        groups=coupling, x=distinct.x, y=distinct.y, convergence=coupling.convergence
    )
