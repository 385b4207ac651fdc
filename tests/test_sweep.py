"""Sweeps: their runs, whatever kills them, and the tables that come of them."""

import csv
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import morphkit
from morphkit import sweeping
from morphkit.api import asked
from morphkit.cli import main
from morphkit.experiment.grid import Cell, cells, selected, sharded
from morphkit.experiment.sharing import Shared
from morphkit.folder import RunFolder, SweepFolder
from morphkit.report.comparison import write_comparison
from morphkit.wiring.configuration import ConfigurationError

GRID = """
sweep.grid = {
    'run.paired_fraction': (0.5, 1.0),
    'run.seed': (0, 1),
    'run.aligner': (@aligner.TrueAlignment(), @aligner.GlobalAlignment()),
}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """Two noisy views of three clusters, and a gin file that sweeps over their alignments."""
    folder = tmp_path_factory.mktemp("asked")
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 200)
    x = rng.normal(size=(3, 6))[classes] * 3 + rng.normal(size=(200, 6)) * 0.5
    y = rng.normal(size=(3, 4))[classes] * 3 + rng.normal(size=(200, 4)) * 0.5
    pairs = np.stack([np.arange(30)] * 2, 1)
    np.savez(folder / "arrays.npz", source=x, target=y, pairs=pairs)
    arrays = "\n".join(
        f"Arrays.{name} = {str(folder / 'arrays.npz') + '::' + name!r}"
        for name in ("source", "target", "pairs")
    )
    path = folder / "sweep.gin"
    path.write_text(f"""
include 'align.gin'
run.data = @data.Arrays()
{arrays}
run.wandb = 'disabled'
run.field = @field.MLP
MLP.layers = 1
MLP.hidden = 32
Training.steps = 50
run.baselines = [@baseline.Ridge()]
{GRID}""")
    return path


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "sweep"
    assert sweeping.sweep(file, out=out) == (out, 8, 8, {}, [])
    return out


def tables(out: Path) -> list[list[str]]:
    """The numbers of all runs in `out`, times apart."""
    written = write_comparison([out], out, csv=True)
    rows = list(csv.reader(written[-1].open()))
    assert len(rows) > 8
    return rows


# The grid


def test_the_last_axis_varies_fastest_and_names_say_what_a_run_is():
    found = cells({"run.seed": (0, 1), "how": {"a": ["run.anchor = None"], "b": []}})
    assert [cell.name for cell in found] == ["seed=0,how=a", "seed=0,how=b", "seed=1,how=a",
                                             "seed=1,how=b"]  # fmt: skip
    assert found[2] == Cell({"run.seed": "1", "how": "a"}, ("run.seed = 1", "run.anchor = None"))


def test_a_name_that_says_too_little_ends_in_a_hash():
    long = cells({"run.out": ("x" * 300, "x" * 301)})
    spaced = cells({"run.out": ("a b", "a/b")})
    for found in (long, spaced):
        assert len({cell.name for cell in found}) == 2
        assert all(len(cell.name) < 140 and "/" not in cell.name for cell in found)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (None, r"sweep\.grid must say what varies"),
        ({}, r"sweep\.grid must say what varies"),
        ({"run.seed": 3}, r"sweep\.grid\['run\.seed'\] must be a tuple"),
        ({"run.seed": ()}, r"sweep\.grid\['run\.seed'\] offers nothing"),
        ({"run.seed": (1, 1)}, r"offers 1 twice"),
        ({"how": {"a": "run.seed = 1"}}, r"\['how'\]\['a'\] must be a list of bindings"),
        ({"a.seed": (0,), "b.seed": (0,)}, r"two axes whose folders"),
        ({"how": {"A": [], "a": []}}, r"two runs whose folders"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_by_its_axis(grid, message):
    with pytest.raises(ValueError, match=message):
        cells(grid)


def test_only_names_runs_by_axis_and_label():
    found = cells({"run.seed": (0, 1, 2), "run.field": ("a", "b")})
    kept = selected(found, ["seed=0", "run.seed=2", "field=b"])
    assert [cell.name for cell in kept] == ["seed=0,field=b", "seed=2,field=b"]
    for entry in ("seeds=1", "seed", "seed=3"):
        with pytest.raises(ValueError, match=entry):
            selected(found, [entry])


@pytest.mark.parametrize("parts", [1, 3, 7, 9])
def test_shards_are_all_runs_each_once_and_in_order(parts):
    found = cells({"run.seed": tuple(range(7))})
    shards = [sharded(found, f"{k + 1}/{parts}") for k in range(parts)]
    assert [cell for shard in shards for cell in shard] == found
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_a_shard_that_is_none_is_refused(shard):
    with pytest.raises(ValueError, match="--shard"):
        sharded(cells({"run.seed": (0,)}), shard)


def test_what_a_run_shares_with_the_one_before_is_made_once():
    shared, made = Shared(), []
    for identity in ("a", "a", "b", "a"):
        assert shared.once("stage", identity, lambda i=identity: made.append(i) or i) == identity
    shared.once("other", "a", lambda: made.append("other"))
    assert made == ["a", "b", "a", "other"]


# Before anything is computed


def test_a_wrong_run_is_found_before_the_first_begins(file, tmp_path):
    bad = ["sweep.grid = {'run.seed': (0, 1), 'run.paired_fraction': (0.5, 2.0)}"]
    with pytest.raises(ConfigurationError, match=r"seed=0,paired_fraction=2\.0: run\.paired_fract"):
        sweeping.sweep(file, bad, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_file_without_a_grid_is_no_sweep(tmp_path):
    with pytest.raises(ConfigurationError, match=r"sweep\.grid must say what varies"):
        sweeping.plan("quickstart.gin", out=tmp_path / "out")


def test_a_file_with_a_grid_is_a_run_too(file):
    """In a process that has not swept."""
    code = f"from morphkit.api import asked; print('sweep' in asked([{str(file)!r}], [])[1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_a_sweep_refuses_the_folder_of_something_else(file, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ConfigurationError, match="no sweep wrote"):
        sweeping.plan(file, out=tmp_path)
    with pytest.raises(ConfigurationError, match="is a file"):
        sweeping.plan(file, out=tmp_path / "mine.txt")


def test_a_sweep_refuses_another_over_other_axes(file, whole):
    with pytest.raises(ConfigurationError, match=r"over run\.paired_fraction, .* this one is over"):
        sweeping.plan(file, ["sweep.grid = {'run.seed': (0, 1)}"], out=whole)


def test_a_finished_run_of_another_configuration_is_named(file, whole):
    with pytest.raises(ConfigurationError, match="finished, and of another configuration"):
        sweeping.plan(file, ["Training.steps = 100"], out=whole)


def test_a_finished_run_is_known_by_what_it_is_not_by_how_that_was_said(file, whole, tmp_path):
    """A name for a value, and defaults that are given, change nothing; another field does."""
    words = ["STEPS = 50", "Training.steps = %STEPS", "MLP.size = 'small'"]
    runs = sweeping.plan(file, words, out=whole)
    assert [run.state for run in runs] == ["finished"] * 8
    assert runs[0].gin != runs[0].folder.config.read_text()
    others = "MLP.hidden = 33", "run.baselines = []", "BridgeCost.metric_x = 'sqeuclidean'"
    for binding in others:
        with pytest.raises(ConfigurationError, match="of another configuration"):
            sweeping.plan(file, [binding], out=whole)
    shutil.copytree(whole, tmp_path / "older")
    with (tmp_path / "older" / runs[0].cell.name / "config.gin").open("a") as config:
        config.write("Training.gone = 1\n")
    with pytest.raises(ConfigurationError, match="of another configuration"):
        sweeping.plan(file, out=tmp_path / "older")


def test_what_an_included_file_binds_may_be_overridden_in_the_file(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text("include 'quickstart.gin'\nrun.choice = None\nrun.anchor = None\n")
    experiment, _ = asked([path], [])
    assert experiment.choice is None
    path.write_text("include 'quickstart.gin'\nLowRankSinkhorn.rank = 3\n")
    with pytest.raises(ConfigurationError, match=r"that nothing uses: .*LowRankSinkhorn\.rank"):
        asked([path], [])


# Runs


def test_a_run_of_a_sweep_is_the_run_by_itself(file, whole, tmp_path):
    name = "paired_fraction=1.0,seed=1,aligner=GlobalAlignment"
    alone = morphkit.run(RunFolder(whole / name).config, [], tmp_path / "alone")
    kept = json.loads((whole / name / "metrics.json").read_text())
    assert len(alone.metrics) == len(kept) > 10
    for metric, value in alone.metrics.items():
        if not metric.startswith("time/"):
            assert kept[metric] == pytest.approx(value, rel=1e-6), metric


def test_what_is_finished_is_left_and_a_larger_grid_goes_on(file, whole, tmp_path, capsys):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("metrics.json")}
    said: list[str] = []
    grid = GRID.replace("(0, 1)", "(0, 1, 2)").strip()
    grown = sweeping.sweep(file, [grid], out=whole, only=["seed=2", "seed=0"], tell=said.append)
    assert grown == (whole, 8, 8, {}, [])
    assert said[0] == "4 of 8 runs are finished already"
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert len(SweepFolder(whole).runs) == 12
    for name in [name for name in SweepFolder(whole).runs if "seed=2" in name]:
        (whole / name / "run.json").unlink()  # as the other tests expect it


def test_features_couplings_and_baselines_are_computed_once_for_neighbours(
    file, tmp_path, monkeypatch
):
    counted = {"features": 0, "ridge": 0}

    def counting(name, function):
        def called(*args, **kwargs):
            counted[name] += 1
            return function(*args, **kwargs)

        return called

    import morphkit_baselines.linear

    from morphkit.experiment import prepare

    ridge = morphkit_baselines.linear.Ridge
    monkeypatch.setattr(prepare, "features_of", counting("features", prepare.features_of))
    monkeypatch.setattr(ridge, "fit", counting("ridge", ridge.fit))
    sweeping.sweep(file, out=tmp_path / "out", only=["seed=0"])
    assert counted == {"features": 1, "ridge": 2}


def test_a_run_that_fails_is_told_and_the_others_go_on(file, tmp_path, capsys):
    bindings = ["sweep.grid = {'run.paired_fraction': (0.01, 1.0)}",
                "run.anchor = @baseline.Ridge()"]  # fmt: skip
    out = tmp_path / "out"
    swept = sweeping.sweep(file, bindings, out=out)
    assert (swept.finished, swept.total) == (1, 2)
    assert list(swept.failed) == ["paired_fraction=0.01"]
    assert "needs pairs of two source points" in swept.failed["paired_fraction=0.01"]
    code = main(["sweep", str(file), "--out", str(out), "--set", bindings[0], "--set", bindings[1]])
    shown = capsys.readouterr()
    assert code == 1
    assert "1 of 2 runs are finished" in shown.out
    assert "failed: paired_fraction=0.01: ValueError: " in shown.err


def test_a_run_that_is_at_work_elsewhere_is_left_to_it(file, tmp_path):
    name = "paired_fraction=0.5,seed=0,aligner=TrueAlignment"
    out = tmp_path / "out"
    SweepFolder(out).keep(
        {name: {"run.paired_fraction": "0.5", "run.seed": "0", "run.aligner": ""}}
    )
    with RunFolder(out / name).opened():
        swept = sweeping.sweep(file, out=out, only=["seed=0", "paired_fraction=0.5"])
    assert swept.elsewhere == [name]
    assert swept.finished == 1


def test_a_run_that_another_process_finished_meanwhile_is_no_failure(file, tmp_path):
    out, told = tmp_path / "out", []
    kept = ["paired_fraction=0.5", "seed=0"]

    def tell(text: str) -> None:
        if not told:
            told.append(text)
            sweeping.sweep(file, out=out, only=[*kept, "aligner=GlobalAlignment"])

    assert sweeping.sweep(file, out=out, only=kept, tell=tell) == (out, 2, 2, {}, [])


def test_a_dry_run_lists_runs_and_states_and_computes_nothing(file, whole, capsys):
    arguments = ["sweep", str(file), "--out", str(whole), "--dry-run"]
    assert main([*arguments, "--only", "seed=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"finished  {n}" for n in SweepFolder(whole).runs if "seed=1" in n]
    assert main([*arguments[:-2], str(whole.parent / "new"), "--dry-run", "--shard", "2/4"]) == 0
    assert [ln.split()[:2] for ln in capsys.readouterr().out.splitlines()] == [["to", "do"]] * 2
    assert not (whole.parent / "new").exists()


def test_a_sweep_killed_five_times_ends_with_the_tables_of_one_that_was_not(file, whole, tmp_path):
    """At random moments of its eight runs."""
    out, chance = tmp_path / "sweep", random.Random(0)
    command = [sys.executable, "-m", "morphkit.cli", "sweep", str(file), "--out", str(out)]
    kills = 0
    for _ in range(30):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            # Runs take about a second each, once the process is there.
            until = time.monotonic() + 120
            while kills < 5 and not out.exists() and time.monotonic() < until:
                time.sleep(0.05)
            process.wait(timeout=chance.uniform(4, 7) if kills < 5 else 300)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        if kills >= 5:
            break
        begun = [one for one in sweeping.plan(file, out=out) if one.state == "finished"]
        (begun[0].folder.path / "run.json").unlink()  # it was quick: one more to do
    assert kills == 5
    assert process.stderr is not None
    assert process.returncode == 0, process.stderr.read().decode()
    assert tables(out) == tables(whole)


def test_two_jobs_at_once_give_the_tables_of_one_process(file, whole, tmp_path):
    """By the local executor of submitit: on a cluster it is the same path."""
    out = tmp_path / "sweep"
    said: list[str] = []
    swept = sweeping.submit(file, out=out, jobs=2, tell=said.append)
    assert swept == (out, 8, 8, {}, [])
    assert any("jobs" in text for text in said)
    assert len(list((out / "jobs").glob("*_result.pkl"))) == 2
    assert tables(out) == tables(whole)


def test_a_job_that_dies_is_told(file, tmp_path):
    bindings = ["sweep.grid = {'run.paired_fraction': (0.01,)}", "run.anchor = @baseline.Ridge()"]
    swept = sweeping.submit(file, bindings, out=tmp_path / "out", jobs=1)
    assert (swept.finished, swept.total) == (0, 1)
    assert "needs pairs of two source points" in swept.failed["paired_fraction=0.01"]


# Tables


def test_runs_of_a_sweep_are_grouped_by_its_axes(whole, tmp_path, capsys):
    assert main(["report", str(whole), "--out", str(tmp_path), "--markdown", "--csv"]) == 0
    names = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert names == ["comparison.html", "comparison.md", "comparison.csv"]
    text = (tmp_path / "comparison.md").read_text()
    assert "| | 50 % pairs | 100 % pairs |" in text
    rows = list(csv.DictReader((tmp_path / "comparison.csv").open()))
    found = {(r["row"], r["paired_fraction"], r["seeds"]) for r in rows}
    assert {("aligner=TrueAlignment", "0.5", "2"), ("aligner=GlobalAlignment", "1.0", "2"),
            ("ridge", "0.5", "2")} <= found  # fmt: skip
    assert {r["better"] for r in rows if r["metric"] == "paired_mse"} == {"lower"}


def test_the_mean_in_the_table_is_that_of_the_runs(whole, tmp_path):
    (*_, path) = write_comparison([whole], tmp_path, csv=True)
    rows = list(csv.DictReader(path.open()))
    for row in rows:
        if row["row"] != "aligner=GlobalAlignment" or row["metric"].startswith("coupling"):
            continue
        values = [
            json.loads((whole / name / "metrics.json").read_text())[f"morph/{row['metric']}"]
            for name, labels in SweepFolder(whole).runs.items()
            if labels["run.aligner"] == "GlobalAlignment"
            and labels["run.paired_fraction"] == row["paired_fraction"]
            and (whole / name / "run.json").exists()
        ]
        assert float(row["mean"]) == pytest.approx(np.mean(values))
        assert float(row["deviation"]) == pytest.approx(np.std(values, ddof=1))


def test_runs_are_grouped_by_any_binding(whole, tmp_path):
    groups = {}
    for by in ("run.aligner", "cost", "Training.steps", "BridgeCost.metric_x"):
        (*_, path) = write_comparison([whole], tmp_path, by=[by], csv=True)
        ours = {r["row"] for r in csv.DictReader(path.open()) if r["ours"] == "1"}
        groups[by] = {row for row in ours if not row.endswith(", coupling")}
    assert groups["run.aligner"] == {"aligner=TrueAlignment", "aligner=GlobalAlignment"}
    assert {row.partition("=")[0] for row in groups["cost"]} == {"cost"}
    assert groups["Training.steps"] == {"steps=50"}
    assert groups["BridgeCost.metric_x"] == {"metric_x=cosine"}
    with pytest.raises(ValueError, match=r"--by Sinkhorn\.rank"):
        write_comparison([whole], tmp_path, by=["Sinkhorn.rank"])


def test_a_sweep_of_which_nothing_is_finished_has_no_tables(file, tmp_path):
    SweepFolder(tmp_path).keep({"a": {"run.seed": "0"}})
    with pytest.raises(ValueError, match="no run of the sweep"):
        write_comparison([tmp_path], tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "trials.csv").touch()
    with pytest.raises(ValueError, match="of searches, not of runs"):
        write_comparison([tmp_path], tmp_path)
