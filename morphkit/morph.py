"""The result of a run: a trained morph, its predictions, and its life on disk."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .checks import Count, Positive
from .files import (
    checksum,
    load_arrays,
    read_json,
    read_text,
    reading,
    save_arrays,
    write_json,
    write_text,
)
from .hosts import writes
from .interfaces import LatentMap
from .precision import as_float32, in_float32
from .prediction import EXPECTED, REDUCTIONS, Reduce, path, predict
from .report.choice import format_choice
from .report.tables import format_table
from .training.flow import Networks, Preconditioned, Reweighting
from .training.scaling import Scaling
from .transport.entropic import EntropicMap
from .transport.matching import Matcher, Matches
from .types import Cloud
from .wiring.records import rebuild, record
from .wiring.structure import restored, structure

FORMAT = 2
"""The newest version of a manifest, of a morph with a base or a matcher; of others it is 1."""
REMEDY = "copy it anew, or train and save the morph again"


@dataclass(frozen=True)
class Versioned:
    """The one part of a manifest that every version has: `format`, its version, 1 or above."""

    format: Count


@dataclass(frozen=True)
class Manifest(Versioned):
    """What a saved morph says of itself, beside its weights: see `Morph.save`.

    `format` is the version of this file; `p` and `q` are the dimensions of source and target.
    `field` is the record of the velocity field (component and arguments), `noise_scale` that of
    `Morph`, and `reweight` whether η and ξ are among the weights. `sha256` is the checksum of
    weights.safetensors, in hexadecimal. `seed` is that of the run, `plugins` has its distributions
    and their versions, and `provenance` is `Morph.provenance`, read. `base` and `matcher` are the
    structures of those of `Morph`, if there are such.
    """

    p: Count
    q: Count
    field: dict[str, Any]
    noise_scale: Positive
    reweight: tuple[bool, bool]
    sha256: str
    seed: int | None
    plugins: dict[str, str]
    provenance: dict[str, Any]
    base: dict[str, Any] | None = None
    matcher: dict[str, Any] | None = None


class Morph(LatentMap):
    """A conditional flow from source features (p,) to target features (q,).

    `morph(x)` draws from p(y | x). `networks` holds the velocity field and, if trained, η and ξ;
    `scaling` has the maps between features and what the networks see, `noise_scale` the standard
    deviation of the noise at t = 0; `provenance` is JSON that says how it was made, `gin` the
    configuration for people. With a `base` the flow is anchored: what it gives is added to what the
    base predicts, and its velocity is `Preconditioned`. The `matcher` ranks the targets that it was
    trained with.
    """

    networks: Networks
    scaling: Scaling
    noise_scale: float = eqx.field(static=True)
    provenance: str = eqx.field(static=True, default="{}")
    gin: str = eqx.field(static=True, default="")
    base: LatentMap | None = None
    matcher: Matcher | None = None

    @in_float32
    def __call__(
        self,
        x: Float[Array | np.ndarray, "n p"],
        *,
        key: PRNGKeyArray | None = None,
        draws: int | None = None,
        reduce: Reduce = None,
        steps: int = 20,
    ) -> Float[Array, "n q"] | Float[Array, "draws n q"]:
        """Predictions by integrating Eq. 9 from noise at t = 0 to t = 1 (Eq. 12).

        `x` (n, p) are source features as the morph was trained on, in their own units. Each gets
        `draws` draws: one, the default, gives (n, q); more give (draws, n, q), or (n, q) with
        `reduce`: their "mean", their "medoid" (the draw nearest to all others), or "std", the
        standard deviation of each coordinate, how sure the morph is. The noise of draw k for row i
        depends on `key`, k and i alone, so that a call with fewer points or draws gives the first
        of them, up to rounding; without a key, key 0 is used. `steps` is the number of steps of the
        midpoint rule, two evaluations of the field each.

        `reduce` = "expected" is E[y | x] without integration: at t = 0 the velocity that minimises
        Eq. 4 is E[y | x] - z for every z. Averaged over `draws` z, 8 unless told, and over -z.

        Computed in blocks of fixed sizes: memory is that of the result and, beside it, of a few
        thousand draws, or those of one point. The same under JAX_ENABLE_X64. Raises ValueError
        for a wrong shape, NaN, numbers beyond float32, or an unknown reduction, MemoryError
        before anything is computed where the result is more than there is memory.
        """
        x = self._check(x)
        if reduce not in REDUCTIONS:
            known = ", ".join(repr(name) for name in REDUCTIONS if name)
            raise ValueError(f"reduce = {reduce!r} is unknown; use {known} or None")
        if draws is None:
            draws = EXPECTED if reduce == "expected" else 1
        for name, value, least in (("draws", draws, 1 + (reduce == "std")), ("steps", steps, 1)):
            if value < least:
                raise ValueError(f"{name} = {value} must be at least {least}")
        key = jax.random.key(0) if key is None else key
        return predict(
            self.networks.field, self.scaling, self.noise_scale, self.base, x,
            key=key, draws=draws, reduce=reduce, steps=steps,
        )  # fmt: skip

    def expected(
        self, x: Float[Array | np.ndarray, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        return self(x, key=key, reduce="expected")

    @in_float32
    def path(
        self,
        x: Float[Array | np.ndarray, "n p"],
        times: Sequence[float] = (0.0, 0.5, 1.0),
        *,
        key: PRNGKeyArray | None = None,
        steps: int = 20,
    ) -> Float[Array, "k n q"]:
        """How noise becomes the prediction: the flow (Eq. 9) for source features `x` (n, p) at
        `times`, which rise from 0 to 1, in the units of the target.

        With time 0 it begins at the noise, and time 1 is `morph(x)` of the same `key` (by default
        key 0) and the same `steps` of the midpoint rule. Raises ValueError for a wrong shape, NaN,
        and other times.
        """
        x, times = self._check(x), tuple(map(float, times))
        if not times or not times[0] >= 0 or not times[-1] <= 1 or sorted(set(times)) != [*times]:
            raise ValueError(f"times = {times} must rise, from 0 or above to at most 1")
        if steps < 1:
            raise ValueError(f"steps = {steps} must be at least 1")
        return path(
            self.networks.field, self.scaling, self.noise_scale, self.base, x, times,
            key=jax.random.key(0) if key is None else key, steps=steps,
        )  # fmt: skip

    @in_float32
    def match(
        self,
        x: Float[Array | np.ndarray, "n p"],
        k: int = 1,
        *,
        targets: Float[Array | np.ndarray, "m q"] | None = None,
        reverse: bool = False,
    ) -> Matches:
        """The `k` best target rows of every source point of `x` (n, p), with their probabilities.

        Rows are those of the target features that the morph was trained with, the first of those
        that coincide, and the posterior is that of what was best at ranking them on known pairs
        (or of the coupling, in a run without a choice). Other `targets` (m, q), such as the rows
        of a vector store, are ranked by their cosine with E[y | x], both from the mean of the
        targets. A probability is then the softmax of the cosines at the matcher's temperature, 1
        where a coupling ranks, and only the order means something.
        In `reverse`, every target is a query and the rows of `x` are ranked for it.

        Raises ValueError for a wrong shape, NaN, a `k` beyond the candidates, and for a morph that
        keeps no targets where none are given.
        """
        x = self._check(x)
        if targets is not None:
            cloud = Cloud.uniform(finite_rows("targets", targets, self.networks.field.target_dim))
            own = None if self.matcher is None else self.known_targets
            temperature = (
                1.0 if own is None or isinstance(own.map, EntropicMap) else own.temperature
            )
            return Matcher.of(self, cloud, temperature).match(x, k, reverse=reverse)
        return self.known_targets.match(x, k, reverse=reverse)

    @in_float32
    def density(
        self,
        points: Float[Array | np.ndarray, "n d"],
        side: Literal["source", "target"] = "source",
    ) -> Float[Array, " n"] | None:
        """π_X/μ at each of the `points`, as the morph has learned it: η_θ for features of the
        source, ξ_θ, π_Y/ν, for those of the target `side` (App. L.1).

        1 for a point that keeps its weight in the coupling, 0 for one that an unbalanced solver
        leaves out, above 1 for one that takes over what others leave. `points` are (n, p) or
        (n, q), in their own units. None without Training.reweight. Raises ValueError for another
        side, a wrong shape, and NaN.
        """
        if side not in ("source", "target"):
            raise ValueError(f"side = {side!r} is unknown; use 'source' or 'target'")
        if side == "source":
            network, seen = self.networks.eta, self.scaling.x
            checked = self._check(points)
        else:
            network, seen = self.networks.xi, self.scaling.y
            checked = finite_rows("points", points, self.networks.field.target_dim)
        return None if network is None else jax.vmap(network)(seen(jnp.asarray(checked)))

    @property
    def known_targets(self) -> Matcher:
        """What ranks the targets that it was trained with. Raises ValueError for a morph that keeps
        none."""
        if self.matcher is None:
            raise ValueError(
                "this morph keeps no targets to match with, since its coupling says nothing of new "
                "points; give targets=, the rows to be found, or align with method='auto'"
            )
        return replace(self.matcher, map=self.matcher.map or self.base)

    @property
    def metrics(self) -> dict[str, float]:
        """What the run that trained this morph measured; as in its metrics.json."""
        return json.loads(self.provenance).get("metrics", {})

    def report(self) -> str:
        """What the run that trained this morph found, as text: the candidates as they did on
        held-out pairs, where it chose, and the table of the morph beside the baselines."""
        story = json.loads(self.provenance)
        choice = story.get("choice")
        metrics = {k: math.nan if v is None else v for k, v in self.metrics.items()}
        parts = [format_choice(choice)] if choice else []
        parts += [format_table(metrics, story.get("directions", {}))] if metrics else []
        return "\n\n".join(parts) or "Nothing is known of how this morph was made."

    def _check(self, x: Any) -> Float[np.ndarray, "n p"]:
        return finite_rows("x", x, self.networks.field.source_dim, "source")

    def save(self, directory: str | Path) -> Path:
        """Writes weights.safetensors, manifest.json and config.gin (if known) into the folder
        `directory`, made if need be, and returns it; see `load`. Of several processes that make
        a run together, only the first one writes."""
        directory = Path(directory)
        if not writes():
            return directory
        weights = directory / "weights.safetensors"
        extra = (self.base, self.matcher)
        base, matcher = (None if part is None else structure(part) for part in extra)
        save_arrays(weights, (self.networks, self.scaling, *eqx.filter(extra, eqx.is_array)))
        if self.gin:
            write_text(directory / "config.gin", self.gin)
        field, story = self.networks.field, json.loads(self.provenance)
        field = field.field if isinstance(field, Preconditioned) else field
        manifest = Manifest(
            format=1 if base is None and matcher is None else FORMAT,
            p=field.source_dim,
            q=field.target_dim,
            field=record(field),
            noise_scale=self.noise_scale,
            reweight=(self.networks.eta is not None, self.networks.xi is not None),
            sha256=checksum(weights),
            seed=story.get("seed"),
            plugins=story.get("plugins", {}),
            provenance=story,
            base=base,
            matcher=matcher,
        )
        write_json(directory / "manifest.json", asdict(manifest))
        return directory


def finite_rows(name: str, x: Any, dim: int, side: str = "target") -> Float[np.ndarray, "n dim"]:
    """`x`, features of a `side`, in float32. Raises ValueError, naming the argument `name`, unless
    they are finite numbers of `dim` columns."""
    x = np.asarray(x)
    if x.dtype.kind not in "fiub":
        raise ValueError(f"{name} has type {x.dtype}, but must be real numbers")
    x = as_float32(name, x)
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(f"{name} has shape {x.shape}; this morph takes (n, {dim}) {side} features")
    if not (finite := np.isfinite(x).all(1)).all():
        rows = np.flatnonzero(~finite)[:5].tolist()
        raise ValueError(
            f"{name} has NaN or infinite values, first in rows {rows}; drop them first"
        )
    return x


@in_float32
def load(directory: str | Path) -> Morph:
    """The morph saved in `directory`. Touches no global configuration.

    Raises FileNotFoundError if there is none, LookupError if the package of its velocity field
    or of its base is not installed, ValueError if a file is damaged or its weights do not fit its
    manifest.
    """
    directory = Path(directory)
    path = directory / "manifest.json"
    if not path.exists():
        inside = directory / "morph"
        if (inside / "manifest.json").exists():
            config = directory / "config.gin"
            gin = read_text(config, REMEDY) if config.exists() else ""
            return replace(load(inside), gin=gin)
        raise FileNotFoundError(f"{directory} holds no morph: there is no manifest.json in it")
    version = read_json(path, Versioned, REMEDY).format
    if version > FORMAT:
        raise ValueError(f"{path} has format {version}: upgrade morphkit to read it")
    manifest = read_json(path, Manifest, REMEDY)
    weights = directory / "weights.safetensors"
    with reading(weights, REMEDY):
        if checksum(weights) != manifest.sha256:
            raise ValueError("manifest.json has another checksum")

    def skeleton() -> tuple[Networks, Scaling]:
        key = jax.random.key(0)
        field = rebuild(manifest.field, key=key)
        if manifest.base is not None:
            field = Preconditioned(field, manifest.noise_scale)
        eta, xi = (
            Reweighting(dim, key=key) if used else None
            for dim, used in zip((manifest.p, manifest.q), manifest.reweight, strict=True)
        )
        scaling = Scaling.fit(jnp.zeros((1, manifest.p)), jnp.zeros((1, manifest.q)), "none")
        return Networks(field, eta, xi), scaling

    with reading(path, REMEDY):
        shapes = eqx.filter_eval_shape(skeleton)
        extra = restored(manifest.base), restored(manifest.matcher)
    # Their numbers that are no arrays are in the manifest.
    arrays, rest = eqx.partition(extra, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    networks, scaling, *arrays = load_arrays(weights, (*shapes, *arrays), REMEDY)
    config = directory / "config.gin"
    return Morph(
        networks, scaling, manifest.noise_scale, json.dumps(manifest.provenance),
        read_text(config, REMEDY) if config.exists() else "", *eqx.combine(tuple(arrays), rest),
    )  # fmt: skip
