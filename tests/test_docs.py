"""The documentation is held to the code: names, options, files and examples."""

import argparse
import importlib
import inspect
import os
import pkgutil
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
UNSAID = ("self", "cls", "args", "kwargs")
SECTIONS = """
1 2 3 3.1 3.2 3.3 3.4 4 5 5.1 5.1.1 5.1.2 5.1.3 5.1.4 5.1.5 5.2 5.2.1 5.2.2 6
"""
APPENDICES = """
A B C D E E.1 F G G.1 G.1.1 G.1.2 G.2 G.2.1 G.2.2 G.3 G.3.1 H H.1 H.2 H.3 H.4 H.5 I J K L L.1 L.2
"""
PAPER = {
    "Sec": SECTIONS.split(),
    "App": APPENDICES.split(),
    "Eq": [str(number) for number in range(1, 31)],
    "Fig": [str(number) for number in range(1, 21)],
    "Table": ["1", "2", "3"],
    "Algorithm": ["1"],
}
"""The numbers of the paper."""


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


def first_party():
    from morphkit.wiring.registry import registry

    ours = [c for c in registry.load() if c.distribution == "morphkit-align"]
    assert len(ours) > 50
    return ours


def directives(page: str) -> dict[str, list[str] | None]:
    """What a page shows of the code: dotted names, and the members that are chosen of each."""
    found: dict[str, list[str] | None] = {}
    for name, chosen in re.findall(
        r"^::: ([\w.]+)$(?:\n    options:(?:\n      heading: .+)?(?:\n      members: \[(.+)\])?)?",
        PAGES[page], re.MULTILINE,
    ):  # fmt: skip
        found[name] = chosen.split(", ") if chosen else None
    return found


def public(name: str) -> list[tuple[str, object, list[str]]]:
    """Every public function and class of a module, and their methods: the name, the object, and
    the docstrings that may name its arguments (those of overridden methods, too)."""
    found = []
    for member, value in vars(importlib.import_module(name)).items():
        here = getattr(value, "__module__", None) == name and callable(value)
        if member.startswith("_") or not here or member == "morphkit_register":
            continue
        bases = value.__mro__ if inspect.isclass(value) else [value]
        ours = [base for base in bases if base.__module__.startswith("morphkit")]
        found.append((f"{name}.{member}", value, [base.__doc__ or "" for base in ours]))
        for method in vars(value) if inspect.isclass(value) else ():
            bound = getattr(value, method)
            if not inspect.isroutine(bound) or (method[0] == "_" and method != "__call__"):
                continue
            docs = [getattr(vars(base).get(method), "__doc__", "") for base in value.__mro__]
            found.append((f"{name}.{member}.{method}", bound, [doc or "" for doc in docs]))
    return found


def on_the_api_page() -> list[str]:
    """The names of all that `docs/api.md` shows and that has a docstring of its own."""
    names = []
    for module, chosen in directives("api.md").items():
        for name, _, docs in public(module):
            member = name.removeprefix(f"{module}.").partition(".")[0]
            if docs[0] and (chosen is None or member in chosen):
                names.append(name)
    return names


def unnamed(arguments, docs: list[str]) -> list[str]:
    """The arguments that no docstring names, in backticks or in a list of them."""
    text = "\n".join(docs)
    return [
        a for a in arguments
        if f"`{a}`" not in text and not re.search(rf"^        {a}: ", text, re.MULTILINE)
    ]  # fmt: skip


def test_every_argument_of_a_component_is_named_in_its_docstring():
    missing = {c.short: unnamed(c.arguments, [c.cls.__doc__ or ""]) for c in first_party()}
    assert {name: found for name, found in missing.items() if found} == {}


def test_every_argument_of_public_code_is_named_in_a_docstring():
    packages = ["morphkit", *(path.name for path in (ROOT / "plugins").glob("morphkit_*"))]
    assert len(packages) > 7
    modules = []
    for package in packages:
        path = importlib.import_module(package).__path__
        modules += [module.name for module in pkgutil.walk_packages(path, f"{package}.")]
    assert set(directives("api.md")) <= set(modules)
    counted, missing = 0, {}
    for name, value, docs in (entry for module in modules for entry in public(module)):
        try:
            arguments = [a for a in inspect.signature(value).parameters if a not in UNSAID]  # pyright: ignore
        except ValueError:
            continue  # a built-in one
        counted += len(arguments)
        missing[name] = unnamed(arguments, docs)
    assert {name: found for name, found in missing.items() if found} == {}
    assert counted > 1000


def test_every_component_has_its_entry_in_the_reference():
    entries = re.findall(
        r"^::: ([\w.]+)\n    options:\n      heading: (.+)$", PAGES["reference.md"], re.M
    )
    ours = {f"{c.cls.__module__}.{c.name}": c.short for c in first_party()}
    assert dict(entries) == ours
    assert len(entries) == len(ours)


def citations(text: str) -> list[tuple[str, str]]:
    """The numbers of the paper that a text cites, as ("Eq", "25"); ranges by their ends."""
    text = re.sub(r"\n\s*#?\s*", " ", text)
    number = r"[A-Z](?:\.\d+)+|[A-Z]\b|\d+(?:\.\d+)*"
    kinds = r"(Sec|App|Eq|Fig|Table|Algorithm)(?:tion|endix|uation|ure)?s?\.? "
    found = []
    for kind, numbers in re.findall(
        rf"\b{kinds}((?:{number})(?:(?:, | and | to |[–-])(?:{number}))*)", text
    ):
        found += [(kind, cited) for cited in re.findall(number, numbers)]
    return found


CITING = [
    path.relative_to(ROOT)
    for pattern in ("morphkit/**/*.py", "plugins/**/*.py", "benchmarks/*.py", "tests/*.py",
                    "docs/*.md", "gin/**/*.gin", "*.md")
    for path in sorted(ROOT.glob(pattern))
]  # fmt: skip


def test_what_is_cited_of_the_paper_is_there():
    assert citations("Eq. 2–3, App. L.2 and Sec. 5.3") == [
        ("Eq", "2"), ("Eq", "3"), ("App", "L.2"), ("Sec", "5.3"),
    ]  # fmt: skip
    cited = {p: citations((ROOT / p).read_text()) for p in CITING if p.name != "test_docs.py"}
    assert sum(map(len, cited.values())) > 200
    wrong = {
        (str(p), *c) for p, all_of_it in cited.items() for c in all_of_it if c[1] not in PAPER[c[0]]
    }
    assert wrong == set()


def test_images_and_texts_are_not_cited_as_section_5_2():
    for path in CITING:
        for line in (ROOT / path).read_text().splitlines():
            if path.name != "test_docs.py" and re.search(r"Sec\. 5\.2\b", line):
                assert not re.search(r"ImageNet|MNIST|\btexts?\b|language", line), f"{path}: {line}"


def test_every_first_party_component_and_its_arguments_are_in_the_table():
    for component in first_party():
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
    fenced = "\n".join(re.findall(r"^```(?:\w*)\n(.*?)^```", EVERYTHING, re.MULTILINE | re.DOTALL))
    lines = re.findall(r"^morphkit (.+)$", fenced.replace("\\\n", " "), re.MULTILINE)
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
    there = {str(p.relative_to(ROOT)) for p in (ROOT / "gin").rglob("*.gin")}
    figures = {name for name in there if name.startswith("gin/papers/")}  # named as a folder
    assert "`gin/papers/bridges/`" in EVERYTHING
    assert named | figures == there


def test_bindings_in_the_docs_are_valid():
    import morphkit.api  # registers run
    from morphkit.wiring.configuration import configured

    assert morphkit.api

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
    *report, shapes, matches, back, moved = capsys.readouterr().out.splitlines()
    assert any("canonical" in line for line in report)
    assert any("ridge" in line for line in report)
    for line in (shapes, matches, back):
        assert f"`{line}`" in PAGES["arrays.md"]
    assert float(moved) == 0  # the morph that was loaded predicts the same


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
    for name in on_the_api_page():
        assert f'id="{name}"' in api, name
    reference = (tmp_path / "reference" / "index.html").read_text()
    for component in first_party():
        assert f'id="{component.cls.__module__}.{component.name}"' in reference, component.short
    text = re.sub(r"<[^>]+>", "", reference)
    assert re.search(r"BridgeCost\(\s+metric_x: Metric = (\"|&quot;)cosine", text)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_benchmarks_find_what_they_import(path):
    import ast
    from importlib import import_module

    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("morphkit"):
            module = import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def test_the_page_on_performance_says_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module("performance_page")
    page.write(ROOT / "benchmarks" / "results" / "performance.json", tmp_path)
    assert (tmp_path / "performance.md").read_text() == PAGES["performance.md"]
