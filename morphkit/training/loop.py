"""The one training loop (Algorithm 1)."""

import logging
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from ..checks import Checked, Count, NonNegative, Positive
from ..files import load_arrays, save_arrays
from ..interfaces import Sampler, Tell, silent
from .flow import Networks, genot_loss
from .scaling import Scaling, Standardise
from .stopping import deferred

logger = logging.getLogger("morphkit")


class Training(Checked):
    """The training loop of Algorithm 1, with the paper's defaults.

    Adam takes `steps` steps with `learning_rate`, above 0, on batches of `batch_size` draws; noise
    is N(0, `noise_scale`² I), in units of the scaled target. `steps_per_dispatch` steps run in one
    compiled call; between calls, `checkpoint_seconds` apart or more, the state is saved.

    `standardise` ("each", "whole" or "none") scales features to unit size for the networks, see
    `Scaling`; `reweight` trains η and ξ beside the field; with `decay` the learning rate falls to
    0, by a cosine.
    """

    steps: Count = eqx.field(static=True, default=10_000)
    batch_size: Count = eqx.field(static=True, default=256)
    learning_rate: Positive = eqx.field(static=True, default=1e-4)
    noise_scale: Positive = eqx.field(static=True, default=1.0)
    standardise: Standardise = eqx.field(static=True, default="each")
    decay: bool = eqx.field(static=True, default=False)
    reweight: bool = eqx.field(static=True, default=False)
    steps_per_dispatch: Count = eqx.field(static=True, default=50)
    checkpoint_seconds: NonNegative = eqx.field(static=True, default=60.0)

    def fit(
        self,
        networks: Networks,
        scaling: Scaling,
        sampler: Sampler,
        *,
        key: PRNGKeyArray,
        tell: Tell = silent,
        checkpoint: Path | None = None,
    ) -> Networks:
        """Trains `networks` on batches of `sampler`; their own arrays are consumed.

        `scaling` maps features to what the networks see, and `tell` is told the step and the
        loss, a mean over the last dispatch. The noise of step s depends on `key` and s alone. The
        state is saved in the file `checkpoint`, if one is given: every `checkpoint_seconds`, and
        when SIGTERM or SIGINT comes, which is then delivered. A run that finds it goes on from it
        to the same result. Raises FloatingPointError when the loss is no longer finite, and
        ValueError, which names the file, for a checkpoint that is damaged or does not fit.
        """
        moments = self._optimiser().init(eqx.filter(networks, eqx.is_inexact_array))
        state = (networks, moments)
        start, state = _resume(checkpoint, self.steps, state)
        saved = time.monotonic()
        if start:
            logger.info(f"training goes on from step {start} of {self.steps}")
        step = start
        with deferred() as stopped:
            while step < self.steps and not stopped():
                count = min(self.steps_per_dispatch, self.steps - step)
                indices = jnp.arange(step, step + count)
                state, losses = _dispatch((self, scaling, sampler, key, indices), state)
                step += count
                loss = float(losses.mean())
                if not jnp.isfinite(loss):
                    raise FloatingPointError(
                        f"the training loss is {loss} at step {step}: look for huge or constant "
                        "features, or lower Training.learning_rate"
                    )
                tell(step, self.steps, {"loss": loss})
                if checkpoint and time.monotonic() - saved > self.checkpoint_seconds:
                    _save(checkpoint, step, state)
                    saved = time.monotonic()
            if checkpoint and stopped():
                _save(checkpoint, step, state)
                logger.info(f"asked to stop: step {step} of {self.steps} is saved in {checkpoint}")
        return state[0]

    def _optimiser(self) -> optax.GradientTransformation:
        # Made anew where it is needed: as an argument, its closures would defeat jit's cache.
        if self.decay:
            return optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.steps))
        return optax.adam(self.learning_rate)


@eqx.filter_jit(donate="all-except-first")
def _dispatch(
    context: tuple[Training, Scaling, Sampler, PRNGKeyArray, Array], state: tuple[Any, Any]
) -> tuple[tuple[Any, Any], Float[Array, " steps"]]:
    """Many training steps in one compiled call."""
    training, scaling, sampler, key, indices = context
    optimiser = training._optimiser()
    arrays, static = eqx.partition(state, eqx.is_array)

    def step(arrays: Any, index: Array) -> tuple[Any, Scalar]:
        networks, opt_state = eqx.combine(arrays, static)
        key_batch, key_loss = jax.random.split(jax.random.fold_in(key, index))
        batch = sampler(key_batch, training.batch_size)
        loss, gradient = eqx.filter_value_and_grad(genot_loss)(
            networks, scaling, batch, key_loss, training.noise_scale
        )
        updates, opt_state = optimiser.update(gradient, opt_state)
        networks = eqx.apply_updates(networks, updates)
        return eqx.filter((networks, opt_state), eqx.is_array), loss

    arrays, losses = jax.lax.scan(step, arrays, indices)
    return eqx.combine(arrays, static), losses


def _save(file: Path, step: int, state: Any) -> None:
    save_arrays(file, (np.int32(step), state))


def _resume(file: Path | None, steps: int, state: Any) -> tuple[int, Any]:
    if file is None or not file.exists():
        return 0, state
    remedy = "delete it to train from the start"
    step, state = load_arrays(file, (np.int32(0), state), remedy)
    if not 0 <= step <= steps:
        raise ValueError(f"{file} is of step {step}, but Training.steps = {steps}; {remedy}")
    return int(step), state
