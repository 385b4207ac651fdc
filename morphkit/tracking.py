"""Weights & Biases behind one object, which never stops a run."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

WandbMode = Literal["auto", "online", "offline", "disabled"]
MODES = ("auto", "online", "offline", "disabled")

_SETTINGS: dict[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
    "x_save_requirements": False,
    "x_transaction_log_flush_interval": 1.0,
    "init_timeout": 15,
    "finish_timeout": 60,
}


class Results(NamedTuple):
    """What a finished run hands to W&B: its `metrics` by name, more of its `config`, the `table` of
    morph and baselines (names of columns, rows), and the files `report` (HTML), `picture` and
    `coupling` (PNG) and `morph`, a folder, those that are there."""

    metrics: Mapping[str, float] = {}
    config: Mapping[str, Any] | None = None
    table: tuple[Sequence[str], Sequence[Sequence[Any]]] | None = None
    report: Path | None = None
    picture: Path | None = None
    coupling: Path | None = None
    morph: Path | None = None


class Tracker:
    """A W&B run with its files under `out`; a `mode` of MODES, see `morphkit.loggers.Log`.

    `config` is its configuration from the start, `run_id` the run to go on with. `labels` are
    arguments of `wandb.init`, such as name and tags. The project is "morphkit", unless these or
    WANDB_PROJECT say another. `warn` is told what goes wrong, once: then there is no W&B any more,
    and `run` is None.
    """

    def __init__(
        self, out: Path, mode: WandbMode, warn: Callable[[str], None], *,
        run_id: str | None = None, config: Mapping[str, Any] | None = None,
        labels: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.run: Any = None
        self._warn = warn
        wanted = (os.environ.get("WANDB_MODE") or "auto") if mode == "auto" else mode
        if wanted == "disabled":
            return
        try:
            import wandb

            known = wandb.Settings.model_fields
            settings = wandb.Settings(**{k: v for k, v in _SETTINGS.items() if k in known})
            if wanted == "auto":
                wanted = "online" if wandb.login(prompt=False, verify=False) else "offline"

            default: dict[str, Any] = (
                {} if os.environ.get("WANDB_PROJECT") else {"project": "morphkit"}
            )

            def start(mode: Any) -> Any:
                return wandb.init(
                    **default | dict(labels or {}),
                    id=run_id,
                    resume="allow" if run_id else None,
                    reinit="create_new",  # the caller's own run stays as it is
                    config=dict(config or {}),
                    mode=mode,
                    dir=str(out),
                    settings=settings,
                )

            try:
                self.run = start(wanted)
            except Exception as error:
                if wanted == "offline":
                    raise
                warn(f"W&B cannot be reached ({_first_line(error)}); logging to it offline.")
                self.run = start("offline")
            self._try(lambda run: run.define_metric("*", step_metric="step"))
        except Exception as error:
            warn(f"W&B does not start ({_first_line(error)}); going on without it.")

    @property
    def id(self) -> str | None:
        """The id of the run, or None without one."""
        return None if self.run is None else self.run.id

    def log(self, numbers: Mapping[str, float], step: int | None) -> None:
        """Records `numbers` by name, of a `step` if there is one."""
        # W&B drops steps that go back, as they do between stages: the step is a metric there
        self._try(lambda run: run.log(dict(numbers) if step is None else {**numbers, "step": step}))

    def hand_over(self, results: Results) -> None:
        """Sends what a finished run has, `results`."""
        if self.run is None:
            return
        numbers = {name: float(value) for name, value in results.metrics.items()}
        once = {k: v for k, v in numbers.items() if not k.startswith("config/")}  # is in config
        if results.config is not None:
            config = dict(results.config)
            self._try(lambda run: run.config.update(config, allow_val_change=True))
        self._try(lambda run: run.log(_media(results)))
        self._try(lambda run: run.summary.update(once))
        if (morph := results.morph) is not None:
            self._try(lambda run: _keep(run, morph, numbers))

    def close(self, exit_code: int = 0) -> None:
        """Ends the W&B run, as one that ended with `exit_code`."""
        self._try(lambda run: run.finish(exit_code=exit_code))
        self.run = None

    def _try(self, call: Callable[[Any], Any]) -> None:
        if self.run is None:
            return
        try:
            call(self.run)
        except Exception as error:
            self.run = None
            self._warn(f"W&B failed ({_first_line(error)}); going on without it.")


def _media(results: Results) -> dict[str, Any]:
    """What W&B shows beside curves, by its name."""
    import wandb

    found: dict[str, Any] = {}
    if results.table is not None:
        columns, rows = results.table
        found["results"] = wandb.Table(columns=list(columns), data=[list(r) for r in rows])
    if results.report is not None and results.report.exists():
        found["report"] = wandb.Html(results.report.read_text(encoding="utf-8"), inject=False)
    pictures = {"overview": results.picture, "coupling_picture": results.coupling}
    for name, picture in pictures.items():  # numbers of the coupling are coupling/…
        if picture is not None and picture.exists():
            found[name] = wandb.Image(str(picture))
    return found


def _keep(run: Any, morph: Path, metrics: Mapping[str, float]) -> None:
    import wandb

    artifact = wandb.Artifact(f"morph-{run.id}", type="morph", metadata=dict(metrics))
    for file in sorted(morph.rglob("*")):  # add_dir prints
        if file.is_file():
            artifact.add_file(str(file), name=file.relative_to(morph).as_posix())
    run.log_artifact(artifact)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
