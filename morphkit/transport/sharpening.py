"""Couplings made sharper: what training draws where the solver's own is too smooth."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .couplings import Convergence, Coupling, DenseCoupling
from .drawing import Table
from .geometry import near_one, pairwise


class PointCoupling(Coupling):
    """All the mass of a source point on one target point.

    `target` (n,) has the index of it, `weights` (n,) the mass, `size` is the number m of target
    points; `convergence` is how the solver ended.
    """

    target: Int[Array, " n"]
    weights: Float[Array, " n"]
    size: int = eqx.field(static=True)
    sources: Table
    convergence: Convergence

    def __init__(
        self,
        target: Int[Array, " n"],
        weights: Float[Array, " n"],
        size: int,
        convergence: Convergence,
    ) -> None:
        self.target, self.weights, self.size = target, weights, size
        self.sources, self.convergence = Table.of(weights), convergence

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.target), self.size

    def rows(self, i: Int[Array, " k"]) -> Float[Array, "k m"]:
        return (
            jax.nn.one_hot(self.target[i], self.size, dtype=self.weights.dtype)
            * self.weights[i][:, None]
        )

    def marginal(self, axis: int) -> Float[Array, " n"]:
        if axis == 0:
            return self.weights
        return jnp.zeros(self.size, self.weights.dtype).at[self.target].add(self.weights)

    def sample(self, key: PRNGKeyArray, num: int) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
        i = self.sources.draws(key, num)
        return i, self.target[i]


def check_temperature(name: str, temperature: float) -> None:
    """Raises ValueError, naming the argument `name`, for a negative `temperature`."""
    if temperature < 0:
        raise ValueError(f"{name} = {temperature} must not be negative; 0 takes the mode")


def sharpen(coupling: Coupling, temperature: float) -> Coupling:
    """The `coupling` with conditionals π(y_j | x_i)^(1/T), normalised, and the same π_X; T is the
    `temperature`, 0 or above.

    A draw of a smooth coupling is a poor training target where its mode is a good one: T = 1
    leaves it alone, T = 0 takes the mode, argmax_j π_ij, in O(n + m) memory beside the
    coupling's own; between them the table is dense. Raises MemoryError where there is no
    memory for that, ValueError for T < 0.
    """
    check_temperature("temperature", temperature)
    if temperature == 1:
        return coupling
    marginal = coupling.marginal(0)
    if temperature == 0:
        target = coupling.most_probable()
        return PointCoupling(
            target=target, weights=marginal, size=coupling.shape[1],
            convergence=coupling.convergence,
        )  # fmt: skip
    log = jnp.log(coupling.to_dense(arrays=5)) / temperature
    values = jax.nn.softmax(log, axis=1, where=marginal[:, None] > 0) * marginal[:, None]
    return DenseCoupling(values, coupling.convergence)


@eqx.filter_jit
def medoid(
    coupling: Coupling, y: Float[Array, "m q"], draws: int, key: PRNGKeyArray
) -> PointCoupling:
    """Each source point goes to the medoid of `draws` draws by `key` from π(· | x_i), π the
    `coupling` with target points `y` (m, q).

    That is the draw with the least Euclidean distance to all others: a point estimate from
    within the largest cluster of the conditional, where the mode may be any of its points.
    O(n draws² q) time; no n × m numbers where the coupling has none.
    """

    def one(i: Int[Array, ""]) -> Int[Array, ""]:
        j = coupling.targets(jax.random.fold_in(key, i), jnp.full(draws, i))
        distance = jnp.sqrt(pairwise("sqeuclidean", points[j], points[j])).sum(1)
        return j[distance.argmin()]

    points, (n, m) = near_one(y), coupling.shape
    target = jax.lax.map(one, jnp.arange(n), batch_size=min(64, n))
    return PointCoupling(
        target=target, weights=coupling.marginal(0), size=m, convergence=coupling.convergence
    )
