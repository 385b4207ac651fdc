"""Several processes that make one run together: all of them compute, the first one writes."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple, NoReturn, TypeVar

T = TypeVar("T")

PATIENCE_S = 60
"""Seconds after which a process that is not heard of is taken for lost."""


class Place(NamedTuple):
    """The `process`, from 0 on, of so many `processes`, and the `coordinator`, HOST:PORT where the
    first one listens; None where Slurm tells."""

    coordinator: str | None
    processes: int
    process: int


_place = Place(None, 1, 0)


def asked(environment: Mapping[str, str]) -> Place | None:
    """What `environment` says of this process: MORPHKIT_COORDINATOR, MORPHKIT_PROCESSES and
    MORPHKIT_PROCESS, or the variables of a Slurm step of several tasks; None of a process by
    itself, as MORPHKIT_PROCESSES=1 makes it. Raises ValueError for some of them without the
    others, and for numbers that are none.
    """
    if environment.get("MORPHKIT_PROCESSES") == "1":
        return None
    names = [f"MORPHKIT_{name}" for name in ("COORDINATOR", "PROCESSES", "PROCESS")]
    given = [name for name in names if environment.get(name)]
    if not given:
        tasks, rank = (environment.get(f"SLURM_{name}") for name in ("STEP_NUM_TASKS", "PROCID"))
        if rank is None or int(tasks or 1) < 2:
            return None
        return Place(None, int(tasks or 1), int(rank))
    if len(given) < len(names):
        missing = ", ".join(name for name in names if name not in given)
        raise ValueError(f"{', '.join(given)} is set, but not {missing}; set all three, or none")
    coordinator, processes, process = (environment[name] for name in names)
    if not (processes.isdigit() and process.isdigit() and int(process) < int(processes)):
        raise ValueError(
            f"MORPHKIT_PROCESS = {process} of MORPHKIT_PROCESSES = {processes}: has to be a number "
            "from 0 to one less than how many there are"
        )
    return Place(coordinator, int(processes), int(process))


def join(environment: Mapping[str, str] | None = None) -> bool:
    """Whether this process is one of several that make a run together, as `environment` says, by
    default that of the process; it has found the others then.

    To be called before anything else of JAX; the processes have to do the same from here on. Raises
    ValueError as `asked` does, and RuntimeError where the others are not found.
    """
    global _place
    place = asked(os.environ if environment is None else environment)
    if place is None or place.processes == 1:
        return False
    import jax

    where = {} if place.coordinator is None else {
        "coordinator_address": place.coordinator, "num_processes": place.processes,
        "process_id": place.process,
    }  # fmt: skip
    # Or it would take SIGTERM, on which a run saves, for itself.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**where, heartbeat_timeout_seconds=PATIENCE_S)
    except jax.errors.JaxRuntimeError as error:
        raise RuntimeError(
            f"process {place.process} of {place.processes} did not find the others at "
            f"{place.coordinator or 'the address that Slurm tells'}: {str(error).splitlines()[0]}"
        ) from None
    _place = place
    return True


def several() -> bool:
    """Whether this process is one of several."""
    return _place.processes > 1


def process() -> int:
    """The number of this process, from 0 on."""
    return _place.process


def writes() -> bool:
    """Whether this process is the one that writes files and speaks to the user."""
    return _place.process == 0


def told(value: T) -> T:
    """What the first process says by its `value`, anything that JSON can write, to all of them:
    they go on when it is known. For what may differ, such as clocks and files."""
    if not several():
        return value
    import numpy as np
    from jax.experimental.multihost_utils import broadcast_one_to_all as broadcast

    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(broadcast(np.int32(len(content))))
    content = content if writes() else np.zeros(size, np.uint8)
    return json.loads(np.asarray(broadcast(content)).tobytes())


def any_of_all(flag: bool) -> bool:
    """Whether the `flag` is true in any process."""
    if not several():
        return flag
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    return bool(np.asarray(process_allgather(np.asarray(flag))).any())


def ends_all(error: Exception) -> bool:
    """Whether the `error` is one that others may not have, so that a run of several processes
    cannot go on: another process is gone, or this one is out of memory."""
    return several() and (isinstance(error, MemoryError) or _of_device(error))


def lost(error: Exception) -> bool:
    """Whether the `error` says that another process is gone."""
    own = str(error).startswith(("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"))
    return several() and _of_device(error) and not own


def _of_device(error: Exception) -> bool:
    return type(error).__name__ == "JaxRuntimeError"


def leave(code: int) -> NoReturn:
    """Ends a process that failed with the exit `code`, at once: others wait for it, and fail when
    it is gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def first_only() -> Iterator[bool]:
    """Whether this is the process to do what is inside; others wait until it is done, and raise
    ValueError where it could not be (ValueError, OSError)."""
    if not writes():
        yield False
        if said := told(None):
            raise ValueError(said)
        return
    try:
        yield True
    except (ValueError, OSError) as error:
        told(str(error) or type(error).__name__)
        raise
    told(None)
