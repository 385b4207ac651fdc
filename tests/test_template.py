"""The template plugin, installed from its folder into an environment of its own."""

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest

TEMPLATE = Path(__file__).parent.parent / "plugins" / "template"


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A fresh environment that sees this one's packages, with the template installed on top."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    here = sysconfig.get_paths()["purelib"]
    site = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], text=True
    ).strip()
    (Path(site) / "parent.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", str(TEMPLATE)],
        check=True,
    )
    return python


def morphkit(python: Path, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [python, "-m", "morphkit.cli", *arguments], cwd=cwd, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_listed_and_described(environment, tmp_path):
    rows = json.loads(morphkit(environment, "plugins", "--json", cwd=tmp_path))
    assert {"distribution": "morphkit-procrustes", "version": "0.1.0", "plugin": "procrustes",
            "module": "morphkit_procrustes", "state": "installed"} in rows  # fmt: skip
    assert "cost.ProcrustesCost" in morphkit(environment, "plugins", "--components", cwd=tmp_path)
    shown = morphkit(environment, "show", "cost.ProcrustesCost", cwd=tmp_path)
    assert "run.cost = @cost.ProcrustesCost()" in shown
    assert "orthogonal" in shown


def test_it_is_not_in_the_environment_it_was_not_installed_into(tmp_path):
    assert "morphkit-procrustes" not in morphkit(Path(sys.executable), "plugins", cwd=tmp_path)


def test_it_runs_from_gin_and_aligns(environment, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)) * np.array([3.0, 2.0, 1.0, 0.5])
    y = x @ np.linalg.qr(rng.normal(size=(4, 4)))[0] + 1.0
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    np.savetxt(tmp_path / "pairs.csv", np.stack([np.arange(60)] * 2, 1), fmt="%d", delimiter=",")
    morphkit(
        environment, "align", "--method", "global", "--source", "x.npy", "--target", "y.npy",
        "--pairs", "pairs.csv",
        "--out", "out", "--set", "run.cost = @cost.ProcrustesCost()",
        "--set", "ProcrustesCost.metric = 'sqeuclidean'",
        "--set", "Training.steps = 20",
        "--set", "run.field = @field.MLP",
        "--set", "run.baselines = []",
        "--set", "run.wandb = 'disabled'", cwd=tmp_path,
    )  # fmt: skip
    manifest = tmp_path / "out" / "morph" / "manifest.json"
    story = json.loads(manifest.read_text())["provenance"]
    assert story["cost"]["component"] == "morphkit_procrustes.cost.ProcrustesCost"
    assert story["cost"]["arguments"] == {"metric": "sqeuclidean"}
    assert story["plugins"]["morphkit-procrustes"] == "0.1.0"
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["coupling/effective_support"] < 3  # a rotation is recovered almost exactly
