"""What the re-weighting networks of U-GENOT have learned (Eq. 4, App. L.1)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from scipy.spatial.distance import cdist

from morphkit.checks import Count
from morphkit.interfaces import Better, Evaluator, LatentMap, Scene

from .scene import predictions

STILL = 1e-2
"""The standard deviation of a density below which it is that of a balanced coupling."""


class Densities(Evaluator):
    """Are η_θ and ξ_θ the densities of the coupling's marginals, and what does weighting by them
    change?

    Of a morph that was trained with `Training.reweight`, and of no other map. Gives

    - `eta_r2` and `xi_r2`: the share of the variance of η = π_X/μ, and of ξ = π_Y/ν, that η_θ and
      ξ_θ explain; over the training points without a pair, since those with one keep their weight
      in some couplings, where a coupling of all points is there and the density's standard
      deviation is above .01: that of a balanced one is 0.
    - `marginal_distance`: the energy distance (Székely and Rizzo 2013, Eq. 5) from one draw for
      each test source point to the test targets; in units of the targets. It measures the image
      of μ against ν. `reweighted_distance`: the same with weights times η_θ(x) and ξ_θ(y): the
      image of π_X against π_Y, which the flow was trained for.

    Distances are those of `points` random points a side at most, without bias from their number.
    Raises FloatingPointError for predictions that are not finite.
    """

    points: Count = eqx.field(static=True, default=2000)
    subject: ClassVar[Literal["map", "coupling", "features"]] = "map"
    metrics: ClassVar[Mapping[str, Better]] = {
        "eta_r2": "higher",
        "xi_r2": "higher",
        "marginal_distance": "lower",
        "reweighted_distance": "lower",
    }

    def evaluate(self, scene: Scene, *, key: PRNGKeyArray) -> dict[str, float]:
        morph, train = scene.map, scene.train
        if not isinstance(morph, LatentMap):
            return {}
        eta, xi = morph.density(train.x.points), morph.density(train.y.points, "target")
        new_eta, new_xi = morph.density(scene.x.points), morph.density(scene.y.points, "target")
        if eta is None or xi is None or new_eta is None or new_xi is None:
            return {}
        found = {}
        if scene.coupling is not None:
            pi_x, pi_y = (scene.coupling.marginal(axis) for axis in (0, 1))
            explained = {
                "eta_r2": _r2(pi_x / train.x.weights, eta, train.pairs.source),
                "xi_r2": _r2(pi_y / train.y.weights, xi, train.pairs.target),
            }
            found |= {name: r2 for name, r2 in explained.items() if r2 is not None}
        if 0 in (scene.x.size, scene.y.size):
            return found
        key, key_x, key_y = jax.random.split(key, 3)
        i, j = self._some(key_x, scene.x.size), self._some(key_y, scene.y.size)
        a = predictions(scene, self, key=key)[i].astype(np.float64)
        b = np.asarray(scene.y.points, np.float64)[j]
        mu, nu = np.asarray(scene.x.weights)[i], np.asarray(scene.y.weights)[j]
        weights = mu * np.asarray(new_eta)[i], nu * np.asarray(new_xi)[j]
        found["marginal_distance"] = energy_distance(a, b, mu, nu)
        found["reweighted_distance"] = energy_distance(a, b, *weights)
        return found

    def _some(self, key: PRNGKeyArray, size: int) -> Int[np.ndarray, " k"]:
        return np.asarray(jax.random.permutation(key, size))[: self.points]


def _r2(true: Array, given: Array, paired: Array) -> float | None:
    """The share of the variance of `true` that `given` explains, but at the rows `paired`; None if
    there is none but that of a solver's threshold."""
    t, g = (np.delete(np.asarray(a, np.float64), np.asarray(paired)) for a in (true, given))
    if len(t) == 0 or t.std() <= STILL:
        return None
    return float(1 - np.mean((t - g) ** 2) / t.var())


def energy_distance(
    a: Float[np.ndarray, "n q"], b: Float[np.ndarray, "m q"],
    weights_a: Float[np.ndarray, " n"], weights_b: Float[np.ndarray, " m"],
) -> float:  # fmt: skip
    """2 E|A - B| - E|A - A'| - E|B - B'| as estimated from the points `a` and `b`, which count
    `weights_a` and `weights_b`: about 0 for samples of one distribution, whatever their number, and
    nan for a single point."""

    def within(points: np.ndarray, p: np.ndarray) -> float:
        distinct = 1 - p @ p  # of two draws, that they are of two points
        return float(p @ cdist(points, points) @ p / distinct) if distinct > 0 else float("nan")

    p, q = (w.astype(np.float64) / w.sum(dtype=np.float64) for w in (weights_a, weights_b))
    return float(2 * p @ cdist(a, b) @ q - within(a, p) - within(b, q))
