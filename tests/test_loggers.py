"""The log of a run: its file is the reference, read back by an independent JSON parser."""

import json
import logging
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from morphkit.loggers import Log
from morphkit.tracking import Results


def entries(out: Path) -> list[dict]:
    def reject(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    lines = (out / "log.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=reject) for line in lines]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=clean_environment() | environment, capture_output=True, text=True, timeout=60
    )


def clean_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}


def test_metrics_are_valid_json_and_flushed_at_once(tmp_path):
    with Log(tmp_path / "new" / "run", wandb="disabled") as log:
        log.metrics({"a": 1.5, "b": math.nan, "c": -math.inf}, step=7)
        log.metrics({"d": 2})
        first, second = entries(tmp_path / "new" / "run")  # while the log is open
    assert first["step"] == 7
    assert first["metrics"] == {"a": 1.5, "b": None, "c": None}
    assert second["step"] is None
    assert second["metrics"] == {"d": 2.0}


def test_progress_records_under_its_label_and_ends_with_a_plain_line(tmp_path, capsys):
    with Log(tmp_path, wandb="disabled") as log, log.progress("train") as report:
        for step in (10, 20, 30):
            report(step, 30, {"loss": 1 / step})
    found = [(e["step"], e["metrics"]["train/loss"]) for e in entries(tmp_path)]
    assert found == [(10, 0.1), (20, 0.05), (30, 1 / 30)]
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()  # less than ten seconds: the last step only
    assert line.startswith("train 30/30  loss 0.03333")


def test_plain_progress_is_throttled_and_tells_rate_and_time_left(tmp_path, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("morphkit.loggers.time.monotonic", lambda: now[0])
    with Log(tmp_path, wandb="disabled") as log:
        report = log.progress("train")
        for step in range(100, 1000, 100):  # 4 s for 100 steps: lines at 12, 24 and 36 s
            now[0] += 4
            report(step, 1000, {"loss": 1.0})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["300/1000", "600/1000", "900/1000"]
    assert lines[0].endswith("25 steps/s  00:28 left")


def test_quiet_keeps_warnings(tmp_path, capsys):
    with Log(tmp_path, wandb="disabled", quiet=True) as log:
        log.info("hello")
        log.progress("fit")(1, 1, {"loss": 0.0})
        log.warn("careful")
    assert capsys.readouterr().err == "warning: careful\n"
    assert [e.get("info") or e.get("warning") for e in entries(tmp_path)] == [
        "hello",
        None,
        "careful",
    ]


def test_an_existing_log_is_continued_after_a_torn_line(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"time": 1, "step": 1, "metrics": {}}\n{"time": 2, "st')
    with Log(tmp_path, wandb="disabled") as log:
        log.metrics({"a": 1.0}, step=2)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["metrics"] == {"a": 1.0}


def test_unknown_wandb_mode_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="wandb: 'of' is no W&B mode"):
        Log(tmp_path, wandb="of")  # pyright: ignore[reportArgumentType]


def test_needs_neither_jax_nor_wandb(tmp_path):
    code = (
        "import sys; from morphkit.loggers import Log\n"
        f"with Log({str(tmp_path)!r}, wandb='disabled') as log: log.metrics({{'a': 1.0}})\n"
        "print([m for m in ('jax', 'wandb') if m in sys.modules])"
    )
    assert run_python(code).stdout == "[]\n"


def test_wandb_offline_without_credentials_is_silent_and_survives_a_kill(tmp_path):
    code = f"""
import os, time
from pathlib import Path
from morphkit.loggers import Log
log = Log({str(tmp_path)!r}, config="run.seed = 0")
log.progress("first")(5, 5, {{"loss": 0.5}})
log.progress("train")(1, 2, {{"loss": 0.25}})
assert log._tracker.run.settings.mode == "offline"
(stored,) = Path({str(tmp_path)!r}).glob("wandb/offline-run-*/run-*.wandb")
deadline = time.monotonic() + 10
while b"train/loss" not in stored.read_bytes() and time.monotonic() < deadline:
    time.sleep(0.1)
os.kill(os.getpid(), 9)
"""
    home = tmp_path / "home"
    home.mkdir()
    done = run_python(code, HOME=str(home))
    assert done.returncode == -9
    assert done.stdout == ""
    assert done.stderr == "first 5/5  loss 0.5\n"
    assert [e["step"] for e in entries(tmp_path)] == [5, 1]
    (stored,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"train/loss" in stored.read_bytes()


def test_finish_sends_summary_and_report(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    page = tmp_path / "report.html"
    page.write_text("<p>seen</p>")
    with Log(tmp_path, config={"a": 1}, quiet=True) as log:
        run = log._tracker.run
        log.metrics({"loss": 1.0}, step=3)
        log.finish(Results({"morph/test_accuracy": 0.5}, report=page))
        log.finish(Results({"again": 1.0}))  # nothing is left to close
        log.metrics({"after": 1.0})
    assert dict(run.config) == {"a": 1}
    (records,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 10  # W&B's own process closes the file a moment later
    while b"morph/test_accuracy" not in records.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert b"morph/test_accuracy" in records.read_bytes()
    assert b"after" not in records.read_bytes()
    (stored,) = tmp_path.glob("wandb/offline-run-*/files/media/html/*.html")
    assert "seen" in stored.read_text()


def test_a_failing_wandb_warns_once_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Log(tmp_path) as log:
        log._tracker.run.finish()  # a finished run refuses to log
        log.metrics({"a": 1.0}, step=1)
        log.metrics({"a": 2.0}, step=2)
    errors = capsys.readouterr().err
    assert errors.count("going on without it") == 1
    assert [e["step"] for e in entries(tmp_path) if "metrics" in e] == [1, 2]


def test_an_impossible_wandb_mode_in_the_environment_does_not_stop_the_run(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    with Log(tmp_path) as log:
        log.metrics({"a": 1.0}, step=1)
    assert "W&B" in capsys.readouterr().err
    assert entries(tmp_path)[-1]["metrics"] == {"a": 1.0}


def test_what_components_say_reaches_an_open_log(tmp_path, capsys):
    library = logging.getLogger("morphkit")
    with Log(tmp_path, wandb="disabled"):
        root = logging.StreamHandler()
        logging.getLogger().addHandler(root)
        library.info("solved by its factors")
        library.info("solved by its factors")
        library.warning("a warning")
        logging.getLogger().removeHandler(root)
    library.info("nobody listens")
    shown = capsys.readouterr().err
    assert shown.count("solved by its factors") == 1
    assert "warning: a warning" in shown
    assert "nobody" not in shown + (tmp_path / "log.jsonl").read_text()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_gets_the_letters_that_it_knows(encoding):
    code = (
        "import sys; from morphkit.plain import spell_out; spell_out()\n"
        "text = '\\u03c4_X = .9 \\u00b1 .1 \\u2191 na\\u00efve \\u6f22'\n"
        "print(text); print(text, file=sys.stderr)"
    )
    environment = clean_environment() | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    expected = {
        "ascii": b"tau_X = .9 +- .1 (high) naive ?\n",
        "latin-1": b"tau_X = .9 \xb1 .1 (high) na\xefve ?\n",
        "utf-8": "τ_X = .9 ± .1 ↑ naïve 漢\n".encode(),
    }[encoding]
    assert (done.stdout, done.stderr) == (expected, expected)
