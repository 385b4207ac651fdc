"""Which source points are worth pairing next."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.special import entr
from sklearn.cluster import KMeans

from ..transport.matching import Matcher
from ..types import PairedData

LOOKED_AT = 10_000
"""Source points, of all without a pair, that are asked about, at most."""


def suggest(data: PairedData, matcher: Matcher, k: int) -> Int[np.ndarray, " k"]:
    """The `k` source points of `data` that are worth pairing next, the most telling first.

    The entropy of π(· | x), by `matcher`, says how unsure it is of a point without a pair. These
    points are clustered around k means, each counting its entropy, and the point nearest to a mean
    is suggested for its cluster: the more entropy a cluster has, the earlier. So k points that are
    unsure for one reason are not all asked for. Raises ValueError for a `k` that is not from 1 to
    the number of points without a pair.
    """
    free = np.setdiff1d(np.arange(data.x.size), np.asarray(data.pairs.source))
    if not 1 <= k <= len(free):
        raise ValueError(f"k = {k} must be from 1 to {len(free)}, the source points without a pair")
    if len(free) > LOOKED_AT:
        free = np.sort(np.random.default_rng(0).permutation(free)[: max(k, LOOKED_AT)])
    points = np.asarray(data.x.points, np.float64)[free]
    unsure = entropy(matcher, points)
    weights = np.maximum(unsure, 1e-6 * max(unsure.max(), 1e-300))
    model = KMeans(k, random_state=0)
    labels = model.fit_predict(points, sample_weight=weights)
    order = np.argsort(-np.bincount(labels, weights, minlength=k))
    medoids = []
    for cluster in order:
        members = np.flatnonzero(labels == cluster)
        apart = np.sum((points[members] - model.cluster_centers_[cluster]) ** 2, axis=1)
        medoids += [members[apart.argmin()]] if len(members) else []
    rest = np.setdiff1d(np.argsort(-weights, kind="stable"), medoids, assume_unique=True)
    return free[[*medoids, *rest[: k - len(medoids)]]]


def entropy(matcher: Matcher, x: Float[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
    """The entropy, in nats, of what `matcher` says of the source points `x` (n, p)."""
    blocks = np.array_split(np.arange(len(x)), max(1, len(x) * len(matcher.targets) // 2**22))
    found = [np.exp(np.asarray(matcher.log_posterior(jnp.asarray(x[b])))) for b in blocks]
    return np.concatenate([entr(posterior).sum(1) for posterior in found])
