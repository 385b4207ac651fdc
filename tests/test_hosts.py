"""Two processes that make one run together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

import morphkit
from morphkit.cli import main
from morphkit.hosts import Place, asked, told, writes

FEW = ["--set", "run.baselines = []", "--set", "Training.batch_size = 64"]


LONG = ["--set", "Training.steps_per_dispatch = 10", "--set", "Training.steps = 300",
        "--set", "run.evaluators = []"]  # fmt: skip
SMALL = ["--set", "run.field = @field.MLP", "--set", "MLP.layers = 1", "--set", "MLP.hidden = 16"]
SAVING = ["--set", "Training.checkpoint_seconds = 0.0"]


@pytest.fixture(scope="module")
def request_of(tmp_path_factory) -> list[str]:
    """A request to align 501 points with 300, by 60 pairs, but for the folder."""
    folder, rng = tmp_path_factory.mktemp("arrays"), np.random.default_rng(0)
    labels = rng.integers(0, 10, 501), rng.integers(0, 10, 300)
    for name, k, d in zip(("x", "y"), labels, (9, 6), strict=True):
        points = rng.normal(size=(10, d))[k] + 0.5 * rng.normal(size=(len(k), d))
        np.save(folder / f"{name}.npy", points)
    source = rng.permutation(501)[:60]
    target = [rng.choice(np.flatnonzero(labels[1] == labels[0][i])) for i in source]
    np.savetxt(folder / "pairs.csv", np.stack([source, target], 1), fmt="%d", delimiter=",")
    arrays = {"source": "x.npy", "target": "y.npy", "pairs": "pairs.csv"}
    named = [part for name, file in arrays.items() for part in (f"--{name}", str(folder / file))]
    return ["align", *named, "--method", "global", *FEW]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def ours(k: int, port: int) -> dict[str, str]:
    where = {"COORDINATOR": f"localhost:{port}", "PROCESSES": "2", "PROCESS": str(k)}
    return {f"MORPHKIT_{name}": value for name, value in where.items()}


def slurm(k: int, port: int) -> dict[str, str]:
    said = {
        "JOB_ID": str(port), "STEP_NODELIST": "localhost", "NTASKS": "2", "STEP_NUM_TASKS": "2",
        "PROCID": str(k), "LOCALID": str(k),
    }  # fmt: skip
    return {f"SLURM_{name}": value for name, value in said.items()}


COMMAND = "import sys; from morphkit.cli import main; sys.exit(main(sys.argv[1:]))"


def started(
    arguments: list[str], environment: Mapping[str, str], code: str = COMMAND
) -> subprocess.Popen:
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=os.environ | path | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture
def two() -> Iterator:
    """Starts two processes with the same arguments; none of them outlives the test."""
    begun: list[subprocess.Popen] = []

    def start(arguments: list[str], say=ours, code: str = COMMAND) -> list[subprocess.Popen]:
        port = free_port()
        begun.extend(started(arguments, say(k, port), code) for k in range(2))
        return begun[-2:]

    yield start
    for process in begun:
        process.kill()
        process.wait()


def ended(processes: list[subprocess.Popen]) -> list[tuple[str, str]]:
    """What they said, when all of them have succeeded."""
    said = [process.communicate(timeout=240) for process in processes]
    for process, (_, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return said


def test_two_processes_give_what_one_does(request_of, tmp_path, two):
    asking = [*request_of, *SMALL, "--set", "Training.steps = 30", "--out"]
    assert main([*asking, str(tmp_path / "one")]) == 0
    first, second = ended(two([*asking, str(tmp_path / "two")]))
    assert "report.html" in first[0]
    assert "report.html" not in second[0]
    assert sorted(os.listdir(tmp_path / "one")) == sorted(os.listdir(tmp_path / "two"))
    points = request_of[request_of.index("--source") + 1]
    files = ["--input", points, "--output", str(tmp_path / "y.npy")]
    predict = ["predict", str(tmp_path / "two/morph"), *files]
    (out, _), (nothing, _) = ended(two(predict, slurm))
    assert "(501, 6)" in out
    assert "501" not in nothing
    one = np.asarray(morphkit.load(tmp_path / "one/morph")(np.load(points)))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), one, atol=1e-4 * np.abs(one).max())


def test_a_killed_process_ends_the_other_and_one_alone_goes_on(request_of, tmp_path, two, capsys):
    asking = [*request_of, *LONG, "--out"]
    first, second = two([*asking, str(tmp_path / "two"), *SAVING])
    at_work(tmp_path / "two", first)
    second.send_signal(signal.SIGKILL)
    _, said = first.communicate(timeout=100)
    assert first.returncode not in (0, None)
    assert "another process of this run is lost" in said
    assert "goes on from the last checkpoint" in said
    assert main([*asking, str(tmp_path / "two"), *SAVING]) == 0
    assert "training goes on from step" in capsys.readouterr().err
    assert main([*asking, str(tmp_path / "one")]) == 0
    points = np.load(request_of[request_of.index("--source") + 1])
    found, one = (np.asarray(morphkit.load(tmp_path / k / "morph")(points)) for k in ("two", "one"))
    np.testing.assert_allclose(found, one, atol=1e-3 * np.abs(one).max())


def at_work(folder: Path, process: subprocess.Popen) -> None:
    """Waits for the first checkpoint in `folder`, which `process` writes."""
    deadline = time.monotonic() + 120
    while not any(folder.glob("checkpoint-*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_asked_to_stop_one_of_them_stops_all(request_of, tmp_path, two):
    first, second = two([*request_of, *LONG, *SAVING, "--out", str(tmp_path / "two")])
    at_work(tmp_path / "two", first)
    second.send_signal(signal.SIGTERM)
    for process, code in ((first, 130), (second, 143)):
        _, said = process.communicate(timeout=100)
        assert process.returncode == code, said[-3000:]
        assert "interrupted; the same request" in said
    assert any((tmp_path / "two").glob("checkpoint-*"))


FETCHED = """
import os, signal, sys, time
import jax
import numpy as np
from morphkit.devices import devices
from morphkit.hosts import any_of_all, join, told
from morphkit.types import Cloud, PairedData, Pairs
from morphkit_costs.bridge import BridgeCost
from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn
from morphkit_solvers.sinkhorn import Sinkhorn

signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
assert join()
rng = np.random.default_rng(0)
x, y = Cloud.uniform(rng.normal(size=(64, 3))), Cloud.uniform(rng.normal(size=(30, 4)))
data = PairedData(x, y, Pairs.from_array(np.stack([np.arange(10)] * 2, 1)))
with devices():
    cost = BridgeCost().prepare(data)
    assert not cost.a.is_fully_replicated
    for solver in (BridgeSinkhorn(), Sinkhorn()):
        coupling = solver.solve(cost, x, y)
        for found in (
            cost.matrix(), coupling.marginal(0), coupling.marginal(1), coupling.to_dense(),
            coupling.barycentres(y.points), coupling.sample(jax.random.key(0), 9)[1],
        ):
            assert np.isfinite(np.asarray(found)).all()
mine = int(os.environ["MORPHKIT_PROCESS"])
assert told({"mine": mine}) == {"mine": 0}
assert any_of_all(mine == 1) and not any_of_all(False)
print("done", flush=True)
time.sleep(60)
"""


def test_what_is_shared_out_can_be_fetched_and_signals_come_through(two):
    """JAX's own service would take SIGTERM."""
    processes = two([], code=FETCHED)
    for process in processes:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line == "done\n" for line in lines), process.communicate()[1][-3000:]
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(timeout=20) for process in processes] == [7, 7]


def test_different_requests_are_refused(request_of, tmp_path, two):
    first, second = (
        started([*request_of, "--out", str(tmp_path / str(k))], ours(k, port))
        for port in [free_port()]
        for k in range(2)
    )
    for process in (first, second):
        _, said = process.communicate(timeout=100)
        assert process.returncode == 2
        assert "ask for different things" in said


def test_a_wrong_request_is_told_by_both(request_of, tmp_path, two):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for process in two([*request_of, "--out", str(tmp_path / "full")]):
        _, said = process.communicate(timeout=100)
        assert process.returncode == 2
        assert "holds what no run of morphkit wrote" in said
    assert os.listdir(tmp_path / "full") == ["mine.txt"]


def test_a_process_by_itself_tells_itself():
    assert asked({}) is None
    assert asked({"SLURM_NTASKS": "4", "SLURM_PROCID": "1"}) is None
    assert writes()
    assert told({"a": [1, None]}) == {"a": [1, None]}


def test_the_environment_says_which_process_this_is():
    assert asked(ours(1, 99)) == Place("localhost:99", 2, 1)
    assert asked(slurm(1, 99)) == Place(None, 2, 1)
    assert asked(slurm(1, 99) | {"MORPHKIT_PROCESSES": "1"}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MORPHKIT_PROCESS": ""}, "but not MORPHKIT_PROCESS; set all three"),
        ({"MORPHKIT_PROCESS": "2"}, "MORPHKIT_PROCESS = 2 of MORPHKIT_PROCESSES = 2: has to be"),
        ({"MORPHKIT_PROCESSES": "two"}, "MORPHKIT_PROCESSES = two: has to be"),
    ],
)
def test_an_environment_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        asked(ours(0, 99) | change)
