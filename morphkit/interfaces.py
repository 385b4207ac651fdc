"""The interfaces a component implements. Subclass one, register the class, and a run can use it.

Every class here is abstract; every component is final (no subclass of a component). A
component is an Equinox module whose constructor arguments, `key` apart, are fields of the same
name (static, as a rule), so that it can be rebuilt from its own record. Components that hold
weights (`FeatureExtractor`, `VelocityField`) are built by the run, which knows the shapes of
the data; all others are built by gin.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Scalar

from .checks import Checked
from .types import Batch, Cloud, Dataset, PairedData, Split

if TYPE_CHECKING:
    from .transport.couplings import Coupling
    from .transport.geometry import Geometry

Tell = Callable[[int, int, dict[str, float]], None]
"""How long work tells where it is: tell(step done, steps in all, metrics so far)."""


def silent(step: int, total: int, metrics: dict[str, float]) -> None:
    """A `Tell` that tells nobody: `step`, of `total`, and `metrics` are dropped."""


class Data(Checked):
    """Where the raw inputs come from."""

    @abstractmethod
    def load(self) -> Dataset:
        """Reads the data. Raises FileNotFoundError, saying what to put where, if it is absent."""


class FeatureExtractor(Checked):
    """A frozen model f: inputs → features. Built as `cls(input_shape=inputs.shape[1:], key=key)`.

    `input_shape` is the shape of one raw input, () for a text; `key` draws initial weights.

    The whole module is saved by tree path, so weights are ordinary array fields. Arguments that
    only `encode` reads are named in `encoding_arguments`: other values need no new training.
    """

    encoding_arguments: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def fit(self, inputs: np.ndarray, *, key: PRNGKeyArray, tell: Tell = silent) -> Self:
        """The model trained on raw `inputs` (n, *input_shape); a pretrained one is itself.

        `key` is for initialisation and noise; `tell` is told the progress.
        """

    @abstractmethod
    def encode(self, inputs: np.ndarray, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
        """Features (n, d) of raw `inputs` (n, *input_shape), each as its docstring says normalised
        or not. `key` matters only to stochastic encoders."""

    def provenance(self) -> dict[str, str]:
        """What features depend on beside arguments and training: a pretrained model's weights (a
        hash of them) and its preprocessing."""
        return {}


class Codec(FeatureExtractor):
    """A feature extractor that can also go back from features to inputs."""

    @abstractmethod
    def decode(self, features: Float[Array, "n d"]) -> Float[Array, "n ..."]:
        """Inputs (probabilities, for binary or one-hot inputs) that the `features` (n, d) stand
        for."""


class FusedCost(Checked):
    """An inter-space cost c_XY, made from two clouds and the pairs between them; `needs_pairs` says
    whether it takes one at least."""

    needs_pairs: ClassVar[bool] = True

    @abstractmethod
    def prepare(self, data: PairedData) -> "Geometry":
        """The n × m cost between the clouds of `data`, not yet divided by its unit, as a geometry;
        O((n + m) l) memory for l pairs, wherever possible. Raises ValueError for data that the cost
        is not defined on."""

    def fit(self, data: PairedData) -> "FittedCost":
        """The cost as learned from `data`, for new points and for couplings to learn from. Raises
        ValueError where this cost is not learned from anything, or as `prepare` does."""
        raise ValueError(
            f"{type(self).__name__} is the same whatever a coupling says, and not defined for new "
            "points; take a cost that learns, such as cost.CanonicalCost"
        )


class FittedCost(eqx.Module):
    """A cost that was learned from two clouds and the pairs between them, see `FusedCost.fit`."""

    @property
    @abstractmethod
    def geometry(self) -> "Geometry":
        """The n × m cost between the clouds."""

    @abstractmethod
    def at(self, x: Float[np.ndarray, "k p"]) -> "Geometry":
        """The k × m cost between any source points `x` (k, p), new ones as well, and the target
        cloud. Raises ValueError for a cost that is not defined for them, see `everywhere`."""

    @property
    def everywhere(self) -> bool:
        """Whether it is defined for new source points, too."""
        return True

    def predict(self, x: Float[np.ndarray, "k p"]) -> Float[Array, "k q"] | None:
        """The point estimates (k, q) for source points `x` (k, p) that the cost itself is made
        from, as that of a teacher is; None if there are none."""
        return None

    @property
    def learns(self) -> bool:
        """Whether a coupling teaches it anything."""
        return type(self).learn is not FittedCost.learn

    def settled(self) -> Self:
        """The cost without what only learning needs, its arrays on the device: what a map keeps."""
        return jax.tree.map(lambda a: jnp.float32(a) if isinstance(a, np.ndarray) else a, self)

    def learn(
        self, coupling: "Coupling", i: Int[Array, " r"], j: Int[Array, " c"], weight: float
    ) -> Self:
        """The cost learned from the pairs and, to the share `weight` in [0, 1], from the
        `coupling` (r × c) of the source points `i`, which have no pair, and the target points
        `j`. Raises ValueError for a cost that learns nothing from a coupling."""
        raise ValueError(
            f"{type(self).__name__} learns nothing from a coupling; take a cost that learns, such "
            "as cost.CanonicalCost"
        )


class OTSolver(Checked):
    """A discrete optimal transport solver (Eq. 1–3).

    `takes` has the geometries that it can solve for; by default all of them. What draws batches
    checks it before `solve`, see `morphkit.transport.couple.taken`.
    """

    takes: ClassVar[tuple[type[eqx.Module], ...]] = (eqx.Module,)

    @abstractmethod
    def solve(self, cost: "Geometry", x: Cloud, y: Cloud) -> "Coupling":
        """The coupling of `x` and `y` under `cost`, which the solver divides by its unit
        (`Geometry.scale`), the mean for most.

        Has to be traceable by `jax.jit`: local alignment solves inside the training step.
        """


class StartedSolver(OTSolver):
    """A solver whose problem is not convex: where it ends depends on where it starts."""

    @abstractmethod
    def solve(
        self, cost: "Geometry", x: Cloud, y: Cloud, start: "Coupling | None" = None
    ) -> "Coupling":
        """See `OTSolver.solve`; `start` is the coupling that it starts from, if one is known.
        Raises ValueError for one of other clouds."""


class Sampler(eqx.Module):
    """Draws training batches on the device."""

    @property
    @abstractmethod
    def coupling(self) -> "Coupling | None":
        """The one coupling that all batches come from, or None."""

    @abstractmethod
    def __call__(self, key: PRNGKeyArray, batch_size: int) -> Batch:
        """A batch of `batch_size` draws by `key`; traceable by `jax.jit`."""

    @property
    def map(self) -> "LatentMap | None":
        """What its coupling says of any source point, the row "coupling" of every table; None if it
        says nothing of new ones."""
        return None

    def draws(
        self, key: PRNGKeyArray, num: int, batch_size: int
    ) -> tuple[Int[Array, " num"], Int[Array, " num"]] | None:
        """Indices of `num` points and targets that its batches of `batch_size` would draw by `key`,
        or None if it does not know them."""
        return None if self.coupling is None else self.coupling.sample(key, num)

    def diagnostics(self, data: PairedData, batch_size: int, key: PRNGKeyArray) -> dict[str, float]:
        """How its solver ended and what its coupling of `data` is like, see `Coupling.diagnostics`;
        empty for a sampler that has none. One without a single coupling draws batches of
        `batch_size` by `key` to tell."""
        return {} if self.coupling is None else self.coupling.diagnostics(data.x, data.y)


class Aligner(Checked):
    """An alignment strategy (Sec. 3.2): how pairs and unpaired points become training batches."""

    def needs_pairs(self, cost: FusedCost) -> bool:
        """Whether it takes a pair at least, with this `cost`."""
        return True

    @abstractmethod
    def couple(self, data: PairedData, cost: FusedCost, solver: OTSolver) -> "Coupling | None":
        """The coupling of all points of `data` that batches would be drawn from, by `solver` under
        `cost`, or None."""

    @abstractmethod
    def sampler(self, data: PairedData, cost: FusedCost, solver: OTSolver) -> Sampler:
        """What draws batches of `data`: all work that can be done once, before training, is done,
        such as `cost` and `solver` on all points."""


class VelocityField(Checked):
    """v_θ(t, y | x) on the target space, conditioned on a source point; acts on one sample.

    Built as `cls(source_dim=p, target_dim=q, key=key)`; `key` draws the weights, `source_dim` and
    `target_dim` are the dimensions p and q.
    """

    source_dim: eqx.AbstractVar[int]
    target_dim: eqx.AbstractVar[int]

    @abstractmethod
    def __call__(
        self, t: Scalar, y: Float[Array, " q"], x: Float[Array, " p"]
    ) -> Float[Array, " q"]:
        """The velocity at time `t` in [0, 1] of the target point `y`, given the source point `x`;
        both scaled, see `Scaling`."""

    def at_rest(self) -> Self:
        """This field with a last layer of zeros: it gives 0 everywhere, and learns from there.

        What an anchored flow starts from. Raises ValueError for a field that has not said how.
        """
        raise ValueError(
            f"{type(self).__name__} does not say how it starts at zero (at_rest), as an anchored "
            "flow has to; take field.MLP or field.AdaLN, or set run.anchor = None"
        )


class LatentMap(eqx.Module):
    """A fitted map from source to target features: a morph or a fitted baseline."""

    @abstractmethod
    def __call__(
        self, x: Float[Array, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        """Predictions (n, q) for source points `x` (n, p), in the units of the features. `key`
        matters only to stochastic maps."""

    def expected(
        self, x: Float[Array, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        """E[y | x], the best point estimate in squared error, for source points `x` (n, p), in the
        units of the features: the prediction itself where that is no draw. `key` as in a call."""
        return self(x, key=key)

    def density(
        self, points: Float[Array, "n d"], side: Literal["source", "target"] = "source"
    ) -> Float[Array, " n"] | None:
        """π_X/μ at source `points` (n, p), or π_Y/ν at those of the target `side` (App. L.1); None
        from a map that has not learned it."""


class Baseline(Checked):
    """What one would do without a morph; fitted on the same data, shown in the same table."""

    @abstractmethod
    def fit(self, data: PairedData) -> LatentMap:
        """The map learned from `data`. Raises ValueError, saying why, for data it is not for: a run
        then leaves it out."""

    def tuned(self, data: PairedData) -> Self:
        """This baseline with what it would choose on the pairs of `data` fixed, as far as it can
        say; itself otherwise, and then it chooses whenever it is fitted."""
        return self


class WeightedBaseline(Baseline):
    """A baseline whose pairs may count differently: one that a coupling can teach, too.

    `classifies` says whether targets are classes to it. Of these there is no mean, so that a
    coupling teaches it the most probable target of a point, and others the mean of its targets.
    """

    classifies: ClassVar[bool] = False

    def fit(self, data: PairedData) -> LatentMap:
        """See `Baseline.fit`: every pair of `data` counts 1, once `tuned` has chosen."""
        return self.tuned(data).fit_weighted(data, np.ones(data.pairs.size))

    @abstractmethod
    def fit_weighted(self, data: PairedData, weights: Float[np.ndarray, " l"]) -> LatentMap:
        """The map learned from `data`, whose pair p counts `weights`[p], 0 or above, with the
        penalties that it has for as many pairs as the weights sum to: a pair of weight 2 is one
        that is there twice. Raises ValueError as `fit` does, or where arguments are left to choose,
        see `tuned`."""


class RawMap(eqx.Module):
    """A fitted map from raw source to raw target inputs: what is trained end to end."""

    @abstractmethod
    def __call__(
        self, inputs: Float[np.ndarray, "n ..."], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n ..."]:
        """Raw target inputs, or their probabilities, for raw source `inputs` (n, *input_shape), as
        `Codec.decode` gives them. `key` matters only to stochastic maps."""


class RawBaseline(Baseline):
    """A baseline from raw to raw inputs: judged by evaluators that decode, and no anchor."""

    def fit(self, data: PairedData) -> LatentMap:
        """Raises ValueError: the features of `data` are not enough."""
        raise ValueError(f"{type(self).__name__} needs raw inputs, and gives no features")

    @abstractmethod
    def fit_raw(self, data: PairedData, inputs: Split) -> RawMap:
        """The map learned from the pairs of `data`, whose points are made from `inputs`, in their
        order. Raises ValueError, saying why, for data it is not for."""


@dataclass(frozen=True)
class Scene:
    """Everything an evaluator may look at.

    `source` and `target` are the fitted feature extractors, `x` and `y` the features of the test
    split, `test` its raw inputs and correspondences; `train` is what the morph learned from, and
    `inputs` the raw inputs that it was made from.
    `class_names` has one name per label. `map` is set for evaluators with subject "map",
    `coupling` for "coupling"; `couple` finds the coupling of other data in the same way.
    """

    source: FeatureExtractor
    target: FeatureExtractor
    train: PairedData
    x: Cloud
    y: Cloud
    test: Split
    inputs: Split | None = None
    class_names: tuple[str, ...] | None = None
    map: LatentMap | RawMap | None = None
    coupling: "Coupling | None" = None
    couple: "Callable[[PairedData], Coupling | None] | None" = None


Better = Literal["higher", "lower", "neither"]
"""Which values of a metric are the better ones; "neither" for what is no merit, such as a count."""


class Evaluator(Checked):
    """One metric or several. `subject` says what they judge, and so the prefix they get:

    "map" runs once for the morph (`morph/…`), once for what the coupling says of new points
    (`map/…`, see `Sampler.map`) and once for each baseline (`baseline/NAME/…`),
    "coupling" once on the training coupling (`coupling/…`), "features" once (`features/…`).

    `decodes` says whether it judges decoded predictions, and so raw ones (`RawMap`), too. `metrics`
    has the name of each, without prefix, and which values are better: a class variable, or a
    property where names depend on arguments. It is read before training. A name belongs to one
    evaluator of a run.
    """

    decodes: ClassVar[bool] = False

    if TYPE_CHECKING:  # pyright reads AbstractClassVar as an instance variable
        subject: ClassVar[Literal["map", "coupling", "features"]]
        metrics: ClassVar[Mapping[str, Better]]
    else:
        subject: eqx.AbstractClassVar[Literal["map", "coupling", "features"]]
        metrics: eqx.AbstractVar[Mapping[str, Better]]

    @abstractmethod
    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        """What `scene` shows, names to values; no names but those of `metrics`, of which some may
        be left out. `key` is for evaluators that draw: the same key, the same values.

        Raises ValueError, naming what is missing, when the scene lacks what the metric needs
        (labels, a decoder)."""
