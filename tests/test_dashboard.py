"""The W&B workspace of a sweep, by the definition that W&B would be sent."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from morphkit.cli import main
from morphkit.folder import SweepFolder
from morphkit.paper.bridges import FIGURES
from morphkit.paper.index import Told
from morphkit.paper.parts import parts
from morphkit.report.dashboard import dashboard, definition

METRICS = {
    "morph/test_accuracy": 0.9, "map/test_accuracy": 0.8, "baseline/ridge/test_accuracy": 0.7,
    "morph/energy_score": 1.5, "coupling/converged": 1.0,
}  # fmt: skip


def sweep(folder: Path, runs: dict[str, dict[str, str]]) -> Path:
    """The folder of a sweep of `runs`, of which "a" is finished."""
    SweepFolder(folder).keep(runs)
    run = folder / "a"
    (run / "morph").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"format": 1, "finished": True}))
    (run / "metrics.json").write_text(json.dumps(METRICS))
    story = {"provenance": {"seed": 0, "paired_fraction": 0.1}}
    (run / "morph" / "manifest.json").write_text(json.dumps(story))
    return folder


@pytest.fixture
def swept(tmp_path):
    return sweep(tmp_path, {"a": {"run.seed": "0"}, "b": {"run.seed": "1"}})


def tell(out: Path, *names: str) -> None:
    """Writes what `morphkit paper` tells of the figures `names` to the folder `out`."""
    for name in names:
        figure = FIGURES[name]
        told = Told(name, figure.title, figure.claim, f"found of {name}", True, "cpu", 1, [1, 1],
                    1.0, "two cores", f"morphkit paper {name}")  # fmt: skip
        (out / f"fig{name.lower()}.json").write_text(json.dumps(asdict(told)))


def by_heading(found) -> dict[str, list[dict]]:
    """The blocks of a report below each of its headings, in their order."""
    below: dict[str, list[dict]] = {}
    for block in found["spec"]["blocks"]:
        if block["type"] == "heading":
            below[block["children"][0]["text"]] = []
        elif below:
            list(below.values())[-1].append(block)
    return below


def paragraphs(blocks: list[dict]) -> list[str]:
    return [b["children"][0]["text"] for b in blocks if b["type"] == "paragraph"]


def run_sets(blocks: list[dict]) -> dict[str, list[str]]:
    """By what the runs of each set are grouped, by its name."""
    sets = [s for b in blocks if b["type"] == "panel-grid" for s in b["metadata"]["runSets"]]
    for runs in sets:
        assert f'"{runs["name"]}"' in json.dumps(runs["filters"])
    return {runs["name"]: [key["name"] for key in runs["grouping"]] for runs in sets}


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


def test_of_a_paper_it_is_a_report_with_a_section_a_figure(tmp_path):
    """5B and 5C are of one sweep, 8 is of two with axes of their own, 20 is of searches."""
    sweep(tmp_path / "fig05b", {"a": {"NUMBER": "20", "SEED": "0"}})
    sweep(tmp_path / "fig08", {"a": {"run.paired_fraction": "0.1", "SEED": "0"}})
    sweep(tmp_path / "fig08_local", {"a": {"run.aligner": "LocalAlignment", "SEED": "0"}})
    tell(tmp_path, "8", "20", "5C", "5B")
    path = tmp_path / "view.json"
    arguments = ["dashboard", str(tmp_path), "--entity", "team", "--json", str(path)]
    assert main(arguments) == 0
    below = by_heading(json.loads(path.read_text()))
    assert list(below) == [f"Figure {n}: {FIGURES[n].title}" for n in ("5B", "5C", "8", "20")]
    shown = dict(zip(("5B", "5C", "8", "20"), below.values(), strict=True))
    assert paragraphs(shown["5C"])[:3] == [
        f"The paper: {FIGURES['5C'].claim}", "Agrees: found of 5C.",
        "fig05b: 1 runs over NUMBER, SEED",
    ]  # fmt: skip
    groups = {name: run_sets(blocks) for name, blocks in shown.items()}
    assert groups["5B"] == groups["5C"]
    assert list(groups["5B"]) == ["fig05b"]
    assert list(groups["8"]) == ["fig08", "fig08_local"]
    one, other = groups["8"].values()
    assert "paired_fraction" in json.dumps(one)
    assert "aligner" in json.dumps(other)
    assert "SEED" not in json.dumps(groups)
    assert groups["20"] == {}
    assert paragraphs(shown["20"])[1:3] == [
        "Agrees: found of 20.", "Its runs are searches, which are not logged to W&B."
    ]  # fmt: skip


def test_of_a_figure_are_shown_the_sweeps_that_are_there(tmp_path):
    sweep(tmp_path / "fig08", {"a": {"SEED": "0"}})
    tell(tmp_path, "8", "4")
    there, none = parts(tmp_path)[1], parts(tmp_path)[0]
    assert there.sweeps == [tmp_path / "fig08"]
    assert (none.sweeps, none.text[-1]) == ([], "Its sweeps are not in the folder.")
    told = json.loads((tmp_path / "fig8.json").read_text())
    (tmp_path / "fig8.json").write_text(json.dumps(told | {"figure": "3"}))
    with pytest.raises(ValueError, match="of figure 3, which there is not"):
        parts(tmp_path)


def test_the_whole_paper_is_a_section_a_figure_in_its_order(tmp_path):
    for figure in FIGURES.values():
        for file in () if figure.searches else figure.files:
            if not (tmp_path / file).exists():
                sweep(tmp_path / file, {"a": {"run.cost": "BridgeCost", "SEED": "0"}})
    tell(tmp_path, *FIGURES)
    below = by_heading(definition(dashboard(parts(tmp_path), "team", "project", "the paper")))
    assert list(below) == [f"Figure {figure.name}: {figure.title}" for figure in FIGURES.values()]
    for figure, blocks in zip(FIGURES.values(), below.values(), strict=True):
        assert list(run_sets(blocks)) == ([] if figure.searches else list(figure.files))
