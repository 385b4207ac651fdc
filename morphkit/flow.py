"""The U-GENOT loss (Eq. 4) and the one training loop."""

import json
import time
from pathlib import Path
from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, Scalar

from .interfaces import Report, Sampler, VelocityField, silent
from .serial import load_arrays, save_arrays
from .types import Batch

Standardise = Literal["each", "whole", "none"]


class Reweighting(eqx.Module):
    """A non-negative function of one point (η or ξ of App. L.1): an MLP as in Klein et al. 2023."""

    network: eqx.nn.MLP

    def __init__(self, dim: int, *, key: PRNGKeyArray) -> None:
        self.network = eqx.nn.MLP(dim, "scalar", 256, 3, jax.nn.silu, jax.nn.softplus, key=key)

    def __call__(self, point: Float[Array, " d"]) -> Scalar:
        return self.network(point)


class Networks(eqx.Module):
    """Everything that is trained: the velocity field and, when asked for, η and ξ."""

    field: VelocityField
    eta: Reweighting | None
    xi: Reweighting | None


class Scaling(eqx.Module):
    """The affine maps between features and what the networks see.

    Both sides are centred, and target coordinates all divided by one number, so that directions
    (and cosines) keep their meaning. Source coordinates are divided by "each" one's standard
    deviation, or, "whole", likewise all by one number: better where those of little variance
    are noise, as of principal components. With "none" both sides are left as they are.
    """

    x_shift: Float[Array, " p"]
    x_scale: Float[Array, " p"]
    y_shift: Float[Array, " q"]
    y_scale: Scalar

    @classmethod
    def fit(
        cls, x: Float[Array, "n p"], y: Float[Array, "m q"], standardise: Standardise
    ) -> "Scaling":
        if standardise == "none":
            zeros = jnp.zeros(x.shape[1]), jnp.ones(x.shape[1]), jnp.zeros(y.shape[1])
            return cls(*zeros, jnp.array(1.0))

        def usable(std: Array, points: Array) -> Array:
            # What rounding leaves of a constant coordinate is no scale.
            return jnp.where(std > 1e-6 * jnp.abs(points).max(0), std, 1.0)

        def whole(points: Array) -> Scalar:
            std = jnp.sqrt(((points - points.mean(0)) ** 2).mean())
            return usable(std, jnp.abs(points).max()[None])

        x_scale = usable(x.std(0), x) if standardise == "each" else jnp.full(x.shape[1], whole(x))
        return cls(x.mean(0), x_scale, y.mean(0), whole(y))

    def x(self, points: Float[Array, "... p"]) -> Float[Array, "... p"]:
        return (points - self.x_shift) / self.x_scale

    def y(self, points: Float[Array, "... q"]) -> Float[Array, "... q"]:
        return (points - self.y_shift) / self.y_scale

    def y_inverse(self, points: Float[Array, "... q"]) -> Float[Array, "... q"]:
        return points * self.y_scale + self.y_shift


def flow_loss(
    field: VelocityField,
    x: Float[Array, "b p"],
    y: Float[Array, "b q"],
    key: PRNGKeyArray,
    noise_scale: float = 1.0,
) -> Scalar:
    """The conditional flow matching term of Eq. 4, averaged over the batch.

    |v_θ(t, t y + (1 - t) z | x) - (y - z)|², summed over target coordinates, with t ~ U[0, 1]
    and z ~ N(0, noise_scale² I).
    """
    key_t, key_z = jax.random.split(key)
    t = jax.random.uniform(key_t, (len(y), 1))
    z = noise_scale * jax.random.normal(key_z, y.shape)
    velocity = jax.vmap(field)(t[:, 0], t * y + (1 - t) * z, x)
    return jnp.mean(jnp.sum((velocity - (y - z)) ** 2, axis=1))


def genot_loss(
    networks: Networks, scaling: Scaling, batch: Batch, key: PRNGKeyArray, noise_scale: float
) -> Scalar:
    """The whole of Eq. 4: the flow term, and the regressions of η and ξ where they exist."""
    loss = flow_loss(networks.field, scaling.x(batch.x), scaling.y(batch.y), key, noise_scale)
    if networks.eta is not None:
        eta = jax.vmap(networks.eta)(scaling.x(batch.x_marginal))
        loss += jnp.mean((eta - batch.eta) ** 2)
    if networks.xi is not None:
        xi = jax.vmap(networks.xi)(scaling.y(batch.y_marginal))
        loss += jnp.mean((xi - batch.xi) ** 2)
    return loss


class Training(eqx.Module):
    """The training loop of Algorithm 1, with the paper's defaults.

    `steps_per_dispatch` steps run in one compiled call. `standardise` ("each", "whole" or
    "none") scales features to unit size for the networks, see `Scaling`; `reweight` trains η and
    ξ beside the field; with `decay` the learning rate falls to 0, by a cosine.
    """

    steps: int = eqx.field(static=True, default=10_000)
    batch_size: int = eqx.field(static=True, default=256)
    learning_rate: float = eqx.field(static=True, default=1e-4)
    noise_scale: float = eqx.field(static=True, default=1.0)
    standardise: Standardise = eqx.field(static=True, default="each")
    decay: bool = eqx.field(static=True, default=False)
    reweight: bool = eqx.field(static=True, default=False)
    steps_per_dispatch: int = eqx.field(static=True, default=50)
    checkpoint_seconds: float = eqx.field(static=True, default=60.0)

    def __check_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "noise_scale", "steps_per_dispatch"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Training.{name} = {getattr(self, name)} must be positive")
        if self.standardise not in get_args(Standardise):
            raise ValueError(
                f"Training.standardise = {self.standardise!r} must be one of "
                f"{', '.join(get_args(Standardise))}"
            )

    def fit(
        self,
        networks: Networks,
        scaling: Scaling,
        sampler: Sampler,
        *,
        key: PRNGKeyArray,
        report: Report = silent,
        checkpoint: Path | None = None,
    ) -> Networks:
        """Trains `networks` on batches of `sampler`; their own arrays are consumed.

        The noise of step s depends on `key` and s alone. With a `checkpoint` folder the state
        is saved there every `checkpoint_seconds`, and a run that finds one goes on from it to
        the same result. Raises FloatingPointError when the loss is no longer finite.
        """
        moments = self._optimiser().init(eqx.filter(networks, eqx.is_inexact_array))
        state = (networks, moments)
        start, state = _resume(checkpoint, state)
        saved = time.monotonic()
        step = start
        while step < self.steps:
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
            report(step, self.steps, {"loss": loss})
            if checkpoint and time.monotonic() - saved > self.checkpoint_seconds:
                _save(checkpoint, step, state)
                saved = time.monotonic()
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


def _save(folder: Path, step: int, state: Any) -> None:
    save_arrays(folder / f"{step}.safetensors", state)
    partial = folder / "latest.json.partial"
    partial.write_text(json.dumps({"step": step}))
    partial.replace(folder / "latest.json")
    for old in folder.glob("*.safetensors"):
        if old.stem != str(step):
            old.unlink()


def _resume(folder: Path | None, state: Any) -> tuple[int, Any]:
    if folder is None or not (folder / "latest.json").exists():
        return 0, state
    step = json.loads((folder / "latest.json").read_text())["step"]
    return step, load_arrays(folder / f"{step}.safetensors", state)
