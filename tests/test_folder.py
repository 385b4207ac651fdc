"""The folder of a run: nothing of anybody else's is touched, and nothing finished is lost."""

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from morphkit.files import write_text
from morphkit.folder import RunFolder, SweepFolder


def finished(path, text="old"):
    """A folder as a finished run leaves it."""
    with RunFolder(path).opened() as folder:
        folder.metrics.write_text(text)
        folder.morph.mkdir()
        (folder.morph / "manifest.json").write_text(text)
        folder.finish()
    return folder


@pytest.mark.parametrize(
    "name", ["config.gin", "notes.txt", "checkpoints/mine.bin", "morph/manifest.json", "wandb/x"]
)
def test_a_folder_that_is_not_a_runs_is_refused_and_left_alone(tmp_path, name):
    file = tmp_path / "proj" / name
    file.parent.mkdir(parents=True)
    file.write_text("theirs")
    with (
        pytest.raises(ValueError, match="no run of morphkit wrote"),
        RunFolder(tmp_path / "proj").opened(overwrite=True),
    ):
        pass
    assert file.read_text() == "theirs"
    assert [p for p in (tmp_path / "proj").rglob("*") if p.is_file()] == [file]


@pytest.mark.parametrize("name", ["notes.txt", "morph/notes.txt", "checkpoints/mine.bin"])
def test_a_users_file_among_a_runs_is_not_overwritten(tmp_path, name):
    folder = finished(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("theirs")
    with pytest.raises(ValueError, match=name.partition("/")[0]), folder.opened(overwrite=True):
        pass
    assert (tmp_path / name).read_text() == "theirs"


def test_a_finished_run_is_kept_unless_told_otherwise(tmp_path):
    folder = finished(tmp_path)
    with pytest.raises(ValueError, match=r"finished run.*--overwrite"), folder.opened():
        pass
    assert folder.metrics.read_text() == "old"
    with folder.opened(overwrite=True):
        assert not folder.metrics.exists()
        folder.metrics.write_text("new")
        folder.finish()
    assert folder.metrics.read_text() == "new"
    assert not (tmp_path / "replaced").exists()
    assert not folder.state.get("replacing")


def killed(path, code: str) -> None:
    """Runs `code` on the RunFolder `folder` in a process that is killed after it."""
    script = (
        "import os, sys; from morphkit.folder import RunFolder\n"
        f"folder = RunFolder({str(path)!r})\n{code}\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


def fails(folder: RunFolder, finds, overwrite: bool = False) -> None:
    """A run that finds the folder as it should, and fails."""

    def run():
        with folder.opened(overwrite):
            assert finds()
            raise RuntimeError("fails")

    with pytest.raises(RuntimeError, match="fails"):
        run()


def test_an_overwrite_that_is_killed_keeps_the_old_results_until_the_new_are_there(tmp_path):
    finished(tmp_path)
    killed(
        tmp_path,
        "held = folder.opened(overwrite=True); held.__enter__()\n"
        "folder.metrics.write_text('half')\n"
        "folder.checkpoint('1').write_text('state')",
    )
    folder = RunFolder(tmp_path)
    assert not folder.state["finished"]
    assert (tmp_path / "replaced" / "metrics.json").read_text() == "old"
    # Goes on, without being told to overwrite.
    fails(folder, lambda: folder.checkpoint("1").read_text() == "state")
    assert folder.metrics.read_text() == "old"
    assert folder.state["finished"]
    with folder.opened(overwrite=True):
        assert folder.checkpoint("1").exists()
        folder.finish()
    assert not (tmp_path / "replaced").exists()


def test_a_kill_while_the_old_run_is_put_aside_loses_nothing(tmp_path):
    folder = finished(tmp_path)
    (tmp_path / "replaced").mkdir()
    folder.metrics.replace(tmp_path / "replaced" / "metrics.json")
    with folder.opened(overwrite=True):
        assert (tmp_path / "replaced" / "metrics.json").read_text() == "old"
        assert (tmp_path / "replaced" / "morph" / "manifest.json").read_text() == "old"


def test_a_kill_after_the_new_run_is_finished_keeps_the_new(tmp_path):
    finished(tmp_path)
    killed(
        tmp_path,
        "held = folder.opened(overwrite=True); held.__enter__()\n"
        "folder.metrics.write_text('new')\nfolder.finish()",
    )
    folder = RunFolder(tmp_path)
    assert folder.metrics.read_text() == "new"
    fails(folder, lambda: not folder.metrics.exists(), overwrite=True)
    assert folder.metrics.read_text() == "new"


def killed_at(moment: int, path, work) -> bool:
    """Whether `work`, in a process of its own, was killed before its `moment`-th change of `path`,
    or of anything in it: it ended if it has fewer."""
    changes = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir")
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = itertools.count()

    def hook(event, args):
        here = event in changes and isinstance(args[0], str | os.PathLike)
        if here and str(args[0]).startswith(str(path)) and next(left) == moment:
            os._exit(9)

    try:
        sys.addaudithook(hook)
        work()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.filterwarnings("ignore:.*fork")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_killed_at_any_moment_goes_on(tmp_path, overwrite):
    def text(folder):
        aside = folder.path / "replaced" / "metrics.json"
        return (folder.metrics if folder.metrics.exists() else aside).read_text()

    def run(folder):
        if not (folder.state.get("finished") and text(folder) == "new"):
            with folder.opened(overwrite):
                write_text(folder.metrics, "new")
                write_text(folder.morph / "manifest.json", "new")
                folder.finish()

    moments = itertools.count()
    for moment in moments:
        folder = RunFolder(tmp_path / str(moment))
        if overwrite:
            finished(folder.path)
        going = killed_at(moment, folder.path, lambda folder=folder: run(folder))
        if overwrite and folder.state["finished"]:
            assert text(folder) in ("old", "new")
        elif overwrite:
            fails(folder, lambda: True)
            assert folder.metrics.read_text() == "old"
        run(folder)
        assert folder.state["finished"]
        # What a kill after the new run was finished leaves goes with the next run.
        names = {path.name for path in folder.path.iterdir() if "partial" not in path.name}
        assert names - {"replaced"} == {".lock", "run.json", "metrics.json", "morph"}
        assert folder.metrics.read_text() == "new"
        if not going:
            break
    assert next(moments) > 10


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_sweep_killed_at_any_moment_of_its_beginning_goes_on(tmp_path):
    runs = {"a": {"run.seed": "0"}, "b": {"run.seed": "1"}}

    def begin(folder):
        folder.check(runs)
        folder.keep(runs)

    moments = itertools.count()
    for moment in moments:
        folder = SweepFolder(tmp_path / str(moment))
        going = killed_at(moment, folder.path, lambda folder=folder: begin(folder))
        begin(folder)
        assert folder.runs == runs
        if not going:
            break
    assert next(moments) > 3


def test_one_run_a_folder(tmp_path):
    with (
        RunFolder(tmp_path).opened(),
        pytest.raises(ValueError, match="another run is at work"),
        RunFolder(tmp_path).opened(),
    ):
        pass
    killed(tmp_path, "held = folder.opened(); held.__enter__()")
    with RunFolder(tmp_path).opened() as folder:  # the dead hold no lock
        folder.finish()


def test_default_folders_are_unique(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: RunFolder.unique("quick").path, range(8)))
    assert len(set(folders)) == 8
    assert all(path.is_dir() for path in folders)


@pytest.mark.parametrize("text", ["[]", "{", '{"format": 99, "finished": true}', '{"seed": 3}'])
def test_a_damaged_or_older_mark_is_named(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json"), RunFolder(tmp_path).opened():
        pass
