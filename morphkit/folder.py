"""The folder of a run: the one place that knows what its files are called."""

import contextlib
import fnmatch
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from .files import read_json, write_json
from .hosts import first_only, told, writes

FORMAT = 1
_FILES = (
    "run.json", ".lock", "log.jsonl", "config.gin", "split.json", "choice.json", "chosen.gin",
    "metrics.json", "figures.npz", "overview.png", "coupling.png", "report.html",
    "arrays-*.npz", "checkpoint-*.safetensors", "*.partial.*",
    "morph/weights.safetensors", "morph/manifest.json", "morph/config.gin", "morph/*.partial.*",
)  # fmt: skip
_FOLDERS = ("morph", "wandb", "replaced")
_KEPT = ("run.json", ".lock", "wandb", "replaced", "arrays-*.npz", "checkpoint-*.safetensors")
"""What an overwriting run leaves where it is: what it needs, and what names its own content."""


class Busy(ValueError):
    """Another run is at work in the folder."""


class RunFolder:
    """The files of one run in the folder `path`.

    `run.json` says that a run of morphkit lives here, of which W&B run it is, and, written last of
    all, that it is finished. While a run is at work it holds the lock `.lock`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.log = self.path / "log.jsonl"
        self.config = self.path / "config.gin"
        self.morph = self.path / "morph"
        self.split = self.path / "split.json"
        self.choice = self.path / "choice.json"
        self.chosen = self.path / "chosen.gin"
        self.metrics = self.path / "metrics.json"
        self.figures = self.path / "figures.npz"
        self.overview = self.path / "overview.png"
        self.coupling = self.path / "coupling.png"
        self.report = self.path / "report.html"

    @classmethod
    def unique(cls, name: str) -> Self:
        """A new folder of its own, runs/NAME-TIME with `name` as NAME. Raises FileExistsError if
        there are ten thousand of that second."""
        if not writes():
            return cls(told(""))
        stem = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        for count in range(1, 10_000):
            path = stem if count == 1 else stem.with_name(f"{stem.name}-{count}")
            with contextlib.suppress(FileExistsError):
                path.mkdir(parents=True)
                return cls(told(str(path)))
        raise FileExistsError(f"{stem} and its like exist already; name a folder with --out")

    def checkpoint(self, identity: str) -> Path:
        """Where the training of that `identity`, a fingerprint of all it depends on, keeps its
        state."""
        return self.path / f"checkpoint-{identity}.safetensors"

    def kept_choice(self, identity: str) -> dict[str, Any] | None:
        """What choice.json says, if it is of that `identity`, a fingerprint of all it depends
        on."""
        try:
            found = json.loads(self.choice.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        known = isinstance(found, dict) and found.get("identity") == identity
        return told(found if known else None)

    def arrays(self, identity: str) -> Path:
        """Where `morphkit.align` keeps arrays, named by their content's fingerprint `identity`."""
        return self.path / f"arrays-{identity}.npz"

    @property
    def state(self) -> dict[str, Any]:
        """What run.json says; empty without one. Raises ValueError if it is damaged."""
        path = self.path / "run.json"
        if not path.is_file():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            finished, version = found["finished"], found["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged, or of an older morphkit ({error!r}); choose another folder"
            ) from None
        if version != FORMAT or not isinstance(finished, bool):
            raise ValueError(f"{path} has format {version}, not {FORMAT}; choose another folder")
        return found

    def note(self, **changes: Any) -> None:
        """Changes what run.json says: `changes` are entries of it, JSON values by name."""
        state = {"format": FORMAT, "finished": False} | self.state | changes
        write_json(self.path / "run.json", state)

    @property
    def wandb_id(self) -> str | None:
        """The W&B run that a run here was, to go on with."""
        return self.state.get("wandb")

    def finish(self) -> None:
        """Marks the run as finished, the last that is written of it."""
        self.note(finished=True)
        for path in self.path.glob("checkpoint-*.safetensors") if writes() else ():
            path.unlink()

    def foreign(self) -> list[str]:
        """What is in the folder and not a run's, the first few names."""
        found = []
        for path in sorted(self.path.iterdir()):
            inside = path.is_dir() and path.name == "morph"
            for item in sorted(path.iterdir()) if inside else [path]:
                name = item.relative_to(self.path).as_posix()
                known = any(fnmatch.fnmatch(name, pattern) for pattern in _FILES)
                if not (known or (item.is_dir() and name in _FOLDERS)):
                    found.append(name)
        begun = (".lock", "*.partial.run.json")  # a run that was killed before it was noted
        if not found and not self.state:
            names = sorted(path.name for path in self.path.iterdir())
            if not all(any(fnmatch.fnmatch(name, known) for known in begun) for name in names):
                return names
        return found

    @contextlib.contextmanager
    def opened(self, overwrite: bool = False) -> Iterator[Self]:
        """The folder for one run to write to, which holds its lock meanwhile. Of several processes
        that make it together, the first one opens it for all.

        Raises ValueError, with the reason, for a file, for a folder with anything else than a run
        in it, for one in which a run is at work and, without `overwrite`, for a finished run. With
        it, that run's results are put aside, in replaced/: gone when the new run is finished, back
        in place when it fails.
        """
        with contextlib.ExitStack() as stack:
            with first_only() as here:
                if here:
                    stack.enter_context(self._opened(overwrite))
            yield self

    @contextlib.contextmanager
    def _opened(self, overwrite: bool) -> Iterator[None]:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; name a folder for the results")
        if self.path.exists() and (names := self.foreign()):
            raise ValueError(
                f"{self.path} holds what no run of morphkit wrote: {', '.join(names[:3])}; choose "
                "another folder with --out, or move that"
            )
        fresh = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise Busy(
                f"another run is at work in {self.path}; wait for it, or choose another folder "
                "with --out"
            ) from None
        try:
            with self._aside(overwrite):
                yield
        except (ValueError, LookupError, FileNotFoundError):
            # A request that cannot work leaves no folder behind.
            if fresh and not (self.morph.exists() or any(self.path.glob("checkpoint-*"))):
                shutil.rmtree(self.path)
            raise
        finally:
            lock.release()

    @contextlib.contextmanager
    def _aside(self, overwrite: bool) -> Iterator[None]:
        before, aside = self.state, self.path / "replaced"
        replacing = before.get("replacing", False)
        if before.get("finished") and not overwrite:
            raise ValueError(
                f"{self.path} holds a finished run; choose another folder with --out, or pass "
                "--overwrite"
            )
        for path in self.path.glob("*.partial.*"):  # of a run that was killed while it wrote
            path.unlink()
        if not before.get("finished") and not replacing:
            self.note()
            yield
            return
        if before.get("finished"):
            if replacing:
                shutil.rmtree(aside, ignore_errors=True)  # killed when the new run was there
            else:
                self._put_back()  # killed before all of the old one was put aside
            aside.mkdir()
            for path in list(self.path.iterdir()):
                if not any(fnmatch.fnmatch(path.name, pattern) for pattern in _KEPT):
                    path.replace(aside / path.name)
            self.note(finished=False, replacing=True, wandb=None, replaced=before)
        try:
            yield
        except BaseException:
            old = self.state["replaced"]
            self._put_back()
            write_json(self.path / "run.json", old)
            raise
        shutil.rmtree(aside, ignore_errors=True)
        self.note(replacing=False, replaced=None)

    def _put_back(self) -> None:
        aside = self.path / "replaced"
        for path in aside.iterdir() if aside.is_dir() else ():
            new = self.path / path.name
            if new.is_dir():
                shutil.rmtree(new)
            path.replace(new)
        shutil.rmtree(aside, ignore_errors=True)


class SweepFolder:
    """The folder `path` of a sweep: that of a run each, and sweep.json, which says what they are:
    the label of each axis, by the name of the run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.plan = self.path / "sweep.json"
        self.jobs = self.path / "jobs"

    @property
    def runs(self) -> dict[str, dict[str, str]]:
        """The labels by axis of each run, by its name; empty where no sweep is. Raises ValueError,
        naming the file, if it is damaged."""
        if not self.plan.is_file():
            return {}
        return read_json(self.plan, dict[str, dict[str, str]], "remove it, and sweep again")

    def check(self, runs: Mapping[str, Mapping[str, str]]) -> None:
        """Raises ValueError if there is anything here but a sweep over the axes of `runs`."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; name a folder for the sweep")
        # Nothing, or what a sweep was writing first when it was killed.
        begun = all(path.match("*.partial.sweep.json") for path in self.path.iterdir())
        if not self.runs and not begun:
            raise ValueError(
                f"{self.path} holds what no sweep wrote; choose another folder with --out"
            )
        axes = [list(next(iter(said.values()))) for said in (self.runs, runs) if said]
        if axes[0] != axes[-1]:
            raise ValueError(
                f"{self.path} holds a sweep over {', '.join(axes[0])}, and this one is over "
                f"{', '.join(axes[-1])}; choose another folder with --out"
            )

    def keep(self, runs: Mapping[str, Mapping[str, str]]) -> None:
        """Writes what `runs` are, beside those of a smaller sweep before."""
        if (said := self.runs | {name: dict(labels) for name, labels in runs.items()}) != self.runs:
            write_json(self.plan, said)
