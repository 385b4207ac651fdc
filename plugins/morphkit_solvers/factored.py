"""The Gibbs kernel of a bridge cost, on its two thin factors."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from morphkit.devices import log_total, total
from morphkit.transport.half import Factor, Half, cut, log_sums, over_rows, rows_at_once

from .scaling import Circuit, Kernel, by_rows, updated


class FactoredKernel(Kernel):
    """exp(-c_ij / ε) = Σ_p exp(-(a_ip + b_jp) / ε) of `a` (n, l), `b` (m, l) and ε, `epsilon`:
    O((n + m) l) memory and time.

    Of factors in single precision the exponentials are stored; of those in half precision they are
    computed by blocks whenever they are needed, and nothing of their size is stored. A `shared`
    kernel is of one device's part of the rows of `a`, see `morphkit.devices.over_points`.
    """

    a: Factor
    b: Factor
    epsilon: Scalar | float
    shared: bool = eqx.field(static=True, default=False)

    def log_to_source(self, g: Float[Array, " m"]) -> Float[Array, " n"]:
        return self._sums(self.a, jnp.zeros(len(self.a), g.dtype), self._over(self.b, g), axis=1)

    def log_to_target(self, f: Float[Array, " n"]) -> Float[Array, " m"]:
        return self._sums(self.b, jnp.zeros(len(self.b), f.dtype), self._from_all(f), axis=1)

    def _over(self, factor: Factor, potential: Float[Array, " n"]) -> Float[Array, " l"]:
        """log of what goes over each bridge."""
        return self._sums(factor, potential, jnp.zeros(factor.shape[1], potential.dtype), axis=0)

    def _from_all(self, f: Float[Array, " n"]) -> Float[Array, " l"]:
        part = self._over(self.a, f)
        return log_total(part) if self.shared else part

    def _sums(self, factor: Factor, rows: Array, columns: Array, axis: int) -> Array:
        return log_sums(factor, self.epsilon, rows, columns, axis)

    def around(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> Circuit:
        # A bridge's mass is shared out between its two factors, so that neither overflows.
        balance = (self._over(self.b, g) - self._from_all(f)) / 2
        left = _side(self.a, f, self.epsilon, balance)
        right = _side(self.b, g, self.epsilon, -balance)
        (n, bridges), m = self.a.shape, len(self.b)
        if isinstance(left, _Stored) and isinstance(right, _Stored) and n * m < (n + m) * bridges:
            # A minibatch: the product itself is the thinner.
            left, right = _Stored(left.values @ right.values.T), None

        def circuit(v: Array, offset: Array, tau: Scalar | float) -> tuple[Array, Array]:
            into = v if right is None else jnp.log(right.sums(jnp.exp(v)))
            u, column = left.circuit(into, offset, tau)
            column = total(column) if self.shared else column
            return u, column if right is None else right.times(column)

        return circuit


class _Stored(eqx.Module):
    """A matrix K, `values` (n, l)."""

    values: Float[Array, "n l"]

    def circuit(self, v: Array, offset: Array, tau: Scalar | float) -> tuple[Array, Array]:
        """As of a `Circuit`."""
        u = updated(self.times(jnp.exp(v)), offset, tau)
        return u, self.sums(jnp.exp(u))

    def times(self, w: Float[Array, " l"]) -> Float[Array, " n"]:
        """K `w`."""
        return self.values @ w

    def sums(self, u: Float[Array, " n"]) -> Float[Array, " l"]:
        """Kᵀ `u`."""
        return u @ self.values


class _Computed(eqx.Module):
    """The matrix K_ip = exp(q_i - a_ip / ε + s_p) of a `factor` a in half precision, a `potential`
    q, `epsilon` and a `shift` s: computed by blocks of rows. Its methods are those of `_Stored`."""

    factor: Half
    potential: Float[Array, " n"]
    epsilon: Scalar | float
    shift: Float[Array, " l"]

    def circuit(self, v: Array, offset: Array, tau: Scalar | float) -> tuple[Array, Array]:
        def block(start: Array) -> tuple[Array, Array]:
            return self._block(start), jnp.ones(rows_at_once(self.factor), v.dtype)

        return by_rows(block, len(self.factor), rows_at_once(self.factor))(v, offset, tau)

    def times(self, w: Float[Array, " l"]) -> Float[Array, " n"]:
        def step(start: Array, new: Array, found: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(found, self._block(start) @ w, start, 0)

        return self._over_rows(step, jnp.zeros_like(self.potential))

    def sums(self, u: Float[Array, " n"]) -> Float[Array, " l"]:
        def step(start: Array, new: Array, total: Array) -> Array:
            return total + jnp.where(new, cut(u, start, len(new)), 0) @ self._block(start)

        return self._over_rows(step, jnp.zeros_like(self.shift))

    def _over_rows(self, step: Callable[[Array, Array, Array], Array], initial: Array) -> Array:
        return over_rows(step, len(self.factor), rows_at_once(self.factor), initial)

    def _block(self, start: Array) -> Float[Array, "size l"]:
        size = rows_at_once(self.factor)
        q, a = cut(self.potential, start, size), cut(self.factor, start, size)
        return jnp.exp((self.epsilon * q[:, None] - a) / self.epsilon + self.shift)


def _side(
    factor: Factor,
    potential: Float[Array, " n"],
    epsilon: Scalar | float,
    shift: Float[Array, " l"],
) -> _Stored | _Computed:
    """exp(q_i - a_ip / ε + s_p) of a `factor` a, a `potential` q, `epsilon` and a `shift` s."""
    if isinstance(factor, Half):
        return _Computed(factor, potential, epsilon, shift)
    return _Stored(jnp.exp((epsilon * potential[:, None] - factor) / epsilon + shift))
