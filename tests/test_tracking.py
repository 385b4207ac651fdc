"""What Weights & Biases is told of a run, read back from the file that `wandb sync` would send."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wandb.proto import wandb_internal_pb2

import morphkit
from morphkit.api import asked
from morphkit.experiment.tracked import VARIABLES, Swept, configuration, labels

BLOCK = 32_768
"""Bytes of a block of W&B's log, which is LevelDB's with a header of its own."""


def records(path: Path) -> Iterator[Any]:
    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := BLOCK - place % BLOCK) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> tuple[Path, dict[str, list]]:
    """A run's folder, and the records of it by kind."""
    out = tmp_path_factory.mktemp("logged") / "run"
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 5)), rng.normal(size=(80, 4))
    bindings = [
        "run.wandb = @Wandb()", "Wandb.mode = 'offline'", "Wandb.tags = ('pilot',)",
        "Training.steps = 100", "Training.evaluate_every = 50", "run.field = @field.MLP",
        "MLP.layers = 1", "MLP.hidden = 16", "Training.watch = True",
        "run.baselines = [@baseline.Ridge()]",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for variable in (*VARIABLES.values(), "WANDB_MODE"):
            patch.delenv(variable, raising=False)
        pairs = np.stack([np.arange(20)] * 2, 1)
        morphkit.align(x, y, pairs, method="global", bindings=bindings, out=out)
    found: dict[str, list] = {}
    (file,) = out.glob("wandb/offline-run-*/run-*.wandb")
    for record in records(file):
        kind = record.WhichOneof("record_type")
        found.setdefault(kind, []).append(getattr(record, kind))
    return out, found


def values(updates: Any) -> dict[str, Any]:
    return {u.key or "/".join(u.nested_key): json.loads(u.value_json) for u in updates}


def test_a_run_can_be_filtered_while_it_runs(logged):
    """Its configuration is there from the first record, one level a component."""
    ((run,), _) = logged[1]["run"], logged
    config = values(run.config.update)
    assert config["cost"] == {"name": "BridgeCost"} | config["cost"]
    assert config["aligner"]["name"] == "GlobalAlignment"
    assert config["field"] == {"name": "MLP", "layers": 1, "hidden": 16}
    assert config["training"]["steps"] == 100
    assert (config["seed"], config["paired_fraction"]) == (0, 1.0)
    assert "run.field = @field.MLP" in config["gin"]


def test_a_run_is_called_by_what_it_is_made_of(logged):
    ((run,), _) = logged[1]["run"], logged
    assert run.display_name == (
        "Arrays, GlobalAlignment, BridgeCost, Sinkhorn, 100 % of pairs, seed 0"
    )
    assert run.run_group == run.display_name.removesuffix(", seed 0")
    assert list(run.tags) == [
        "GlobalAlignment", "BridgeCost", "Sinkhorn", "100% pairs", "seed 0", "pilot"
    ]  # fmt: skip
    assert (run.job_type, run.project) == ("run", "morphkit")


def test_a_run_of_a_sweep_is_found_by_the_sweep_and_its_axes():
    experiment, text = asked(["quickstart.gin"], ["run.wandb = 'disabled'"])
    swept = Swept("costs", {"run.cost": "BridgeCost", "alignment": "true"})
    said = labels(experiment, experiment.tracked, swept)
    assert said["job_type"] == "sweep"
    assert said["tags"][-1] == "costs"
    found = configuration(experiment, text, swept)
    assert found["sweep"] == {"name": "costs", "cost": "BridgeCost", "alignment": "true"}
    assert "sweep" not in configuration(experiment, text)
    assert labels(experiment, experiment.tracked)["job_type"] == "run"


def test_curves_of_loss_and_evaluations_have_their_steps(logged):
    rows = [values(history.item) for history in logged[1]["history"]]
    curve = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert [step for step, _ in curve] == [50, 100]
    judged = [row["step"] for row in rows if "train/paired_mse" in row]
    assert judged[-2:] == [50, 100]


def test_the_summary_has_every_number_of_the_run_once(logged):
    out, found = logged
    summary: dict[str, Any] = {}
    for record in found["summary"]:
        summary |= values(record.update)
    metrics = json.loads((out / "metrics.json").read_text())
    for name, value in metrics.items():
        if name.startswith("config/"):
            assert name not in summary
        else:
            assert summary[name] == pytest.approx(value), name


def test_table_picture_and_report_are_media(logged):
    out, found = logged
    media = values(found["history"][-1].item)
    kinds = {"results/_type": "table-file", "overview/_type": "image-file",
             "coupling_picture/_type": "image-file", "report/_type": "html-file"}  # fmt: skip
    assert {name: media[name] for name in kinds} == kinds
    (table,) = out.glob("wandb/offline-run-*/files/media/table/*.json")
    content = json.loads(table.read_text())
    rows = {row[0]: dict(zip(content["columns"], row, strict=True)) for row in content["data"]}
    metrics = json.loads((out / "metrics.json").read_text())
    assert rows["morph"]["paired_mse"] == metrics["morph/paired_mse"]
    assert rows["ridge"]["paired_mse"] == metrics["baseline/ridge/paired_mse"]


def test_the_morph_is_an_artifact_with_its_metrics(logged):
    out, found = logged
    (artifact,) = [a for a in found["artifact"] if a.type == "morph"]
    names = {entry.path for entry in artifact.manifest.contents}
    assert names == {p.name for p in (out / "morph").iterdir()}
    metrics = json.loads((out / "metrics.json").read_text())
    assert json.loads(artifact.metadata)["morph/paired_mse"] == metrics["morph/paired_mse"]


def test_system_metrics_are_sampled(logged):
    assert logged[1]["stats"]


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_win_over_what_a_run_is_called_by_itself_and_gin_over_them(name, monkeypatch):
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    experiment, _ = asked(["quickstart.gin"], [])
    assert (name in labels(experiment, experiment.tracked)) == (name != "project")
    monkeypatch.setenv(VARIABLES[name], "theirs")
    assert name not in labels(experiment, experiment.tracked)
    value = ("mine",) if name == "tags" else "mine"
    experiment, _ = asked(["quickstart.gin"], ["run.wandb = @Wandb()", f"Wandb.{name} = {value!r}"])
    assert labels(experiment, experiment.tracked)[name] == value


def test_every_shipped_run_has_a_configuration_that_is_json():
    for file in ("quickstart.gin", "neural/v4.gin", "imagenet/image_to_text.gin", "swiss_roll.gin"):
        experiment, text = asked([file], [])
        assert json.loads(json.dumps(configuration(experiment, text)))["gin"] == text
