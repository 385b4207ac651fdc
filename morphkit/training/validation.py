"""What training is judged by and does not see, and the sampler that leaves it out."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Scalar

from ..interfaces import Sampler, VelocityField
from ..types import Batch, PairedData, distinct
from .flow import Noise, flow_loss
from .scaling import Scaling

HoldOut = Literal["pairs", "sources"]
"""What is held out: source points of known pairs, judged by these, or of all source points, judged
by what the coupling says of them."""

MOST = 4096
"""Draws that a validation loss looks at, at most."""

BATCHES = 32
"""Batches of a sampler in which draws at held-out source points are looked for."""

REPEATS = 16
"""Times and noises that each of these draws is judged at, always the same ones."""


class HeldOut(eqx.Module):
    """Draws at source points that training leaves out.

    `x` (k, p) and `y` (k, q) are in the units of the features, `i` (k,) are the source points that
    the x are, and `mask` (n,) is True for every source point that is held out.
    """

    x: Float[Array, "k p"]
    y: Float[Array, "k q"]
    i: Int[Array, " k"]
    mask: Bool[Array, " n"]


def hold_out(
    data: PairedData, sampler: Sampler, share: float, of: HoldOut, batch_size: int,
    key: PRNGKeyArray,
) -> HeldOut:  # fmt: skip
    """Holds out a `share` in (0, 1) of the source points of `data`: `of` those with a pair, with
    all their pairs, or of all.

    `sampler`, asked for batches of `batch_size`, says where the latter go; `key` chooses. Raises
    ValueError where nothing would be left to train on, or to judge by.
    """
    key_choice, key_draws = jax.random.split(key)
    paired, row = distinct(np.asarray(data.pairs.source))
    sources = paired if of == "pairs" else np.arange(data.x.size)
    count = max(1, round(share * len(sources)))
    if count >= len(sources):
        raise ValueError(
            f"Training.validation = {share} of {len(sources)} source points leaves none to train "
            "on; give more pairs, or set Training.validation = 0"
        )
    held = np.asarray(jax.random.permutation(key_choice, len(sources)))[:count]
    mask = np.zeros(data.x.size, bool)
    mask[sources[held]] = True
    if of == "pairs":
        chosen = np.flatnonzero(np.isin(row, held))
        chosen = np.asarray(jax.random.permutation(key_draws, chosen))[:MOST]
        i = data.pairs.source[chosen]
        return HeldOut(data.x_paired[chosen], data.y_paired[chosen], i, jnp.asarray(mask))
    batch = _draws(sampler, key_draws, batch_size)
    chosen = np.flatnonzero(mask[np.asarray(drawn(batch))])[:MOST]
    if not len(chosen):
        raise ValueError(
            f"Training.validation = {share}: no draw of {BATCHES} batches is at a held-out source "
            "point; raise it, or set Training.hold_out = 'pairs'"
        )
    return HeldOut(batch.x[chosen], batch.y[chosen], drawn(batch)[chosen], jnp.asarray(mask))


def drawn(batch: Batch) -> Int[Array, " b"]:
    """Which source points are in `batch`. Raises ValueError for one that does not say it."""
    if batch.i is None:
        raise ValueError(
            "the sampler does not say which source points it drew (Batch.i), which an anchor and "
            "Training.validation need; use another aligner, or neither of them"
        )
    return batch.i


class KeptSampler(Sampler):
    """Batches of `sampler` without the source points of `mask` (n,), which others of the batch
    stand in for."""

    sampler: Sampler
    mask: Bool[Array, " n"]

    @property
    def coupling(self):
        return self.sampler.coupling

    def __call__(self, key: PRNGKeyArray, batch_size: int) -> Batch:
        batch = self.sampler(key, batch_size)
        i = drawn(batch)
        out = self.mask[i]
        kept_first = jnp.argsort(out, stable=True)
        kept = kept_first[jnp.arange(batch_size) % jnp.maximum(1, jnp.sum(~out))]
        return batch._replace(x=batch.x[kept], y=batch.y[kept], i=i[kept])


@eqx.filter_jit
def validation_loss(
    field: VelocityField, scaling: Scaling, held: HeldOut, noise: Noise
) -> tuple[Scalar, Scalar]:
    """The flow term of Eq. 4 for `field` on `held`, scaled by `scaling`, and the mean squared error
    of E[y | x] there, in scaled units; of `noise` all but the dropout. At the same times and noises
    whenever it is asked for, so that two fields differ by what they are."""
    x, y = scaling.x(held.x), scaling.y(held.y)
    noise = noise._replace(dropout=0.0)

    def at(key: PRNGKeyArray) -> tuple[Scalar, Float[Array, "k q"]]:
        key_loss, key_z = jax.random.split(key)
        z = noise.scale * jax.random.normal(key_z, y.shape)
        start = jax.vmap(field, (None, 0, 0))
        expected = (start(jnp.zeros(()), z, x) + start(jnp.zeros(()), -z, x)) / 2
        return flow_loss(field, x, y, key_loss, *noise), expected

    losses, expected = jax.lax.map(at, jax.random.split(jax.random.key(0), REPEATS))
    return losses.mean(), jnp.mean((expected.mean(0) - y) ** 2)


@eqx.filter_jit
def _draws(sampler: Sampler, key: PRNGKeyArray, batch_size: int) -> Batch:
    batches = jax.lax.map(lambda k: sampler(k, batch_size), jax.random.split(key, BATCHES))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), batches)
