"""One, two and eight devices: the same couplings, draws, training and predictions."""

import os
import subprocess
import sys

import numpy as np
import pytest

from morphkit.cli import main
from morphkit.devices import devices

SOLVED = """
import sys
import jax, jax.numpy as jnp, numpy as np
import morphkit
from morphkit.devices import devices
from morphkit.transport.geometry import PointGeometry
from morphkit.types import Cloud, PairedData, Pairs
from morphkit_costs import bridge, ends
from morphkit_costs.bridge import BridgeCost
from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn
from morphkit_solvers.sinkhorn import Sinkhorn

assert len(jax.devices()) == 8
rng = np.random.default_rng(0)
labels = rng.integers(0, 10, 501), rng.integers(0, 10, 300)
x, y = (rng.normal(size=(10, d))[k] + rng.normal(size=(len(k), d)) for d, k in zip((9, 6), labels))
source = rng.permutation(501)[:60]
target = [rng.choice(np.flatnonzero(labels[1] == labels[0][i])) for i in source]
known = np.stack([source, target], 1)
data = PairedData(Cloud.uniform(x), Cloud.uniform(y), Pairs.from_array(known))
gin = ["Training.steps = 20", "Training.batch_size = 64", "run.baselines = []"]

for count in (1, 2, 8):
    found = {}
    with devices(count):
        for name in ("single", "half"):
            bridge.SINGLE = 2**27 if name == "single" else 0
            ends.nearest.clear_cache()
            geometry = BridgeCost().prepare(data)
            found[name] = BridgeSinkhorn().solve(geometry, data.x, data.y)
        points = PointGeometry(data.x.points[:, :6], data.y.points, "sqeuclidean")
        for name in ("streamed", "tiled"):
            solver = Sinkhorn(0.05, points=100, tiled=name == "tiled")
            found[name] = solver.solve(points, data.x, data.y)
        morph = morphkit.align(x, y, known, method="global", bindings=gin)
        predicted = {
            "morph": morph(x, key=jax.random.key(1)), "expected": morph(x, reduce="expected"),
        }
        if count == 1:
            drawn = jax.tree.map(lambda array: np.array(array), found)
        once = jax.tree.map(jnp.asarray, drawn)
        draws = [coupling.sample(jax.random.key(2), 500) for coupling in once.values()]
    np.savez(
        f"{sys.argv[1]}/{count}.npz", draws=np.asarray(draws), **predicted,
        **{name: pi.to_dense() for name, pi in found.items()},
        **{f"{name} marginal": pi.marginal(1) for name, pi in found.items()},
        **{f"{name} iterations": pi.convergence.iterations for name, pi in found.items()},
    )
"""


def test_eight_devices_give_what_one_does(tmp_path):
    """501 points, which nothing but one and three divides."""
    environment = {
        **os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SOLVED, str(tmp_path)], capture_output=True, text=True,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one = np.load(tmp_path / "1.npz")
    for count in (2, 8):
        several = np.load(tmp_path / f"{count}.npz")
        np.testing.assert_array_equal(several["draws"], one["draws"])
        for name in one.files:
            if name == "draws":
                continue
            assert np.isfinite(several[name]).all()
            scale = np.abs(one[name]).max()
            np.testing.assert_allclose(several[name], one[name], atol=1e-4 * scale, err_msg=name)


def test_more_devices_than_there_are_is_refused(capsys):
    with pytest.raises(ValueError, match=r"devices = 4096, but JAX has"), devices(4096):
        pass
    assert main(["run", "quickstart.gin", "--devices", "0"]) == 2
    assert "devices = 0, but JAX has" in capsys.readouterr().err
