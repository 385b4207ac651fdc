"""The command line: what may be asked, and how it ends."""

import argparse
import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence

from . import commands
from .hosts import any_of_all, join, leave, lost, process, several, told
from .plain import spell_out


def main(argv: Sequence[str] | None = None) -> int:
    """Does what `argv` says, by default the command line. Exit codes: 0 done, 1 the run failed, 2
    the request was wrong, 3 a gate is closed, 130 and 143 interrupted."""
    spell_out()
    arguments = _parser().parse_args(argv)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        with _devices(arguments):
            return command(arguments)
    except (KeyboardInterrupt, _Terminated) as stop:
        print(f"{_who()}interrupted; {_GOES_ON}", file=sys.stderr)
        return _ended(130 if isinstance(stop, KeyboardInterrupt) else 143)
    except BrokenPipeError:
        return 0
    except Exception as error:
        if arguments.debug and not several():
            raise
        if arguments.debug:
            traceback.print_exc()
        print(f"{_who()}{_message(error)}", file=sys.stderr)
        return _ended(2 if _is_request_error(error) else 1)


_GOES_ON = (
    "the same request with --out DIR goes on from the last checkpoint in DIR, if the run had come "
    "to its first"
)


@contextlib.contextmanager
def _devices(arguments: argparse.Namespace) -> Iterator[None]:
    """What `arguments` ask to share points out between; of several processes, all they have."""
    if "devices" not in arguments or not (join() or arguments.devices is not None):
        yield
        return
    from .devices import devices

    request = {name: str(value) for name, value in vars(arguments).items() if name != "command"}
    if any_of_all(told(request) != request):
        raise ValueError(
            "processes that were started together ask for different things; give them one request, "
            "or set MORPHKIT_PROCESSES=1 for runs of their own"
        )
    with devices(arguments.devices):
        yield
    told(None)  # the first one writes for longest


def _who() -> str:
    return f"morphkit, process {process()}: " if several() else "morphkit: "


def _ended(code: int) -> int:
    # A process that waited for the others to say farewell would keep them from noticing.
    return leave(code) if several() else code


class _Terminated(BaseException):
    """SIGTERM came."""


def _terminate(*_: object) -> None:
    raise _Terminated


def _message(error: Exception) -> str:
    text = str(error).partition("\n  In call to configurable")[0]  # where gin was is no help
    text = text.strip() or type(error).__name__
    if lost(error):
        return f"another process of this run is lost ({text.splitlines()[0]}); {_GOES_ON}"
    known = isinstance(error, ValueError | LookupError | OSError | MemoryError | ArithmeticError)
    known = known and not isinstance(error, KeyError | IndexError)
    return text if known else f"{type(error).__name__}: {text} (--debug shows where)"


def _is_request_error(error: Exception) -> bool:
    # KeyError and IndexError are LookupErrors too, but never meant for the user.
    wrong = isinstance(error, ValueError | FileNotFoundError) or type(error) is LookupError
    return wrong and not isinstance(error, UnicodeError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="morphkit",
        description="Learn a morph between the latent spaces of two frozen models.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(command=_version_or_help(parser))
    known = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = known.add_parser(name, help=text, description=text)
        sub.set_defaults(command=getattr(commands, name))
        return sub

    def bindings(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--set", dest="bindings", action="append", default=[], metavar="'NAME = VALUE'",
            help="bind a value, as in --set 'run.paired_fraction = 0.01'; may be repeated",
        )  # fmt: skip

    def devices(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--devices", type=int, metavar="N", help="share points out between N devices"
        )

    def run_options(sub: argparse.ArgumentParser, out_required: bool = False) -> None:
        bindings(sub)
        sub.add_argument("--out", metavar="DIR", required=out_required, help="folder for results")
        sub.add_argument("--overwrite", action="store_true", help="replace a finished run in DIR")

    sub = command("run", "Run the experiment that gin files describe.")
    sub.add_argument("files", nargs="+", metavar="FILE.gin")
    run_options(sub)
    devices(sub)

    sub = command("sweep", "Run every combination of what sweep.grid offers.")
    sub.add_argument("files", nargs="+", metavar="FILE.gin")
    bindings(sub)
    sub.add_argument("--out", metavar="DIR", required=True, help="folder for all runs")
    sub.add_argument(
        "--only", action="append", default=[], metavar="AXIS=LABEL",
        help="leave out runs that are not this; may be repeated, of one axis as alternatives",
    )  # fmt: skip
    sub.add_argument("--shard", default="1/1", metavar="I/N", help="only the I-th of N parts")
    sub.add_argument("--dry-run", action="store_true", help="list the runs and their states")
    sub.add_argument("--jobs", type=int, metavar="N", help="N parts at once, by submitit")
    sub.add_argument("--cluster", choices=("local", "slurm"), default="local", help="where jobs go")
    sub.add_argument(
        "--job", dest="resources", action="append", default=[], metavar="NAME=VALUE",
        help="a parameter of submitit's jobs, as slurm_partition=gpu; may be repeated",
    )  # fmt: skip

    sub = command("paper", "Make figures of the paper: sweeps, pictures, numbers, a page.")
    sub.add_argument("figures", nargs="*", metavar="FIGURE", help="as 6A, or 6 for all of it")
    sub.add_argument(
        "--scale", choices=("smoke", "cpu", "full"), default="cpu",
        help="smoke: does it work? cpu: two cores; full: the paper's settings (default cpu)",
    )  # fmt: skip
    bindings(sub)
    sub.add_argument("--out", metavar="DIR", help="folder for all of it (default runs/paper/SCALE)")
    sub.add_argument("--jobs", type=int, metavar="N", help="N parts at once, by submitit")
    sub.add_argument("--list", action="store_true", help="list the figures, and make none")

    sub = command("align", "Learn a morph between two arrays of features.")
    sub.add_argument("--source", required=True, metavar="X.npy", help="source features, (n, p)")
    sub.add_argument("--target", required=True, metavar="Y.npy", help="target features, (m, q)")
    sub.add_argument(
        "--pairs",
        metavar="PAIRS.csv",
        help="row numbers of known pairs, (l, 2); without any, nothing can check the result",
    )
    sub.add_argument(
        "--method", choices=("auto", "true", "global", "local"),
        help="how (default: auto, chosen on the pairs, unless --config says it)",
    )  # fmt: skip
    sub.add_argument("--config", metavar="FILE.gin", help="in place of align.gin")
    run_options(sub, out_required=True)
    devices(sub)

    sub = command("extract", "Make a store of the features that a run would make.")
    sub.add_argument("files", nargs="+", metavar="FILE.gin")
    sub.add_argument("--out", metavar="DIR", required=True, help="folder of the store")
    bindings(sub)

    sub = command("search", "Choose tau and epsilon of a run by its couplings (App. L.2).")
    sub.add_argument("files", nargs="+", metavar="FILE.gin")
    sub.add_argument("--out", metavar="DIR", required=True, help="folder for trials and picture")
    for name, what in (("taus", "of both sides"), ("epsilons", ""), ("fractions", "of the pairs")):
        sub.add_argument(f"--{name}", type=float, nargs="+", metavar="X", help=what)
    sub.add_argument("--seeds", type=int, help="choices of the pairs (default 3)")
    bindings(sub)

    sub = command("choose", "Choose how to align, on the known pairs; train nothing.")
    sub.add_argument("files", nargs="+", metavar="FILE.gin")
    sub.add_argument("--out", metavar="DIR", required=True, help="folder for the table")
    bindings(sub)

    sub = command("suggest", "Name the source points that are worth pairing next.")
    sub.add_argument("directory", metavar="DIR", help="a run's folder")
    sub.add_argument("-k", type=int, default=10, help="how many (default 10)")

    sub = command("gate", "Exit with 3 where a run finds too few of its held-out pairs.")
    sub.add_argument("directory", metavar="DIR", help="a run's folder")
    sub.add_argument(
        "--min-recall", type=float, required=True, metavar="X",
        help="the least share of held-out points whose target has to come first",
    )  # fmt: skip

    sub = command("predict", "Predict target features with a saved morph.")
    sub.add_argument("directory", metavar="DIR", help="a morph, or a run's folder")
    sub.add_argument("--input", required=True, metavar="X.npy")
    sub.add_argument("--output", required=True, metavar="Y.npy")
    sub.add_argument("--draws", type=int, help="draws per point (default 1)")
    sub.add_argument("--reduce", choices=("expected", "mean", "medoid", "std"),
                     help="how draws become one point, or their spread")  # fmt: skip
    sub.add_argument("--seed", type=int, default=0)
    devices(sub)

    sub = command("plugins", "List the installed plugin packages.")
    sub.add_argument("--components", action="store_true", help="import them, list components")
    sub.add_argument("--json", action="store_true")

    sub = command("show", "Describe one component: signature, doc, gin snippet.")
    sub.add_argument("name", metavar="NAME", help="such as cost.BridgeCost")

    sub = command(
        "dashboard",
        "Make a W&B workspace for runs like those in DIR; a report for several, or for figures.",
    )
    sub.add_argument(
        "directories", nargs="+", metavar="DIR",
        help="a run's folder, or a sweep's, or that of `morphkit paper`: a section a figure",
    )  # fmt: skip
    sub.add_argument("--entity", required=True, metavar="TEAM", help="W&B's name of the team")
    sub.add_argument("--project", default="morphkit", help="W&B's project (default morphkit)")
    sub.add_argument("--name", default="morphkit", help="what the workspace is called")
    sub.add_argument("--json", metavar="FILE", help="write its definition, and send nothing")

    sub = command("report", "Write a run's report again, or compare runs and sweeps.")
    sub.add_argument("directories", nargs="+", metavar="DIR")
    sub.add_argument(
        "--out", metavar="DIR",
        help="where a comparison goes (default: here; of one sweep, its folder)",
    )  # fmt: skip
    sub.add_argument(
        "--by", action="append", default=[], metavar="BINDING",
        help="group runs by it, as in --by run.cost; may be repeated",
    )  # fmt: skip
    sub.add_argument("--markdown", action="store_true", help="write the tables as Markdown, too")
    sub.add_argument("--csv", action="store_true", help="write the numbers as CSV, too")
    return parser


def _version_or_help(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], int]:
    def show(arguments: argparse.Namespace) -> int:
        if arguments.version:
            from importlib.metadata import version

            print(version("morphkit-align"))
            return 0
        parser.print_help()
        return 2

    return show


if __name__ == "__main__":
    sys.exit(main())
