"""The command line. Heavy modules are imported by the commands that need them."""

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from .plain import spell_out

BELOW = 3
"""The exit code of `morphkit gate` for a run that is not good enough."""


def main(argv: Sequence[str] | None = None) -> int:
    """Does what `argv` says, by default the command line. Exit codes: 0 done, 1 the run failed, 2
    the request was wrong, 3 a gate is closed, 130 and 143 interrupted."""
    spell_out()
    arguments = _parser().parse_args(argv)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except (KeyboardInterrupt, _Terminated) as stop:
        print(
            "interrupted; the same request with --out DIR goes on from the last checkpoint in DIR, "
            "if the run had come to its first",
            file=sys.stderr,
        )
        return 130 if isinstance(stop, KeyboardInterrupt) else 143
    except BrokenPipeError:
        return 0
    except Exception as error:
        if arguments.debug:
            raise
        print(f"morphkit: {_message(error)}", file=sys.stderr)
        return 2 if _is_request_error(error) else 1


class _Terminated(BaseException):
    """SIGTERM came."""


def _terminate(*_: object) -> None:
    raise _Terminated


def _message(error: Exception) -> str:
    text = str(error).partition("\n  In call to configurable")[0]  # where gin was is no help
    text = text.strip() or type(error).__name__
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
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, function: Callable, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        return sub

    def bindings(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--set", dest="bindings", action="append", default=[], metavar="'NAME = VALUE'",
            help="bind a value, as in --set 'run.paired_fraction = 0.01'; may be repeated",
        )  # fmt: skip

    def run_options(sub: argparse.ArgumentParser, out_required: bool = False) -> None:
        bindings(sub)
        sub.add_argument("--out", metavar="DIR", required=out_required, help="folder for results")
        sub.add_argument("--overwrite", action="store_true", help="replace a finished run in DIR")

    sub = command("run", _run, "Run the experiment that gin files describe.")
    sub.add_argument("files", nargs="+", metavar="FILE.gin")
    run_options(sub)

    sub = command("align", _align, "Learn a morph between two arrays of features.")
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

    sub = command("extract", _extract, "Make a store of the features that a run would make.")
    sub.add_argument("files", nargs="+", metavar="FILE.gin")
    sub.add_argument("--out", metavar="DIR", required=True, help="folder of the store")
    bindings(sub)

    sub = command("search", _search, "Choose tau and epsilon of a run by its couplings (App. L.2).")
    sub.add_argument("files", nargs="+", metavar="FILE.gin")
    sub.add_argument("--out", metavar="DIR", required=True, help="folder for trials and picture")
    for name, what in (("taus", "of both sides"), ("epsilons", ""), ("fractions", "of the pairs")):
        sub.add_argument(f"--{name}", type=float, nargs="+", metavar="X", help=what)
    sub.add_argument("--seeds", type=int, help="choices of the pairs (default 3)")
    bindings(sub)

    sub = command("choose", _choose, "Choose how to align, on the known pairs; train nothing.")
    sub.add_argument("files", nargs="+", metavar="FILE.gin")
    sub.add_argument("--out", metavar="DIR", required=True, help="folder for the table")
    bindings(sub)

    sub = command("suggest", _suggest, "Name the source points that are worth pairing next.")
    sub.add_argument("directory", metavar="DIR", help="a run's folder")
    sub.add_argument("-k", type=int, default=10, help="how many (default 10)")

    sub = command("gate", _gate, "Exit with 3 where a run finds too few of its held-out pairs.")
    sub.add_argument("directory", metavar="DIR", help="a run's folder")
    sub.add_argument(
        "--min-recall", type=float, required=True, metavar="X",
        help="the least share of held-out points whose target has to come first",
    )  # fmt: skip

    sub = command("predict", _predict, "Predict target features with a saved morph.")
    sub.add_argument("directory", metavar="DIR", help="a morph, or a run's folder")
    sub.add_argument("--input", required=True, metavar="X.npy")
    sub.add_argument("--output", required=True, metavar="Y.npy")
    sub.add_argument("--draws", type=int, help="draws per point (default 1)")
    sub.add_argument("--reduce", choices=("expected", "mean", "medoid", "std"),
                     help="how draws become one point, or their spread")  # fmt: skip
    sub.add_argument("--seed", type=int, default=0)

    sub = command("plugins", _plugins, "List the installed plugin packages.")
    sub.add_argument("--components", action="store_true", help="import them, list components")
    sub.add_argument("--json", action="store_true")

    sub = command("show", _show, "Describe one component: signature, doc, gin snippet.")
    sub.add_argument("name", metavar="NAME", help="such as cost.BridgeCost")

    sub = command("report", _report, "Write a run's report again, or compare several runs.")
    sub.add_argument("directories", nargs="+", metavar="DIR")
    sub.add_argument("--out", metavar="DIR", help="where a comparison goes (default: here)")
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


def _finish(result) -> int:
    from .report.choice import format_choice
    from .report.read import read_choice, read_directions
    from .report.tables import format_table

    if said := read_choice(result.out):
        print(format_choice(said), end="\n\n")
    print(format_table(result.metrics, read_directions(result.out)))
    for name in ("report.html", "overview.png", "metrics.json"):
        if (result.out / name).exists():
            print(result.out / name)
    for failure in result.failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if result.failures else 0


def _run(arguments: argparse.Namespace) -> int:
    from . import api

    return _finish(
        api.run(arguments.files, arguments.bindings, arguments.out, overwrite=arguments.overwrite)
    )


def _align(arguments: argparse.Namespace) -> int:
    from . import api

    names = {"source": arguments.source, "target": arguments.target}
    names |= {} if arguments.pairs is None else {"pairs": arguments.pairs}
    files, how = api.alignment(arguments.method, arguments.config, arguments.pairs is not None)
    bindings = [*api.data_bindings(**names), *how, *arguments.bindings]
    return _finish(api.run(files, bindings, arguments.out, overwrite=arguments.overwrite))


def _extract(arguments: argparse.Namespace) -> int:
    from . import api

    print(api.extract(arguments.files, arguments.bindings, out=arguments.out))
    return 0


def _search(arguments: argparse.Namespace) -> int:
    from . import api
    from .experiment.search import best, regress

    names = ("taus", "epsilons", "fractions", "seeds")
    grid = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    trials = api.search(arguments.files, arguments.bindings, out=arguments.out, **grid)
    stuck = sum(not trial.converged for trial in trials)
    print(f"{len(trials)} couplings, {stuck} of which did not converge")
    for degree in (1, 2):
        print(
            f"aes by OLS of degree {degree}: adjusted R² {regress(trials, degree).adjusted_r2:.3f}"
        )
    print("largest mean aes: tau_x = {:g}, tau_y = {:g}, epsilon = {:g}".format(*best(trials)))
    for name in ("trials.csv", "search.png"):
        if (path := Path(arguments.out) / name).exists():
            print(path)
    return 0


def _choose(arguments: argparse.Namespace) -> int:
    from . import api
    from .report.choice import format_choice

    print(format_choice(api.choose(arguments.files, arguments.bindings, out=arguments.out)))
    for name in ("choice.json", "chosen.gin"):
        print(Path(arguments.out) / name)
    return 0


def _suggest(arguments: argparse.Namespace) -> int:
    from . import api

    for row in api.suggest(arguments.directory, arguments.k):
        print(row)
    return 0


def _gate(arguments: argparse.Namespace) -> int:
    from .report.choice import held_out_recall
    from .report.read import read_choice

    least = arguments.min_recall
    if not 0 <= least <= 1:
        raise ValueError(f"--min-recall {least:g} must be in [0, 1]")
    said = read_choice(Path(arguments.directory))
    if said is None:
        raise ValueError(
            f"{arguments.directory} holds no run that chose on held-out pairs; make one by "
            "morphkit align, or by naming gin/auto.gin after the files of a run"
        )
    recall, error, count = held_out_recall(said)
    passed = recall >= least
    print(
        f"{said['ranking']}: {recall:.3f} ± {error:.3f} of {count} held-out points have their "
        f"target first, {'at least' if passed else 'below'} {least:g}"
    )
    return 0 if passed else BELOW


def _predict(arguments: argparse.Namespace) -> int:
    import jax
    import numpy as np

    from .checks import check_seed
    from .data.arrays import read_array
    from .files import replace_file
    from .morph import load

    output = Path(arguments.output)
    if output.suffix != ".npy":
        raise ValueError(f"--output {output} must end in .npy")
    key = jax.random.key(check_seed("--seed", arguments.seed))
    morph = load(arguments.directory)
    y = morph(
        read_array(arguments.input),
        key=key,
        draws=arguments.draws,
        reduce=arguments.reduce,
    )
    replace_file(output, lambda partial: np.save(partial, np.asarray(y)))
    print(f"{output}: {tuple(y.shape)}")
    return 0


def _plugins(arguments: argparse.Namespace) -> int:
    if arguments.components:
        return _components(arguments.json)
    from .wiring.discovery import installed_plugins

    rows = [
        {
            "distribution": p.distribution,
            "version": p.version,
            "plugin": p.entry_point.name,
            "module": p.entry_point.module,
            "state": p.state,
        }
        for p in installed_plugins()
    ]
    _print_rows(rows, arguments.json)
    return 0


def _components(as_json: bool) -> int:
    from .wiring.registry import registry

    rows = [
        {
            "component": c.short,
            "distribution": f"{c.distribution} {c.version}",
            "summary": (c.cls.__doc__ or "").strip().partition("\n")[0],
        }
        for c in registry.load()
    ]
    rows += [
        {"component": "(none)", "distribution": plugin, "summary": failure}
        for plugin, failure in registry.failures.items()
    ]
    _print_rows(rows, as_json)
    return 0


def _print_rows(rows: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    names = list(rows[0]) if rows else []
    widths = {n: max(len(n), *(len(row[n]) for row in rows)) for n in names}
    for row in ({n: n.upper() for n in names}, *rows):
        print("  ".join(row[n].ljust(widths[n]) for n in names).rstrip())


def _show(arguments: argparse.Namespace) -> int:
    import inspect

    from .wiring.registry import registry

    found = registry.find(arguments.name)
    bound = {n: p for n, p in found.arguments.items() if p.default is not p.empty}
    run_argument = {"extractor": "source", "baseline": "baselines", "eval": "evaluators"}
    weights = found.kind in ("extractor", "field")
    reference = f"@{found.short}" + ("" if weights else "()")
    if found.kind in ("baseline", "eval"):
        reference = f"[{reference}]"
    print(f"{found.short}  ({found.distribution} {found.version}, gin name {found.selector})\n")
    print(f"{found.name}({', '.join(str(p) for p in found.arguments.values())})\n")
    print(inspect.cleandoc(found.cls.__doc__ or "(no documentation)"))
    print(f"\nIn gin:\n\n  run.{run_argument.get(found.kind, found.kind)} = {reference}")
    for name, parameter in bound.items():
        print(f"  {found.short}.{name} = {parameter.default!r}")
    if details := getattr(found.cls, "details", None):
        print(f"\n{details()}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from .report.comparison import write_comparison
    from .report.page import write_report

    directories = [Path(d) for d in arguments.directories]
    if len(directories) == 1 and arguments.out is None:
        print(write_report(directories[0]))
    else:
        print(write_comparison(directories, Path(arguments.out or ".")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
