"""From a sampler of training batches to a morph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from ..interfaces import Baseline, LatentMap, Sampler, Tell, VelocityField, silent
from ..morph import Morph
from ..training.anchor import Anchor, residual_scaling
from ..training.flow import Networks, Reweighting
from ..training.loop import Training
from ..training.scaling import Scaling
from ..training.validation import KeptSampler, hold_out
from ..types import PairedData
from ..wiring.structure import structure

HELD_OUT = 2**32 - 1
"""The part of the key that chooses what is held out: no step has this number."""


def build_networks(
    field: type[VelocityField], p: int, q: int, reweight: bool, key: PRNGKeyArray
) -> Networks:
    """Networks of random weights, by `key`, for source features of dimension `p` and target
    features of dimension `q`: the velocity field of the class `field` and, with `reweight`, η and
    ξ."""

    # One compiled call, since a dispatch per weight would take seconds; kept for the next run of
    # the same request, since to compile it takes seconds, too.
    made_of = getattr(field, "func", field), repr(getattr(field, "keywords", {})), p, q, reweight
    if made_of not in _BUILDERS:
        if len(_BUILDERS) == MOST_BUILDERS:
            _BUILDERS.clear()
        _BUILDERS[made_of] = _builder(field, p, q, reweight)
    return _BUILDERS[made_of](key)


MOST_BUILDERS = 16
_BUILDERS: dict[tuple[Any, ...], Callable[[PRNGKeyArray], Networks]] = {}


def _builder(
    field: type[VelocityField], p: int, q: int, reweight: bool
) -> Callable[[PRNGKeyArray], Networks]:
    """See `build_networks`."""

    @eqx.filter_jit
    def build(key: PRNGKeyArray) -> Networks:
        key_field, key_eta, key_xi = jax.random.split(key, 3)
        return Networks(
            field(source_dim=p, target_dim=q, key=key_field),  # pyright: ignore[reportCallIssue]
            Reweighting(p, key=key_eta) if reweight else None,
            Reweighting(q, key=key_xi) if reweight else None,
        )

    return build


def anchored(
    anchor: Baseline | Literal["coupling"] | None, data: PairedData, new: LatentMap | None
) -> Anchor | None:
    """What the flow starts from, if anything: the baseline `anchor`, fitted to the pairs of `data`,
    or `new`, what the coupling says of new points. Raises ValueError where it says nothing of them,
    where the baseline cannot be fitted, and for a map that could not be saved."""
    if anchor is None:
        return None
    if isinstance(anchor, Baseline):
        found = Anchor.fit(anchor, data)
    elif new is None:
        raise ValueError(
            "run.anchor = 'coupling': this coupling says nothing of new points; take "
            "aligner.RefinedAlignment, or a baseline as anchor, such as @baseline.Ridge()"
        )
    else:
        found = Anchor.of(new, data)
    structure(found.base)
    return found


def train(
    data: PairedData,
    sampler: Sampler,
    networks: Networks,
    training: Training,
    *,
    key: PRNGKeyArray,
    tell: Tell = silent,
    checkpoint: Path | None = None,
    anchor: Anchor | None = None,
    spread: float | None = None,
    watch: Callable[[Morph], dict[str, float]] | None = None,
) -> Morph:
    """The morph of `networks` trained on batches of `sampler` (Algorithm 1); see `Training.fit`.

    Features are scaled by the points of `data`; the arrays of `networks` are consumed. `training`,
    `key`, `tell` and `checkpoint` are those of `Training.fit`, and `watch` sees what it would
    return as a morph. With an `anchor` the flow is that of what its base leaves over; `spread` is
    the root mean square of that, by default the one over the batches. Raises ValueError for
    networks that cannot be anchored, and where `Training.validation` leaves nothing.
    """
    scaling = Scaling.fit(data.x.points, data.y.points, training.standardise)
    held = None
    if training.validation:
        held = hold_out(
            data, sampler, training.validation, training.hold_out, training.batch_size,
            jax.random.fold_in(key, HELD_OUT),
        )  # fmt: skip
        sampler = KeptSampler(sampler, held.mask)
    if anchor is not None:
        networks = anchor.networks(networks, training.noise_scale)
        sampler, held = anchor.sampler(sampler), held and anchor.held(held)
        scaling = residual_scaling(scaling, sampler, training.batch_size, jax.random.key(0), spread)

    def morph(networks: Networks) -> Morph:
        base = None if anchor is None else anchor.base
        return Morph(networks, scaling, training.noise_scale, base=base)

    networks = training.fit(
        networks, scaling, sampler, key=key, tell=tell, checkpoint=checkpoint, held=held,
        watch=watch and (lambda networks: watch(morph(networks))),
    )  # fmt: skip
    return morph(networks)
