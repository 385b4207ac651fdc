"""The price of a local-alignment step against a true-alignment step with the same field (Fig. 16).

`python benchmarks/local.py` trains on the MNIST latents (500 pairs, batch 256), rounds alternating
between alignments so that a noisy machine harms them alike, and writes results/local.md. Both take
the same number of steps, all of them in compiled calls.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from morphkit_aligners.aligners import LocalAlignment, TrueAlignment
from morphkit_costs.bridge import BridgeCost
from morphkit_costs.geodesic import GeodesicBridgeCost
from morphkit_costs.kcca import KCCACost
from morphkit_costs.knn import KNNCost
from morphkit_fields.adaln import AdaLN
from morphkit_solvers.gromov import FusedGromovWasserstein
from morphkit_solvers.sinkhorn import Sinkhorn
from problems import mnist_clouds, pair

from morphkit.interfaces import Sampler
from morphkit.training.flow import Networks
from morphkit.training.loop import Training
from morphkit.training.scaling import Scaling
from morphkit.transport.couple import Prepared
from morphkit.types import PairedData

ROUNDS, BATCH = 5, 256
STEPS = {"small": 50, "large": 10}
COSTS = {
    "bridge": BridgeCost(),
    "geodesic bridge": GeodesicBridgeCost(),
    "KNN": KNNCost(),
    "KCCA": KCCACost(),
}
SOLVERS = {"linear": Sinkhorn(), "fused, α = 0.5": FusedGromovWasserstein()}


def loop(field: AdaLN, data: PairedData, sampler: Sampler) -> Callable[[], float]:
    scaling = Scaling.fit(data.x.points, data.y.points, "each")
    steps = STEPS[field.size]
    training = Training(steps=steps, batch_size=BATCH, steps_per_dispatch=min(25, steps))

    def train() -> float:
        """Seconds of a step."""
        fresh = jax.tree.map(jnp.copy, Networks(field, None, None), is_leaf=eqx.is_array)
        start = time.perf_counter()
        trained = training.fit(fresh, scaling, sampler, key=jax.random.key(0))
        jax.block_until_ready(eqx.filter(trained, eqx.is_array))
        return (time.perf_counter() - start) / steps

    train()  # compiles
    return train


def main() -> None:
    data = pair(*mnist_clouds(), 500, 0)
    true = TrueAlignment().sampler(data, BridgeCost(), Sinkhorn())
    lines = [
        "# Local alignment, step by step",
        "",
        f"`python benchmarks/local.py` ({platform.machine()}, {os.cpu_count()} cores, no GPU): "
        f"median (min–max) over {ROUNDS} rounds of {STEPS['small']} steps ({STEPS['large']} of the "
        f"large field) at batch {BATCH}, MNIST latents, "
        "500 pairs, ε = 5e-3. A ratio of 2 is a local step that takes twice a true one; "
        "iterations are the solver's mean over 20 minibatches (fused: outer ones).",
        "",
        "| field | cost | solver | true, ms/step | local / true | iterations | converged |",
        "|---|---|---|---|---|---|---|",
    ]
    prepared = {name: cost.prepare(data) for name, cost in COSTS.items()}
    for size, solvers in (("small", SOLVERS), ("large", {"linear": SOLVERS["linear"]})):
        field = AdaLN(data.x.dim, data.y.dim, size, key=jax.random.key(0))
        reference = loop(field, data, true)
        for solver_name, solver in solvers.items():
            for name in COSTS:
                sampler = LocalAlignment().sampler(data, Prepared(prepared[name]), solver)
                ended = sampler.diagnostics(data, BATCH, jax.random.key(0))
                local = loop(field, data, sampler)
                rounds = [(reference(), local()) for _ in range(ROUNDS)]
                steps = spread([1e3 * ours for ours, _ in rounds])
                ratio = spread([theirs / ours for ours, theirs in rounds])
                lines.append(
                    f"| AdaLN {size} | {name} | {solver_name} | {steps} | {ratio} | "
                    f"{ended['iterations']:.0f} | {ended['converged']:.0%} |"
                )
                print(lines[-1], flush=True)
    (Path(__file__).parent / "results" / "local.md").write_text(
        "\n".join(lines) + "\n", encoding="utf-8"
    )


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


if __name__ == "__main__":
    main()
