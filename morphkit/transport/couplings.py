"""What a solver returns: a joint distribution on n × m points that training can sample from."""

from abc import abstractmethod
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Scalar

from ..types import Cloud, Pairs
from .drawing import Table, choose
from .memory import ask_memory


class Convergence(eqx.Module):
    """How a solver ended: whether it `converged`, after how many `iterations`, with which `error`.
    That is what it stops on; its docstring says which quantity (Sinkhorn: the L1 error of a
    marginal)."""

    converged: Bool[Array, ""]
    iterations: Int[Array, ""]
    error: Float[Array, ""]

    @classmethod
    def exact(cls, dtype: DTypeLike = jnp.float32) -> "Convergence":
        """For couplings that are known, not solved for. `dtype` is that of the error."""
        return cls(jnp.array(True), jnp.array(0), jnp.array(0, dtype))


class Potential(eqx.Module):
    """What an entropic coupling says of any source point x: π(y_j | x) ∝ exp(g_j - c(x, y_j) / ε).

    `g` (m,) is the potential of the targets over ε, `epsilon` is ε in the units of the cost as the
    solver was given it. `softness` is the temperature, in these units, at which the minimum of a
    bridge cost was taken softly, None for the cost as it is.
    """

    g: Float[Array, " m"]
    epsilon: Scalar | float
    softness: Scalar | float | None = None


class Coupling(eqx.Module):
    """A joint distribution π of n source and m target points; its mass need not be 1.

    Everything but `shape`, `rows`, `marginal` and `sample` follows from these, by blocks of
    rows: no method but `to_dense` ever holds n × m numbers.
    """

    convergence: eqx.AbstractVar[Convergence]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(n, m)."""

    @property
    def potential(self) -> Potential | None:
        """The target potential, of an entropic coupling under a linear cost; else None."""
        return None

    @abstractmethod
    def rows(self, i: Int[Array, " k"]) -> Float[Array, "k m"]:
        """The rows π(x_i, ·) of the source points `i`, not normalised."""

    @abstractmethod
    def marginal(self, axis: int) -> Float[Array, " n"]:
        """π_X (n,) for `axis` 0, π_Y (m,) for 1; each sums to the mass of π."""

    @abstractmethod
    def sample(self, key: PRNGKeyArray, num: int) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
        """`num` independent draws (i, j) from π, normalised, by `key`; on the device, inside
        `jax.jit`."""

    def targets(self, key: PRNGKeyArray, i: Int[Array, " num"]) -> Int[Array, " num"]:
        """A draw from π(· | x_i) by `key` for each of `i`; of anything, where x_i has no mass."""
        return choose(key, self.rows(i))

    def log_conditional(self, i: Int[Array, " k"]) -> Float[Array, "k m"]:
        """log π(y_j | x_i) for the source points `i`; -inf everywhere in a row without mass."""
        rows = self.rows(i)
        total = rows.sum(1, keepdims=True)
        return jnp.log(rows) - jnp.log(jnp.where(total > 0, total, 1))

    def fold(self, function, blocksize: int = 256) -> Float[Array, " n"]:
        """`function`(π(x_i, ·), i) for every i, computed by blocks of `blocksize` rows."""

        def one(i: Int[Array, ""]) -> Array:
            return function(self.rows(i[None])[0], i)

        indices = jnp.arange(self.shape[0])
        return jax.lax.map(one, indices, batch_size=min(blocksize, self.shape[0]))

    def barycentres(self, values: Float[Array, "m q"]) -> Float[Array, "n q"]:
        """Σ_j π_ij `values`_j for every source point, not divided by its mass; no n × m numbers
        where the coupling has none."""
        return _barycentres(self, values)

    def most_probable(self) -> Int[Array, " n"]:
        """argmax_j π_ij, of every source point; of equally probable targets the first."""
        return _most_probable(self)

    def matching_accuracy(
        self,
        labels_x: Int[Array, " n"],
        labels_y: Int[Array, " m"],
        *,
        key: PRNGKeyArray | None = None,
        num: int = 10_000,
    ) -> Scalar:
        """The probability that a draw of π joins two points with the same label (Sec. 5.1.3).

        `labels_x` (n,) and `labels_y` (m,) are class indices. Exact without a `key`; with one, the
        mean over `num` draws, as the paper measures it.
        """
        if key is not None:
            i, j = self.sample(key, num)
            return jnp.mean(labels_x[i] == labels_y[j])
        return self.agreement(labels_x, labels_y) / self.marginal(0).sum()

    def agreement(self, labels_x: Int[Array, " n"], labels_y: Int[Array, " m"]) -> Scalar:
        """The mass that joins points with the same label; `labels_x` (n,) and `labels_y` (m,) are
        class indices."""
        return _agreement(self, labels_x, labels_y)

    def entropy(self) -> Scalar:
        """H(π) = -Σ π log π of the normalised coupling, in nats."""
        mass = self.marginal(0).sum()
        return _row_entropy(self) / mass + jnp.log(mass)

    def effective_support(self) -> Scalar:
        """exp(H(π) - H(π_X)): how many target points a source point is spread over."""
        marginal = self.marginal(0)
        marginal = marginal / marginal.sum()
        return jnp.exp(self.entropy() - jax.scipy.special.entr(marginal).sum())

    def violation(self, axis: int, weights: Float[Array, " n"]) -> Scalar:
        """How far π_X (`axis` 0) or π_Y (1), normalised, is from `weights`: their L1 distance,
        in [0, 2]. Large where τ < 1 relaxes the marginal, or the solver did not converge."""
        marginal = self.marginal(axis)
        return jnp.abs(marginal / marginal.sum() - weights).sum()

    def excluded_ratio(self, *, key: PRNGKeyArray | None = None) -> Scalar:
        """Eq. 29: 1 - |{x_1, …, x_N ~ π_X}| / N - |{y_1, …, y_N ~ π_Y}| / N, with N = n + m.

        The share of all points that N draws from their marginal miss; 0 when none is. With N
        the number of points of both sides, as here, uniform marginals of n = m points have
        e^-2 = .135. The expectation without a `key`, N draws a side with one.
        """
        size = sum(self.shape)
        seen = jnp.array(0.0)
        for axis in (0, 1):
            weights = self.marginal(axis) / self.marginal(axis).sum()
            if key is None:
                seen += jnp.sum(-jnp.expm1(size * jnp.log1p(-jnp.minimum(weights, 1))))
            else:
                drawn = Table.of(weights).draws(jax.random.fold_in(key, axis), size)
                seen += jnp.sum(jnp.zeros_like(weights).at[drawn].set(1))
        return 1 - seen / size

    def aes(
        self,
        labels_x: Int[Array, " n"],
        labels_y: Int[Array, " m"],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Scalar:
        """Eq. 30: matching accuracy over excluded ratio, by which App. L.2 chooses τ and ε.

        `labels_x`, `labels_y` and `key` are those of `matching_accuracy`. Infinite where no point
        is excluded.
        """
        return self.matching_accuracy(labels_x, labels_y, key=key) / self.excluded_ratio(key=key)

    def diagnostics(self, x: Cloud, y: Cloud) -> dict[str, float]:
        """How its solver ended, and what it is like between the clouds `x` and `y` that it was
        solved for; none of it needs labels."""
        return {name: float(value(self, x, y)) for name, value in DIAGNOSTICS.items()}

    def to_dense(self, *, arrays: int = 1) -> Float[Array, "n m"]:
        """π as an array. `arrays` is how many of its size its user will hold at once, itself among
        them; raises MemoryError, before anything is computed, where they are not to be had."""
        n, m = self.shape
        several = f", {arrays} times held at once," if arrays > 1 else ""
        advice = "use sample(), marginal() or rows() instead"
        ask_memory(f"a dense {n} × {m} coupling{several}", arrays * 4 * n * m, advice)
        return self.rows(jnp.arange(n))


DIAGNOSTICS: dict[str, Callable[[Coupling, Cloud, Cloud], Array]] = {
    "converged": lambda pi, x, y: pi.convergence.converged,
    "iterations": lambda pi, x, y: pi.convergence.iterations,
    "error": lambda pi, x, y: pi.convergence.error,
    "entropy": lambda pi, x, y: pi.entropy(),
    "effective_support": lambda pi, x, y: pi.effective_support(),
    "marginal_violation_source": lambda pi, x, y: pi.violation(0, x.weights),
    "marginal_violation_target": lambda pi, x, y: pi.violation(1, y.weights),
    "excluded_ratio": lambda pi, x, y: pi.excluded_ratio(),
}
"""What is told of every coupling of whole clouds; no evaluator's metric may have such a name."""


@eqx.filter_jit
def _agreement(
    coupling: Coupling, labels_x: Int[Array, " n"], labels_y: Int[Array, " m"]
) -> Scalar:
    return coupling.fold(lambda row, i: jnp.sum(row, where=labels_y == labels_x[i])).sum()


@eqx.filter_jit
def _most_probable(coupling: Coupling) -> Int[Array, " n"]:
    return coupling.fold(lambda row, i: jnp.argmax(row))


@eqx.filter_jit
def _barycentres(coupling: Coupling, values: Float[Array, "m q"]) -> Float[Array, "n q"]:
    return coupling.fold(lambda row, i: row @ values)


@eqx.filter_jit
def _row_entropy(coupling: Coupling) -> Scalar:
    return coupling.fold(lambda row, i: jax.scipy.special.entr(row).sum()).sum()


class PairCoupling(Coupling):
    """True alignment (Eq. 5): mass 1/l on each of the l `pairs`, nothing elsewhere; `size` is
    (n, m)."""

    pairs: Pairs
    size: tuple[int, int] = eqx.field(static=True)
    convergence: Convergence

    def __init__(self, pairs: Pairs, size: tuple[int, int]) -> None:
        self.pairs = pairs
        self.size = size
        self.convergence = Convergence.exact()

    @property
    def shape(self) -> tuple[int, int]:
        return self.size

    def rows(self, i: Int[Array, " k"]) -> Float[Array, "k m"]:
        hit = jnp.float32(i[:, None] == self.pairs.source[None, :]) / self.pairs.size
        return jnp.zeros((len(i), self.shape[1]), hit.dtype).at[:, self.pairs.target].add(hit)

    def marginal(self, axis: int) -> Float[Array, " n"]:
        index = (self.pairs.source, self.pairs.target)[axis]
        return jnp.zeros(self.shape[axis], jnp.float32).at[index].add(1 / self.pairs.size)

    def sample(self, key: PRNGKeyArray, num: int) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
        k = jax.random.randint(key, (num,), 0, self.pairs.size)
        return self.pairs.source[k], self.pairs.target[k]


class DenseCoupling(Coupling):
    """A coupling stored as its n × m matrix `values`, non-negative, with the tables that draws are
    made from; `convergence` is how its solver ended, `solved` the potential it ended with."""

    values: Float[Array, "n m"]
    sources: Table
    conditionals: Table
    convergence: Convergence
    solved: Potential | None

    def __init__(
        self, values: Float[Array, "n m"], convergence: Convergence, solved: Potential | None = None
    ) -> None:
        self.values = values
        self.solved = solved
        self.sources, self.conditionals = Table.of(values.sum(1)), Table.of(values)
        self.convergence = convergence

    @property
    def shape(self) -> tuple[int, int]:
        n, m = self.values.shape
        return n, m

    @property
    def potential(self) -> Potential | None:
        return self.solved

    def rows(self, i: Int[Array, " k"]) -> Float[Array, "k m"]:
        return self.values[i]

    def barycentres(self, values: Float[Array, "m q"]) -> Float[Array, "n q"]:
        return self.values @ values

    def marginal(self, axis: int) -> Float[Array, " n"]:
        return self.values.sum(1 - axis)

    def sample(self, key: PRNGKeyArray, num: int) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
        key_i, key_j = jax.random.split(key)
        i = self.sources.draws(key_i, num)
        return i, self.targets(key_j, i)

    def targets(self, key: PRNGKeyArray, i: Int[Array, " num"]) -> Int[Array, " num"]:
        return self.conditionals.draw(key, i)
