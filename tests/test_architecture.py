"""The page on the architecture is held to the code: who imports whom, and the way of a run."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CORE = ROOT / "morphkit"
SHIMS = {"geometry", "registry"}
"""Old names of modules, for plugins."""


def part_of(path: Path) -> str:
    """morphkit/transport/couple.py → transport, morphkit/api.py → api."""
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of morphkit that a file imports, those for type checkers left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = [ast.Pass()]
    found = set()
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *filter(None, [node.module])])
            names = [f"{name}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for parts in (name.split(".") for name in names):
            known = len(parts) > 1 and parts[0] == "morphkit"
            if known and ((CORE / parts[1]).is_dir() or (CORE / f"{parts[1]}.py").exists()):
                found.add(parts[1])
    return found


def allowed() -> dict[str, set[str]]:
    """The table of the page: each part, and what it may import."""
    rows = re.findall(r"^\| `([a-z_]+)` \|.*\| (.*?)\|$", PAGE, re.MULTILINE)
    return {name: set(re.findall(r"`([a-z_]+)`", cell)) for name, cell in rows}


def test_every_part_is_on_the_page():
    parts = {part_of(path) for path in CORE.rglob("*.py")} - {"__init__"} - SHIMS
    assert set(allowed()) == parts


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda p: str(p.relative_to(CORE)))
def test_nobody_imports_what_is_above(path):
    part = part_of(path)
    if part in SHIMS or path == CORE / "__init__.py":
        return
    assert imported(path) - {part} <= allowed()[part] | {"__init__"}


def test_there_is_no_circle():
    rest = allowed()
    while rest:
        free = {part for part, below in rest.items() if not below & set(rest)}
        assert free, f"a circle among {sorted(rest)}"
        rest = {part: below for part, below in rest.items() if part not in free}


def test_plugins_import_only_what_is_open_to_them():
    (row,) = re.findall(r"^Plugins import (.*?)\.$", PAGE, re.MULTILINE | re.DOTALL)
    opened = set(re.findall(r"`([a-z_]+)`", row)) | SHIMS
    for path in (ROOT / "plugins").rglob("*.py"):
        assert imported(path) <= opened, path


def test_the_core_imports_no_plugin():
    for path in CORE.rglob("*.py"):
        assert not re.search(r"^\s*(from|import) morphkit_", path.read_text(), re.MULTILINE), path


def test_the_way_of_a_run_is_as_told_and_has_at_most_ten_hops():
    """Each step of the list is named in the module of one before it."""
    hops = re.findall(r"^\d+\. `([\w.]+)`", PAGE, re.MULTILINE)
    assert 5 < len(hops) <= 10
    assert (hops[0], hops[-1]) == ("morphkit.cli.main", "morphkit.report.page.write_report")
    read = ""
    for hop in hops:
        module, _, name = hop.rpartition(".")
        assert not read or re.search(rf"\b{name}\b", read), f"nothing before leads to {hop}"
        assert callable(getattr(importlib.import_module(module), name))
        read += inspect.getsource(importlib.import_module(module))
