"""One device and eight: the same couplings, draws, training and predictions."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from morphkit_costs.bridge import BridgeCost

from morphkit.cli import main
from morphkit.devices import devices
from morphkit.types import Cloud, PairedData, Pairs

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
labels = rng.integers(0, 10, 504), rng.integers(0, 10, 300)
x, y = (rng.normal(size=(10, d))[k] + rng.normal(size=(len(k), d)) for d, k in zip((9, 6), labels))
source = rng.permutation(504)[:60]
target = [rng.choice(np.flatnonzero(labels[1] == labels[0][i])) for i in source]
known = np.stack([source, target], 1)
data = PairedData(Cloud.uniform(x), Cloud.uniform(y), Pairs.from_array(known))
gin = ["Training.steps = 20", "Training.batch_size = 64"]
gin += ["run.baselines = []", "run.evaluators = []"]

for count in (1, 8):
    found, costs = {}, {}
    with devices(count):
        for name in ("single", "half"):
            bridge.SINGLE = 2**27 if name == "single" else 0
            ends.nearest.clear_cache()
            geometry = BridgeCost().prepare(data)
            found[name] = BridgeSinkhorn().solve(geometry, data.x, data.y)
            costs[name] = geometry.matrix()
            if count > 1:
                rows = geometry.a if name == "single" else geometry.a.excess
                assert rows.sharding.spec[0] == "points"
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
        **{f"{name} cost": values for name, values in costs.items()},
        **{f"{name} sources": pi.marginal(0) for name, pi in found.items()},
        **{f"{name} marginal": pi.marginal(1) for name, pi in found.items()},
        **{f"{name} iterations": pi.convergence.iterations for name, pi in found.items()},
    )
"""


def test_eight_devices_give_what_one_does(tmp_path):
    """504 points, so that each has its part; test_hosts.py has two devices, and 501."""
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(sys.path),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SOLVED, str(tmp_path)], capture_output=True, text=True,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one = np.load(tmp_path / "1.npz")
    several = np.load(tmp_path / "8.npz")
    np.testing.assert_array_equal(several["draws"], one["draws"])
    for name in one.files:
        if name == "draws":
            continue
        assert np.isfinite(several[name]).all()
        if name == "half":  # an entry may be rounded to the next float16
            assert np.abs(several[name] - one[name]).sum() < 2**-11
            continue
        scale = np.abs(one[name]).max() * (2**-11 if name == "half cost" else 1e-4)
        np.testing.assert_allclose(several[name], one[name], atol=scale, err_msg=name)


def test_a_mesh_of_the_callers_own_is_left_alone(rng):
    """Its axes are not ours, and so one device does it all."""
    data = PairedData(
        Cloud.uniform(rng.normal(size=(20, 3))), Cloud.uniform(rng.normal(size=(15, 4))),
        Pairs.from_array(np.stack([np.arange(5)] * 2, 1)),
    )  # fmt: skip
    expected = np.asarray(BridgeCost().prepare(data).matrix())
    mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        np.testing.assert_array_equal(BridgeCost().prepare(data).matrix(), expected)


def test_more_devices_than_there_are_is_refused(capsys):
    with pytest.raises(ValueError, match=r"devices = 4096, but JAX has"), devices(4096):
        pass
    assert main(["run", "quickstart.gin", "--devices", "0"]) == 2
    assert "devices = 0, but JAX has" in capsys.readouterr().err
