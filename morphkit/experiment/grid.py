"""The runs of a sweep: every combination of what its axes offer."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..checks import Checked
from ..features.cache import fingerprint

LONGEST = 120
"""Letters of a folder's name, at most: file systems allow 255 bytes."""


class Sweep(Checked):
    """The `grid` of a sweep: what each axis offers, by its name.

    The name of an axis is that of a binding, and it offers a tuple of values, in gin
    'run.seed': (0, 1, 2) or 'run.cost': (@cost.BridgeCost(), @cost.KNNCost()). Or its name is free,
    and it offers bindings by label, as {'true': ['run.aligner = @aligner.TrueAlignment()']}. The
    last axis varies fastest. A stage that two runs in a row share is computed once, so axes of data
    and pairs come first. In gin it is called `sweep`.
    """

    grid: Mapping[str, Any]


class Cell(NamedTuple):
    """One run of a sweep: the `labels` of what each axis says, and the `bindings` that this is."""

    labels: dict[str, str]
    bindings: tuple[str, ...]

    @property
    def name(self) -> str:
        """That of its folder, made of the labels; shortened, it ends in a hash of them all."""
        parts = [f"{short(axis)}={_plain(label)}" for axis, label in self.labels.items()]
        name = ",".join(parts) or "run"
        if len(name) <= LONGEST and not any("…" in part for part in parts):
            return name
        return f"{name.replace('…', '_')[:LONGEST]}-{fingerprint(self.labels)[:8]}"


def short(axis: str) -> str:
    """The name of `axis` without what it belongs to: run.seed → seed."""
    return axis.rpartition(".")[2]


def _plain(label: str) -> str:
    """`label` with letters only that every file system takes; … where some were left out."""
    return re.sub(r"[^\w.+-]+", "…", label)


def _bare(value: Any) -> str:
    """`value` as short text: @hard/solver.Sinkhorn() → hard/Sinkhorn, 'coupling' → coupling."""
    return re.sub(r"@((?:\w+/)*)(?:\w+\.)*(\w+)(?:\(\))?", r"\1\2", repr(value)).strip("'")


def cells(grid: Any) -> list[Cell]:
    """Every combination of what the axes of `grid` offer. Raises ValueError, naming the axis, for
    one that offers nothing, the same twice, or not what `Sweep` describes."""
    if not isinstance(grid, Mapping) or not grid:
        raise ValueError(
            "sweep.grid must say what varies, as in sweep.grid = {'run.seed': (0, 1, 2)}"
        )
    shorts = [short(axis) for axis in grid]
    if twice := [axis for axis in grid if shorts.count(short(axis)) > 1]:
        raise ValueError(f"sweep.grid has two axes whose folders would be alike: {twice}")
    offers = [[(axis, *offer) for offer in _offers(axis, grid[axis])] for axis in grid]
    found = [
        Cell({axis: label for axis, label, _ in chosen}, tuple(b for *_, bs in chosen for b in bs))
        for chosen in itertools.product(*offers)
    ]
    names = [cell.name.lower() for cell in found]  # for file systems that tell no case apart
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"sweep.grid has two runs whose folders would be {twice[0]}; label them")
    return found


def _offers(axis: str, values: Any) -> list[tuple[str, list[str]]]:
    """Labels and bindings of what `axis` offers."""
    where = f"sweep.grid[{axis!r}]"
    if isinstance(values, Mapping):
        for label, bindings in values.items():
            if not isinstance(bindings, list | tuple) or not all(
                isinstance(binding, str) for binding in bindings
            ):
                raise ValueError(
                    f"{where}[{label!r}] must be a list of bindings, as ['run.seed = 1']"
                )
        found = [(str(label), list(bindings)) for label, bindings in values.items()]
    elif isinstance(values, list | tuple):
        found = [(_bare(value), [f"{axis} = {value!r}"]) for value in values]
    else:
        raise ValueError(
            f"{where} must be a tuple of values, or bindings by label; this is {values!r}"
        )
    labels = [label for label, _ in found]
    if not labels:
        raise ValueError(f"{where} offers nothing; leave it out")
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"{where} offers {twice[0]} twice; give what differs labels of their own")
    return found


def selected(found: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """Those of the cells `found` that `only` names: each entry AXIS=LABEL, several of one axis
    being alternatives. Raises ValueError for an axis or a label that there is not."""
    wanted: dict[str, set[str]] = {}
    for entry in only:
        axis, equals, label = (part.strip() for part in entry.partition("="))
        axes = [known for known in found[0].labels if axis in (known, short(known))]
        if not equals or not axes:
            known = ", ".join(found[0].labels)
            raise ValueError(f"--only {entry!r} must be AXIS=LABEL, AXIS being one of {known}")
        labels = dict.fromkeys(cell.labels[axes[0]] for cell in found)
        if label not in labels:
            raise ValueError(f"--only {entry!r}: {axes[0]} is one of {', '.join(labels)}")
        wanted.setdefault(axes[0], set()).add(label)
    return [c for c in found if all(c.labels[axis] in ok for axis, ok in wanted.items())]


def sharded(found: Sequence[Cell], shard: str) -> list[Cell]:
    """Those of `found` that the `shard` I/N does, 1/N to N/N: a row of neighbours, since these
    share most. Raises ValueError for another text."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard.strip())
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        raise ValueError(f"--shard {shard!r} must be I/N with 1 <= I <= N, as in 1/4")
    bounds = [len(found) * k // parts for k in (part - 1, part)]
    return list(found[slice(*bounds)])
