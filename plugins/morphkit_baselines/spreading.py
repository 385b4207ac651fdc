"""Label spreading: the classifier that learns from unpaired points."""

import itertools
from typing import Annotated

import equinox as eqx
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field
from scipy.sparse.csgraph import laplacian
from sklearn.neighbors import NearestNeighbors

from morphkit.checks import Count
from morphkit.interfaces import Baseline, LatentMap
from morphkit.transport.memory import ask_memory
from morphkit.types import PairedData

from .pairs import candidates, folds, paired_classes
from .preprocessing import Kinds, Preprocessing

STEPS = 30
"""How often labels pass on to neighbours, at most."""

LARGE = 500_000
"""Where points times classes are more, arguments are chosen on one fold of pairs, for time."""


class SpreadMap(LatentMap):
    """The one of `targets` (c, q) of the class with the largest sum of shares `spread` (n, c) over
    the `k` neighbours of a point among `points` (n, p), the training cloud, both after
    `preprocessing`; not traceable."""

    preprocessing: Preprocessing
    points: Float[Array | np.ndarray, "n p"]
    k: int = eqx.field(static=True)
    spread: Float[Array | np.ndarray, "n c"]
    targets: Float[Array, "c q"]

    def __call__(
        self, x: Float[Array, "n p"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, "n q"]:
        search = NearestNeighbors(n_neighbors=self.k).fit(np.asarray(self.points))
        asked = np.asarray(self.preprocessing(np.asarray(x)))
        near, shares = search.kneighbors(asked, return_distance=False), np.asarray(self.spread)
        return self.targets[np.array([shares[row].sum(0).argmax() for row in near], int)]


class LabelSpreading(Baseline):
    """ŷ(x) = y_c with the class c that spreads to x from the pairs over a graph of all points.

    F ← α S F + (1 - α) Y, up to 30 times, S the normalised `k`-nearest-neighbour graph of the
    preprocessed source points (Zhou et al. 2004; scikit-learn's LabelSpreading): the classifier
    that learns from unpaired points. A point that is not of the training cloud gets the class of
    its neighbours there. Classes and y_c are those of `NearestClassMean`.

    α among `alpha`, `k` and the `preprocessing` (see `Preprocessing.of`) name most classes of
    held-out pairs; one value fixes each. Raises ValueError for k < 1, for α outside (0, 1), and in
    `fit` without pairs, or classes, MemoryError where there is none for points x classes.
    """

    k: Annotated[tuple[Count, ...], Field(min_length=1)] = eqx.field(
        static=True, default=(15, 7), converter=candidates
    )
    alpha: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)] = (
        eqx.field(static=True, default=(0.2, 0.9), converter=candidates)
    )
    preprocessing: Kinds = eqx.field(static=True, default=("unit", "centred"), converter=candidates)

    def fit(self, data: PairedData) -> LatentMap:
        classes, targets = paired_classes(data)
        ask_memory(
            f"the shares of {len(targets)} classes at {data.x.size} points, 5 times held at once,",
            5 * 4 * data.x.size * len(targets), "leave this baseline out",
        )  # fmt: skip
        source = np.asarray(data.pairs.source)
        parts = folds(len(source), classes)
        if data.x.size * len(targets) > LARGE:
            parts = parts[:1]
        most, best = -1, None
        for kind, k in itertools.product(self.preprocessing, self.k):
            preprocessing = Preprocessing.of(kind, data.x)
            z = np.asarray(preprocessing(np.asarray(data.x.points)), np.float32)
            neighbours = NearestNeighbors(n_neighbors=min(k, len(z))).fit(z)
            graph = _normalised(neighbours.kneighbors_graph(z))
            for alpha in self.alpha:
                right = 0
                for learned, held in parts:
                    known = _one_hot(source[learned], classes[learned], len(z), len(targets))
                    found = spread(graph, known, alpha)[source[held]]
                    right += np.sum(found.argmax(1) == classes[held])
                if right > most:
                    most, best = right, (preprocessing, z, neighbours.n_neighbors, graph, alpha)
        assert best is not None
        preprocessing, z, k, graph, alpha = best
        known = _one_hot(source, classes, data.x.size, len(targets))
        return SpreadMap(preprocessing.single(), z, k, spread(graph, known, alpha), targets)


def spread(
    graph: scipy.sparse.csr_array, known: Float[np.ndarray, "n c"], alpha: float
) -> Float[np.ndarray, "n c"]:
    """The shares of the classes at every point: F ← α S F + (1 - α) Y, from Y, until it changes no
    more. S is the normalised `graph`, Y (n, c) is `known`, one-hot, and α is `alpha`, in (0, 1).
    Zeros where no label arrives."""
    found = known
    for _ in range(STEPS):
        last, found = found, alpha * (graph @ found) + (1 - alpha) * known
        if np.abs(found - last).sum() < 1e-3:
            break
    return found / np.maximum(found.sum(1, keepdims=True), 1e-30)


def _normalised(graph: scipy.sparse.csr_matrix) -> scipy.sparse.csr_array:
    """D^-½ W D^-½ without a point's edge to itself."""
    found = -scipy.sparse.csr_array(laplacian(graph.astype(np.float32), normed=True))
    found.setdiag(0)
    return found


def _one_hot(
    points: Int[np.ndarray, " l"], classes: Int[np.ndarray, " l"], size: int, number: int
) -> Float[np.ndarray, "n c"]:
    known = np.zeros((size, number), np.float32)
    known[points, classes] = 1
    return known
