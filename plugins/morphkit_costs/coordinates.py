"""Coordinates of the points of one space that linear maps are then learned in."""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, get_args

import equinox as eqx
import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from scipy.sparse.linalg import eigsh
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from morphkit.types import Cloud

Features = Literal["identity", "unit", "diffusion", "rbf"]

LANDMARKS = 500
"""Points that the kernel of "rbf" is known at; of a smaller cloud, all."""

SPREADING = 0.99
"""The α of label propagation that the weights of eigenvectors are taken from."""

OWN_SCALE = 7
"""A point's scale in its graph is the distance to this neighbour (Zelnik-Manor and Perona 2004)."""

LEAST = 1e-3
"""The least eigenvalue that Nyström's formula divides by."""

ROWS = 2**14
"""Points that are in float64 at once where a cloud is large."""

DOUBLE = 2**26
"""Coordinates of a cloud above which they are stored in float32."""

RECENT = 2
"""Clouds whose diffusion coordinates are remembered: the two sides that a choice asks for again."""


class Coordinates(eqx.Module):
    """Where the points of one space lie for a map that is linear; made by `coordinates`.

    Raw coordinates less their weighted mean over the points that it was made from, `center` (d,),
    over `scale`, so that their mean square is 1.
    """

    center: Float[np.ndarray, " d"]
    scale: float

    def __call__(self, points: Float[np.ndarray, "k p"]) -> Float[np.ndarray, "k d"]:
        """Coordinates (k, d) of `points` (k, p), of the cloud or new, in float64."""
        return (self.raw(np.asarray(points, np.float64)) - self.center) / self.scale

    def raw(self, points: Float[np.ndarray, "k p"]) -> Float[np.ndarray, "k d"]:
        """Before they are centred and scaled: the `points` themselves."""
        return points


class Unit(Coordinates):
    """Points from their `mean` (p,), at unit length; `center` and `scale` as in `Coordinates`."""

    mean: Float[np.ndarray, " p"]

    def raw(self, points: Float[np.ndarray, "k p"]) -> Float[np.ndarray, "k p"]:
        apart = points - self.mean
        return apart / np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-12)


class RBF(Coordinates):
    """exp(-γ |x - x_k|²) of the `landmarks` x_k (r, p), times `root` (r, r), the inverse square
    root of the landmarks' own kernel: inner products are Nyström's approximation of the kernel
    (Williams and Seeger 2000). `gamma` is γ; `center` and `scale` are as in `Coordinates`."""

    landmarks: Float[np.ndarray, "r p"]
    root: Float[np.ndarray, "r r"]
    gamma: float

    def raw(self, points: Float[np.ndarray, "k p"]) -> Float[np.ndarray, "k r"]:
        return np.exp(-self.gamma * cdist(points, self.landmarks, "sqeuclidean")) @ self.root


class Diffusion(Coordinates):
    """Leading eigenvectors of the random walk on a neighbour graph of the cloud's own `points`.

    ψ_r are those of D^-1 W, W_ij = exp(-|x_i - x_j|² / (s_i s_j)) between the `neighbours` nearest
    (on either side), s_i the distance to the OWN_SCALE-th, each times (1 - α λ_r)^-½, as label
    propagation weighs them. A point z that is not of the cloud gets Nyström's extension,
    ψ_r(z) = Σ_i w_i(z) ψ_r(x_i) / λ_r over its nearest neighbours.

    `vectors` (n, d) are the weighted ψ, `values` (d,) the λ, `own_scale` (n,) the s; `center` and
    `scale` are as in `Coordinates`.
    """

    points: Float[np.ndarray, "n p"]
    vectors: Float[np.ndarray, "n d"]
    values: Float[np.ndarray, " d"]
    own_scale: Float[np.ndarray, " n"]
    neighbours: int

    def raw(self, points: Float[np.ndarray, "k p"]) -> Float[np.ndarray, "k d"]:
        search = NearestNeighbors(n_neighbors=self.neighbours).fit(self.points)
        distance, index = search.kneighbors(points)
        here = distance[:, min(OWN_SCALE, self.neighbours) - 1][:, None]
        weight = np.exp(-(distance**2) / np.maximum(here * self.own_scale[index], 1e-300))
        weight /= np.maximum(weight.sum(1, keepdims=True), 1e-300)
        vectors = np.asarray(self.vectors)
        found = np.einsum("nk,nkd->nd", weight, vectors[index]) / self.values
        own = distance[:, 0] == 0  # of the cloud
        return np.where(own[:, None], vectors[index[:, 0]], found)


def coordinates(
    features: Features, cloud: Cloud, *, neighbours: int = 15, components: int = 100
) -> tuple[Coordinates, Float[np.ndarray, "n d"]]:
    """`features` of `cloud`: what maps points to coordinates, and those of its own points (n, d).

    "identity" are the points, "unit" the same at unit length from their mean. "diffusion" is
    `Diffusion` on the graph of the `neighbours` nearest, with `components` eigenvectors (fewer in
    a small cloud); "rbf" is `RBF` at LANDMARKS points, γ being 1 / (2 median²) of their distances.
    Raises ValueError for a cloud without spread, or "diffusion" of fewer than three points.
    """
    assert features in get_args(Features)
    points = np.asarray(cloud.points)
    weights = np.asarray(cloud.weights, np.float64)
    weights = weights / weights.sum()
    none, one = np.zeros(1), 1.0
    if features == "identity":
        made = Coordinates(none, one)
    elif features == "unit":
        made = Unit(none, one, _sum(points, weights))
    elif features == "rbf":
        made = _rbf(points, none, one)
    else:
        made = _diffusion(points.astype(np.float64).tobytes(), len(points), neighbours, components)
    own = isinstance(made, Diffusion)
    found = np.array(made.vectors) if own else by_blocks(made.raw, points)
    center = _sum(found, weights)

    def apart(k: slice) -> Float[np.ndarray, "k d"]:
        return found[k].astype(np.float64) - center

    square = sum(float(weights[k] @ (apart(k) ** 2).sum(1)) for k in blocks(found))
    if not square > 0:
        raise ValueError("all points of a side coincide; there is nothing to align them by")
    scale = float(np.sqrt(square / found.shape[1]))
    for k in blocks(found):
        found[k] = apart(k) / scale
    return eqx.tree_at(lambda m: (m.center, m.scale), made, (center, scale)), found


def blocks(points: Float[np.ndarray, "n d"]) -> list[slice]:
    """Rows of `points`, ROWS at a time."""
    return [slice(k, k + ROWS) for k in range(0, len(points), ROWS)]


def by_blocks(
    function: Callable[[Float[np.ndarray, "k d"]], Float[np.ndarray, "k e"]],
    points: Float[np.ndarray, "n d"],
) -> Float[np.ndarray, "n e"]:
    """`function`, of each row alone, of `points` in float64, by blocks; stored in float32 where
    there are more than DOUBLE numbers."""
    width = function(np.zeros((1, points.shape[1]))).shape[1]
    kept = np.float32 if len(points) * width > DOUBLE else np.float64
    found = np.empty((len(points), width), kept)
    for k in blocks(points):
        found[k] = function(points[k].astype(np.float64))
    return found


def gram(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "n e"],
    weights: Float[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, "d e"]:
    """Σ_k w_k x_k y_kᵀ of `x`, `y` and the `weights` w (1 by default), in float64, by blocks."""
    total = np.zeros((x.shape[1], y.shape[1]))
    for k in blocks(x):
        left = x[k].astype(np.float64) if weights is None else x[k] * weights[k, None]
        total += left.T @ y[k].astype(np.float64)
    return total


def _sum(x: Float[np.ndarray, "n d"], weights: Float[np.ndarray, " n"]) -> np.ndarray:
    return sum((weights[k] @ x[k].astype(np.float64) for k in blocks(x)), np.zeros(x.shape[1]))


def _rbf(points: Float[np.ndarray, "n p"], none: np.ndarray, one: float) -> RBF:
    rows = np.random.default_rng(0).permutation(len(points))[:LANDMARKS]
    landmarks = np.unique(points[rows].astype(np.float64), axis=0)
    squares = cdist(landmarks, landmarks, "sqeuclidean")
    apart = squares[squares > 0]
    gamma = float(1 / (2 * np.median(apart))) if len(apart) else 1.0
    value, vector = np.linalg.eigh(np.exp(-gamma * squares))
    kept = value > 1e-6 * value[-1]
    root = vector[:, kept] / np.sqrt(value[kept])
    return RBF(none, one, landmarks, root, gamma)


@lru_cache(maxsize=RECENT)
def _diffusion(content: bytes, n: int, k: int, components: int) -> Diffusion:
    points = np.frombuffer(content).reshape(n, -1)
    if n < 3:
        raise ValueError("CanonicalCost: diffusion coordinates need at least 3 points a side")
    k = min(k, n - 1)
    search = NearestNeighbors(n_neighbors=k).fit(points)
    distance, index = search.kneighbors()  # of each point but itself
    own_scale = np.maximum(distance[:, min(OWN_SCALE, k) - 1], 1e-12 * (distance.max() or 1))
    weight = np.exp(-(distance**2) / (own_scale[:, None] * own_scale[index]))
    rows = np.repeat(np.arange(n), k)
    graph = sp.csr_array((np.maximum(weight.ravel(), 1e-300), (rows, index.ravel())), (n, n))
    graph = graph.maximum(graph.T)
    root = sp.diags_array(np.asarray(graph.sum(1)).ravel() ** -0.5)
    walk = root @ graph @ root
    count = min(components, n - 1)
    if count < n - 1 and n > 4 * count:
        value, vector = eigsh(walk, k=count, which="LA", v0=np.ones(n))
    else:
        value, vector = (a[..., -count:] for a in np.linalg.eigh(walk.toarray()))
    order = np.argsort(-value)
    value, vector = np.maximum(value[order], LEAST), vector[:, order]
    height = (1 - SPREADING * np.minimum(value, 1)) ** -0.5
    return Diffusion(np.zeros(1), 1.0, points, (root @ vector) * height, value, own_scale, k)
