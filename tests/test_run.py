"""Whole runs on small data: the API, the command line, the files they leave, and their failures."""

import json
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

import morphkit
from morphkit.cli import main
from morphkit.folder import RunFolder
from morphkit.training.stopping import deferred

# As many steps as one dispatch takes: a remainder would be compiled again.
FAST = ["run.wandb = 'disabled'", "Training.steps = 50", "run.field = @field.MLP", "MLP.layers = 1",
        "MLP.hidden = 64"]  # fmt: skip
PLAIN = ["run.choice = None", "Training.validation = 0.0", "Training.patience = None",
         "Training.evaluate_every = None", "Training.dropout = 0.0"]  # fmt: skip
"""Of the quickstart, no choice: tests/test_choice.py has some."""
QUICK = [*FAST, *PLAIN, "VAEText.steps = 200"]
BARE = [*QUICK, "run.evaluators = [@eval.LabelAccuracy()]", "run.baselines = []"]
UNJUDGED = [*FAST, "run.evaluators = []", "run.baselines = []"]
SET = [part for binding in FAST for part in ("--set", binding)]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MORPHKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def arrays(tmp_path_factory) -> Path:
    """Two noisy views of three clusters, 30 known pairs; as files and, loaded, as arrays."""
    folder = tmp_path_factory.mktemp("arrays")
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 200)
    x = rng.normal(size=(3, 6))[classes] * 3 + rng.normal(size=(200, 6)) * 0.5
    y = rng.normal(size=(3, 4))[classes] * 3 + rng.normal(size=(200, 4)) * 0.5
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    lines = ["source,target", *(f"{i},{i}" for i in range(30))]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The quickstart, with few steps and no choice."""
    return morphkit.run("quickstart.gin", QUICK, tmp_path_factory.mktemp("runs") / "quick")


def test_a_run_leaves_everything(quick):
    for name in ("metrics.json", "config.gin", "report.html", "overview.png", "coupling.png",
                 "log.jsonl", "run.json", "morph/weights.safetensors",
                 "morph/manifest.json"):  # fmt: skip
        assert (quick.out / name).stat().st_size > 0, name
    metrics = json.loads((quick.out / "metrics.json").read_text())
    for name in ("morph/test_accuracy", "baseline/nearest_anchor/test_accuracy",
                 "baseline/ridge/test_accuracy", "baseline/procrustes/test_accuracy",
                 "coupling/matching_accuracy", "coupling/converged", "time/train_s"):  # fmt: skip
        assert isinstance(metrics[name], float), name
    assert metrics["config/pairs"] == 90
    assert not list(quick.out.glob("checkpoint-*"))


def test_the_saved_configuration_runs_again_to_the_same_numbers(quick, tmp_path):
    again = morphkit.run(quick.out / "config.gin", [], tmp_path / "again")
    for name, value in quick.metrics.items():
        if not name.startswith("time/"):
            assert again.metrics[name] == pytest.approx(value, rel=1e-6), name


def test_the_saved_morph_predicts_the_same(quick):
    x = np.random.default_rng(0).uniform(size=(4, 64)).astype(np.float32)
    loaded = morphkit.load(quick.out)
    np.testing.assert_array_equal(loaded(x), quick.morph(x))
    assert loaded.metrics["morph/test_accuracy"] == quick.metrics["morph/test_accuracy"]


def test_a_finished_run_is_not_overwritten(quick):
    before = (quick.out / "metrics.json").read_bytes()
    with pytest.raises(ValueError, match=r"finished run.*--overwrite"):
        morphkit.run("quickstart.gin", QUICK, quick.out)
    assert (quick.out / "metrics.json").read_bytes() == before


def test_an_overwrite_that_fails_leaves_the_finished_run(arrays, tmp_path, monkeypatch):
    x, y = np.load(arrays / "x.npy"), np.load(arrays / "y.npy")
    pairs = np.stack([np.arange(30)] * 2, 1)
    morphkit.align(x, y, pairs, method="global", bindings=UNJUDGED, out=tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("morphkit.experiment.run.write_results", fail)
    with pytest.raises(OSError, match="No space"):
        morphkit.align(
            x, y, pairs, method="global", bindings=UNJUDGED, out=tmp_path, overwrite=True
        )
    assert {p: p.read_bytes() for p in before} == before
    assert not (tmp_path / "replaced").exists()


@pytest.mark.parametrize("method", ["global", "local"])
def test_a_coupling_that_is_not_finite_ends_the_run(arrays, method):
    y = np.load(arrays / "y.npy")
    pairs = np.stack([np.arange(30)] * 2, 1)
    huge = [
        "BridgeCost.metric_x = 'sqeuclidean'",
        "BridgeCost.metric_y = 'sqeuclidean'",
        "BridgeCost.unit = 'none'",
    ]  # in units of their own, such features do no harm
    x = np.random.default_rng(0).normal(size=(len(y), 3)) * 1e25
    with pytest.raises(FloatingPointError, match="huge features"):
        morphkit.align(x, y, pairs, method=method, bindings=[*FAST, *huge])


def test_a_full_disk_leaves_no_finished_run(tmp_path, monkeypatch, capsys):
    def fail(error):
        def write(_):
            raise error

        return write

    place = "morphkit.experiment.results.write_report"
    with monkeypatch.context() as patch:
        patch.setattr(place, fail(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            morphkit.run("quickstart.gin", BARE, tmp_path)
        assert not RunFolder(tmp_path).state["finished"]
        # Goes on, and need not be told to overwrite; a picture that cannot be drawn ends nothing.
        patch.setattr(place, fail(RuntimeError("an odd picture")))
        assert "morph/test_accuracy" in morphkit.run("quickstart.gin", BARE, tmp_path).metrics
    assert "an odd picture" in capsys.readouterr().err
    assert RunFolder(tmp_path).state["finished"]


def test_an_aligned_run_can_be_run_again_from_its_folder(arrays, tmp_path, monkeypatch):
    x, y = np.load(arrays / "x.npy"), np.load(arrays / "y.npy")
    pairs = np.stack([np.arange(30)] * 2, 1)
    first = morphkit.align(
        x, y, pairs, seed=3, test_fraction=0.3, method="local",
        bindings=[*FAST, "run.baselines = []"], out=tmp_path / "a",
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    again = morphkit.run(tmp_path / "a" / "config.gin", out=tmp_path / "b").metrics
    manifest = json.loads((tmp_path / "a" / "morph" / "manifest.json").read_text())
    story = manifest["provenance"]
    assert story["data"]["arguments"]["test_fraction"] == 0.3
    assert {k: v for k, v in again.items() if "time/" not in k} == {
        k: v for k, v in first.metrics.items() if "time/" not in k
    }
    with np.load(tmp_path / "a" / "figures.npz") as figures:
        assert "coupling_bins" in figures  # local, and without labels
    # In place, too: its input is not put aside with the old results.
    morphkit.run(tmp_path / "a" / "config.gin", out=tmp_path / "a", overwrite=True)
    # A loaded morph keeps what people want to know of it, wherever it is saved.
    morphkit.load(tmp_path / "a").save(tmp_path / "c")
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert manifest["seed"] == 3
    assert "morphkit-align" in manifest["plugins"]
    assert "data.Arrays" in (tmp_path / "c" / "config.gin").read_text()


def test_an_argument_that_only_encodes_is_no_reason_to_train_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MORPHKIT_CACHE", str(tmp_path / "cache"))
    for sample in (True, False):
        binding = f"VAEText.sample = {sample}"
        morphkit.run("quickstart.gin", [*BARE, binding], tmp_path / str(sample))
    assert len(list((tmp_path / "cache" / "extractors").iterdir())) == 1
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 4
    monkeypatch.setenv("MORPHKIT_CACHE", str(tmp_path / "True" / "metrics.json"))  # no folder
    morphkit.run("quickstart.gin", BARE, tmp_path / "uncached")
    assert "nothing is cached" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["global", "local"])
def test_align_arrays(arrays, method, tmp_path):
    x, y = np.load(arrays / "x.npy"), np.load(arrays / "y.npy")
    pairs = np.stack([np.arange(30)] * 2, 1)
    morph = morphkit.align(
        x, y, pairs, method=method,
        bindings=[*FAST[2:], "Training.steps = 600", "Training.learning_rate = 3e-3"],
    )  # fmt: skip
    assert morph(x[:7]).shape == (7, 4)
    # Far below the variance of y, of about 9: the morph has learned the clusters.
    assert morph.metrics["morph/paired_mse"] < 2.5
    assert "baseline/ridge/paired_mse" in morph.metrics


def test_a_handful_of_pairs_is_enough(arrays):
    x, y = np.load(arrays / "x.npy"), np.load(arrays / "y.npy")
    few = morphkit.align(x, y, np.stack([np.arange(4)] * 2, 1), method="global", bindings=FAST)
    assert "morph/paired_mse" in few.metrics
    unjudged = morphkit.align(
        x, y, np.array([[0, 0]]), method="global", bindings=FAST, test_fraction=0
    )
    assert "morph/paired_mse" not in unjudged.metrics
    assert unjudged(x[:3]).shape == (3, 4)


def test_two_configurations_in_one_process_do_not_share_networks(arrays):
    x, y = np.load(arrays / "x.npy"), np.load(arrays / "y.npy")
    pairs = np.stack([np.arange(30)] * 2, 1)
    widths = [
        morphkit.align(
            x, y, pairs, method="global", bindings=[*UNJUDGED, f"MLP.hidden = {width}"]
        ).networks.field
        for width in (64, 24)
    ]
    assert [field.hidden for field in widths] == [64, 24]


def test_a_killed_run_goes_on_unless_the_data_changed(arrays, tmp_path, monkeypatch):
    from morphkit.training.loop import Training

    x, y = np.load(arrays / "x.npy"), np.load(arrays / "y.npy")
    pairs = np.stack([np.arange(30)] * 2, 1)
    bindings = [*UNJUDGED, "Training.checkpoint_seconds = 0.0", "Training.steps_per_dispatch = 10"]
    whole = morphkit.align(x, y, pairs, method="global", bindings=bindings)
    fit, seen = Training.fit, []

    def dying(self, *arguments, tell, **rest):
        def kill(step, total, metrics):
            seen.append(step)
            if step == 20 and len(seen) == 2:
                raise KeyboardInterrupt
            tell(step, total, metrics)

        return fit(self, *arguments, tell=kill, **rest)

    monkeypatch.setattr(Training, "fit", dying)
    with pytest.raises(KeyboardInterrupt):
        morphkit.align(x, y, pairs, method="global", bindings=bindings, out=tmp_path / "a")
    other = morphkit.align(
        x + 1, y, pairs, method="global", bindings=bindings, out=tmp_path / "b", overwrite=True
    )
    resumed = morphkit.align(x, y, pairs, method="global", bindings=bindings, out=tmp_path / "a")
    assert seen == [10, 20, *range(10, 51, 10), *range(20, 51, 10)]
    np.testing.assert_array_equal(resumed(x), whole(x))
    assert np.abs(other(x) - whole(x)).max() > 0
    assert not list((tmp_path / "a").glob("checkpoint-*"))


def test_a_signal_that_is_ignored_does_not_end_training():
    """A shell has what it runs in the background ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred() as stopped:
            signal.raise_signal(signal.SIGINT)
            assert not stopped()
    finally:
        signal.signal(signal.SIGINT, before)


def test_sigterm_saves_the_state_and_says_so(arrays, tmp_path):
    """A run that is asked to stop goes on from there, as the same W&B run."""
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "morphkit.cli", "align", "--method", "global",
        "--source", "x.npy", "--target", "y.npy", "--pairs", "pairs.csv", "--out", str(out), *SET,
        "--set", "Training.steps_per_dispatch = 10", "--set", "Training.steps = 1000000",
        "--set", "run.wandb = 'offline'",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=arrays, stderr=subprocess.PIPE, text=True)
    log, deadline = RunFolder(out).log, time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and "train/loss" in log.read_text()):
        time.sleep(0.1)
    process.terminate()
    assert "is saved in" in process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert len(list(out.glob("checkpoint-*.safetensors"))) == 1
    first = RunFolder(out).wandb_id
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # it may be ignored here, and so there
    process = subprocess.Popen(command, cwd=arrays, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    while time.monotonic() < deadline and "goes on from step" not in log.read_text():
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert first is not None
    assert RunFolder(out).wandb_id == first
    assert "goes on from step" in log.read_text()


def test_a_callers_wandb_run_is_left_alone(arrays, tmp_path, monkeypatch):
    import wandb

    wandb.teardown()  # a session that another test began would not see these variables
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    x, y = np.load(arrays / "x.npy"), np.load(arrays / "y.npy")
    pairs = np.stack([np.arange(30)] * 2, 1)
    with wandb.init(dir=str(tmp_path), project="caller", mode="offline") as mine:
        morphkit.align(x, y, pairs, method="global", bindings=FAST[1:], out=tmp_path / "run")
        assert wandb.run is mine
        mine.log({"still": 1.0})
    (stored,) = (tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb")
    assert b"theirs" in stored.read_bytes()


def test_two_alignments_at_once_give_what_each_asked_for(arrays):
    x, y = np.load(arrays / "x.npy"), np.load(arrays / "y.npy")
    pairs = np.stack([np.arange(30)] * 2, 1)

    def width(hidden: int) -> int:
        bindings = [*FAST[:4], f"MLP.hidden = {hidden}"]
        return morphkit.align(x, y, pairs, method="global", bindings=bindings).networks.field.hidden

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(width, (24, 64))) == [24, 64]


def test_align_refuses_to_overwrite_too(quick, arrays):
    x, y = np.load(arrays / "x.npy"), np.load(arrays / "y.npy")
    with pytest.raises(ValueError, match="finished run"):
        morphkit.align(x, y, np.array([[0, 0], [1, 1]]), out=quick.out)


@pytest.mark.parametrize("method", ["global", "local"])
def test_a_cost_that_is_zero_everywhere_is_explained(method, capsys):
    x = np.random.default_rng(0).uniform(1, 2, size=(40, 1))
    morphkit.align(x, x, np.stack([np.arange(10)] * 2, 1), method=method, bindings=FAST)
    assert "does not tell target points apart" in capsys.readouterr().err


def test_align_and_predict_from_the_command_line(arrays, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(arrays)
    out = tmp_path / "out"
    assert main(["align", "--method", "global", "--source", "x.npy", "--target", "y.npy",
                 "--pairs", "pairs.csv", "--out", str(out), *SET]) == 0  # fmt: skip
    said = capsys.readouterr()
    assert "nearest anchor" in said.out
    assert "\nbaselines 5/5" in said.err
    predicted = tmp_path / "deep" / "predicted.npy"
    assert main(["predict", str(out), "--input", "x.npy", "--output", str(predicted),
                 "--draws", "3", "--reduce", "mean"]) == 0  # fmt: skip
    expected = morphkit.load(out)(np.load("x.npy"), draws=3, reduce="mean", key=jax.random.key(0))
    np.testing.assert_array_equal(np.load(predicted), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "gin/nothing.gin"], "no gin file"),
        (["run", "gin/quickstart.gin", "--set", "run.cost = @cost.Bridge()"], "BridgeCost"),
        (["run", "gin/quickstart.gin", "--set", "run.paired_fraction = 0"], "paired_fraction = 0"),
        (["show", "cost.Bridge"], "cost.BridgeCost"),
        (["predict", "nowhere", "--input", "x.npy", "--output", "y.npy"], "no morph"),
        (["report", "nowhere"], "nowhere"),
        (["run", "gin/quickstart.gin", "--out", "x.npy"], "x.npy is a file"),
        (["align", "--source", "no.npy", "--target", "y.npy", "--pairs", "pairs.csv", "--out", "o"],
         "no.npy"),
    ],
)  # fmt: skip
def test_wrong_requests_exit_with_2_and_say_why(arguments, message, arrays, monkeypatch, capsys):
    monkeypatch.chdir(arrays)
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def test_nan_in_an_input_file_is_found_before_anything_is_trained(arrays, tmp_path, capsys):
    x = np.load(arrays / "x.npy")
    x[17, 2] = np.nan
    np.save(tmp_path / "bad.npy", x)
    assert main(["align", "--method", "global", "--source", str(tmp_path / "bad.npy"), "--target",
                 str(arrays / "y.npy"), "--pairs", str(arrays / "pairs.csv"),
                 "--out", str(tmp_path / "out"), *SET]) == 2  # fmt: skip
    assert "source has 1 NaN" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_text_to_image_decodes_images(tmp_path):
    result = morphkit.run(
        "quickstart.gin",
        [*FAST, *PLAIN, "Digits.direction = 'text_to_image'", "run.source = @extractor.VAEText",
         "run.target = @extractor.Identity", "run.evaluators = [@eval.ClassImageMSE()]"],
        tmp_path / "out",
    )  # fmt: skip
    assert 0 < result.metrics["morph/class_image_mse"] < 0.3
    assert "class_decoded" in np.load(tmp_path / "out" / "figures.npz").files


def test_a_damaged_morph_is_named(quick, tmp_path, capsys):
    for name, content in (("weights.safetensors", b"half"), ("manifest.json", b"{}")):
        folder = tmp_path / name
        shutil.copytree(quick.out / "morph", folder)
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            morphkit.load(folder)
    with pytest.raises(ValueError, match="must be real numbers"):
        quick.morph(np.ones((2, 64), complex))


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("run.seed = -1", "run.seed = -1 must be greater than or equal to 0"),
        ("run.baselines = [@baseline.Ridge(), @baseline.Ridge()]", "has ridge twice"),
        ("Digits.direction = 'sideways'", "direction = 'sideways'"),
    ],
)
def test_requests_that_cannot_work_leave_nothing_behind(binding, message, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["run", "gin/quickstart.gin", "--out", str(out), "--set", binding]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "configurable" not in printed
    assert not out.exists()


def test_an_evaluator_that_cannot_work_says_what_is_missing(arrays, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(arrays)
    assert (
        main(
            [
                "align",
                "--method",
                "global",
                "--source",
                "x.npy",
                "--target",
                "y.npy",
                "--pairs",
                "pairs.csv",
                "--out",
                str(tmp_path / "out"),
                *SET,
                "--set",
                "run.evaluators = [@eval.LabelAccuracy(), @eval.PairedError()]",
            ]
        )
        == 1
    )
    assert "labels" in capsys.readouterr().err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "morph/paired_mse" in metrics  # the numbers of the other survive


def python(code: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code], text=True)


def test_importing_morphkit_is_light():
    heavy = "jax", "wandb", "torch", "gin", "ott", "sklearn", "morphkit_costs"
    loaded = python(f"import sys, morphkit; print([m for m in {heavy} if m in sys.modules])")
    assert loaded.strip() == "[]"


@pytest.mark.parametrize(("command", "limit"), [(["--help"], 0.5), (["plugins"], 1.0)])
def test_light_commands_are_fast_and_import_no_jax(command, limit):
    code = (
        "import sys, time, contextlib, io; start = time.perf_counter()\n"
        "from morphkit.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    main({command!r})\n"
        "print('jax' in sys.modules, time.perf_counter() - start)"
    )
    best = min((python(code).split() for _ in range(3)), key=lambda out: float(out[1]))
    assert best[0] == "False"
    assert float(best[1]) < limit


def test_show_and_components(capsys):
    assert main(["show", "cost.BridgeCost"]) == 0
    shown = capsys.readouterr().out
    for part in ("Eq. 6", "run.cost = @cost.BridgeCost()", "cost.BridgeCost.metric_x = 'cosine'"):
        assert part in shown
    assert main(["plugins", "--components", "--json"]) == 0
    names = {row["component"] for row in json.loads(capsys.readouterr().out)}
    assert {"cost.BridgeCost", "solver.Sinkhorn", "data.MNIST", "field.AdaLN"} <= names
