"""The one training loop (Algorithm 1)."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, Scalar
from pydantic import Field

from ..checks import Checked, Count, NonNegative, Positive, Share, Whole
from ..devices import gathered, shared_out
from ..files import load_arrays, save_arrays
from ..hosts import any_of_all, told
from ..interfaces import Sampler, Tell, silent
from .flow import Networks, Noise, Time, genot_loss
from .scaling import Scaling, Standardise
from .stopping import deferred
from .validation import HeldOut, HoldOut, validation_loss

logger = logging.getLogger("morphkit")

Below1 = Annotated[float, Field(ge=0, lt=1)]
"""A number in [0, 1)."""

Precision = Literal["float32", "bfloat16"]

PRODUCTS = {"float32": "highest", "bfloat16": "BF16_BF16_F32"}
"""What JAX calls the precision of matrix products."""

Watch = Callable[[Networks], dict[str, float]]
"""What else is asked of networks in training, by the name of each number."""


class Best(eqx.Module):
    """The `networks` with the least validation `loss` so far, and their `step`, among those whose
    expected values are no worse than at the start: their squared error is at most `most`."""

    networks: Networks
    step: Array
    loss: Array
    most: Array


class Training(Checked):
    """The training loop of Algorithm 1, with the paper's defaults.

    Adam takes `steps` steps (with 0 the networks stay as they start) with `learning_rate`, above 0,
    on batches of `batch_size` draws; noise is N(0, `noise_scale`² I), in units of the scaled
    target. `steps_per_dispatch` steps run in one
    compiled call; between calls, `checkpoint_seconds` apart or more, the state is saved.

    With `precision` "bfloat16" an accelerator takes the factors of the networks' matrix products in
    bfloat16, and sums in float32; weights, their moments and all else stay in float32. A CPU
    computes in float32.

    `standardise` ("each", "whole" or "none") scales features to unit size for the networks, see
    `Scaling`; `reweight` trains η and ξ beside the field; with `decay` the learning rate falls to
    0, by a cosine.

    What the paper does not do, and so is off:

    - `weight_decay` (AdamW), `clip`, the largest norm of a gradient, and `ema`, the decay of an
      exponential moving average of the weights, which is then the result (shorter over the first
      steps, which would otherwise be those of the start);
    - `dropout`, `time` and `at_zero`, see `flow_loss`;
    - `validation`, a share of the source points that training does not see: of those with a pair
      (`hold_out` = "pairs") or of all ("sources"). Every `evaluate_every` steps, also before the
      first and after the last, the loss is asked there, and the result is the networks with the
      least, those of step 0 among them. It falls already when the spread is learned, so their
      expected values have to be at least as good as at the start, too. With `patience`, training
      ends after so many times without a better one;
    - `watch`: every `evaluate_every` steps, a run's evaluators of maps say how far it is (Fig. 12).
    """

    steps: Whole = eqx.field(static=True, default=10_000)
    batch_size: Count = eqx.field(static=True, default=256)
    learning_rate: Positive = eqx.field(static=True, default=1e-4)
    noise_scale: Positive = eqx.field(static=True, default=1.0)
    standardise: Standardise = eqx.field(static=True, default="each")
    decay: bool = eqx.field(static=True, default=False)
    reweight: bool = eqx.field(static=True, default=False)
    precision: Precision = eqx.field(static=True, default="float32")
    steps_per_dispatch: Count = eqx.field(static=True, default=50)
    checkpoint_seconds: NonNegative = eqx.field(static=True, default=60.0)
    weight_decay: NonNegative = eqx.field(static=True, default=0.0)
    clip: Positive | None = eqx.field(static=True, default=None)
    ema: Below1 = eqx.field(static=True, default=0.0)
    dropout: Below1 = eqx.field(static=True, default=0.0)
    time: Time = eqx.field(static=True, default="uniform")
    at_zero: Share = eqx.field(static=True, default=0.0)
    validation: Below1 = eqx.field(static=True, default=0.0)
    hold_out: HoldOut = eqx.field(static=True, default="pairs")
    evaluate_every: Count | None = eqx.field(static=True, default=None)
    patience: Count | None = eqx.field(static=True, default=None)
    watch: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        for name in ("validation", "watch"):
            if getattr(self, name) and self.evaluate_every is None:
                raise ValueError(
                    f"Training.{name} = {getattr(self, name)} needs Training.evaluate_every, how "
                    "many steps lie between two looks, such as 25"
                )
        if self.patience is not None and not self.validation:
            raise ValueError(
                f"Training.patience = {self.patience} waits for Training.validation, which is 0; "
                "set it to the share of pairs to hold out, such as 0.2"
            )

    @property
    def noise(self) -> Noise:
        """The random part of the loss."""
        return Noise(self.noise_scale, self.time, self.at_zero, self.dropout)

    def fit(
        self,
        networks: Networks,
        scaling: Scaling,
        sampler: Sampler,
        *,
        key: PRNGKeyArray,
        tell: Tell = silent,
        checkpoint: Path | None = None,
        held: HeldOut | None = None,
        watch: Watch | None = None,
    ) -> Networks:
        """Trains `networks` on batches of `sampler`; their own arrays are consumed.

        `scaling` maps features to what the networks see, and `tell` is told the step and the
        loss, a mean over the last dispatch; every `evaluate_every` steps also the "validation" loss
        on `held`, where that is given, with the "validation_error" of expected values and the step
        whose networks would be "kept", and what `watch` says of the networks. The noise of step s
        depends on `key` and s alone. The state is saved in the file `checkpoint`, if one is given:
        every `checkpoint_seconds`, and when SIGTERM or SIGINT comes, which is then delivered. A run
        that finds it goes on from it to the same result. Raises FloatingPointError when the loss is
        no longer finite, and ValueError, which names the file, for a checkpoint that is damaged or
        does not fit.
        """
        if not self.steps:
            return networks
        moments = self._optimiser().init(eqx.filter(networks, eqx.is_inexact_array))
        state = (networks, moments, _copied(networks) if self.ema else None)

        def evaluate(step: int, best: Best | None) -> tuple[Best | None, dict[str, float]]:
            now = _result(state)
            found = {} if watch is None else watch(now)
            if held is None or best is None:
                return best, found
            loss, error = validation_loss(now.field, scaling, held, self.noise)
            if loss < best.loss and error <= best.most:
                most = error if step == 0 else best.most
                best = Best(_copied(now), jnp.int32(step), loss, most)
            said = {"validation": float(loss), "validation_error": float(error)}
            return best, found | said | {"kept": int(best.step)}

        best, none = None, jnp.float32(np.inf)
        if held is not None:
            best = Best(_copied(networks), jnp.int32(0), none, none)
        start, (*found, best) = _resume(checkpoint, self.steps, (*state, best))
        if any_of_all(told(start) != start):
            raise ValueError(
                f"{checkpoint} is of step {start} for this process, and of another one for others; "
                "choose a folder that is the same for all"
            )
        state = tuple(found)
        saved = time.monotonic()
        if start:
            logger.info(f"training goes on from step {start} of {self.steps}")
        elif self.evaluate_every:
            best, found = evaluate(0, best)
            if found:
                tell(0, self.steps, found)
        step = start
        with deferred() as stopped:
            halted = False
            while step < self.steps and not halted and not self._rests(step, best):
                count = min(self.steps_per_dispatch, self.steps - step)
                if self.evaluate_every:
                    count = min(count, self.evaluate_every - step % self.evaluate_every)
                indices = jnp.arange(step, step + count)
                state, losses = _dispatch((self, scaling, sampler, key, indices), state)
                step += count
                loss = float(losses.mean())
                if not jnp.isfinite(loss):
                    raise FloatingPointError(
                        f"the training loss is {loss} at step {step}: look for huge or constant "
                        "features, or lower Training.learning_rate"
                    )
                found = {}
                if self.evaluate_every and (step % self.evaluate_every == 0 or step == self.steps):
                    best, found = evaluate(step, best)
                tell(step, self.steps, {"loss": loss} | found)
                halted = any_of_all(stopped())
                if checkpoint and time.monotonic() - saved > self.checkpoint_seconds:
                    _save(checkpoint, step, (*state, best))
                    saved = time.monotonic()
            if checkpoint and halted:
                _save(checkpoint, step, (*state, best))
                logger.info(f"asked to stop: step {step} of {self.steps} is saved in {checkpoint}")
            if halted and not stopped():
                raise KeyboardInterrupt  # another process was asked
        if best is None:
            return _result(state)
        logger.info(
            f"the networks of step {int(best.step)} are kept, after {step}: their validation loss, "
            f"{float(best.loss):.4g}, is the least of those that predict no worse than the start"
        )
        return best.networks

    def _rests(self, step: int, best: Best | None) -> bool:
        if self.patience is None or self.evaluate_every is None or best is None:
            return False
        return step - int(best.step) >= self.patience * self.evaluate_every

    def _optimiser(self) -> optax.GradientTransformation:
        # Made anew where it is needed: as an argument, its closures would defeat jit's cache.
        rate = self.learning_rate
        rate = optax.cosine_decay_schedule(rate, self.steps) if self.decay else rate
        if self.weight_decay:
            optimiser = optax.adamw(rate, weight_decay=self.weight_decay)
        else:
            optimiser = optax.adam(rate)
        if self.clip is None:
            return optimiser
        return optax.chain(optax.clip_by_global_norm(self.clip), optimiser)


State = tuple[Networks, Any, Networks | None]
"""The networks, the state of the optimiser, and the networks' moving average, if asked for."""


@eqx.filter_jit(donate="all-except-first")
def _dispatch(
    context: tuple[Training, Scaling, Sampler, PRNGKeyArray, Array], state: State
) -> tuple[State, Float[Array, " steps"]]:
    """Many training steps in one compiled call."""
    training, scaling, sampler, key, indices = context
    optimiser = training._optimiser()
    arrays, static = eqx.partition(state, eqx.is_array)

    def step(arrays: Any, index: Array) -> tuple[Any, Scalar]:
        networks, opt_state, average = eqx.combine(arrays, static)
        key_batch, key_loss = jax.random.split(jax.random.fold_in(key, index))
        batch = shared_out(sampler(key_batch, training.batch_size))
        with jax.default_matmul_precision(PRODUCTS[training.precision]):
            loss, gradient = eqx.filter_value_and_grad(genot_loss)(
                networks, scaling, batch, key_loss, training.noise
            )
        weights = eqx.filter(networks, eqx.is_inexact_array)
        updates, opt_state = optimiser.update(gradient, opt_state, weights)
        networks = eqx.apply_updates(networks, updates)
        if average is not None:
            average = _averaged(average, networks, training.ema, index)
        return eqx.filter((networks, opt_state, average), eqx.is_array), loss

    arrays, losses = jax.lax.scan(step, arrays, indices)
    return eqx.combine(gathered(arrays), static), losses


def _averaged(average: Networks, networks: Networks, decay: float, index: Array) -> Networks:
    kept = jnp.minimum(decay, (1 + index) / (10 + index))
    return jax.tree.map(
        lambda a, b: kept * a + (1 - kept) * b if eqx.is_inexact_array(a) else a,
        average, networks,
    )  # fmt: skip


def _result(state: State) -> Networks:
    networks, _, average = state
    return networks if average is None else average


def _copied(networks: Networks) -> Networks:
    """Its arrays outlive those of the original, which the next dispatch consumes."""
    return jax.tree.map(lambda a: jnp.copy(a) if eqx.is_array(a) else a, networks)


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
