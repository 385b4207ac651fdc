"""Memory is asked for before it is taken: a refusal is better than a process that is killed."""

import math
import os
import re
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float
from pydantic import ByteSize, TypeAdapter, ValidationError

UNKNOWN = 4 * 2**30
"""Bytes that are taken to be available where the machine does not say."""

MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
SIZE = re.compile(r"\s*\d+(\.\d+)?\s*[A-Za-z]*\s*")

CONTAINER = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where Linux says how much memory a container may have, if it may not have all."""


ALIGNMENT = 64
"""Bytes of which the address of an array is to be a multiple."""


def empty(shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """An array of float32 of this `shape` that begins where JAX wants one to, and which
    `jax.device_put` so takes over without a copy."""
    raw = np.empty(4 * math.prod(shape) + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + 4 * math.prod(shape)].view(np.float32).reshape(shape)


def ask_memory(what: str, size: int, advice: str) -> None:
    """Raises MemoryError unless `size` bytes are available; call it before they are taken.

    `what` begins the message and says what needs them, with its shape ("a dense 3 × 2 cost");
    `advice` ends it and says what to do instead. `size` is the most that is held at once, in
    bytes: intermediate arrays count.
    """
    there = available()
    if size > there:
        asked = os.environ.get("MORPHKIT_MEMORY")
        of = f" of MORPHKIT_MEMORY = {asked!r}" if asked else ""
        raise MemoryError(
            f"{what} takes {size / 2**30:.1f} GiB, and {there / 2**30:.1f} GiB{of} are available; "
            f"{advice}"
        )


def available() -> int:
    """Bytes that can be taken now: of the accelerator where JAX computes on one, else of the
    machine (Linux: MemAvailable, at most what its container may have); UNKNOWN elsewhere.

    At most what is left of `budget`. Of a machine's memory this process has taken what is its own
    (Linux: RssAnon), mapped files left out. Raises ValueError as `budget` does.
    """
    most = budget()
    device = jax.local_devices()[0].memory_stats()
    if device and "bytes_limit" in device:
        limit, taken = device["bytes_limit"], device["bytes_in_use"]
        return max(0, (limit if most is None else min(limit, most)) - taken)
    there = _of_machine()
    return there if most is None else max(0, min(there, most - _taken()))


def budget() -> int | None:
    """The most bytes that a process may have once it has what it asks for, by the environment
    variable MORPHKIT_MEMORY ("12 GB", "512 MiB", or a number of bytes); None where it is not set.
    Raises ValueError for a value that is no size."""
    asked = os.environ.get("MORPHKIT_MEMORY")
    if not asked:
        return None
    try:
        # What is after a size, as in "1,5 GB", would not be looked at.
        return TypeAdapter(ByteSize).validate_python(asked if SIZE.fullmatch(asked) else "")
    except ValidationError:
        raise ValueError(
            f"MORPHKIT_MEMORY = {asked!r} is no size; give one such as '12 GB', '512 MiB' or a "
            "number of bytes, or unset it"
        ) from None


def _taken() -> int:
    if not STATUS.exists():
        return 0
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next((int(k.split()[1]) * 2**10 for k in lines if k.startswith("RssAnon")), 0)


def _of_machine() -> int:
    if not MEMINFO.exists():
        return UNKNOWN
    lines = MEMINFO.read_text(encoding="utf-8").splitlines()
    machine = next((int(k.split()[1]) * 2**10 for k in lines if k.startswith("MemAvailable")), 0)
    limits = [path.read_text(encoding="utf-8").strip() for path in CONTAINER if path.exists()]
    return min([machine or UNKNOWN, *(int(limit) for limit in limits if limit.isdigit())])
