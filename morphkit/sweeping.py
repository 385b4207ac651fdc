"""Many runs of one request: a sweep, which goes on where it was, whole or in parts."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from .api import names_of
from .experiment import tracked
from .experiment.experiment import Experiment
from .experiment.grid import Cell, cells, selected, sharded
from .experiment.run import run as run_experiment
from .experiment.sharing import Shared, forget_programs
from .extras import imported
from .folder import Busy, RunFolder, SweepFolder
from .precision import in_float32
from .wiring.configuration import (
    SWEEP,
    ConfigurationError,
    built_each,
    configured,
    unresolved,
)

EVERY_S = 2.0
"""Seconds between looks at jobs."""

Tell = Callable[[str], None]


class Planned(NamedTuple):
    """One run of a sweep: its `cell`, its `folder`, and the `experiment` that it is to be, with the
    configuration as the text of a `gin` file."""

    cell: Cell
    folder: RunFolder
    experiment: Experiment
    gin: str

    @property
    def state(self) -> str:
        """finished, begun, or to do."""
        said = self.folder.state
        return "finished" if said.get("finished") else "begun" if said else "to do"


class Swept(NamedTuple):
    """What a sweep left in the folder `out`: how many runs are `finished`, of `total`, the messages
    of those that `failed`, by name, and the names of those that are `elsewhere`: at work in
    another process."""

    out: Path
    finished: int
    total: int
    failed: dict[str, str]
    elsewhere: list[str]


def say(text: str) -> None:
    """A `Tell` that prints `text` to the standard error."""
    print(text, file=sys.stderr, flush=True)


@in_float32
def plan(
    files: str | Path | Sequence[str | Path],
    bindings: Sequence[str] = (),
    *,
    out: str | Path,
    only: Sequence[str] = (),
    shard: str = "1/1",
) -> list[Planned]:
    """The runs of a sweep, nothing of which is begun: what `morphkit sweep --dry-run` shows.

    The gin `files`, and the `bindings` that win over them, describe a run and, as sweep.grid, what
    varies (`morphkit.experiment.grid.Sweep`). Each run has a folder of its own in `out`. `only` are
    entries AXIS=LABEL, those of one axis being alternatives; `shard` I/N is the I-th of N parts.
    Raises ConfigurationError for a wrong request, also one that only one of the runs would find
    wrong, and where `out` holds a finished run of another configuration.
    """
    return _planned(files, bindings, out, only, shard)[0]


def _planned(
    files: str | Path | Sequence[str | Path], bindings: Sequence[str], out: str | Path,
    only: Sequence[str], shard: str,
) -> tuple[list[Planned], dict[str, dict[str, str]]]:  # fmt: skip
    """See `plan`; also the labels of all runs of the sweep, by name."""
    names, out = names_of(files), Path(out)
    with configured(names, bindings, SWEEP):
        try:
            known = cells(unresolved(SWEEP, "grid"))
            labels = {cell.name: cell.labels for cell in known}
            SweepFolder(out).check(labels)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
    chosen = {cell.name: cell for cell in sharded(selected(known, only), shard)}
    asked = built_each(names, bindings, {name: cell.bindings for name, cell in chosen.items()})
    found = []
    for name, (experiment, gin) in asked.items():
        folder = RunFolder(out / name)
        if folder.state.get("finished") and not _made(folder, experiment, gin):
            raise ConfigurationError(
                f"{folder.path} is finished, and of another configuration: compare its config.gin; "
                "choose another folder with --out, or remove that one"
            )
        found.append(Planned(chosen[name], folder, experiment, gin))
    return found, labels


def _made(folder: RunFolder, experiment: Experiment, gin: str) -> bool:
    """Whether the finished run in `folder` is that of `experiment`, which `gin` says; its own file
    may say the same in other words: with other names for values, or without defaults."""
    if folder.config.read_text(encoding="utf-8") == gin:
        return True
    try:
        (before, _) = built_each([folder.config], (), {"finished": ()})["finished"]
    except ConfigurationError:  # of a component, or an argument, that is no more
        return False
    return experiment.is_like(before)


@in_float32
def sweep(
    files: str | Path | Sequence[str | Path],
    bindings: Sequence[str] = (),
    *,
    out: str | Path,
    only: Sequence[str] = (),
    shard: str = "1/1",
    tell: Tell = say,
) -> Swept:
    """Runs what is not finished of a sweep, one run after the other; what `morphkit sweep` calls.

    See `plan` for `files`, `bindings`, `out`, `only` and `shard`. A run that was killed goes on
    from its last checkpoint. One that fails is told of and left, and the others go on; one that is
    at work in another process is left to it. Features, couplings and baselines that a run shares
    with the one before it are computed once. `tell` is told what is done. Raises
    ConfigurationError before anything is computed, see `plan`.
    """
    runs, labels = _planned(files, bindings, out, only, shard)
    SweepFolder(out).keep(labels)
    shared, failed, elsewhere, begun = Shared(), {}, [], time.monotonic()
    left = [one for one in runs if one.state != "finished"]
    if len(left) < len(runs):
        tell(f"{len(runs) - len(left)} of {len(runs)} runs are finished already")
    for k, one in enumerate(left):
        tell(f"{len(runs) - len(left) + k + 1}/{len(runs)}  {one.cell.name}{_rest(k, left, begun)}")
        try:
            with one.folder.opened():
                of = tracked.Swept(Path(out).resolve().name, one.cell.labels)
                run_experiment(one.experiment, one.folder, one.gin, shared, of)
        except Busy:
            elsewhere.append(one.cell.name)
            tell(f"{one.cell.name} is at work elsewhere")
        except Exception as error:
            if one.state != "finished":  # by another process, meanwhile
                failed[one.cell.name] = f"{type(error).__name__}: {error}"
                tell(f"failed: {one.cell.name}: {failed[one.cell.name]}")
        forget_programs()
    return _swept(Path(out), runs, failed, elsewhere)


def _rest(done: int, left: Sequence[Planned], begun: float) -> str:
    """How long what is left will take, by what was done."""
    if not done:
        return ""
    seconds = (time.monotonic() - begun) / done * (len(left) - done)
    return f"  (about {seconds / 60:.0f} min left)" if seconds > 90 else f"  ({seconds:.0f} s left)"


def _swept(
    out: Path, runs: Sequence[Planned], failed: dict[str, str], elsewhere: list[str]
) -> Swept:
    finished = sum(one.state == "finished" for one in runs)
    return Swept(out, finished, len(runs), failed, elsewhere)


def _submitit() -> Any:
    return imported("A sweep in several jobs", "cluster", "submitit")[0]


class Shard:
    """A part of a sweep as a job of submitit: `arguments` are those of `sweep`. Preempted, it is
    queued again as it is: it goes on where it was."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def __call__(self) -> Swept:
        return sweep(**self.arguments)

    def checkpoint(self) -> Any:
        """What submitit queues in place of a job that was preempted."""
        return _submitit().helpers.DelayedSubmission(self)


def submit(
    files: str | Path | Sequence[str | Path],
    bindings: Sequence[str] = (),
    *,
    out: str | Path,
    jobs: int,
    only: Sequence[str] = (),
    cluster: str = "local",
    resources: Mapping[str, Any] | None = None,
    tell: Tell = say,
) -> Swept:
    """The sweep in `jobs` parts at once, each a job of submitit, and waits for them: processes of
    this machine, or jobs of the `cluster` "slurm".

    `resources` are parameters of `submitit.AutoExecutor`, such as timeout_min, cpus_per_task and
    slurm_partition; a local job has a year. `files`, `bindings`, `out`, `only` and `tell` are those
    of `sweep`. What jobs print goes to `out`/jobs. Interrupted, the jobs are cancelled. Raises
    ConfigurationError as `plan` does, before anything is submitted, and ImportError without
    submitit.
    """
    submitit = _submitit()
    runs, labels = _planned(files, bindings, out, only, "1/1")
    left = sum(one.state != "finished" for one in runs)
    if left == 0:
        return _swept(Path(out), runs, {}, [])
    SweepFolder(out).keep(labels)
    jobs = min(jobs, len(runs))
    executor = submitit.AutoExecutor(folder=SweepFolder(out).jobs, cluster=cluster)
    executor.update_parameters(
        name="morphkit",
        **({"timeout_min": 365 * 24 * 60} if cluster == "local" else {}) | dict(resources or {}),
    )
    request = partial(Shard, files=files, bindings=list(bindings), out=str(out), only=list(only))
    with executor.batch():
        at_work = [executor.submit(request(shard=f"{k + 1}/{jobs}")) for k in range(jobs)]
    failed = {}
    try:
        shown = -1
        while not all(job.done() for job in at_work):
            if (done := sum(one.state == "finished" for one in runs)) != shown:
                tell(f"{done}/{len(runs)} runs are finished, {len(at_work)} jobs")
                shown = done
            time.sleep(EVERY_S)
    except BaseException:
        for job in at_work:
            job.cancel(check=False)
        raise
    for job in at_work:
        try:
            failed |= job.result().failed
        except Exception as error:
            failed[f"job {job.job_id}"] = f"{error}".strip().splitlines()[-1]
    return _swept(Path(out), runs, failed, [])
