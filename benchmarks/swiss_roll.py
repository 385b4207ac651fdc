"""Draws how noise becomes the target of a finished run of gin/swiss_roll.gin (Fig. 15).

`python benchmarks/swiss_roll.py runs/swiss_roll` writes docs/swiss_roll.png.
"""

import sys
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import morphkit
from morphkit.data.swiss_roll import SwissRoll

TIMES = jnp.array([0.0, 0.25, 0.5, 0.75, 1.0])


def main() -> None:
    morph = morphkit.load(Path(sys.argv[1]) / "morph")
    test = SwissRoll().load().test
    x = morph.scaling.x(jnp.asarray(test.source))
    noise = morph.noise_scale * jax.random.normal(jax.random.key(0), (len(x), 2))

    @jax.vmap
    def path(x, start):
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, _: morph.networks.field(t, y, x)),  # pyright: ignore
            diffrax.Midpoint(), 0.0, 1.0, 0.05, start, saveat=diffrax.SaveAt(ts=TIMES),
        ).ys  # fmt: skip

    paths = morph.scaling.y_inverse(path(x, noise))
    angle = jnp.linalg.norm(jnp.asarray(test.target), axis=1)
    style = {"c": angle, "s": 4, "cmap": "turbo", "linewidths": 0}
    figure, axes = plt.subplots(1, 7, figsize=(16, 2.8), layout="constrained")
    axes[0].scatter(test.source[:, 0], test.source[:, 2], **style)
    axes[0].set_title("Swiss roll, from above")
    for k, time in enumerate(TIMES):
        axes[k + 1].scatter(*paths[:, k].T, **style)
        axes[k + 1].set_title(f"t = {time:g}")
    axes[-1].scatter(*test.target.T, **style)
    axes[-1].set_title("true spiral")
    for axis in axes:
        axis.set(xticks=[], yticks=[], xlim=(-17, 17), ylim=(-17, 17), aspect="equal")
    figure.savefig(Path(__file__).parent.parent / "docs" / "swiss_roll.png", dpi=130)


if __name__ == "__main__":
    main()
