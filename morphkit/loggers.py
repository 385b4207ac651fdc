"""What a run talks to: the console, a JSON-lines file, and Weights & Biases if it is there."""

import contextlib
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from .hosts import writes
from .tracking import MODES, Results, Tracker, WandbMode

_PLAIN_EVERY_S = 10.0

_LIBRARY = logging.getLogger("morphkit")
"""Where components that know no `Log` speak, solvers for instance."""


class _Forward(logging.Handler):
    """Passes what components say on to a `Log`, once if they repeat themselves."""

    def __init__(self, log: "Log") -> None:
        super().__init__()
        self.log = log
        self.thread = threading.get_ident()
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text in self.said or record.thread != self.thread:  # of another run at the same time
            return
        self.said.add(text)
        say = self.log.warn if record.levelno >= logging.WARNING else self.log.info
        say(text)


class Log:
    """Console lines, `out/log.jsonl` and W&B behind one object; close it with `with`.

    `out` is created. Each record is one JSON object a line in `out/log.jsonl`, flushed at once,
    so a killed run loses nothing of it; an existing file is appended to. W&B writes under `out`,
    every second or so.
    `wandb` is "auto" (the environment's WANDB_MODE, or else online with credentials and offline
    without), "online", "offline" or "disabled". Whatever goes wrong inside W&B is warned about
    once, and the run goes on without it. `config` is a mapping, or the text of a gin file.
    `run_id` is that of the W&B run to go on with, and `labels` what it is called there, see
    `morphkit.tracking.Tracker`; a W&B run of the caller's stays as it is.
    `quiet` keeps information and progress off the console, not warnings. While it is open, what
    components say to the standard logger "morphkit" goes there too. Of several processes that make
    a run together, only the first one says and writes anything.

    Raises ValueError for an unknown W&B mode.
    """

    def __init__(
        self,
        out: Path | str,
        *,
        wandb: WandbMode = "auto",
        run_id: str | None = None,
        config: Mapping[str, Any] | str = "",
        labels: Mapping[str, Any] | None = None,
        quiet: bool = False,
    ) -> None:
        if wandb not in MODES:
            raise ValueError(
                f"wandb: {wandb!r} is no W&B mode; use 'auto', 'online', 'offline' or 'disabled'."
            )
        self.out = Path(out)
        self.quiet = quiet or not writes()
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / "log.jsonl" if writes() else os.devnull
        self._file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        self._end_torn_line()
        self.times: dict[str, float] = {}
        self._bar: tqdm | None = None
        self._library = _Forward(self)
        self._tracker = Tracker(
            self.out, wandb if writes() else "disabled", self.warn, run_id=run_id, labels=labels,
            config={"gin": config} if isinstance(config, str) else config,
        )  # fmt: skip

    def __enter__(self) -> Self:
        _LIBRARY.addHandler(self._library)
        _LIBRARY.setLevel(logging.INFO)
        _LIBRARY.propagate = False  # some library may have given the root logger a handler
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        _LIBRARY.removeHandler(self._library)
        _LIBRARY.propagate = True
        self._tracker.close(exit_code=0 if error is None else 1)
        self._close_bar()
        self._file.close()

    def info(self, text: str) -> None:
        """The line `text` for the user."""
        self._record({"info": text})
        if not self.quiet:
            self._print(text)

    def warn(self, text: str) -> None:
        """The line `text`, which the user should not miss; shown even when quiet."""
        self._record({"warning": text})
        self._print(f"warning: {text}")

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Records numbers, `values` by name, of a `step` if there is one; NaN and infinities are
        null in the file, JSON having neither."""
        numbers = {name: float(value) for name, value in values.items()}
        self._record({"step": step, "metrics": {k: finite(v) for k, v in numbers.items()}})
        self._tracker.log(numbers, step)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Notes the wall-clock seconds of what is done inside, in `times`, as time/NAME_s with
        `name` as NAME."""
        start = time.perf_counter()
        yield
        self.times[f"time/{name}_s"] = round(time.perf_counter() - start, 3)

    @property
    def run_id(self) -> str | None:
        """The id of the W&B run, or None without one."""
        return self._tracker.id

    def progress(self, label: str) -> "Progress":
        """A `Tell` for the stage `label`; its metrics are recorded as LABEL/…."""
        return Progress(self, label)

    def finish(self, results: Results) -> None:
        """The `results` of a finished run to W&B, which is then closed.

        They are not written to the JSON lines: they have files of their own in the run.
        """
        self._tracker.hand_over(results)
        self._tracker.close()

    def _record(self, entry: dict[str, Any]) -> None:
        line = json.dumps({"time": round(time.time(), 3), **entry}, allow_nan=False)
        self._file.write(line + "\n")
        self._file.flush()

    def _end_torn_line(self) -> None:
        if size := self._file.tell():
            self._file.seek(size - 1)
            torn = self._file.read(1) != "\n"
            self._file.seek(0, os.SEEK_END)
            self._file.write("\n" if torn else "")

    def _print(self, text: str) -> None:
        if not writes():
            return
        with tqdm.external_write_mode(file=sys.stderr):
            print(text, file=sys.stderr, flush=True)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Progress:
    """A `Tell` of the stage `label` to `log`: a bar on a terminal, otherwise a plain line at most
    every ten seconds.

    May be used in a `with`, which ends the bar also when the stage fails. Rates leave out
    what came before the first call, which paid for compilation.
    """

    def __init__(self, log: Log, label: str) -> None:
        self.log, self.label = log, label
        self.first: tuple[int, float] | None = None
        self.shown = time.monotonic()
        log._close_bar()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.log._close_bar()

    def __call__(self, step: int, total: int, metrics: dict[str, float]) -> None:
        """Shows that `step` of `total` is done, and records and shows `metrics`."""
        self.log.metrics({f"{self.label}/{k}": v for k, v in metrics.items()}, step)
        self.first = self.first or (step, time.monotonic())
        if self.log.quiet:
            return
        if sys.stderr.isatty():
            self._bar(step, total, metrics)
        elif step >= total or time.monotonic() - self.shown >= _PLAIN_EVERY_S:
            self.shown = time.monotonic()
            self.log._print(self._line(step, total, metrics))

    def _bar(self, step: int, total: int, metrics: dict[str, float]) -> None:
        bar = self.log._bar
        if bar is None:
            bar = tqdm(desc=self.label, total=total, initial=step, unit="step")
            self.log._bar = bar
        bar.set_postfix_str(_shown(metrics), refresh=False)
        bar.update(step - bar.n)
        bar.refresh()
        if step >= total:
            self.log._close_bar()

    def _line(self, step: int, total: int, metrics: dict[str, float]) -> str:
        parts = [f"{self.label} {step}/{total}", _shown(metrics)]
        first_step, first_time = self.first or (step, 0.0)
        if step > first_step:
            rate = (step - first_step) / max(time.monotonic() - first_time, 1e-9)
            parts.append(f"{rate:.3g} steps/s")
            if step < total:
                parts.append(f"{tqdm.format_interval((total - step) / rate)} left")
        return "  ".join(part for part in parts if part)


def _shown(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {float(value):.4g}" for name, value in metrics.items())


def finite(value: float) -> float | None:
    """`value`, or None for NaN and infinities."""
    return value if math.isfinite(value) else None
