"""What is asked of a run, as one value."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal

import equinox as eqx
from pydantic import Field

import gin

from ..checks import Checked, Positive, Seed
from ..interfaces import (
    Aligner,
    Baseline,
    Data,
    Evaluator,
    FeatureExtractor,
    FusedCost,
    OTSolver,
    VelocityField,
)
from ..tracking import WandbMode
from ..training.loop import Training
from ..transport.couplings import Coupling
from ..transport.entropic import Reading
from ..types import PairedData
from ..wiring.discovery import installed_plugins
from ..wiring.records import arguments, as_asked, record
from .choice import Choice, fixed
from .evaluate import check_evaluators, directions
from .grid import Sweep
from .tracked import Wandb


class Experiment(Checked):
    """Everything that one run is made of; in gin it is called `run`.

    `data` is where the inputs come from. `source` and `target` are the feature extractors, and
    `field` is the velocity field: classes (in gin: references without parentheses), built by the
    run since only the data tells their shapes. `aligner`, `cost` and `solver` make the coupling,
    `training` the flow; `evaluators` judge it, and `baselines` stand beside it, no two the same.

    A share `paired_fraction` in (0, 1] of the known pairs, at least one, is used: chosen one by
    one, also where they share a point, by `seed`, which also sets initialisation and training.
    `anchor` is what the flow starts from, see `morphkit.training.anchor`: a baseline, or
    "coupling", what the coupling says of new points; with None, as in the paper, it is nothing.
    `spread` is the root mean square, per coordinate, of what the anchor leaves over at a new point,
    in the units of the features: what the flow starts its draws with. With None it is that over
    the coupling, which knows the points that it couples. `reading` is how the coupling's map is
    read. With a `choice`, aligner, cost, solver, anchor, spread and reading are replaced by those
    that are best on known pairs, see `morphkit.experiment.chosen`.
    `wandb` is a mode of Weights & Biases, or says more of how the run is logged there, see
    `morphkit.experiment.tracked.Wandb`. Raises ValueError for arguments that cannot work.
    """

    data: Data
    source: type[FeatureExtractor]
    target: type[FeatureExtractor]
    aligner: Aligner
    cost: FusedCost
    solver: OTSolver
    field: type[VelocityField]
    training: Training
    evaluators: Sequence[Evaluator] = eqx.field(converter=fixed)
    baselines: Sequence[Baseline] = eqx.field(converter=fixed)
    paired_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Seed = 0
    wandb: Wandb | WandbMode = eqx.field(static=True, default="auto")
    anchor: Baseline | Literal["coupling"] | None = None
    reading: Reading = Reading()
    spread: Positive | None = None
    choice: Choice | None = None

    def __check_init__(self) -> None:
        names = [name for name, _ in self._rows]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"Experiment.baselines has {twice[0]} twice; use one a run")
        check_evaluators(self.evaluators)
        if not (self.anchor in (None, "coupling") or isinstance(self.anchor, Baseline)):
            raise ValueError(
                f"Experiment.anchor = {self.anchor!r} must be a baseline, 'coupling' or None"
            )
        if self.spread is not None and self.anchor is None and self.choice is None:
            raise ValueError(
                f"Experiment.spread = {self.spread:g} is of what an anchor leaves over; set "
                "run.anchor, or leave run.spread out"
            )

        if self.training.reweight and (self.choice is not None or self.anchor is not None):
            raise ValueError(
                "Training.reweight learns densities of target points, and an anchored flow, as a "
                "choice may ask for, sees residuals; set Training.reweight = False, or both "
                "run.choice = None and run.anchor = None"
            )

    @property
    def tracked(self) -> Wandb:
        """How the run is logged to Weights & Biases."""
        return self.wandb if isinstance(self.wandb, Wandb) else Wandb(self.wandb)

    @property
    def rows(self) -> dict[str, Baseline]:
        """The baselines by the name of their row, as baseline/nearest_anchor; of several of one
        class also by the arguments in which they differ, as baseline/vae_latent_16."""
        return {f"baseline/{name}": baseline for name, baseline in self._rows}

    @property
    def _rows(self) -> list[tuple[str, Baseline]]:
        found = []
        for baseline in self.baselines:
            own = arguments(baseline)
            peers = [arguments(b) for b in self.baselines if type(b) is type(baseline)]
            told = [
                re.sub(r"\W+", "_", f"_{name}_{value}")
                for name, value in own.items()
                if any(peer[name] != value for peer in peers)
            ]
            found.append((snake(type(baseline).__name__) + "".join(told), baseline))
        return found

    def is_like(self, other: "Experiment") -> bool:
        """Whether `other` asks for the same: by the values of all arguments, given or default."""
        return all(
            bool(_whole(getattr(self, field.name)) == _whole(getattr(other, field.name)))
            for field in fields(self)
        )

    def couple(self, data: PairedData) -> Coupling | None:
        """The coupling that the aligner would train on, of other `data`; None if it has none."""
        return self.aligner.couple(data, self.cost, self.solver)

    def record(
        self, source: FeatureExtractor, target: FeatureExtractor, field: VelocityField
    ) -> dict[str, Any]:
        """How a run was made, as JSON: every component with its arguments, and the versions of the
        plugins. `source`, `target` and `field` are those that it built."""
        return {
            "data": record(self.data), "source": record(source), "target": record(target),
            "aligner": record(self.aligner), "cost": record(self.cost),
            "solver": record(self.solver), "field": record(field),
            "training": arguments(self.training),
            "anchor": record(self.anchor) if isinstance(self.anchor, Baseline) else self.anchor,
            "spread": self.spread, "reading": arguments(self.reading),
            "paired_fraction": self.paired_fraction, "seed": self.seed,
            "directions": directions(self.evaluators),
            "plugins": {p.distribution: p.version for p in installed_plugins() if p.enabled},
        }  # fmt: skip


gin.register("run", module="morphkit")(Experiment)
gin.register("sweep", module="morphkit")(Sweep)
gin.register(Training, module="morphkit")


def _whole(part: Any) -> Any:
    """`part`; of a class that the run builds, its name and all its arguments."""
    build = getattr(part, "func", part)
    if not inspect.isclass(build):
        return part
    name, given = as_asked(part)
    defaults = {name: p.default for name, p in inspect.signature(build).parameters.items()}
    return name, defaults | given


def snake(name: str) -> str:
    """`name` as the tables have it: NearestAnchor → nearest_anchor, PLS → pls."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
