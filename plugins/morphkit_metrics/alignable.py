"""Can these two spaces be aligned? Before any cost, solver or map."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray
from pydantic import Field
from sklearn.neighbors import NearestNeighbors

from morphkit.checks import Count
from morphkit.interfaces import Better, Evaluator, Scene


class Alignability(Evaluator):
    """How alike the two spaces are on the known pairs, whatever their axes.

    Gives

    - `linear_cka`, linear centred kernel alignment (Kornblith et al. 2019): of the centred paired
      points X (l, p) and Y (l, q), |XᵀY|² / (|XᵀX| |YᵀY|), Frobenius norms; in [0, 1], 1 for
      rotations and scalings of one another. Fewer pairs than dimensions raise it for any two
      spaces;
    - `mutual_knn` (Huh et al. 2024): how many of a pair's `k` nearest others by cosine are the same
      in both spaces, a share in [0, 1]; k / (l - 1) is chance. Of points that coincide it is
      arbitrary which are nearest.

    At most `points` pairs serve, by chance. Fewer than 3 pairs, or k + 1 for the latter, and spaces
    where the pairs all coincide give nothing.
    """

    k: Count = eqx.field(static=True, default=10)
    points: Annotated[int, Field(ge=3)] = eqx.field(static=True, default=5000)
    subject: ClassVar[Literal["map", "coupling", "features"]] = "features"
    metrics: ClassVar[Mapping[str, Better]] = {"linear_cka": "higher", "mutual_knn": "higher"}

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        rows = np.asarray(jax.random.permutation(key, scene.train.pairs.size))[: self.points]
        x, y = (
            np.asarray(points, np.float64)[rows]
            for points in (scene.train.x_paired, scene.train.y_paired)
        )
        if len(rows) < 3 or not (np.ptp(x, axis=0).any() and np.ptp(y, axis=0).any()):
            return {}
        found = {"linear_cka": linear_cka(x, y)}
        if len(rows) > self.k:
            found["mutual_knn"] = mutual_knn(x, y, self.k)
        return found


def linear_cka(x: Float[np.ndarray, "l p"], y: Float[np.ndarray, "l q"]) -> float:
    """Linear centred kernel alignment of the rows of `x` (l, p) and `y` (l, q), not all equal."""
    x, y = x - x.mean(0), y - y.mean(0)

    def square(a: np.ndarray, b: np.ndarray) -> float:
        """|aᵀ b|², by the smaller of the matrices that give it."""
        if len(a) < max(a.shape[1], b.shape[1]):
            return float(np.sum((a @ a.T) * (b @ b.T)))
        return float(np.sum((a.T @ b) ** 2))

    return square(x, y) / np.sqrt(square(x, x) * square(y, y))


def mutual_knn(x: Float[np.ndarray, "l p"], y: Float[np.ndarray, "l q"], k: int) -> float:
    """The share that the `k` nearest others of a row of `x` (l, p), by cosine, have in common with
    those of the row of `y` (l, q), the mean over rows."""
    a, b = (
        NearestNeighbors(n_neighbors=k, metric="cosine").fit(z).kneighbors(return_distance=False)
        for z in (x, y)
    )
    return float(np.mean((a[:, :, None] == b[:, None, :]).any(2)))
