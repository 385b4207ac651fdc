"""Retrieval against scikit-learn and dense NumPy; alignability against closed forms."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_extractors.identity import Identity
from morphkit_metrics import retrieval
from morphkit_metrics.alignable import Alignability, linear_cka, mutual_knn
from morphkit_metrics.pairs import PairedError
from morphkit_metrics.retrieval import Retrieval, UnpairedRetrieval
from scipy.spatial.distance import cdist
from scipy.stats import ortho_group
from sklearn.metrics import (
    label_ranking_average_precision_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from morphkit.interfaces import LatentMap, Scene
from morphkit.transport.couplings import Convergence, DenseCoupling
from morphkit.types import Cloud, PairedData, Pairs, Split

KEY = jax.random.key(0)
N = 40


class Table(LatentMap):
    """The prediction of a point is the row that its first coordinate names."""

    rows: jax.Array

    def __call__(self, x, *, key=None):
        return self.rows[jnp.int32(x[:, 0])]


def numbered(n: int) -> np.ndarray:
    return np.stack([np.arange(n), np.ones(n)], axis=1)


def scene(targets, pairs, predicted) -> Scene:
    """Test points whose predictions are these."""
    x, y = Cloud.uniform(numbered(len(predicted))), Cloud.uniform(np.asarray(targets, float))
    model = Identity(input_shape=(2,), key=KEY)
    split = Split(np.asarray(x.points), np.asarray(y.points), np.asarray(pairs))
    data = PairedData(x, y, Pairs.from_array(split.pairs))
    return Scene(
        model, model, data, x, y, split, split, map=Table(jnp.asarray(predicted, jnp.float32))
    )


def both(n: int) -> np.ndarray:
    return np.stack([np.arange(n)] * 2, axis=1)


def theirs(scores: np.ndarray, prefix: str = "") -> dict[str, float]:
    """All metrics, of one-to-one scores whose partners are the diagonal, by scikit-learn."""
    right, found, closer = np.eye(len(scores), dtype=int), {}, []
    for way, table in ((prefix, scores), (f"{prefix}reverse_", scores.T)):
        for k in (1, 5, 10):
            found[f"{way}recall_at_{k}"] = top_k_accuracy_score(np.arange(len(table)), table, k=k)
        found[f"{way}mrr"] = label_ranking_average_precision_score(right, table)
        closer += [1 - roc_auc_score(right[i], row) for i, row in enumerate(table)]
    return found | {f"{prefix}foscttm": np.mean(closer)}


@pytest.mark.parametrize("mean", [0, 1000])
def test_retrieval_is_scikit_learns(rng, monkeypatch, mean):
    """Also of points in nearly one direction."""
    monkeypatch.setattr(retrieval, "BLOCK", 7 * N)  # several blocks, the last one shorter
    y = np.float32(rng.normal(size=(N, 4)) + mean)
    predicted = np.float32(y + rng.normal(size=y.shape))
    s = scene(y, both(N), predicted)
    found = Retrieval().evaluate(s, key=KEY)
    assert found == pytest.approx(theirs(1 - cdist(predicted, y, "cosine")))
    assert 0.1 < found["recall_at_1"] < found["reverse_recall_at_5"] < 1
    if mean == 0:
        assert found["recall_at_1"] == PairedError().evaluate(s, key=KEY)["retrieval_at_1"]


def test_a_perfect_map_ranks_every_partner_first(rng):
    y = rng.normal(size=(N, 4))
    order = rng.permutation(N)
    found = Retrieval().evaluate(scene(y[order], np.stack([order, np.arange(N)], 1), y), key=KEY)
    assert found.pop("foscttm") == 0
    assert set(found.values()) == {1.0}


def test_a_map_to_one_point_is_at_chance(rng):
    """All candidates are tied on the way back, and half of them better on the way there."""
    found = Retrieval().evaluate(scene(rng.normal(size=(N, 4)), both(N), np.ones((N, 4))), key=KEY)
    assert found["foscttm"] == pytest.approx(0.5)
    assert found["reverse_recall_at_10"] == 0
    assert found["reverse_mrr"] == pytest.approx(2 / (N + 1))
    assert found["recall_at_5"] == pytest.approx(5 / N)


def test_predictions_that_know_nothing_are_at_chance(rng):
    y, predicted = rng.normal(size=(2, 400, 4))
    found = Retrieval().evaluate(scene(y, both(400), predicted), key=KEY)
    assert found["foscttm"] == pytest.approx(0.5, abs=0.05)


def test_of_several_partners_the_best_counts(rng):
    """Twenty points with two targets each, among ten that nobody has."""
    y, predicted = rng.normal(size=(50, 3)), rng.normal(size=(20, 3))
    pairs = np.stack([np.repeat(np.arange(20), 2), rng.permutation(50)[:40]], axis=1)
    scores = 1 - cdist(predicted, y, "cosine")
    ranks, shares = [], []
    for i in range(20):
        own = pairs[pairs[:, 0] == i, 1]
        above = np.sum(np.delete(scores[i], own) > scores[i, own].max())
        ranks.append(1 + above)
        shares.append(above / 48)
    back = [np.sum(scores[:, j] > scores[i, j]) for i, j in pairs]
    found = Retrieval().evaluate(scene(y, rng.permutation(pairs), predicted), key=KEY)
    assert found["recall_at_5"] == pytest.approx(np.mean(np.array(ranks) <= 5))
    assert found["mrr"] == pytest.approx(np.mean(1 / np.array(ranks)))
    assert found["reverse_mrr"] == pytest.approx(np.mean(1 / (1 + np.array(back))))
    assert found["foscttm"] == pytest.approx((np.mean(shares) + np.mean(back) / 19) / 2)


def test_targets_that_coincide_are_one_candidate(rng):
    """Names of eight classes, five images each: R@5 is top-5 accuracy among the classes."""
    names, labels = rng.normal(size=(8, 3)), np.arange(N) % 8
    predicted = names[labels] + 1.5 * rng.normal(size=(N, 3))
    scores = 1 - cdist(predicted, names, "cosine")
    s = scene(names[labels], both(N), predicted)
    found = Retrieval().evaluate(s, key=KEY)
    for k in (1, 5):
        assert found[f"recall_at_{k}"] == top_k_accuracy_score(labels, scores, k=k)
    assert found["recall_at_1"] == PairedError().evaluate(s, key=KEY)["retrieval_at_1"]
    ranks = [1 + np.sum(scores[labels != c, c] > scores[labels == c, c].max()) for c in range(8)]
    assert found["reverse_mrr"] == pytest.approx(np.mean(1 / np.array(ranks)))


def coupled(values, pairs, known: int) -> Scene:
    """A coupling of points of which the first `known` pairs were told."""
    n, m = values.shape
    s = scene(numbered(m), pairs, numbered(n))
    return replace(
        s, train=replace(s.train, pairs=Pairs.from_array(np.asarray(pairs)[:known])),
        coupling=DenseCoupling(jnp.asarray(values, jnp.float32), Convergence.exact()),
    )  # fmt: skip


def test_the_coupling_is_judged_among_points_without_a_pair(rng):
    values = rng.dirichlet(np.ones(N * N)).reshape(N, N) + np.diag(rng.uniform(0, 2e-3, N))
    found = UnpairedRetrieval().evaluate(coupled(values, both(N), 15), key=KEY)
    assert found == pytest.approx(theirs(np.float32(values[15:, 15:]), "unpaired_"))
    assert 0 < found["unpaired_recall_at_1"] < 1


def test_a_coupling_is_perfect_silent_or_fully_told(rng):
    for values, foscttm in ((np.eye(N) / N, 0.0), (np.full((N, N), N**-2), 0.5)):
        found = UnpairedRetrieval().evaluate(coupled(values, both(N), 10), key=KEY)
        assert found["unpaired_foscttm"] == foscttm
        assert found["unpaired_recall_at_1"] == (foscttm == 0)
    assert UnpairedRetrieval().evaluate(coupled(values, both(N), N), key=KEY) == {}


@pytest.mark.parametrize("side", ["x", "y"])
def test_a_point_whose_pairs_are_not_all_known_stays_a_candidate(rng, side):
    """Four classes of ten points as rows of their own, the first two of each known: no class is
    used up, its mass is summed, and none is left to be asked about."""
    labels = np.arange(N) % 4
    values = rng.dirichlet(np.ones(N * N)).reshape(N, N)
    s = coupled(values if side == "y" else values.T, both(N), 8)
    s = replace(s, train=replace(s.train, **{side: Cloud.uniform(np.eye(4)[labels])}))
    mass = np.stack([values[:, labels == c].sum(1) for c in range(4)], axis=1)[8:]
    found = UnpairedRetrieval().evaluate(s, key=KEY)
    ranks = 1 + np.sum(mass > mass[np.arange(32), labels[8:]][:, None], axis=1)
    asked, silent = ("", "reverse_") if side == "y" else ("reverse_", "")
    assert found[f"unpaired_{asked}mrr"] == pytest.approx(np.mean(1 / ranks))
    assert found["unpaired_foscttm"] == pytest.approx(np.mean(ranks - 1) / 3)
    assert f"unpaired_{silent}mrr" not in found


def test_linear_cka_is_that_of_centred_kernels(rng):
    shared = rng.normal(size=(30, 3))
    for p in (5, 50):  # by either of its two matrices
        x, y = (shared @ rng.normal(size=(3, d)) + rng.normal(size=(30, d)) for d in (p, 4))
        centre = np.eye(30) - 1 / 30
        k, h = (centre @ z @ z.T @ centre for z in (x, y))
        expected = np.trace(k @ h) / np.sqrt(np.trace(k @ k) * np.trace(h @ h))
        assert linear_cka(x, y) == pytest.approx(expected)
    assert linear_cka(x, 3 * x @ ortho_group.rvs(50, random_state=rng) + 7) == pytest.approx(1)


def test_mutual_neighbours_are_numpys(rng):
    x = rng.normal(size=(30, 5))
    y = x @ rng.normal(size=(5, 4)) + rng.normal(size=(30, 4))
    nearest = [
        np.argsort(cdist(z, z, "cosine") + np.diag(np.full(30, 9.0)), axis=1)[:, :6] for z in (x, y)
    ]
    expected = np.mean([len(set(a) & set(b)) / 6 for a, b in zip(*nearest, strict=True)])
    assert 6 / 29 < expected < 1
    assert mutual_knn(x, y, 6) == pytest.approx(expected)
    assert mutual_knn(x, 2 * x @ ortho_group.rvs(5, random_state=rng), 6) == 1
    apart = rng.normal(size=(2, 600, 5))
    assert mutual_knn(*apart, 10) == pytest.approx(10 / 599, abs=0.01)


def test_alignability_is_of_the_known_pairs(rng):
    x = rng.normal(size=(N, 3))
    y = rng.normal(size=(N, 3))
    pairs = np.stack([np.arange(20), rng.permutation(N)[:20]], axis=1)
    y[pairs[:, 1]] = x[pairs[:, 0]] @ ortho_group.rvs(3, random_state=rng)
    data = PairedData(Cloud.uniform(x), Cloud.uniform(y), Pairs.from_array(pairs))
    s = replace(scene(y, pairs, x), train=data)
    found = Alignability().evaluate(s, key=KEY)
    assert found == pytest.approx({"linear_cka": 1, "mutual_knn": 1}, abs=1e-6)
    assert set(Alignability(k=20).evaluate(s, key=KEY)) == {"linear_cka"}
    few = replace(data, pairs=Pairs.from_array(pairs[:2]))
    assert Alignability(1).evaluate(replace(s, train=few), key=KEY) == {}
    flat = replace(data, x=Cloud.uniform(np.ones((N, 3))))
    assert Alignability().evaluate(replace(s, train=flat), key=KEY) == {}


def test_what_is_missing_is_named(rng):
    s = coupled(np.full((4, 4), 1 / 16), both(4), 2)
    bare = replace(s, test=s.test._replace(pairs=np.zeros((0, 2), int)))
    for metric, bad, named in (
        (Retrieval(), bare, "test.pairs is empty"),
        (Retrieval(), replace(s, map=None), "scene.map"),
        (UnpairedRetrieval(), replace(s, coupling=None), "scene.coupling"),
        (UnpairedRetrieval(), replace(s, inputs=None), "scene.inputs"),
    ):
        with pytest.raises(ValueError, match=named):
            metric.evaluate(bad, key=KEY)
