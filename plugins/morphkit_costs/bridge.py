"""The inter-modal bridge cost (Sec. 3.3)."""

import logging
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Scalar

from morphkit.checks import Count, Metric
from morphkit.devices import gathered
from morphkit.interfaces import FusedCost
from morphkit.transport.collapse import distinct
from morphkit.transport.geometry import BridgeGeometry, PointGeometry, ask_bridges, near_one
from morphkit.transport.half import Factor, full
from morphkit.types import Cloud, PairedData

from .ends import Ends, bridges, nearest
from .entry import Entry, FittedBridge

logger = logging.getLogger("morphkit")

SINGLE = 2**27
"""Entries of a factor above which it is stored in half precision."""

ARRAYS = 2
"""How often a factor in single precision may be held at once, and what it is made with."""

ASKED = 1000
"""Points at which it is measured what leaving ends out does."""


class BridgeCost(FusedCost):
    """The cheapest way from x_i to y_j over a known pair (Eq. 6).

    c_ij = 0 for a known pair, else min over the pairs p of c_X(x_i, x_p) + c_Y(y_p, y_j).

    `metric_x` and `metric_y` are the intra-space costs: "cosine" (the paper's choice),
    "sqeuclidean" or "correlation" (Eq. 27). Each is divided by its `unit` first, so that the units
    of the features do not matter: its "mean" over all points x all points under their weights
    (App. H.4), its "median", which a few far points do not move, or "none". Solvers divide
    the sum again, by its median where that is the unit, else by its mean.

    Pairs that share a point are one bridge, exactly: 64,000 images of 1,000 classes, given as
    pairs, are 1,000 bridges. Memory is O((n + m) bridges), time O((n + m) l). A factor of more than
    SINGLE entries is stored in half precision, see `morphkit.transport.half`; with the unit "none"
    none is.

    With `ends`, at most so many of a bridge's points on a side, drawn at random, take part in its
    minimum, and time is O((n + m) ends bridges): for a million pairs of a thousand classes. A known
    pair keeps its cost of 0 between the clouds, other costs are what they are or above; how much
    above is logged. The map of new points knows only the ends that take part.
    """

    metric_x: Metric = eqx.field(static=True, default="cosine")
    metric_y: Metric = eqx.field(static=True, default="cosine")
    unit: Literal["mean", "median", "none"] = eqx.field(static=True, default="mean")
    ends: Count | None = eqx.field(static=True, default=None)

    def prepare(self, data: PairedData) -> BridgeGeometry:
        """The two factors. Warns where a few far points set the unit of a side; raises MemoryError
        where there is none for them."""
        return self.fit(data).geometry

    def fit(self, data: PairedData) -> FittedBridge[BridgeGeometry]:
        """See `FusedCost.fit`; warns and raises as `prepare` does. New points are in the unit of
        the cloud."""
        x, y = bridges(data.pairs)
        shape = data.x.size, data.y.size
        halves = tuple(self._halved(size, x.size) for size in shape)
        ask_bridges(shape, x.size, arrays=ARRAYS, halves=halves)
        a, entry = self._factor("source", data.x, self.metric_x, x)
        b, _ = self._factor("target", data.y, self.metric_y, y)
        b = gathered(b)  # as every device's kernel needs it
        unit = "median" if self.unit == "median" else "mean"
        return FittedBridge(BridgeGeometry(a, b, unit=unit), entry)

    def _halved(self, points: int, bridges: int) -> bool:
        return self.unit != "none" and points * bridges > SINGLE

    def _factor(self, side: str, cloud: Cloud, metric: str, ends: Ends) -> tuple[Factor, "ToEnds"]:
        """The costs to the nearest end of each bridge, and the entry of new points."""
        one = jnp.ones((), cloud.points.dtype)
        size = one if self.unit == "none" else jnp.abs(cloud.points).max(initial=0)
        unit = one if self.unit == "none" else self._unit(side, cloud, size, metric)
        few = ends if self.ends is None else ends.some(self.ends)
        known = near_one(cloud.points[few.point], size)
        if len(few.point) < len(ends.point):
            _tell_what_is_lost(side, cloud, metric, ends, few)
        factor = nearest(
            metric, cloud.points, known, few, (ends.point, ends.bridge), size, unit,
            half=self._halved(cloud.size, ends.size),
        )  # fmt: skip
        return factor, ToEnds(metric, known, few.bridge, few.size, size, unit)

    def _unit(self, side: str, cloud: Cloud, size: Scalar, metric: str) -> Scalar:
        assert self.unit != "none"
        points = near_one(cloud.points, size)
        space = PointGeometry(points, points, metric, unit=self.unit)
        weights = cloud.weights, cloud.weights
        if self.unit == "mean" and space.outlying(*weights):
            logger.warning(
                f"the mean {metric} cost between {side} points is above 95 % of these costs: a few "
                "points far from all others set its unit, beside which the rest seem to coincide; "
                "leave them out, or set BridgeCost.unit = 'median'"
            )
        return space.scale(*weights)


class ToEnds(Entry):
    """The intra-space cost `metric` to the nearest end of each of `size` bridges.

    End k is `ends`[k] (k, p), of the bridge `bridge`[k]. Points are as large as those of a cloud
    whose largest entry was `largest` are after `near_one`, and costs are divided by `unit`.
    """

    metric: str = eqx.field(static=True)
    ends: Float[Array, "k p"]
    bridge: Int[Array, " k"]
    size: int = eqx.field(static=True)
    largest: Scalar
    unit: Scalar

    def __call__(self, x: Float[np.ndarray, "r p"]) -> Float[Array, "r l"]:
        points = jnp.asarray(x, jnp.float32)
        _, same = distinct(np.concatenate([near_one(points, self.largest), self.ends]))
        zero = _met(same[: len(points)], same[len(points) :])
        ends = Ends(jnp.arange(len(self.ends)), self.bridge, self.size)
        zero = jnp.asarray(zero[0]), self.bridge[zero[1]]
        return full(nearest(self.metric, points, self.ends, ends, zero, self.largest, self.unit))


def _met(
    points: Int[np.ndarray, " r"], ends: Int[np.ndarray, " k"]
) -> tuple[Int[np.ndarray, " z"], Int[np.ndarray, " z"]]:
    """Which of `points` are equal to which of `ends`, and as often (-1, 0) as makes their number a
    multiple of that of the points: for one program."""
    order = np.argsort(ends, kind="stable")
    first, last = (np.searchsorted(ends[order], points, side) for side in ("left", "right"))
    many = last - first
    i = np.repeat(np.arange(len(points)), many)
    k = order[np.arange(len(i)) - np.repeat(np.cumsum(many) - many, many) + np.repeat(first, many)]
    spare = -len(i) % max(1, len(points)) if len(i) else len(points)
    return np.pad(i, (0, spare), constant_values=-1), np.pad(k, (0, spare))


def _tell_what_is_lost(side: str, cloud: Cloud, metric: str, ends: Ends, few: Ends) -> None:
    """Logs how far the costs to the `few` of all `ends` are above, for some points that are no end
    themselves."""
    others = np.setdiff1d(np.arange(cloud.size), ends.point)
    told = f"{len(few.point)} of {len(ends.point)} {side} ends are used (BridgeCost.ends)"
    if len(others) == 0:
        logger.info(f"{told}; all points are ends")
        return
    largest, one = jnp.abs(cloud.points).max(initial=0), jnp.ones((), cloud.points.dtype)
    none = jnp.zeros(0, jnp.int32)
    points = cloud.points[np.random.default_rng(0).permutation(others)[:ASKED]]

    def costs(ends: Ends) -> Float[Array, "r l"]:
        known = near_one(cloud.points[ends.point], largest)
        return full(nearest(metric, points, known, ends, (none, none), largest, one))

    exact, found = costs(ends), costs(few)
    least = jnp.finfo(exact.dtype).tiny
    each = float(found.mean() / jnp.maximum(exact.mean(), least) - 1)
    near = float(found.min(1).mean() / jnp.maximum(exact.min(1).mean(), least) - 1)
    logger.info(
        f"{told}: costs to a bridge are {each:.1%} higher, those to the nearest bridge {near:.1%}"
    )
