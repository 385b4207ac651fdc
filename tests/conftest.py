"""Fixtures shared by the tests."""

import os
from pathlib import Path

# Most of the tests' time is compilation: workers and subprocesses share what they compile.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import numpy as np
import pytest

from morphkit.types import Cloud, PairedData, Pairs


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
