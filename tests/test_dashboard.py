"""The W&B workspace of a sweep, by the definition that W&B would be sent."""

import json
import shutil

import pytest

from morphkit.cli import main
from morphkit.folder import SweepFolder
from morphkit.report.dashboard import dashboard, definition

METRICS = {
    "morph/test_accuracy": 0.9, "map/test_accuracy": 0.8, "baseline/ridge/test_accuracy": 0.7,
    "morph/energy_score": 1.5, "coupling/converged": 1.0,
}  # fmt: skip


@pytest.fixture
def swept(tmp_path):
    """The folder of a sweep, of which one run is finished."""
    SweepFolder(tmp_path).keep({"a": {"run.seed": "0"}, "b": {"run.seed": "1"}})
    run = tmp_path / "a"
    (run / "morph").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"format": 1, "finished": True}))
    (run / "metrics.json").write_text(json.dumps(METRICS))
    story = {"provenance": {"seed": 0, "paired_fraction": 0.1}}
    (run / "morph" / "manifest.json").write_text(json.dumps(story))
    return tmp_path


def sections(found) -> dict[str, list[dict]]:
    bank = found["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in bank}


def test_a_section_a_metric_with_every_row_of_the_table(swept):
    found = definition(dashboard([swept], "team", "project", "view"))
    assert (found["entity"], found["project"], found["displayName"]) == ("team", "project", "view")
    shown = sections(found)
    assert list(shown) == ["test_accuracy", "energy_score", "training", "coupling", "pictures"]
    scatter, bars = shown["test_accuracy"]
    assert scatter["config"]["xAxis"] == "config:paired_fraction.value"
    assert scatter["config"]["yAxis"] == "summary:morph/test_accuracy"
    assert bars["config"]["metrics"] == [
        f"summary_metrics.{key}/test_accuracy" for key in ("morph", "map", "baseline/ridge")
    ]
    (line,) = shown["training"]
    assert line["config"]["metrics"] == ["train/loss"]


def test_runs_are_grouped_as_they_are_named(swept):
    found = definition(dashboard([swept], "team", "project", "view"))
    (runs,) = found["spec"]["section"]["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["group"]
    assert "config:aligner.name" in json.dumps(runs)


def test_the_command_writes_the_definition_and_sends_nothing(swept, tmp_path, capsys):
    path = tmp_path / "view.json"
    arguments = ["dashboard", str(swept), "--entity", "team", "--json", str(path)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert "test_accuracy" in sections(json.loads(path.read_text()))


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["dashboard", str(tmp_path), "--entity", "team", "--json", "x.json"]) == 2
    assert "is no run directory" in capsys.readouterr().err


def test_of_several_sweeps_it_is_a_report_with_a_section_each(swept, tmp_path_factory):
    """Each shows its own runs, grouped by its axes without the seed."""
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(swept / "a", other / "a")
    SweepFolder(other).keep({"a": {"run.cost": "BridgeCost", "SEED": "0", "alignment": "true"}})
    found = definition(dashboard([swept, other], "team", "project", "the paper"))
    assert found["displayName"] == "the paper"
    blocks = found["spec"]["blocks"]
    titles = [b["children"][0]["text"] for b in blocks if b["type"] == "heading"]
    assert titles == [swept.name, other.name]
    grids = [b["metadata"] for b in blocks if b["type"] == "panel-grid"]
    for grid, folder in zip(grids, (swept, other), strict=True):
        (runs,) = grid["runSets"]
        assert folder.name in json.dumps(runs["filters"])
        assert runs["name"] == folder.name
    groups = [[key["name"] for key in grid["runSets"][0]["grouping"]] for grid in grids]
    assert groups[0] == []
    assert [name.split(".")[1] if "." in name else name for name in groups[1]] != []
    assert "cost" in json.dumps(groups[1])
    assert "alignment" in json.dumps(groups[1])
    assert "seed" not in json.dumps(groups).lower()
    with pytest.raises(ValueError, match="is of no sweep; of several folders"):
        dashboard([swept, other / "a"], "team", "project", "x")
