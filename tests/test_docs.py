"""The documentation is held to the code: names, options, files and examples."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from morphkit.cli import _parser

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
EVERYTHING = "\n".join(PAGES.values())
SOURCES = [p for folder in ("morphkit", "plugins") for p in (ROOT / folder).rglob("*.py")]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


def commands() -> dict[str, argparse.ArgumentParser]:
    (sub,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(sub.choices)


def options(parser: argparse.ArgumentParser) -> list[str]:
    names = [name for action in parser._actions for name in action.option_strings]
    return [name for name in names if name.startswith("--") and name != "--help"]


def slug(heading: str) -> str:
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def test_every_first_party_component_and_its_arguments_are_in_the_table():
    from morphkit.wiring.registry import registry

    ours = [c for c in registry.load() if c.distribution == "morphkit-align"]
    assert len(ours) > 20
    for component in ours:
        rows = [r for r in PAGES["components.md"].splitlines() if f"`{component.short}`" in r]
        assert len(rows) == 1, component.short
        from_data = {"input_shape", "source_dim", "target_dim"}
        for argument in set(component.arguments) - from_data:
            assert f"`{argument}`" in rows[0], f"{component.short}.{argument}"


def test_the_table_names_no_component_that_is_not_there():
    from morphkit.wiring.registry import registry

    kinds = "data|extractor|cost|solver|aligner|field|baseline|eval"
    named = set(re.findall(rf"[@`](({kinds})\.[A-Z]\w+)", EVERYTHING))
    known = {c.short for c in registry.load()}
    examples = {"cost.ProcrustesCost", "eval.PredictionSpread"}
    assert {name for name, _ in named} - known - examples == set()


@pytest.mark.parametrize("name", commands())
def test_every_command_and_its_options_are_documented(name):
    assert f"morphkit {name}" in EVERYTHING
    for option in options(commands()[name]):
        assert re.search(rf"{option}\b", EVERYTHING), f"{name} {option}"


def test_every_command_in_the_docs_parses():
    text = EVERYTHING.replace("\\\n", " ")
    lines = re.findall(r"^morphkit (.+)$", text, re.MULTILINE)
    assert len(lines) > 8
    for line in lines:
        if "…" not in line:
            _parser().parse_args(shlex.split(line))


def test_global_options_are_documented():
    for option in options(_parser()):
        assert f"morphkit {option}" in EVERYTHING, option


def test_every_environment_variable_is_documented():
    used = {v for p in SOURCES for v in re.findall(r"MORPHKIT_[A-Z]+", p.read_text())}
    assert used >= {"MORPHKIT_DATA", "MORPHKIT_CACHE", "MORPHKIT_PLUGINS"}
    assert set(re.findall(r"MORPHKIT_[A-Z]+", EVERYTHING)) == used
    assert all(f"| `{variable}` |" in PAGES["gin.md"] for variable in used)


def test_the_arguments_of_run_and_training_are_documented():
    import inspect

    from morphkit.experiment.experiment import Experiment
    from morphkit.training.loop import Training

    for name in inspect.signature(Experiment).parameters:
        assert f"`run.{name}`" in PAGES["gin.md"], name
    for name in inspect.signature(Training).parameters:
        assert re.search(rf"`(Training\.)?{name}`", PAGES["gin.md"]), name


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if target.startswith(("http:", "https:")):
            continue
        file, _, anchor = target.partition("#")
        assert (ROOT / "docs" / (file or page)).is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", PAGES[file or page], re.MULTILINE)
            assert anchor in map(slug, headings), target


def test_gin_files_are_there_and_all_documented():
    named = set(re.findall(r"gin/[\w/]+\.gin", EVERYTHING))
    assert named == {str(p.relative_to(ROOT)) for p in (ROOT / "gin").rglob("*.gin")}


def test_bindings_in_the_docs_are_valid():
    from morphkit.wiring.configuration import configured

    text = EVERYTHING.replace("\\\n", " ")
    checked = 0
    for line in re.findall(r"^morphkit run (.+)$", text, re.MULTILINE):
        if "ProcrustesCost" in line or "PredictionSpread" in line:
            continue  # of plugins that are not installed here
        arguments = _parser().parse_args(["run", *shlex.split(line)])
        with configured(arguments.files, arguments.bindings):
            checked += 1
    assert checked >= 4


def test_arrays_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MORPHKIT_CACHE", str(tmp_path / "cache"))
    space: dict = {}
    for block in blocks("arrays.md", "python"):
        exec(compile(block, "arrays.md", "exec"), space)
    printed = capsys.readouterr().out.splitlines()
    assert "(5, 4) (8, 5, 4) (5, 4)" in printed[1]
    assert printed[1] in PAGES["arrays.md"]
    assert float(printed[2]) == 0  # the morph that was loaded predicts the same
    assert np.isfinite([float(number) for number in printed[0].split()]).all()


def test_the_plugin_tutorial_installs_and_works(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (module,) = (b for b in blocks("plugins.md", "python") if "PredictionSpread" in b)
    (project,) = blocks("plugins.md", "toml")
    (source / "morphkit_spread.py").write_text(module)
    (source / "pyproject.toml").write_text(project)
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", target, source], check=True)
    shown = subprocess.run(
        [sys.executable, "-m", "morphkit.cli", "show", "eval.PredictionSpread"],
        env=os.environ | {"PYTHONPATH": str(target)}, text=True, capture_output=True,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert "morphkit-spread 0.1.0" in shown.stdout
    assert "run.evaluators = [@eval.PredictionSpread()]" in shown.stdout


def test_the_tutorial_metric_computes_what_it_says(paired):
    import jax
    from morphkit_baselines import linear
    from morphkit_extractors.identity import Identity

    from morphkit.interfaces import Scene
    from morphkit.types import Split

    space: dict = {}
    (module,) = (b for b in blocks("plugins.md", "python") if "PredictionSpread" in b)
    exec(compile(module, "plugins.md", "exec"), space)
    key = jax.random.key(0)
    x, y = np.asarray(paired.x.points), np.asarray(paired.y.points)
    fitted = linear.Ridge().fit(paired)
    scene = Scene(
        Identity(input_shape=(5,), key=key), Identity(input_shape=(3,), key=key),
        paired, paired.x, paired.y, Split(x, y, np.zeros((0, 2), int)), map=fitted,
    )  # fmt: skip
    expected = np.asarray(fitted(paired.x.points)).std(0).mean()
    found = space["PredictionSpread"]().evaluate(scene, key=key)
    assert found["spread"] == pytest.approx(expected, rel=1e-5)


def test_registering_without_a_package_works():
    (block,) = (b for b in blocks("plugins.md", "python") if "FirstCoordinateCost" in b)
    check = """
import numpy as np
from morphkit.types import Cloud, PairedData, Pairs
x, y = np.ones((3, 2)), np.arange(8.0).reshape(4, 2)
pairs = Pairs.from_array(np.array([[0, 0]]))
data = PairedData(Cloud.uniform(x), Cloud.uniform(y), pairs)
print(FirstCoordinateCost().prepare(data).matrix()[0].tolist())
"""
    # In a process of its own: the registry of this one stays as it is.
    done = subprocess.run([sys.executable, "-c", block + check], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["local", "[1.0, 1.0, 3.0, 5.0]"]


def test_the_site_builds(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", tmp_path]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "api" / "index.html").read_text()
    names = "api.align", "morph.Morph", "interfaces.Evaluator", "transport.couplings.BridgeCoupling"
    for name in names:
        assert f'id="morphkit.{name}"' in api, name
