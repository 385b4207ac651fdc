"""What an anchored flow starts from: y = base(x) + scale · r, and the flow is that of r."""

from dataclasses import replace
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..interfaces import Baseline, LatentMap, Sampler
from ..types import Batch, PairedData, Pairs, distinct
from .flow import Networks, Preconditioned
from .scaling import Scaling
from .validation import HeldOut, drawn

FOLDS = 5
"""Parts of the paired source points, each predicted by a baseline that has not seen it."""

BATCHES = 16
"""Batches whose residuals say how large these are."""


class Anchor(eqx.Module):
    """A map that a flow starts from, and what training takes off its targets.

    `base` is the map, on the device; `known` (n, q) are its predictions for the source points that
    training draws from, in the units of the features.
    """

    base: LatentMap
    known: Float[Array, "n q"]

    @classmethod
    def of(cls, base: LatentMap, data: PairedData) -> Self:
        """The anchor `base`, at the source points of `data`: what a coupling says of new points,
        say. It knows the pairs already, so held-out pairs (`Training.hold_out`) are not new to it,
        and speak for the start."""
        base = settled(base)
        return cls(base, jnp.asarray(base(data.x.points), jnp.float32))

    @classmethod
    def fit(cls, baseline: Baseline, data: PairedData) -> Self:
        """The anchor that `baseline` is, fitted to the pairs of `data`.

        The predictions for source points with a pair are out of fold: of one fitted without these
        pairs, since residuals in sample are too small, and draws would be too narrow. What it would
        choose it chooses once, on all pairs (`Baseline.tuned`). Raises ValueError for pairs
        of a single source point, and as the baseline does.
        """
        sources, row = distinct(np.asarray(data.pairs.source))
        if len(sources) < 2:
            raise ValueError(
                f"run.anchor = {type(baseline).__name__} needs pairs of two source points or more, "
                "since it is judged on some that it has not seen; set run.anchor = None"
            )
        baseline = baseline.tuned(data)
        base = settled(baseline.fit(data))
        known = np.array(base(data.x.points), np.float32)
        fold = np.random.default_rng(0).permutation(len(sources)) % FOLDS
        for k in np.unique(fold):
            kept = np.flatnonzero(fold[row] != k)
            pairs = Pairs(data.pairs.source[kept], data.pairs.target[kept])
            held = sources[fold == k]
            fitted = baseline.fit(PairedData(data.x, data.y, pairs))
            known[held] = fitted(data.x.points[held])
        return cls(base, jnp.asarray(known))

    def sampler(self, sampler: Sampler) -> "ResidualSampler":
        """`sampler`, less what the base says."""
        return ResidualSampler(sampler, self.known)

    def held(self, held: HeldOut) -> HeldOut:
        """`held`, less what the base says."""
        return replace(held, y=held.y - self.known[held.i])

    def networks(self, networks: Networks, noise_scale: float) -> Networks:
        """`networks` for residuals: the field at rest, beside the velocity of a standard Gaussian
        from noise of `noise_scale`. Raises ValueError for one that cannot be put at rest, and for η
        and ξ."""
        if networks.eta is not None or networks.xi is not None:
            raise ValueError(
                "Training.reweight learns densities of target points, and an anchored flow sees "
                "residuals; set Training.reweight = False or run.anchor = None"
            )
        return replace(networks, field=Preconditioned(networks.field.at_rest(), noise_scale))


class ResidualSampler(Sampler):
    """Batches of `sampler` whose y is less `known` (n, q), the prediction at their source point."""

    sampler: Sampler
    known: Float[Array, "n q"]

    @property
    def coupling(self):
        return self.sampler.coupling

    def __call__(self, key: PRNGKeyArray, batch_size: int) -> Batch:
        batch = self.sampler(key, batch_size)
        return batch._replace(y=batch.y - self.known[drawn(batch)])


def residual_scaling(
    scaling: Scaling, sampler: ResidualSampler, batch_size: int, key: PRNGKeyArray,
    spread: float | None = None,
) -> Scaling:  # fmt: skip
    """`scaling` with targets that are residuals: not centred, and divided by their root mean
    square, `spread` or else that over BATCHES batches of `batch_size` of `sampler`, drawn by
    `key`."""
    scale = (
        _root_mean_square(sampler, batch_size, key) if spread is None
        else jnp.asarray(spread, jnp.float32)
    )  # fmt: skip
    return replace(
        scaling, y_shift=jnp.zeros_like(scaling.y_shift), y_scale=jnp.where(scale > 0, scale, 1)
    )


@eqx.filter_jit
def _root_mean_square(sampler: Sampler, batch_size: int, key: PRNGKeyArray) -> Array:
    keys = jax.random.split(key, BATCHES)
    squares = jax.lax.map(lambda k: jnp.mean(sampler(k, batch_size).y ** 2), keys)
    return jnp.sqrt(squares.mean())


def settled(base: LatentMap) -> LatentMap:
    """`base` with arrays of JAX's and numbers of Python's, as a saved one has."""

    def converted(leaf: Any) -> Any:
        if isinstance(leaf, np.generic):
            return leaf.item()
        return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf

    return jax.tree.map(converted, base)
