"""What runs of one process have in common, so that it is made once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax

T = TypeVar("T")

MAPS = Path("/proc/self/maps")
MOST_MAPS = 20_000
"""Regions of memory after which compiled programs are forgotten: each takes some, and Linux gives a
process 65,530, beyond which compilation ends in a segmentation fault."""


class Shared:
    """The last result of each stage, by the identity of what it was made from: a fingerprint."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, Any]] = {}

    def once(self, stage: str, identity: str, make: Callable[[], T]) -> T:
        """What the last run had of `stage`, if it was of the same `identity`, or else what `make`
        makes now."""
        if stage not in self._last or self._last[stage][0] != identity:
            self._last.pop(stage, None)  # before the new one takes its memory
            self._last[stage] = identity, make()
        return self._last[stage][1]


def forget_programs() -> None:
    """Forgets what was compiled, if that takes so many regions of memory that they may run out."""
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
