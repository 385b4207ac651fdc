"""What runs that are compared are called: by what tells them apart."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..folder import RunFolder, SweepFolder
from .read import read_directions, read_metrics, read_story

PARTS = ("aligner", "cost", "solver")
PARTS_IF_VARIED = ("field", "anchor", "training")
OF_COLUMNS = ("run.paired_fraction", "run.seed")
"""What tables have columns of, and means over: no part of a name."""


class Run(NamedTuple):
    """A finished run as its folder, `path`, tells it: its `metrics`, its `story` and the
    `directions` of its metrics, see `morphkit.report.read`; of a run of a sweep, its `labels` by
    axis."""

    metrics: dict[str, float]
    story: dict[str, Any]
    directions: dict[str, str]
    labels: dict[str, str]
    path: Path


def read_runs(dirs: Sequence[Path]) -> list[Run]:
    """The finished runs in `dirs`, each that of a run or of a sweep. Raises ValueError for a folder
    of neither, and for a sweep of searches or one of which nothing is finished."""
    found = []
    for dir in dirs:
        labels = SweepFolder(dir).runs
        finished = {dir / name: said for name, said in labels.items() if _finished(dir / name)}
        if labels and not finished:
            if any((dir / name / "trials.csv").exists() for name in labels):
                raise ValueError(f"{dir} is a sweep of searches, not of runs; leave it out")
            raise ValueError(f"no run of the sweep in {dir} is finished; run it again")
        for place, said in finished.items() if labels else [(dir, {})]:
            known = read_metrics(place), read_story(place), read_directions(place)
            found.append(Run(*known, said, place))
    return found


def named(runs: Sequence[Run], by: Sequence[str]) -> list[tuple[str, str]]:
    """(name of the configuration, prefix for its baselines) of every one of `runs`.

    A name says what `by` asks for: bindings such as run.cost or Sinkhorn.epsilon. Without `by`, of
    runs of one sweep it says what the axes say; of others, the components, and of their arguments
    those that differ between runs with the same component. Raises ValueError for a binding that
    none of the runs has.
    """
    stories = [run.story for run in runs]
    features = [_features(story, stories) for story in stories]
    several = len(set(features)) > 1
    axes = list(runs[0].labels)
    if by:
        parts = [[f"{_short(name)}={_told(s, name, stories)}" for s in stories] for name in by]
    elif axes and all(list(run.labels) == axes for run in runs):
        shown = [axis for axis in axes if axis not in OF_COLUMNS]
        parts = [[f"{_short(axis)}={run.labels[axis]}" for run in runs] for axis in shown]
        if several:  # an axis that tells features apart is named by these
            found = len(set(features))
            parts = [p for p in parts if len(set(zip(features, p, strict=True))) > found]
    else:
        parts = [[_component(s, part, stories) for s in stories] for part in PARTS]
        extra = [[_component(s, part, stories) for s in stories] for part in PARTS_IF_VARIED]
        parts += [column for column in extra if len(set(column)) > 1]
    joined = [" · ".join(filter(None, row)) for row in zip(*parts, strict=True)] or [""] * len(runs)
    if not several:
        return [(name or "morph", "") for name in joined]
    return [
        (": ".join(filter(None, [f, name])), f"{f}: ")
        for f, name in zip(features, joined, strict=True)
    ]


def _finished(dir: Path) -> bool:
    return bool(RunFolder(dir).state.get("finished"))


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _told(story: Mapping[str, Any], name: str, stories: Sequence[Mapping[str, Any]]) -> str:
    """What `story` says of the binding called `name`; – where it has no such component."""
    owner, _, argument = name.rpartition(".")
    if owner in ("", "run") and any(argument in s for s in stories):
        return _component(story, argument, stories) or str(story.get(argument, "–"))
    if owner == "Training" and any(argument in s.get("training", {}) for s in stories):
        return str(story.get("training", {}).get(argument, "–"))
    found = [_argument(s, owner.rpartition(".")[2], argument) for s in (story, *stories)]
    if not any(found[1:]):
        raise ValueError(f"--by {name}: no run that is compared has that binding")
    return found[0][0] if found[0] else "–"


def _argument(told: Any, owner: str, argument: str) -> list[str]:
    """What is recorded of `argument` of components called `owner`, wherever in `told`."""
    if isinstance(told, Mapping):
        name, arguments = _split(told)
        own = [str(arguments[argument])] if name == owner and argument in arguments else []
        return own + [v for item in told.values() for v in _argument(item, owner, argument)]
    if isinstance(told, list):
        return [v for item in told for v in _argument(item, owner, argument)]
    return []


def _features(story: Mapping[str, Any], stories: Sequence[Mapping[str, Any]]) -> str:
    """What the run's points are: data and extractors, whatever their seed; if that does not tell
    apart runs on different points (a file that changed), with the start of their hash."""
    parts = ("data", "source", "target")
    seedless = [{part: _seedless(s.get(part)) for part in parts} for s in stories]
    own = {part: _seedless(story.get(part)) for part in parts}
    varied = len({json.dumps([s["source"], s["target"]]) for s in seedless}) > 1
    named = [_component(own, part, seedless) for part in (parts if varied else parts[:1])]
    text = " ".join(filter(None, named))
    hashes = {
        str(s.get("features"))
        for s, stripped in zip(stories, seedless, strict=True)
        if stripped == own and s["seed"] == story["seed"]
    }
    return text + (f" {str(story.get('features'))[:6]}" if len(hashes) > 1 else "")


def _seedless(found: Any) -> Any:
    """A record without its seed, and without the folder of a file that is named by its content
    (`morphkit.align` writes such)."""
    name, arguments = _split(found)
    kept = {
        k: re.sub(r"^.*/(arrays-[0-9a-f]{12}\.npz)", r"\1", v) if isinstance(v, str) else v
        for k, v in arguments.items()
        if k != "seed"
    }
    return {"component": name, "arguments": kept} if name else found


def _component(
    story: Mapping[str, Any], part: str, stories: Sequence[Mapping[str, Any]] = ()
) -> str:
    """A name, or a record {"component", "arguments"}, or bare arguments, as short text."""
    name, arguments = _split(story.get(part))
    peers = [args for n, args in (_split(s.get(part)) for s in stories) if n == name]
    varied = [
        f"{k}={_component({k: v}, k)}"
        for k, v in arguments.items()
        if any(peer.get(k) != v for peer in peers)
    ]
    return " ".join(filter(None, [name, ", ".join(varied)]))


def _split(found: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(found, dict):
        name = str(found.get("component", "")).rpartition(".")[2]
        arguments = found.get("arguments") if name else found
        return name, arguments if isinstance(arguments, dict) else {}
    return ("" if found is None else str(found)), {}
