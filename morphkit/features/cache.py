"""Where trained extractors and features are kept, and the hash that finds them again."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pooch

from ..hosts import any_of_all
from ..loggers import Log

T = TypeVar("T")


def cache_folder() -> Path:
    """Where trained extractors and features are kept: $MORPHKIT_CACHE or the user's cache."""
    return Path(os.environ.get("MORPHKIT_CACHE") or pooch.os_cache("morphkit"))


def fingerprint(*parts: Any) -> str:
    """A hash of `parts`: arrays (shape, type and content) and anything JSON can write."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.shape}{part.dtype}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:24]


def from_cache(path: Path, read: Callable[[Path, str], T], log: Log) -> T | None:
    """What `read`(`path`, remedy) finds; None if nothing is there or, with a warning to `log`, it
    is bad. Of several processes that make a run together, all find it or none."""
    if any_of_all(not path.exists()):
        return None
    try:
        found = read(path, "it is made again")
    except ValueError as error:
        log.warn(str(error))
        found = None
    return None if any_of_all(found is None) else found


def try_to_cache(save: Callable[[], None], log: Log) -> bool:
    """Whether `save` could write the cache; a run goes on without, and says so to `log`."""
    try:
        save()
    except OSError as error:
        log.warn(f"nothing is cached ({error}); MORPHKIT_CACHE may name another folder")
        return False
    return True
