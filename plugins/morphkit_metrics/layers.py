"""How well does a layer suit a region, before any morph? (App. G.3.1)"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray
from pydantic import Field
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold

from morphkit.checks import Count
from morphkit.interfaces import Better, Evaluator, Scene
from morphkit.linear import svd
from morphkit.types import distinct

from .neural import corrected, correlations, varies


class Predictivity(Evaluator):
    """Neural predictivity as in Brain-Score (Schrimpf et al. 2018): cross-validated PLS.

    Partial least squares with `components` components predicts the targets of held-out source
    points from these. Gives `predictivity`: each site's (target coordinate's) Pearson correlation
    with its prediction, the mean over `folds` folds, then the median over sites; and
    `predictivity_corrected`, over √reliability, where that is known. Uses the known pairs: set
    run.paired_fraction = 1 to compare layers. Raises ValueError for fewer than two paired source
    points a fold, and if no site varies.
    """

    components: Count = eqx.field(static=True, default=25)
    folds: Annotated[int, Field(ge=2)] = eqx.field(static=True, default=10)
    subject: ClassVar[Literal["map", "coupling", "features"]] = "features"
    metrics: ClassVar[Mapping[str, Better]] = {
        "predictivity": "higher",
        "predictivity_corrected": "higher",
    }

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        x, y = np.asarray(scene.train.x_paired), np.asarray(scene.train.y_paired)
        sources, row = distinct(np.asarray(scene.train.pairs.source))
        if len(sources) < 2 * self.folds:
            raise ValueError(
                f"Predictivity.folds = {self.folds} needs {2 * self.folds} pairs, of as many "
                f"source points, not {len(sources)}"
            )
        if not varies(y).any():
            raise ValueError("Predictivity: no site's response varies over the stimuli")
        found = []
        for part, _ in KFold(self.folds, shuffle=True, random_state=0).split(sources):
            known = np.isin(row, part)
            held = ~known
            kept = min(self.components, np.linalg.matrix_rank(x[known] - x[known].mean(0)))
            if kept == 0:  # nothing to predict from
                found.append(np.zeros(y.shape[1]))
                continue
            model = PLSRegression(kept, scale=False).fit(x[known], y[known])
            found.append(correlations(model.predict(x[held]).reshape(held.sum(), -1), y[held]))
        sites, moving = np.mean(found, axis=0), varies(y)
        median = {"predictivity": float(np.median(sites[moving]))}
        return median | corrected("predictivity", sites, moving, scene.test.reliability)


class EffectiveDimensionality(Evaluator):
    """Over how many dimensions the variance is spread (Elmoznino & Bonner 2024).

    (Σ_i λ_i)² / Σ_i λ_i², with λ the eigenvalues of the covariance of the training points:
    between 1 and d. Gives `source_effective_dimensionality` and
    `target_effective_dimensionality`. Points that all coincide have none, 0.
    """

    subject: ClassVar[Literal["map", "coupling", "features"]] = "features"
    metrics: ClassVar[Mapping[str, Better]] = {
        "source_effective_dimensionality": "neither",
        "target_effective_dimensionality": "neither",
    }

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        sides = {"source": scene.train.x.points, "target": scene.train.y.points}
        return {
            f"{side}_effective_dimensionality": effective_dimensionality(np.asarray(points))
            for side, points in sides.items()
        }


def effective_dimensionality(points: Float[np.ndarray, "n d"]) -> float:
    """(Σ λ)² / Σ λ² of the eigenvalues λ of the covariance of `points`; 0 where they coincide."""
    if not varies(points).any():
        return 0.0
    values = svd(points.astype(np.float64) - points.mean(0))[1] ** 2
    return float(values.sum() ** 2 / (values**2).sum())


class RSA(Evaluator):
    """Representational similarity analysis (Kriegeskorte et al. 2008).

    Spearman's correlation, over pairs of stimuli, of the dissimilarities 1 - Pearson (Eq. 27)
    in the source and in the target space. The stimuli are the known pairs, at most `points` of
    them at random; one with equal responses everywhere is at 1 from all others, as in
    `morphkit.transport.geometry`. Gives `rsa`; nothing for fewer than 3 pairs, or a space of one
    dimension.
    """

    points: Annotated[int, Field(ge=3)] = eqx.field(static=True, default=2000)
    subject: ClassVar[Literal["map", "coupling", "features"]] = "features"
    metrics: ClassVar[Mapping[str, Better]] = {"rsa": "higher"}

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        known = scene.train.pairs.size
        if known < 3 or min(scene.train.x.dim, scene.train.y.dim) < 2:
            return {}
        rows = np.asarray(jax.random.permutation(key, known))[: self.points]
        x, y = np.asarray(scene.train.x_paired)[rows], np.asarray(scene.train.y_paired)[rows]
        a, b = (np.nan_to_num(pdist(points, "correlation"), nan=1) for points in (x, y))
        found = spearmanr(a, b)
        return {"rsa": float(np.asarray(found)[0])}
