"""Sinkhorn's half steps in tiles that never leave a GPU's chip, by Pallas.

Of c_ij = max(a_i · b_j, 0), thin factors of ranks r, a half step needs

    s_i = log Σ_j exp(g_j - c_ij)

of every row i. Tiles of ROWS × COLUMNS entries are computed in registers, and of each row only the
largest exponent so far, t, and the sum Σ_j exp(g_j - c_ij - t) are kept; a tile with a larger
entry t' scales that sum by exp(t - t'). So nothing of the size of a tile is ever in memory, and
every entry is computed from the factors again: O((n + m) r) memory, O(n m r) time.

Rows are shared out between the programs of a grid, and columns too where the rows are too few to
occupy a GPU. Each program writes sums of its own, so there is nothing to synchronise. Sums over
rows are the same with the sides exchanged: a second pass, instead of additions from many programs
to one place.

It is tested by Pallas's interpreter, and for CUDA as far as the code that Pallas hands over to
Triton. On an H200 it takes twice as long as blocks of rows at 64 dimensions: two products an
iteration, where blocks make one. The sizes of tiles are the largest that WARPS hold without
spilling.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.nn import logsumexp
from jaxtyping import Array, Float, Scalar

from morphkit.devices import log_total

from .scaling import Circuit, Kernel

ROWS, COLUMNS, RANK = 64, 64, 16
"""The sizes of a tile, and how much of the rank is multiplied at once: powers of two, as Triton
wants them, and at least the 16 that its products take."""

PROGRAMS = 1024
"""As many programs keep a GPU of some hundred multiprocessors busy."""

WARPS = 4
"""Groups of 32 threads that share a tile: 32 of its entries a thread."""

LOWEST = -3.4e38
"""About the least number of float32. Exponents of -inf are then 0, and never NaN, for a row whose
entries so far are all without mass."""


class TiledKernel(Kernel):
    """exp(-max(a_i · b_j, 0)) of the rows a_i of `left` (n, r) and b_j of `right` (m, r), as
    `StreamedKernel`, in tiles. A `shared` kernel has one device's part of the rows.

    Everything is in the log domain, so a circuit is log K exp(v) = f + log_to_source(g + v), and
    Kᵀ exp(u) = exp(g + log_to_target(f + u)) after it.
    """

    left: Float[Array, "n r"]
    right: Float[Array, "m r"]
    shared: bool = eqx.field(static=True, default=False)

    def log_to_source(self, g: Float[Array, " m"]) -> Float[Array, " n"]:
        return log_row_sums(self.left, self.right, g)

    def log_to_target(self, f: Float[Array, " n"]) -> Float[Array, " m"]:
        part = log_row_sums(self.right, self.left, f)
        return log_total(part) if self.shared else part

    def around(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> Circuit:
        def circuit(v: Array, offset: Array, tau: Scalar | float) -> tuple[Array, Array]:
            mass = f + self.log_to_source(g + v)
            # As `updated`, which a product that is below float32's range leaves where it was.
            u = jnp.where(mass > jnp.log(jnp.finfo(mass.dtype).tiny), offset - tau * mass, 0)
            return u, jnp.exp(g + self.log_to_target(f + u))

        return circuit


def log_row_sums(
    left: Float[Array, "n r"],
    right: Float[Array, "m r"],
    g: Float[Array, " m"],
    *,
    interpret: bool | None = None,
) -> Float[Array, " n"]:
    """log Σ_j exp(g_j - max(a_i · b_j, 0)) of the rows a_i of `left` and b_j of `right`, and the
    exponents `g`, of which -inf is a point without mass.

    Unless `interpret` says so, it is interpreted where there is no GPU: the same result, slowly.
    """
    if interpret is None:
        interpret = jax.default_backend() != "gpu"
    n, m = len(left), len(right)
    rows, tiles = pl.cdiv(n, ROWS), pl.cdiv(m, COLUMNS)
    each = pl.cdiv(tiles, min(tiles, pl.cdiv(PROGRAMS, rows)))
    parts = pl.cdiv(tiles, each)
    # What is appended to the rank adds nothing, what is appended to the columns has no mass.
    left = _padded(_padded(left, ROWS, 0), RANK, 1)
    right = _padded(_padded(right, each * COLUMNS, 0), RANK, 1)
    g = _padded(g, each * COLUMNS, 0, -jnp.inf)
    r = left.shape[1]
    sums = pl.pallas_call(
        _program,
        grid=(rows, parts),
        in_specs=[
            pl.BlockSpec((ROWS, r), lambda i, part: (i, 0)),
            pl.BlockSpec((each * COLUMNS, r), lambda i, part: (part, 0)),
            pl.BlockSpec((each * COLUMNS,), lambda i, part: (part,)),
        ],
        out_specs=pl.BlockSpec((None, ROWS), lambda i, part: (part, i)),
        out_shape=jax.ShapeDtypeStruct((parts, len(left)), left.dtype),
        compiler_params=triton.CompilerParams(num_warps=WARPS),
        interpret=interpret,
    )(left, right, g)
    return logsumexp(sums, axis=0)[:n]


def _program(left, right, g, out) -> None:
    """Of ROWS rows and some tiles of columns, all by reference."""

    def tile(k: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        columns = pl.ds(k * COLUMNS, COLUMNS)

        def product(p: Array, cost: Array) -> Array:
            rank = pl.ds(p * RANK, RANK)
            # All digits of float32: with the ten bits of TF32 a cost of near points is rounding.
            highest = jax.lax.Precision.HIGHEST
            return cost + jnp.dot(left[:, rank], right[columns, rank].T, precision=highest)

        cost = jnp.zeros((ROWS, COLUMNS), left.dtype)
        cost = jax.lax.fori_loop(0, left.shape[1] // RANK, product, cost)
        log = g[columns][None, :] - jnp.maximum(cost, 0)
        before, total = state
        largest = jnp.maximum(before, log.max(1))
        new = jnp.exp(log - largest[:, None]).sum(1)
        return largest, total * jnp.exp(before - largest) + new

    initial = jnp.full((ROWS,), LOWEST, left.dtype), jnp.zeros((ROWS,), left.dtype)
    largest, total = jax.lax.fori_loop(0, len(g) // COLUMNS, tile, initial)
    out[...] = largest + jnp.log(total)


def _padded(array: Array, multiple: int, axis: int, value: float = 0.0) -> Array:
    """`array` with `value` appended until its length is a multiple of `multiple`."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % multiple)
    return jnp.pad(array, widths, constant_values=value)
