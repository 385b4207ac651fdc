"""The baselines against scikit-learn, SciPy and closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from morphkit_baselines.anchor import NearestAnchor
from morphkit_baselines.classes import LabelSpreading, LogisticHead, NearestClassMean
from morphkit_baselines.linear import Procrustes, Ridge
from sklearn import semi_supervised
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from morphkit.types import Cloud, PairedData, Pairs

RNG = np.random.default_rng(0)


def paired(x, y, count=None):
    index = np.arange(len(x) if count is None else count)
    pairs = Pairs.from_array(np.stack([index, index], 1))
    return PairedData(Cloud.uniform(x), Cloud.uniform(y), pairs)


def sample(n=60, p=7, q=4):
    x = RNG.normal(size=(n, p)).astype(np.float32) * np.arange(1, p + 1, dtype=np.float32) + 2
    y = np.tanh(x @ RNG.normal(size=(p, q)) / 9) + 0.1 * RNG.normal(size=(n, q)) + 1
    return x, y.astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_nearest_anchor_is_a_1nn_regressor(metric):
    x, y = sample()
    fitted = NearestAnchor(metric).fit(paired(x, y, 30))
    reference = KNeighborsRegressor(1, metric=metric).fit(x[:30], y[:30])
    np.testing.assert_array_equal(eqx.filter_jit(fitted)(jnp.asarray(x)), reference.predict(x))


def test_nearest_anchor_ignores_unpaired_points_and_the_order_of_pairs():
    x, y = sample()
    data = PairedData(
        Cloud.uniform(x), Cloud.uniform(y), Pairs.from_array(np.array([[5, 9], [2, 3]]))
    )
    fitted = NearestAnchor().fit(data)
    np.testing.assert_array_equal(fitted(data.x.points[jnp.array([2, 5])]), y[[3, 9]])


@pytest.mark.parametrize(("l", "q"), [(60, 4), (60, 1), (2, 4)])
def test_ridge_is_scikit_learns(l, q):  # noqa: E741
    x, y = sample(q=q)
    fitted = Ridge().fit(paired(x, y, l))
    model = RidgeCV(alphas=[10.0**k for k in range(-3, 5)])
    reference = make_pipeline(StandardScaler(), model).fit(x[:l], y[:l])
    expected = reference.predict(x).reshape(len(x), q)
    np.testing.assert_allclose(
        eqx.filter_jit(fitted)(jnp.asarray(x)), expected, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("baseline", [NearestAnchor(), Ridge(), Procrustes()])
def test_one_pair_gives_its_target(baseline):
    x, y = sample()
    np.testing.assert_allclose(baseline.fit(paired(x, y, 1))(x), np.tile(y[:1], (60, 1)), rtol=1e-6)


@pytest.mark.parametrize("scaling", [True, False])
def test_procrustes_is_scipys(scaling):
    x, y = sample(q=7)
    a, b = x.astype(float), y.astype(float)
    rotation, total = scipy.linalg.orthogonal_procrustes(a - a.mean(0), b - b.mean(0))
    scale = total / np.sum((a - a.mean(0)) ** 2) if scaling else 1.0
    expected = scale * (a - a.mean(0)) @ rotation + b.mean(0)
    np.testing.assert_allclose(Procrustes(scaling).fit(paired(x, y))(x), expected, atol=1e-3)


@pytest.mark.parametrize(("p", "q"), [(5, 5), (3, 6)])
def test_procrustes_recovers_a_similarity_exactly(p, q):
    x = RNG.normal(size=(40, p))
    isometry = scipy.linalg.qr(RNG.normal(size=(q, q)))[0][:p]
    y = 2.5 * x @ isometry + RNG.normal(size=q)
    fitted = Procrustes().fit(paired(x, y, 20))
    np.testing.assert_allclose(fitted(x.astype(np.float32)), y, atol=1e-4)


def test_procrustes_into_fewer_dimensions_pads_with_zeros():
    x, y = sample(p=7, q=4)
    a, b = x - x.mean(0, dtype=float), y - y.mean(0, dtype=float)
    rotation, _ = scipy.linalg.orthogonal_procrustes(a, np.pad(b, ((0, 0), (0, 3))))
    expected = a @ rotation[:, :4] + y.mean(0)
    np.testing.assert_allclose(Procrustes(scaling=False).fit(paired(x, y))(x), expected, atol=1e-3)


def test_procrustes_says_nothing_outside_the_pairs():
    x, y = sample()
    fitted = Procrustes().fit(paired(x, y, 3))
    basis = scipy.linalg.null_space((x[:3] - x[:3].mean(0)).astype(float))
    still = fitted((x[:3].mean(0) + 50 * basis.T).astype(np.float32))
    np.testing.assert_allclose(still, np.tile(y[:3].mean(0), (len(still), 1)), atol=1e-2)


@pytest.mark.parametrize("baseline", [NearestAnchor(), Ridge(), Procrustes()])
def test_no_pairs_and_the_key(baseline):
    x, y = sample()
    with pytest.raises(ValueError, match=r"data\.pairs"):
        baseline.fit(paired(x, y, 0))
    fitted = baseline.fit(paired(x, y, 9))
    np.testing.assert_array_equal(fitted(x), fitted(x, key=jax.random.key(5)))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="metric"):
        NearestAnchor("manhattan")
    with pytest.raises(ValueError, match="alphas"):
        Ridge((1.0, 0.0))


@pytest.fixture
def classes():
    """90 points of three classes, whose targets are three points; 30 of them paired."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 90)
    x = 2 * rng.normal(size=(3, 5))[labels] + rng.normal(size=(90, 5))
    targets = rng.normal(size=(3, 4)).astype(np.float32)
    return paired(x, targets[labels], 30), labels, targets


def test_the_nearest_class_mean_is_that_of_the_pairs_of_a_target(classes):
    data, labels, targets = classes
    x = np.asarray(data.x.points, float)
    means = np.stack([x[:30][labels[:30] == c].mean(0) for c in range(3)])
    nearest = ((x[:, None] - means) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(NearestClassMean().fit(data)(data.x.points), targets[nearest])


def test_the_logistic_head_is_scikit_learns(classes):
    data, labels, targets = classes
    x = np.asarray(data.x.points, float)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=1000))
    expected = reference.fit(x[:30], labels[:30]).predict(x)
    fitted = LogisticHead(strength=0.5).fit(data)
    np.testing.assert_array_equal(fitted(data.x.points), targets[expected])


def test_label_spreading_learns_from_unpaired_points(classes):
    data, labels, targets = classes
    known = np.where(np.arange(90) < 30, labels, -1)
    x = np.asarray(data.x.points, float)
    reference = semi_supervised.LabelSpreading(kernel="knn", n_neighbors=9).fit(x, known)
    fitted = LabelSpreading(k=9).fit(data)
    np.testing.assert_array_equal(fitted(data.x.points), targets[reference.predict(x)])


@pytest.mark.parametrize("baseline", [NearestClassMean(), LogisticHead(), LabelSpreading()])
def test_classifiers_of_one_target_or_no_pair(baseline):
    x, y = sample()
    one = paired(x, np.repeat(y[:1], len(y), 0), 4)
    np.testing.assert_array_equal(baseline.fit(one)(jnp.asarray(x)), one.y.points)
    with pytest.raises(ValueError, match="at least one pair"):
        baseline.fit(paired(x, y, 0))
