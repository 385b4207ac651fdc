"""From a sampler of training batches to a morph."""

from pathlib import Path

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from ..interfaces import Sampler, Tell, VelocityField, silent
from ..morph import Morph
from ..training.flow import Networks, Reweighting
from ..training.loop import Training
from ..training.scaling import Scaling
from ..types import PairedData


def build_networks(
    field: type[VelocityField], p: int, q: int, reweight: bool, key: PRNGKeyArray
) -> Networks:
    """Networks of random weights, by `key`, for source features of dimension `p` and target
    features of dimension `q`: the velocity field of the class `field` and, with `reweight`, η and
    ξ."""

    # One compiled call, since a dispatch per weight would take seconds; a closure of its own,
    # since bindings are no arguments and another configuration must not find this one's result.
    @eqx.filter_jit
    def build(key: PRNGKeyArray) -> Networks:
        key_field, key_eta, key_xi = jax.random.split(key, 3)
        return Networks(
            field(source_dim=p, target_dim=q, key=key_field),  # pyright: ignore[reportCallIssue]
            Reweighting(p, key=key_eta) if reweight else None,
            Reweighting(q, key=key_xi) if reweight else None,
        )

    return build(key)


def train(
    data: PairedData,
    sampler: Sampler,
    networks: Networks,
    training: Training,
    *,
    key: PRNGKeyArray,
    tell: Tell = silent,
    checkpoint: Path | None = None,
) -> Morph:
    """The morph of `networks` trained on batches of `sampler` (Algorithm 1); see `Training.fit`.

    Features are scaled by the points of `data`; the arrays of `networks` are consumed. `training`,
    `key`, `tell` and `checkpoint` are those of `Training.fit`.
    """
    scaling = Scaling.fit(data.x.points, data.y.points, training.standardise)
    networks = training.fit(networks, scaling, sampler, key=key, tell=tell, checkpoint=checkpoint)
    return Morph(networks, scaling, training.noise_scale)
