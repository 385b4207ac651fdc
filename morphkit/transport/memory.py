"""Memory is asked for before it is taken: a refusal is better than a process that is killed."""

import math
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

UNKNOWN = 4 * 2**30
"""Bytes that are taken to be available where the machine does not say."""

MEMINFO = Path("/proc/meminfo")

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
        raise MemoryError(
            f"{what} takes {size / 2**30:.1f} GiB, and {there / 2**30:.1f} GiB are available; "
            f"{advice}"
        )


def available() -> int:
    """Bytes that can be taken now: of the accelerator where JAX computes on one, else of the
    machine (Linux: MemAvailable, at most what its container may have); UNKNOWN elsewhere."""
    device = jax.local_devices()[0].memory_stats()
    if device and "bytes_limit" in device:
        return device["bytes_limit"] - device["bytes_in_use"]
    if not MEMINFO.exists():
        return UNKNOWN
    lines = MEMINFO.read_text(encoding="utf-8").splitlines()
    machine = next((int(k.split()[1]) * 2**10 for k in lines if k.startswith("MemAvailable")), 0)
    limits = [path.read_text(encoding="utf-8").strip() for path in CONTAINER if path.exists()]
    return min([machine or UNKNOWN, *(int(limit) for limit in limits if limit.isdigit())])
