"""What would a metric of draws say of point estimates?"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from jaxtyping import PRNGKeyArray

from morphkit.interfaces import Better, Evaluator, Scene


class ExpectedValue(Evaluator):
    """What `of`, a metric with an `estimate`, says of E[y | x], beside what it says of a draw.

    Baselines predict an expected value: beside them a draw has the noise of p(y | x) against it.
    Gives the metrics of `of`, "expected_" before their names. Raises ValueError for an `of` without
    an `estimate`; else as `of` does.
    """

    of: Evaluator
    subject: ClassVar[Literal["map", "coupling", "features"]] = "map"

    def __check_init__(self) -> None:
        if not hasattr(self.of, "estimate"):
            raise ValueError(
                f"ExpectedValue.of = {type(self.of).__name__}() has no estimate to choose; take a "
                "metric that can judge a draw or E[y | x], such as eval.LabelAccuracy"
            )

    @property
    def decodes(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.of.decodes

    @property
    def metrics(self) -> Mapping[str, Better]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {f"expected_{name}": better for name, better in self.of.metrics.items()}

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        found = replace(self.of, estimate="expected").evaluate(scene, key=key)
        return {f"expected_{name}": value for name, value in found.items()}
