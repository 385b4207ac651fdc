"""What the commands do. Heavy modules are imported by those that need them."""

import argparse
import json
import sys
from pathlib import Path

from .hosts import writes

BELOW = 3
"""The exit code of `morphkit gate` for a run that is not good enough."""


def _finish(result) -> int:
    if not writes():
        return 1 if result.failures else 0
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


def run(arguments: argparse.Namespace) -> int:
    """Runs the experiment in the files that `arguments` name."""
    from . import api

    return _finish(
        api.run(arguments.files, arguments.bindings, arguments.out, overwrite=arguments.overwrite)
    )


def sweep(arguments: argparse.Namespace) -> int:
    """Runs what is not finished of the sweep that `arguments` describe, here or in jobs."""
    from . import sweeping

    asked = {"files": arguments.files, "bindings": arguments.bindings, "out": arguments.out}
    asked |= {"only": arguments.only}
    if arguments.dry_run:
        planned = sweeping.plan(**asked, shard=arguments.shard)
        for one in planned:
            print(f"{one.state:<9} {one.cell.name}")
        return 0
    if arguments.jobs is None:
        if arguments.resources or arguments.cluster != "local":
            raise ValueError("--cluster and --job are of jobs: say how many with --jobs N")
        swept = sweeping.sweep(**asked, shard=arguments.shard)
    else:
        if arguments.jobs < 1 or arguments.shard != "1/1":
            raise ValueError("--jobs must be 1 or more, and makes shards itself; drop --shard")
        swept = sweeping.submit(
            **asked, jobs=arguments.jobs, cluster=arguments.cluster,
            resources=dict(map(_resource, arguments.resources)),
        )  # fmt: skip
    for name, text in swept.failed.items():
        print(f"failed: {name}: {text}", file=sys.stderr)
    for name in swept.elsewhere:
        print(f"at work in another process: {name}", file=sys.stderr)
    print(f"{swept.finished} of {swept.total} runs are finished in {swept.out}")
    return 0 if swept.finished == swept.total else 1


def _resource(entry: str) -> tuple[str, int | str]:
    name, equals, value = entry.partition("=")
    if not equals:
        raise ValueError(f"--job {entry!r} must be NAME=VALUE, as in --job timeout_min=600")
    return name, int(value) if value.isdigit() else value


def paper(arguments: argparse.Namespace) -> int:
    """Makes the figures that `arguments` name."""
    from .paper.bridges import FIGURES
    from .paper.index import ANSWERS
    from .paper.making import named, paper

    if arguments.list:
        for figure in named(arguments.figures) if arguments.figures else FIGURES.values():
            print(f"{figure.name:<4} {figure.title}" + (" *" if figure.needs else ""))
        return 0
    out = Path(arguments.out or f"runs/paper/{arguments.scale}")
    done = paper(
        arguments.figures, arguments.bindings, out=out, scale=arguments.scale, jobs=arguments.jobs
    )
    for one in done:
        verdict = ANSWERS[one.agrees].lower() if one.files else "failed"
        print(f"{one.name:<4} {verdict}: {one.found}")
    print(out / "index.html")
    return 0 if all(one.files for one in done) else 1


def align(arguments: argparse.Namespace) -> int:
    """Aligns the arrays that `arguments` name."""
    from . import api

    names = {"source": arguments.source, "target": arguments.target}
    names |= {} if arguments.pairs is None else {"pairs": arguments.pairs}
    files, how = api.alignment(arguments.method, arguments.config, arguments.pairs is not None)
    bindings = [*api.data_bindings(**names), *how, *arguments.bindings]
    return _finish(api.run(files, bindings, arguments.out, overwrite=arguments.overwrite))


def extract(arguments: argparse.Namespace) -> int:
    """Makes the store that `arguments` ask for."""
    from . import api

    print(api.extract(arguments.files, arguments.bindings, out=arguments.out))
    return 0


def search(arguments: argparse.Namespace) -> int:
    """Tries the grid of `arguments`."""
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


def choose(arguments: argparse.Namespace) -> int:
    """Chooses as `arguments` ask, and shows the table."""
    from . import api
    from .report.choice import format_choice

    print(format_choice(api.choose(arguments.files, arguments.bindings, out=arguments.out)))
    for name in ("choice.json", "chosen.gin"):
        print(Path(arguments.out) / name)
    return 0


def suggest(arguments: argparse.Namespace) -> int:
    """Prints the rows of the source points that the run named by `arguments` would have paired."""
    from . import api

    for row in api.suggest(arguments.directory, arguments.k):
        print(row)
    return 0


def gate(arguments: argparse.Namespace) -> int:
    """Whether the run that `arguments` name finds enough of its held-out pairs."""
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


def predict(arguments: argparse.Namespace) -> int:
    """Writes what a morph says of the points that `arguments` name."""
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
    if writes():
        print(f"{output}: {tuple(y.shape)}")
    return 0


def plugins(arguments: argparse.Namespace) -> int:
    """Lists plugins, or components, as `arguments` ask."""
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


def show(arguments: argparse.Namespace) -> int:
    """Describes the component that `arguments` name."""
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


def dashboard(arguments: argparse.Namespace) -> int:
    """Makes the W&B workspace or report that `arguments` describe, or writes what it would be. A
    folder of `morphkit paper` stands for its figures."""
    from .files import write_json
    from .paper.parts import parts
    from .report import dashboard as made

    shown = [one for d in map(Path, arguments.directories) for one in parts(d) or [d]]
    workspace = made.dashboard(shown, arguments.entity, arguments.project, arguments.name)
    if arguments.json:
        write_json(Path(arguments.json), made.definition(workspace))
        print(arguments.json)
    else:
        print(workspace.save().url)
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Writes the report of the run that `arguments` name, or a comparison of several."""
    from .folder import SweepFolder
    from .report.comparison import write_comparison
    from .report.page import write_report

    directories = [Path(d) for d in arguments.directories]
    several = len(directories) > 1 or bool(SweepFolder(directories[0]).runs)
    options = {"by": arguments.by, "markdown": arguments.markdown, "csv": arguments.csv}
    if not several and arguments.out is None and not any(options.values()):
        print(write_report(directories[0]))
        return 0
    out = Path(arguments.out or ("." if len(directories) > 1 else directories[0]))
    for path in write_comparison(directories, out, **options):
        print(path)
    return 0
