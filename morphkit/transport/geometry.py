"""Intra-space costs, and inter-space costs that need not be stored as n × m matrices."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from ..checks import Statistic
from ..devices import gathered
from ..precision import in_full_precision
from .half import Factor, full
from .memory import ask_memory

MEAN_PAIRS = 2**21
"""Entries of a bridge cost beyond which its mean is taken over as many of them."""

QUANTILE_POINTS = 512
"""Points a side between which the quantiles of a cost are taken."""

TILE = 2**16
"""Entries of a bridge cost that are computed at once: what stays in a core's cache."""

ROUNDING = 1e-6
"""How far the entries of a constant row, its largest being 1, may seem to vary in float32."""

METRICS = ("cosine", "sqeuclidean", "correlation")


def check_metric(name: str, metric: str) -> None:
    """Raises ValueError, naming the argument `name`, unless `metric` is known."""
    if metric not in METRICS:
        raise ValueError(f"{name} = {metric!r} is unknown; choose one of {', '.join(METRICS)}")


def embed(metric: str, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """The points `x` as `metric` sees them: correlation centres each row, both angles use unit
    rows.

    A zero row stays zero. So does, for correlation, a constant one: what varies in it by less
    than ROUNDING of its largest entry is rounding.
    """
    if metric == "sqeuclidean":
        return x
    x = _divided(x, jnp.abs(x).max(-1, keepdims=True))  # its squares are in float32's range
    if metric == "correlation":
        x = x - x.mean(-1, keepdims=True)
        x = x - x.mean(-1, keepdims=True)  # a mean is rounded, too
        x = jnp.where(jnp.abs(x).max(-1, keepdims=True) > ROUNDING, x, 0)
    return _divided(x, jnp.linalg.norm(x, axis=-1, keepdims=True))


def near_one(
    points: Float[Array, "n d"], like: Float[Array, "*k"] | None = None
) -> Float[Array, "n d"]:
    """The `points` over the power of two that brings the largest entry of `like`, by default their
    own, into [1, 2).

    For costs that are divided by a unit of theirs: no digit of them changes, and squares stay in
    float32's range.
    """
    _, exponent = jnp.frexp(jnp.abs(points if like is None else like).max(initial=0))
    half = (1 - exponent) // 2  # in two steps: the inverse of 2^127 is no normal number
    one = jnp.ones((), points.dtype)
    return points * jnp.ldexp(one, half) * jnp.ldexp(one, 1 - exponent - half)


def _divided(x: Float[Array, "n d"], by: Float[Array, "n 1"]) -> Float[Array, "n d"]:
    return x / jnp.where(by > 0, by, 1)


@partial(jax.jit, static_argnames="metric")
@in_full_precision
def pairwise(metric: str, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """The intra-space cost `metric` between points `x` (n, d) and `y` (m, d), unnormalised and
    non-negative. Raises ValueError for an unknown metric.

    cosine: 1 - cos(x, y), in [0, 2]; sqeuclidean: |x - y|² (Eq. 13); correlation: 1 minus
    Pearson's correlation of the coordinates (Eq. 27), in [0, 2]. A zero row has cosine 0 with
    everything, and a constant row correlation 0: distance 1.
    """
    left, right = factors(metric, x, y)
    return jnp.maximum(left @ right.T, 0)


@partial(jax.jit, static_argnames="metric")
def factors(
    metric: str, x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> tuple[Float[Array, "n r"], Float[Array, "m r"]]:
    """The cost `pairwise` of `metric`, `x` and `y` as a product of two thin matrices,
    left @ right.T, of rank at most d + 2.

    Angles are distances, too: 1 - cos = |u - v|² / 2 of unit rows u and v.
    """
    check_metric("metric", metric)
    x, y = embed(metric, x), embed(metric, y)
    centre = x.mean(0)  # distances are the same, cancellation in float32 is less

    def side(points: Float[Array, "k d"]) -> tuple[Array, Array, Array]:
        apart = points - centre
        if metric != "sqeuclidean":  # so near to the centre, a unit row differs by its rounding
            rounding = 2 * jnp.finfo(apart.dtype).eps
            apart = jnp.where(jnp.abs(apart).max(1, keepdims=True) > rounding, apart, 0)
        square = (apart**2).sum(1, keepdims=True)
        if metric != "sqeuclidean":  # a zero row counts as of unit length, and at a right angle
            square = (square + ~points.any(1, keepdims=True)) / 2
        return square, jnp.ones_like(square), apart

    (square_x, one_x, x), (square_y, one_y, y) = side(x), side(y)
    scale = 2 if metric == "sqeuclidean" else 1
    left = jnp.concatenate([square_x, one_x, -scale * x], axis=1)
    return left, jnp.concatenate([one_y, square_y, y], axis=1)


class Geometry(eqx.Module):
    """An n × m cost between two clouds, which solvers divide by its `unit`, the "mean" or the
    "median" (`scale`)."""

    unit: Statistic = eqx.field(static=True, default="mean", kw_only=True)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(n, m)."""

    @abstractmethod
    def take(self, rows: Int[Array, " r"], cols: Int[Array, " c"]) -> "Geometry":
        """The cost between the source points `rows` and the target points `cols` alone, indices
        from 0; traceable by `jax.jit`."""

    @abstractmethod
    def matrix(self) -> Float[Array, "n m"]:
        """The cost as a dense array."""

    @abstractmethod
    def mean(self, mu: Float[Array, " n"], nu: Float[Array, " m"]) -> Scalar:
        """The mean cost under μ ⊗ ν, the weights `mu` (n,) and `nu` (m,), which sum to 1."""

    @eqx.filter_jit
    def quantile(self, q: float, mu: Float[Array, " n"], nu: Float[Array, " m"]) -> Scalar:
        """The quantile `q`, in [0, 1], of the cost under μ ⊗ ν (`mu`, `nu` as in `mean`); exact for
        uniform weights of up to QUANTILE_POINTS points a side, else between as many that stand for
        all by weight."""
        keys = jax.random.split(jax.random.key(0))
        rows, cols = (_representatives(key, w) for key, w in zip(keys, (mu, nu), strict=True))
        return jnp.quantile(self.take(rows, cols).matrix(), q)

    def scale(self, mu: Float[Array, " n"], nu: Float[Array, " m"]) -> Scalar:
        """One unit of the cost: its mean under μ ⊗ ν (`mu`, `nu` as in `mean`), or its median,
        unless that is 0. 1 for a cost of zeros."""
        mean = nonzero(self.mean(mu, nu))
        if self.unit == "mean":
            return mean
        median = self.quantile(0.5, mu, nu)
        return jnp.where(median > 0, median, mean)

    def outlying(self, mu: Float[Array, " n"], nu: Float[Array, " m"]) -> bool:
        """Whether a few points decide the mean: it is above 95 % of the costs under μ ⊗ ν (`mu`,
        `nu` as in `mean`)."""
        return bool(self.mean(mu, nu) > self.quantile(0.95, mu, nu))


def _representatives(key: PRNGKeyArray, weights: Float[Array, " n"]) -> Int[Array, " k"]:
    """At most QUANTILE_POINTS points, each as often as its weight asks for."""
    order = jax.random.permutation(key, len(weights))
    size = min(len(weights), QUANTILE_POINTS)
    cdf = jnp.cumsum(weights[order])
    ranks = (jnp.arange(size) + 0.5) / size * cdf[-1]
    return order[jnp.minimum(jnp.searchsorted(cdf, ranks), len(weights) - 1)]


def nonzero(mean: Scalar) -> Scalar:
    """`mean`, to divide a cost by: 1 where every cost is zero."""
    return jnp.where(mean > 0, mean, 1)


def dense(geometry: Geometry, *, arrays: int = 1) -> Float[Array, "n m"]:
    """The cost `geometry` as a dense array.

    `arrays` is how many of its size its user will hold at once, the cost itself among them; raises
    MemoryError, before anything is computed, where they are not to be had.
    """
    n, m = geometry.shape
    several = f", {arrays} times held at once," if arrays > 1 else ""
    ask_memory(
        f"a dense {n} × {m} cost{several}", arrays * 4 * n * m,
        "use a solver that needs none (solver.BridgeSinkhorn for the bridge cost, solver.Sinkhorn "
        "with lower `points` for a cost between points), fewer points, or local alignment",
    )  # fmt: skip
    return geometry.matrix()


def ask_bridges(
    shape: tuple[int, int],
    bridges: int,
    *,
    arrays: int,
    halves: tuple[bool, ...] = (False, False),
) -> None:
    """Raises MemoryError unless `arrays` times the two factors of a bridge cost, (n, `bridges`) and
    (m, `bridges`) for `shape` (n, m), in float32, are to be had; an array of float64 counts as
    two. Of `halves`, those in half precision, one is enough."""
    n, m = shape
    points = sum(k / 2 if half else arrays * k for k, half in zip(shape, halves, strict=True))
    ask_memory(
        f"the table of {n} + {m} points to {bridges} bridges or their ends, {arrays} times held at "
        "once,",
        int(4 * points * bridges),
        "give fewer pairs (run.paired_fraction) or fewer points; in cost.BridgeCost pairs that "
        "share a point are one bridge",
    )


class DenseGeometry(Geometry):
    """A stored cost matrix, `values` (n, m); `unit` as in `Geometry`."""

    values: Float[Array, "n m"]

    @property
    def shape(self) -> tuple[int, int]:
        n, m = self.values.shape
        return n, m

    def take(self, rows: Int[Array, " r"], cols: Int[Array, " c"]) -> "DenseGeometry":
        return DenseGeometry(self.values[rows[:, None], cols[None, :]], unit=self.unit)

    def matrix(self) -> Float[Array, "n m"]:
        return self.values

    def mean(self, mu: Float[Array, " n"], nu: Float[Array, " m"]) -> Scalar:
        return mu @ self.values @ nu


def normalised(
    geometry: Geometry, mu: Float[Array, " n"], nu: Float[Array, " m"], arrays: int = 1
) -> Float[Array, "n m"]:
    """The dense cost `geometry` in its own unit under `mu` and `nu`, see `Geometry.scale`. `arrays`
    is how many of its size will be held at once. Raises MemoryError as `dense` does."""
    whole = DenseGeometry(dense(geometry, arrays=arrays), unit=geometry.unit)
    return whole.values / whole.scale(mu, nu)


class PointGeometry(Geometry):
    """`metric` between points `u` (n, d) and `v` (m, d) of a joint space, computed from the points
    whenever it is needed; `unit` as in `Geometry`. Raises ValueError for an unknown metric."""

    u: Float[Array, "n d"]
    v: Float[Array, "m d"]
    metric: str = eqx.field(static=True)

    def __check_init__(self) -> None:
        check_metric("metric", self.metric)

    @property
    def shape(self) -> tuple[int, int]:
        return self.u.shape[0], self.v.shape[0]

    def take(self, rows: Int[Array, " r"], cols: Int[Array, " c"]) -> "PointGeometry":
        return PointGeometry(self.u[rows], self.v[cols], self.metric, unit=self.unit)

    def matrix(self) -> Float[Array, "n m"]:
        return pairwise(self.metric, self.u, self.v)

    @eqx.filter_jit
    @in_full_precision
    def mean(self, mu: Float[Array, " n"], nu: Float[Array, " m"]) -> Scalar:
        left, right = factors(self.metric, self.u, self.v)
        mean = (mu @ left) @ (nu @ right)
        # Points that coincide, or all lie in one direction: what is left is rounding, not a cost.
        # The factors are centred, and such points' nothing but rounding: their own size tells.
        u, v = embed(self.metric, self.u), embed(self.metric, self.v)
        square = mu @ (u**2).sum(1) + nu @ (v**2).sum(1)
        size = (mu @ jnp.abs(left)) @ (nu @ jnp.abs(right))
        eps = jnp.finfo(mean.dtype).eps
        return jnp.where(mean > jnp.maximum(eps * size, (8 * eps) ** 2 * square), mean, 0)


class BridgeGeometry(Geometry):
    """The bridge cost (Eq. 6) as its two factors: c_ij = min_p (a_ip + b_jp).

    `a` (n, l) is the intra-space cost of every source point to the source end of every bridge,
    `b` (m, l) the same on the target side. A bridge is a known pair, or all pairs of one point:
    if pairs p share y_q, min_p (a_ip + b_jq) = (min_p a_ip) + b_jq. The zero of Eq. 6 for known
    pairs needs no case of its own: there a_ip = b_jp = 0, and the minimum is 0. Memory is
    O((n + m) l). `unit` is as in `Geometry`.
    """

    a: Factor
    b: Factor

    @property
    def shape(self) -> tuple[int, int]:
        return self.a.shape[0], self.b.shape[0]

    def take(self, rows: Int[Array, " r"], cols: Int[Array, " c"]) -> "BridgeGeometry":
        return BridgeGeometry(self.a[rows], self.b[cols], unit=self.unit)

    def matrix(self) -> Float[Array, "n m"]:
        return gathered(min_plus(full(self.a), full(self.b)))

    @in_full_precision
    def softened(self, temperature: Scalar | float) -> Float[Array, "n m"]:
        """-T log Σ_p exp(-(a_ip + b_jp) / T), the soft minimum at the `temperature` T > 0, as a
        dense array."""
        row = soft_row(full(self.b) / temperature)
        return temperature * jax.vmap(row)(full(self.a) / temperature)

    @in_full_precision
    def mean(self, mu: Float[Array, " n"], nu: Float[Array, " m"]) -> Scalar:
        """Exact up to MEAN_PAIRS pairs of points; beyond, over as many of them: to about 3e-4 of
        itself for weights that are nearly uniform.

        Both sides are cut into as many random blocks, and each block meets one of the other
        side. Every point then counts by its weight, and only what neither point of a pair
        explains alone is left to chance (which is the same each time).
        """
        (n, m), keys = self.shape, jax.random.split(jax.random.key(0))
        blocks = -(-n * m // MEAN_PAIRS)
        if blocks == 1:
            return mu @ self.matrix() @ nu

        def cut(key: PRNGKeyArray, weights: Array) -> tuple[Array, Array]:
            size = -(-len(weights) // blocks)
            order = jnp.resize(jax.random.permutation(key, len(weights)), (blocks * size,))
            first = jnp.arange(blocks * size) < len(weights)  # the last block starts afresh
            weights = jnp.where(first, weights[order], 0)
            return order.reshape(blocks, size), weights.reshape(blocks, size)

        def block(sides: tuple[tuple[Array, Array], tuple[Array, Array]]) -> Array:
            (i, mu), (j, nu) = sides
            costs = self.take(i, j).matrix()
            return jnp.stack([mu @ costs @ nu, mu.sum() * nu.sum()])

        total, mass = jax.lax.map(block, (cut(keys[0], mu), cut(keys[1], nu))).sum(0)
        return total / mass


def soft_row(b: Float[Array, "m l"]) -> Callable[[Float[Array, " l"]], Float[Array, " m"]]:
    """From a row a (l,) of the left factor of a bridge cost, -log Σ_p exp(-a_p - b_jp), the soft
    minimum of temperature 1 over the right factor `b` (m, l)."""
    near_b = b.min(1)
    exp_b = jnp.exp(near_b[:, None] - b)

    def row(a: Float[Array, " l"]) -> Float[Array, " m"]:
        near = a.min()
        heat = exp_b @ jnp.exp(near - a)
        return near + near_b - jnp.log(jnp.maximum(heat, jnp.finfo(jnp.float32).tiny))

    return row


@jax.jit
def min_plus(a: Float[Array, "n l"], b: Float[Array, "m l"]) -> Float[Array, "n m"]:
    """c_ij = min_p (a_ip + b_jp) of `a` (n, l) and `b` (m, l), in tiles that stay in cache; no
    n × m × l array."""

    def tile(bt: Float[Array, "l c"]) -> Float[Array, "n c"]:
        def row(a_row: Float[Array, " l"]) -> Float[Array, " c"]:
            def fold(p: Array, best: Float[Array, " c"]) -> Float[Array, " c"]:
                return jnp.minimum(best, a_row[p] + bt[p])

            start = jnp.full(bt.shape[1], jnp.inf, a.dtype)
            return jax.lax.fori_loop(0, len(bt), fold, start, unroll=4)

        return jax.lax.map(row, a, batch_size=min(TILE // bt.shape[1], a.shape[0]))

    return jnp.concatenate([tile(b[k : k + 2048].T) for k in range(0, len(b), 2048)], axis=1)
