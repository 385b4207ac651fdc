"""Which coupling, and which map, suits the data: asked of known pairs that are held out."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import equinox as eqx
import numpy as np
from pydantic import Field

import gin

from ..checks import Checked, Count, Positive
from ..interfaces import Aligner, Baseline, FusedCost, OTSolver
from ..transport.collapse import Groups
from ..transport.entropic import Reading
from ..types import PairedData
from ..wiring.records import arguments

UNPAIRED = 0.25
"""Pairs are scarce where more than this share of the distinct targets, which repeat, has none."""

Suits = Literal["any", "repeated", "scarce"]
"""What data a candidate is for, see `kinds`."""


def fixed(items: Sequence[Any]) -> Sequence[Any]:
    """`items` as a tuple, which nobody changes later."""
    return tuple(items)


class Candidate(Checked):
    """A way to couple two clouds: an `aligner` with its `cost` and `solver`. Tables call it by its
    `label`; without one, by what it is made of. It is asked where it `suits`: of any data, of
    repeated targets, or where pairs are scarce among these (see `kinds`)."""

    cost: FusedCost
    aligner: Aligner
    solver: OTSolver
    label: str = eqx.field(static=True, default="")
    suits: Suits = eqx.field(static=True, default="any")

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.label or self.made_of

    @property
    def made_of(self) -> str:
        """Its parts, each with the arguments that are not its defaults."""
        return ", ".join(described(part) for part in (self.cost, self.aligner, self.solver))


Way = Baseline | Candidate


class Choice(Checked):
    """A choice among `candidates`, ways to couple, the run's own way and its baselines.

    The source points with a pair are parted into `folds`, at least 2. Each part in turn is held out
    with its pairs, and from the rest every candidate says how probable the targets of a held-out
    point are. Targets are ranked by what has the largest mean log posterior of the true one; how
    the rest is chosen says `morphkit.experiment.chosen.choose`. R² is that of point estimates which
    do not use the held-out target itself; a cost's own predictions have learned from it, and are
    made again without it where they lead. A candidate that lies behind by more than twice the
    standard error of the difference is asked no further, where targets repeat only if it has the
    right one first clearly less often, too; the two best couplings and the two best baselines by
    any measure stay. With `classes`, which asks for labels of the targets, every target of the
    right label is right: for targets, such as texts, whose class is known without a pair. Labels of
    source points are not looked at.

    With `only`, candidates of other names are not asked. After `budget` seconds of couplings no
    further part is begun, nor one that would probably take longer, and in the first part no further
    candidate, once there is one that knows new points; baselines are heard on top. Clouds of more
    than `points` distinct points are judged by a random part of them. Raises ValueError without
    candidates, for two of one label, and for a name in `only` that none has.
    """

    candidates: Sequence[Candidate] = eqx.field(converter=fixed)
    folds: Annotated[int, Field(ge=2)] = eqx.field(static=True, default=5)
    budget: Positive = eqx.field(static=True, default=60.0)
    points: Count = eqx.field(static=True, default=2000)
    classes: bool = eqx.field(static=True, default=False)
    only: tuple[str, ...] = eqx.field(static=True, default=(), converter=tuple)

    def __check_init__(self) -> None:
        names = [candidate.name for candidate in self.candidates]
        if not names:
            raise ValueError("Choice.candidates is empty; give one at least, or no run.choice")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(
                f"Choice.candidates has two that are called {twice[0]!r}; give them labels"
            )
        if missing := [name for name in self.only if name not in names]:
            raise ValueError(
                f"Choice.only = {self.only!r}: no candidate is called {missing[0]!r}; there are "
                + ", ".join(repr(name) for name in names)
            )

    @property
    def asked(self) -> list[Candidate]:
        """The candidates, or `only` some of them."""
        return [c for c in self.candidates if not self.only or c.name in self.only]


for configurable in (Choice, Candidate, Reading):
    gin.register(configurable, module="morphkit")


def kinds(choice: Choice, data: PairedData) -> set[Suits]:
    """What `data` are to `choice`, for a Candidate to suit.

    "any"; "repeated", where a point estimate is right or wrong, rather than near: targets repeat,
    or `choice` judges their classes; and "scarce", where more than UNPAIRED of the distinct targets
    that repeat have no pair.
    """
    targets, groups = Groups.of(data.y)
    paired, few = np.asarray(data.pairs.target), targets.size < data.y.size / 2
    found: set[Suits] = {"any"}
    if choice.classes or few or len(np.unique(paired)) < len(paired) / 2:
        found.add("repeated")
    known = len(np.unique(np.asarray(groups.index)[paired]))
    if few and known < (1 - UNPAIRED) * targets.size:
        found.add("scarce")
    return found


def described(component: Any) -> str:
    """`component` with the arguments that are not its defaults, as CanonicalCost(power=0.0)."""
    cls = type(component)
    plain = {f.name: f.default for f in cls.__dataclass_fields__.values()}
    said = []
    for name, value in arguments(component).items():
        if value == plain[name]:
            continue
        if isinstance(value, eqx.Module):
            said.append(f"{name}={described(value)}")
        elif isinstance(value, tuple | list) and any(isinstance(v, eqx.Module) for v in value):
            said.append(f"{name}=[{', '.join(described(v) for v in value)}]")
        else:
            said.append(f"{name}={value!r}")
    return f"{cls.__name__}({', '.join(said)})"
