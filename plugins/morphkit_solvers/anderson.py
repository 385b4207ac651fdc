"""Anderson's method: the fixed point of a map, in a fraction of its plain iterations."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

SIZE = 8
"""How many iterates are mixed."""


class Memory(eqx.Module):
    """The last SIZE `images` of a fixed-point map and their `moves`, how far each is from where it
    came from, both (SIZE, n); `filled` counts them.

    Walker and Ni 2011: the next iterate is the mixture of the images whose moves cancel best.
    """

    images: Float[Array, "k n"]
    moves: Float[Array, "k n"]
    filled: Int[Array, ""]

    @classmethod
    def empty(cls, like: Float[Array, " n"]) -> "Memory":
        """One of no images yet, of a map of as many numbers as `like`, and of their type."""
        zeros = jnp.zeros((SIZE, like.size), like.dtype)
        return cls(zeros, zeros, jnp.array(0))

    def emptied(self, condition: Bool[Array, ""]) -> "Memory":
        """Forgets everything where the `condition` holds."""
        return jax.tree.map(lambda value: jnp.where(condition, 0, value), self)

    def add(self, image: Float[Array, " n"], move: Float[Array, " n"]) -> "Memory":
        """With one more `image` and its `move`, in place of the oldest."""
        at = self.filled % SIZE
        return Memory(self.images.at[at].set(image), self.moves.at[at].set(move), self.filled + 1)

    def shift(self, by: Float[Array, " n"]) -> "Memory":
        """The same images from another origin: `by` is added to each."""
        return Memory(self.images + by, self.moves, self.filled)

    def mixture(self) -> Float[Array, " n"]:
        """Σ w_k image_k, with Σ w_k = 1 and |Σ w_k move_k| least."""
        there = jnp.arange(SIZE) < self.filled
        gram = self.moves @ self.moves.T
        ridge = 1e-5 * jnp.trace(gram) + jnp.finfo(gram.dtype).tiny
        weights = jnp.linalg.solve(
            gram + ridge * jnp.eye(SIZE, dtype=gram.dtype), there.astype(gram.dtype)
        )
        return (weights / weights.sum()) @ self.images
