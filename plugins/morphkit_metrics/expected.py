"""What would a metric of draws say of point estimates?"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from jaxtyping import Array, Float, PRNGKeyArray

from morphkit.interfaces import Better, Evaluator, LatentMap, Scene


class ExpectedValue(Evaluator):
    """What `of`, a metric of maps, says of E[y | x] in the place of a draw.

    Baselines predict an expected value: beside them a draw has the noise of p(y | x) against it.
    A map of raw inputs has no expected features, and is judged as it is. Gives the metrics of `of`,
    "expected_" before their names. Raises ValueError for an `of` that judges no map; else as `of`
    does.
    """

    of: Evaluator
    subject: ClassVar[Literal["map", "coupling", "features"]] = "map"

    def __check_init__(self) -> None:
        if self.of.subject != "map":
            raise ValueError(
                f"ExpectedValue.of = {type(self.of).__name__}() judges {self.of.subject}; of a "
                "metric that judges a map there is an expected value"
            )

    @property
    def decodes(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.of.decodes

    @property
    def metrics(self) -> Mapping[str, Better]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {f"expected_{name}": better for name, better in self.of.metrics.items()}

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        mean = _Mean(scene.map) if isinstance(scene.map, LatentMap) else scene.map
        found = self.of.evaluate(replace(scene, map=mean), key=key)
        return {f"expected_{name}": value for name, value in found.items()}


class _Mean(LatentMap):
    """`of`, whose draws are its expected values."""

    of: LatentMap

    def __call__(
        self, x: Float[Array, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        return self.of.expected(x, key=key)
