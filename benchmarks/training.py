"""Training steps per second: ours against a plain hand-written loop on the same field.

Run it as `python benchmarks/training.py`. Every loop trains the same network on the same pairs
with the same optimiser; rounds alternate between the loops, so that a noisy machine harms them
alike, and the table gives the median and the range over rounds.
"""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from morphkit_aligners.aligners import TrueAlignment
from morphkit_costs.bridge import BridgeCost
from morphkit_fields.adaln import AdaLN
from morphkit_fields.mlp import MLP
from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn

from morphkit.training.flow import Networks
from morphkit.training.loop import Training
from morphkit.training.scaling import Scaling
from morphkit.types import Cloud, PairedData, Pairs

STEPS, ROUNDS, BATCH = 100, 5, 256


def plain_loop(field, x, y) -> Callable[[], None]:
    """What one writes by hand: one jitted optax step, batches indexed on the host."""
    optimiser = optax.adam(1e-4)
    state = [field, optimiser.init(eqx.filter(field, eqx.is_inexact_array))]
    rng = np.random.default_rng(0)

    @eqx.filter_jit
    def step(field, opt_state, x, y, key):
        def loss(field):
            key_t, key_z = jax.random.split(key)
            t = jax.random.uniform(key_t, (len(x), 1))
            z = jax.random.normal(key_z, y.shape)
            v = jax.vmap(field)(t[:, 0], t * y + (1 - t) * z, x)
            return jnp.mean(jnp.sum((v - (y - z)) ** 2, axis=1))

        value, gradient = eqx.filter_value_and_grad(loss)(field)
        updates, opt_state = optimiser.update(gradient, opt_state)
        return eqx.apply_updates(field, updates), opt_state, value

    def train() -> None:
        key = jax.random.key(0)
        for _ in range(STEPS):
            key, now = jax.random.split(key)
            index = rng.integers(0, len(x), BATCH)
            *state[:], value = step(*state, x[index], y[index], now)
        value.block_until_ready()

    return train


def our_loop(field, x, y, steps_per_dispatch: int) -> Callable[[], None]:
    pairs = Pairs.from_array(np.stack([np.arange(len(x))] * 2, 1))
    data = PairedData(Cloud.uniform(x), Cloud.uniform(y), pairs)
    sampler = TrueAlignment().sampler(data, BridgeCost(), BridgeSinkhorn())
    scaling = Scaling.fit(data.x.points, data.y.points, "each")
    training = Training(steps=STEPS, batch_size=BATCH, steps_per_dispatch=steps_per_dispatch)

    def train() -> None:
        fresh = jax.tree.map(jnp.copy, Networks(field, None, None), is_leaf=eqx.is_array)
        jax.block_until_ready(
            eqx.filter(training.fit(fresh, scaling, sampler, key=jax.random.key(0)), eqx.is_array)
        )

    return train


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10_000, 16)).astype(np.float32)
    y = rng.normal(size=(10_000, 4)).astype(np.float32)
    lines = [
        "# Training speed\n",
        f"`python benchmarks/training.py` on {platform.machine()}, {jax.device_count()} device "
        f"({jax.devices()[0].device_kind}), jax {jax.__version__}: {ROUNDS} rounds of {STEPS} "
        f"steps at batch {BATCH}, 16 → 4 dimensions, all pairs; median (min–max) over rounds.\n",
        "| field | plain loop, steps/s | ours / plain | ours / ours with one dispatch per step |",
        "|---|---|---|---|",
    ]
    for cls in (MLP, AdaLN):
        field = cls(16, 4, "small", key=jax.random.key(0))
        loops = [plain_loop(field, x, y), our_loop(field, x, y, 50), our_loop(field, x, y, 1)]
        seconds = []
        for train in loops:
            train()  # compiles
        for _ in range(ROUNDS):
            row = []
            for train in loops:
                start = time.perf_counter()
                train()
                row.append(time.perf_counter() - start)
            seconds.append(row)
            print(cls.__name__, [f"{STEPS / s:.1f} steps/s" for s in row], flush=True)
        plain = [STEPS / row[0] for row in seconds]
        ratios = [[row[k] / row[1] for row in seconds] for k in (0, 2)]
        cells = [f"{cls.__name__} small", *map(spread, (plain, *ratios))]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(
        "\nA ratio above 1 means that ours takes more steps per second. The plain loop dispatches "
        "every step and indexes batches with NumPy; ours draws them on the device."
    )
    out = Path(__file__).parent / "results" / "training.md"
    out.parent.mkdir(exist_ok=True)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


if __name__ == "__main__":
    main()
