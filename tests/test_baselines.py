"""The baselines against scikit-learn, SciPy and closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import sklearn.linear_model as model
from conftest import needs
from morphkit_baselines.anchor import NearestAnchor
from morphkit_baselines.average import Average
from morphkit_baselines.cca import RidgeCCA
from morphkit_baselines.classes import LogisticHead, NearestClassMean, ShrinkageLDA
from morphkit_baselines.linear import PLS, Procrustes, Ridge
from morphkit_baselines.pairs import folds
from morphkit_baselines.relative import RelativeRepresentation
from morphkit_baselines.spreading import LabelSpreading
from sklearn import semi_supervised
from sklearn.cross_decomposition import CCA, PLSRegression
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from morphkit.data.arrays import data_folder
from morphkit.data.imagenet import ImageNetFeatures
from morphkit.data.recordings import Recordings
from morphkit.experiment.prepare import choose_pairs
from morphkit.types import Cloud, PairedData, Pairs

RNG = np.random.default_rng(0)
REGRESSIONS = [NearestAnchor(), Ridge(), PLS(), Procrustes(), RidgeCCA(), Average()]
CLASSIFIERS = [NearestClassMean(), ShrinkageLDA(), LogisticHead(), LabelSpreading()]


def unit(points):
    return points / np.linalg.norm(points, axis=1, keepdims=True)


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


def test_the_nearest_anchor_is_by_the_metric_that_finds_the_best_of_other_pairs():
    y = unit(RNG.normal(size=(200, 4))).astype(np.float32)
    x = y * RNG.lognormal(0, 1.5, (200, 1)).astype(np.float32)
    x, y = np.concatenate([x, -x]) + 9, np.concatenate([y, -y])  # directions, from the mean
    data = paired(x, y, 100)
    found = NearestAnchor().fit(data)(jnp.asarray(x))
    np.testing.assert_array_equal(found, NearestAnchor("centred cosine").fit(data)(jnp.asarray(x)))
    away = x - x.mean(0)
    reference = KNeighborsRegressor(1, metric="cosine").fit(away[:100], y[:100]).predict(away)
    np.testing.assert_array_equal(found, reference)


@pytest.mark.parametrize(("l", "q"), [(60, 4), (60, 1), (2, 4)])
def test_ridge_is_scikit_learns(l, q):  # noqa: E741
    x, y = sample(q=q)
    # One of two pairs predicts the other alike whatever the penalty, so that rounding would choose.
    alphas = [10.0**k for k in range(-3, 5)] if l > 2 else [1.0]
    fitted = Ridge(alphas, "standardised").fit(paired(x, y, l))
    z = StandardScaler().fit_transform(x.astype(float))  # by all points
    reference = RidgeCV(alphas=alphas).fit(z[:l], y[:l].astype(float))
    expected = reference.predict(z).reshape(len(x), q)
    np.testing.assert_allclose(
        eqx.filter_jit(fitted)(jnp.asarray(x)), expected, rtol=1e-3, atol=1e-4
    )


def test_ridge_does_not_standardise_where_it_harms():
    """Principal component scores, of which the large ones matter: to standardise is noise."""
    z = RNG.normal(size=(600, 80))
    x = (z * np.exp(-np.arange(80) / 8)).astype(np.float32)
    y = (z[:, :3] @ RNG.normal(size=(3, 5)) + RNG.normal(size=(600, 5))).astype(np.float32)
    data = paired(x, y, 100)
    error = {
        kind: float(((baseline.fit(data)(x[100:]) - y[100:]) ** 2).mean())
        for kind, baseline in {"chosen": Ridge(), "not": Ridge(preprocessing="centred"),
                               "always": Ridge(preprocessing="standardised")}.items()
    }  # fmt: skip
    best = min(
        ((model.Ridge(a).fit(x[:100], y[:100]).predict(x[100:]) - y[100:]) ** 2).mean()
        for a in np.logspace(-3, 5, 17)
    )
    assert error["chosen"] < 1.02 * best
    assert error["always"] > 1.1 * error["not"]


@pytest.mark.parametrize("baseline", [Ridge(), PLS(), Procrustes(), RidgeCCA()])
def test_linear_maps_know_no_units(baseline):
    x, y = sample()
    expected = baseline.fit(paired(x, y, 30))(x)
    np.testing.assert_allclose(
        baseline.fit(paired(300 * x + 70, y, 30))(300 * x + 70), expected, atol=2e-2
    )


def test_pls_is_scikit_learns():
    x, y = sample(p=12, q=6)
    z = (x - x.mean(0, dtype=float)).astype(float)
    for components in (1, 4, 9):
        fitted = PLS(components, "centred").fit(paired(x, y, 40))
        expected = PLSRegression(components, scale=False, tol=1e-12, max_iter=5000)
        expected = expected.fit(z[:40], y[:40].astype(float)).predict(z)
        np.testing.assert_allclose(fitted(x), expected, rtol=1e-3, atol=1e-3)


def test_pls_takes_the_components_that_predict_held_out_pairs():
    shared = RNG.normal(size=(400, 2))
    x = np.concatenate([3 * shared, RNG.normal(size=(400, 30))], 1).astype(np.float32)
    y = shared @ RNG.normal(size=(2, 8)) + 2 * RNG.normal(size=(400, 8))
    data = paired(x, y.astype(np.float32), 60)
    error = [
        float(((baseline.fit(data)(x[60:]) - y[60:]) ** 2).mean())
        for baseline in (PLS(), PLS((2,), "centred"), PLS((30,), "centred"))
    ]
    assert error[0] < 1.05 * error[1]
    assert error[2] > 1.2 * error[1]


def canonical_maps(x, y, penalty):
    """By number of coordinates 1, 2, 5, ..., on centred points of full rank."""
    axes = np.eye(x.shape[1]), np.eye(y.shape[1])
    return list(RidgeCCA(penalty).maps(x, y, *axes))


def test_the_canonical_map_is_a_regression_on_scikit_learns_canonical_coordinates():
    x, y = (side - side.mean(0, dtype=float) for side in sample(p=7, q=4))
    for rank, weight in zip((1, 2), canonical_maps(x, y, 1e-10), strict=False):
        coordinates = CCA(rank, tol=1e-12, max_iter=10_000).fit(x, y).transform(x)
        expected = model.LinearRegression().fit(coordinates, y).predict(coordinates)
        np.testing.assert_allclose(x @ weight, expected, atol=1e-4)


def test_the_canonical_map_of_all_coordinates_is_ridge_regression():
    x, y = (side - side.mean(0, dtype=float) for side in sample(p=7, q=4))
    weight = canonical_maps(x, y, 0.3)[-1]
    alpha = 0.3 * np.sum(x**2) / 7
    expected = model.Ridge(alpha, fit_intercept=False).fit(x, y).coef_.T
    np.testing.assert_allclose(weight, expected, atol=1e-8)


def test_few_canonical_coordinates_beat_ridge_where_few_are_shared():
    shared = RNG.normal(size=(500, 2))
    x = np.concatenate([shared, RNG.normal(size=(500, 20))], 1) @ RNG.normal(size=(22, 22))
    y = shared @ RNG.normal(size=(2, 30)) + 3 * RNG.normal(size=(500, 30))
    data = paired(x.astype(np.float32), y.astype(np.float32), 150)
    true = y[150:]
    canonical, ridge = (
        float(np.mean((b.fit(data)(x[150:].astype(np.float32)) - true) ** 2))
        for b in (RidgeCCA(), Ridge())
    )
    assert canonical < ridge


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_relative_representations_in_numpy(temperature):
    x, y = sample()
    fitted = RelativeRepresentation(temperature).fit(paired(x, y, 12))
    a, b = (unit(side - side.mean(0)) for side in (x, y))
    cosines = unit(a @ a[:12].T) @ unit(b @ b[:12].T).T
    expected = y[cosines.argmax(1)]
    if temperature:
        weights = np.exp(cosines / temperature)
        expected = weights / weights.sum(1, keepdims=True) @ y
    np.testing.assert_allclose(fitted(x), expected, atol=1e-4)


def test_relative_representations_survive_a_rotation_and_find_unpaired_targets():
    x, _ = sample(p=5)
    rotation = scipy.linalg.qr(RNG.normal(size=(5, 5)))[0]
    y = (3 * (x - x.mean(0)) @ rotation + 1).astype(np.float32)
    np.testing.assert_array_equal(RelativeRepresentation().fit(paired(x, y, 6))(x), y)


def test_the_temperature_of_relative_representations_is_of_the_least_error():
    x, y = sample(n=120)
    y = y + 0.5 * RNG.normal(size=y.shape).astype(np.float32)
    data, errors = paired(x, y, 30), {}
    for temperature in (0.0, 0.02, 10.0):
        errors[temperature] = 0.0
        for learned, held in folds(30):
            kept = eqx.tree_at(
                lambda d: d.pairs, data, Pairs(jnp.array(learned), jnp.array(learned))
            )
            found = RelativeRepresentation(temperature).fit(kept)(x[held])
            errors[temperature] += float(((found - y[held]) ** 2).sum())
    fitted = RelativeRepresentation(tuple(errors)).fit(data)
    assert fitted.temperature == min(errors, key=errors.__getitem__) == 0.02


@pytest.mark.parametrize("baseline", REGRESSIONS)
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
    np.testing.assert_allclose(
        Procrustes(scaling, "centred").fit(paired(x, y))(x), expected, atol=1e-3
    )


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
    np.testing.assert_allclose(
        Procrustes(False, "centred").fit(paired(x, y))(x), expected, atol=1e-3
    )


def test_procrustes_says_nothing_outside_the_pairs():
    x, y = sample()
    fitted = Procrustes(preprocessing="centred").fit(paired(x, y, 3))
    basis = scipy.linalg.null_space((x[:3] - x[:3].mean(0)).astype(float))
    still = fitted((x[:3].mean(0) + 50 * basis.T).astype(np.float32))
    np.testing.assert_allclose(still, np.tile(y[:3].mean(0), (len(still), 1)), atol=1e-2)


@pytest.mark.parametrize("baseline", [*REGRESSIONS, RelativeRepresentation()])
def test_no_pairs_and_the_key(baseline):
    x, y = sample()
    with pytest.raises(ValueError, match=r"data\.pairs"):
        baseline.fit(paired(x, y, 0))
    fitted = baseline.fit(paired(x, y, 9))
    np.testing.assert_array_equal(fitted(x), fitted(x, key=jax.random.key(5)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NearestAnchor("manhattan"), r"NearestAnchor\.metric = \('manhattan',\)"),
        (lambda: Ridge((1.0, 0.0)), r"Ridge\.alphas = .*greater than 0"),
        (lambda: Ridge(()), r"Ridge\.alphas = \(\) .*at least 1"),
        (lambda: Ridge(preprocessing="whitened"), r"Ridge\.preprocessing"),
        (lambda: PLS(0), r"PLS\.components"),
        (lambda: Average(()), r"Average\.baselines = \(\)"),
        (lambda: Average([Ridge(), NearestClassMean()]), r"Average\.baselines = .*regression"),
        (lambda: Average([NearestAnchor()]), r"Average\.baselines = .*weighted"),
        (lambda: RidgeCCA(penalty=-1.0), r"RidgeCCA\.penalty"),
        (lambda: RelativeRepresentation(-0.1), r"RelativeRepresentation\.temperature"),
        (lambda: ShrinkageLDA(1.5), r"ShrinkageLDA\.shrinkage"),
        (lambda: LogisticHead(0.0), r"LogisticHead\.strength"),
        (lambda: LabelSpreading(k=0), r"LabelSpreading\.k"),
        (lambda: LabelSpreading(alpha=1.0), r"LabelSpreading\.alpha"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_folds_part_the_pairs_and_spread_the_classes():
    classes = np.repeat([0, 1, 2], [3, 40, 90])
    parts = folds(133, classes)
    assert len(parts) == 5
    np.testing.assert_array_equal(np.sort(np.concatenate([held for _, held in parts])), range(133))
    for learned, held in parts:
        assert set(learned) | set(held) == set(range(133))
        assert not set(learned) & set(held)
        np.testing.assert_allclose(np.bincount(classes[held], minlength=3), [0.6, 8, 18], atol=1)
    assert len(folds(7)) == 7  # leave one out
    assert folds(1) == []
    assert sum(len(held) for _, held in folds(20_000)) == 5_000


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
    fitted = NearestClassMean("centred").fit(data)
    np.testing.assert_array_equal(fitted(data.x.points), targets[nearest])


def test_class_means_of_unit_length_are_centred_by_all_points(classes):
    data, labels, targets = classes
    x = np.asarray(data.x.points, float)
    z = unit(x - x.mean(0))
    means = unit(np.stack([z[:30][labels[:30] == c].mean(0) for c in range(3)]))
    fitted = NearestClassMean("unit").fit(data)
    np.testing.assert_array_equal(fitted(data.x.points), targets[(z @ means.T).argmax(1)])


def test_the_class_mean_is_by_the_preprocessing_that_names_held_out_pairs():
    """Directions that lengths and one loud coordinate hide."""
    labels = RNG.integers(0, 6, 400)
    directions = RNG.normal(size=(6, 10))
    x = unit(directions[labels] + 0.8 * RNG.normal(size=(400, 10)))
    x = (x * RNG.lognormal(0, 1.5, (400, 1)) + 5).astype(np.float32)
    y = np.eye(6, dtype=np.float32)
    data = paired(x, y[labels], 60)

    def accuracy(baseline):
        return np.mean(np.asarray(baseline.fit(data)(x)).argmax(1) == labels)

    assert accuracy(NearestClassMean()) == accuracy(NearestClassMean("unit"))
    assert accuracy(NearestClassMean()) > accuracy(NearestClassMean("standardised")) + 0.05


@pytest.mark.parametrize("shrinkage", [0.1, 0.3, 1.0])
def test_the_lda_is_scikit_learns(classes, shrinkage):
    data, labels, targets = classes
    x = np.asarray(data.x.points, float)
    z = x / x.std(0)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    expected = reference.fit(z[:30], labels[:30]).predict(z)
    fitted = ShrinkageLDA(shrinkage, "standardised").fit(data)
    np.testing.assert_array_equal(fitted(data.x.points), targets[expected])


def test_lda_of_one_pair_a_class_goes_by_the_nearest_mean(classes):
    data, labels, targets = classes
    first = [int(np.flatnonzero(labels == c)[0]) for c in range(3)]
    few = PairedData(data.x, data.y, Pairs.from_array(np.stack([first, first], 1)))
    x = np.asarray(data.x.points, float)
    nearest = ((x[:, None] - x[first]) ** 2).sum(-1).argmin(1)
    fitted = ShrinkageLDA(preprocessing="centred").fit(few)
    np.testing.assert_array_equal(fitted(data.x.points), targets[nearest])


@pytest.mark.parametrize("number", [2, 3])
def test_the_logistic_head_is_scikit_learns(classes, number):
    data, labels, targets = classes
    known = np.flatnonzero(labels[:30] < number)
    data = eqx.tree_at(lambda d: d.pairs, data, Pairs.from_array(np.stack([known, known], 1)))
    z = StandardScaler().fit_transform(np.asarray(data.x.points, float))
    reference = model.LogisticRegression(C=0.5, max_iter=1000)
    expected = reference.fit(z[known], labels[known]).predict(z)
    fitted = LogisticHead(0.5, "standardised").fit(data)
    assert np.mean(np.asarray(fitted(data.x.points)) == targets[expected]) > 0.98


def test_label_spreading_is_scikit_learns(classes):
    data, labels, targets = classes
    known = np.where(np.arange(90) < 30, labels, -1)
    x = np.asarray(data.x.points, float)
    for alpha in (0.2, 0.7):
        reference = semi_supervised.LabelSpreading(kernel="knn", n_neighbors=9, alpha=alpha)
        expected = reference.fit(x, known).predict(x)
        fitted = LabelSpreading(9, alpha, "centred").fit(data)
        np.testing.assert_array_equal(fitted(data.x.points), targets[expected])


@pytest.mark.parametrize("baseline", CLASSIFIERS)
def test_classes_are_labels_where_targets_are_samples(baseline, classes):
    """As those of a stochastic text encoder are: every target is another point."""
    data, labels, targets = classes
    y = targets[labels] + 0.3 * RNG.normal(size=(90, 4)).astype(np.float32)
    data = PairedData(data.x, Cloud.uniform(y, labels), data.pairs)
    means = np.stack([y[:30][labels[:30] == c].mean(0) for c in range(3)])
    found = np.asarray(baseline.fit(data)(data.x.points))
    distance = np.abs(found[:, None] - means).max(-1)
    assert distance.min(1).max() < 1e-6  # nothing but means of paired targets of a label
    assert np.mean(distance.argmin(1) == labels) > 0.75

    unknown = np.where(np.arange(90) < 30, labels, RNG.permutation(labels))
    shuffled = PairedData(Cloud.uniform(data.x.points, unknown), Cloud.uniform(y, unknown),
                          data.pairs)  # fmt: skip
    np.testing.assert_array_equal(baseline.fit(shuffled)(data.x.points), found)


@pytest.mark.parametrize("baseline", CLASSIFIERS)
def test_a_classifier_of_points_without_classes_says_so(baseline):
    x, y = sample()
    with pytest.raises(ValueError, match="30 different points, and no labels are given"):
        baseline.fit(paired(x, y, 30))


@pytest.mark.parametrize("baseline", CLASSIFIERS)
def test_classifiers_of_one_target_or_no_pair(baseline):
    x, y = sample()
    one = paired(x, np.repeat(y[:1], len(y), 0), 4)
    np.testing.assert_allclose(baseline.fit(one)(jnp.asarray(x)), one.y.points, rtol=1e-6)
    with pytest.raises(ValueError, match="at least one pair"):
        baseline.fit(paired(x, y, 0))


@needs("v4")
@pytest.mark.parametrize(("fraction", "most"), [(0.8, 0.77), (0.2, 0.88)])
def test_ridge_and_pls_predict_v4_as_well_as_they_can(fraction, most):
    """A ridge of the best of many penalties, on the test stimuli, has .760 and .861."""
    data = Recordings(str(data_folder() / "v4" / "v4_201025.npz"), "block9").load()
    pairs = Pairs.from_array(choose_pairs(data.train.pairs, fraction, 0))
    known = PairedData(Cloud.uniform(data.train.source), Cloud.uniform(data.train.target), pairs)
    for baseline in (Ridge(), PLS(), RidgeCCA()):
        predicted = np.asarray(baseline.fit(known)(data.test.source))
        assert ((predicted - data.test.target) ** 2).mean() < most


@needs("tiny_imagenet")
@pytest.mark.parametrize(
    ("baseline", "fraction", "least"),
    [(NearestClassMean(), 0.05, 0.25), (ShrinkageLDA(), 0.1, 0.34)],
)
def test_classes_of_tiny_imagenet(baseline, fraction, least):
    """Class means of centred points of unit length name .264 of the images at 5 % of pairs."""
    raw = ImageNetFeatures(test=4000).load()
    names, first = np.unique(raw.train.target_labels, return_index=True)
    texts = unit(raw.train.target[first])
    found = []
    for seed in (0, 1):
        pairs = Pairs.from_array(choose_pairs(raw.train.pairs, fraction, seed))
        data = PairedData(Cloud.uniform(raw.train.source), Cloud.uniform(raw.train.target), pairs)
        predicted = np.asarray(baseline.fit(data)(jnp.asarray(raw.test.source))) @ texts.T
        found.append(np.mean(names[predicted.argmax(1)] == raw.test.source_labels))
    assert np.mean(found) > least
