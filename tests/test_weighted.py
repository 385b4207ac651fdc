"""Baselines whose pairs count differently, against repeated pairs and scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from morphkit_baselines.average import Average
from morphkit_baselines.cca import RidgeCCA
from morphkit_baselines.classes import LogisticHead, NearestClassMean, ShrinkageLDA
from morphkit_baselines.linear import PLS, Procrustes, Ridge
from morphkit_baselines.pairs import folds
from sklearn import linear_model
from sklearn.cross_decomposition import PLSRegression
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from morphkit.interfaces import WeightedBaseline
from morphkit.types import Cloud, PairedData, Pairs

REGRESSIONS = [Ridge(), PLS(), Procrustes(), RidgeCCA()]
CLASSIFIERS = [NearestClassMean(), ShrinkageLDA(), LogisticHead()]


def only(data: PairedData, rows) -> PairedData:
    """`data` with some of its pairs, which may be there several times."""
    return replace(data, pairs=Pairs(data.pairs.source[rows], data.pairs.target[rows]))


@pytest.fixture
def responses(rng) -> PairedData:
    """60 points of 6 dimensions with noisy responses of 4, 30 paired."""
    x = rng.normal(size=(60, 6)) * np.arange(1, 7) + 2
    y = np.tanh(x @ rng.normal(size=(6, 4)) / 6) + 0.2 * rng.normal(size=(60, 4)) + 1
    pairs = Pairs.from_array(np.stack([np.arange(30)] * 2, 1))
    return PairedData(Cloud.uniform(x), Cloud.uniform(y), pairs)


@pytest.fixture(params=["labels", "shared targets"])
def classes(rng, request) -> PairedData:
    """90 points of three classes that overlap, 40 paired; targets that differ, with labels, or the
    three points themselves, without."""
    labels = rng.integers(0, 3, 90)
    x = 0.5 * rng.normal(size=(3, 5))[labels] + rng.normal(size=(90, 5))
    y = rng.normal(size=(3, 4))[labels]
    pairs = Pairs.from_array(np.stack([np.arange(40)] * 2, 1))
    if request.param == "labels":
        y, labels = y + 0.3 * rng.normal(size=y.shape), labels
        return PairedData(Cloud.uniform(x, labels), Cloud.uniform(y, labels), pairs)
    return PairedData(Cloud.uniform(x), Cloud.uniform(y), pairs)


def check_counts(baseline: WeightedBaseline, data: PairedData, rng, atol: float) -> None:
    counts = rng.integers(0, 4, data.pairs.size)
    fixed = baseline.tuned(data)
    weighted = fixed.fit_weighted(data, counts.astype(float))(data.x.points)
    repeated = fixed.fit(only(data, np.repeat(np.arange(data.pairs.size), counts)))(data.x.points)
    np.testing.assert_allclose(weighted, repeated, rtol=1e-3, atol=atol)
    assert np.abs(weighted - fixed.fit(data)(data.x.points)).max() > 10 * atol


@pytest.mark.parametrize("baseline", [*REGRESSIONS, Average()])
def test_a_response_of_weight_w_is_there_w_times(baseline, responses, rng):
    check_counts(baseline, responses, rng, 1e-4)


@pytest.mark.parametrize("baseline", CLASSIFIERS)
def test_a_class_member_of_weight_w_is_there_w_times(baseline, classes, rng):
    check_counts(baseline, classes, rng, 1e-5)


@pytest.mark.parametrize("baseline", [*REGRESSIONS, *CLASSIFIERS])
def test_what_is_tuned_is_fixed_and_fitted_alike(baseline, responses, classes):
    data = classes if baseline in CLASSIFIERS else responses
    fixed = baseline.tuned(data)
    chosen = {name: value for name, value in vars(fixed).items() if isinstance(value, tuple)}
    assert chosen
    for name, value in chosen.items():
        assert len(value) == 1
        assert value[0] in getattr(baseline, name) or (name, value) == ("rank", (4,))  # no more
    assert fixed.tuned(data) == fixed
    ones = np.ones(data.pairs.size)
    np.testing.assert_array_equal(
        baseline.fit(data)(data.x.points), fixed.fit_weighted(data, ones)(data.x.points)
    )
    with pytest.raises(ValueError, match=r"\w+\.\w+ = \(.* leaves a choice"):
        baseline.fit_weighted(data, ones)


def test_an_average_is_the_mean_of_what_each_predicts_by_itself(responses, rng):
    parts = Ridge(), RidgeCCA(), PLS()
    x, y = responses.x.points, np.asarray(responses.y.points)
    each = np.stack([np.asarray(part.fit(responses)(x), float) for part in parts])
    fitted = Average(parts).fit(responses)
    np.testing.assert_allclose(fitted(x), each.mean(0), rtol=1e-5, atol=1e-6)
    apart = np.mean((each - each.mean(0)) ** 2)
    error = np.mean((each - y) ** 2) - apart
    np.testing.assert_allclose(np.mean((np.asarray(fitted(x)) - y) ** 2), error, rtol=1e-5)

    weights = rng.uniform(0.5, 2, 30)
    fixed = Average(parts[:1]).tuned(responses)
    np.testing.assert_array_equal(
        fixed.fit_weighted(responses, weights)(x),
        Ridge().tuned(responses).fit_weighted(responses, weights)(x),
    )


def test_pls_and_ridge_are_scikit_learns_with_weights(responses, rng):
    counts = rng.integers(0, 4, 30)
    x, y = (np.asarray(cloud.points, float) for cloud in (responses.x, responses.y))
    z = x - x.mean(0)
    rows = np.repeat(np.arange(30), counts)
    found = PLS(2, "centred").fit_weighted(responses, counts.astype(float))(responses.x.points)
    model = PLSRegression(2, scale=False, tol=1e-12, max_iter=5000).fit(z[rows], y[rows])
    np.testing.assert_allclose(found, model.predict(z), rtol=1e-3, atol=1e-3)

    z /= z.std()
    for weighted, alpha in (
        (Ridge(3.0, "centred"), 3.0),
        # With all coordinates canonical ridge is ridge, of a penalty in units of the variance.
        (RidgeCCA(0.3, preprocessing="centred", rank=4), None),
    ):
        found = weighted.fit_weighted(responses, counts.astype(float))(responses.x.points)
        mean = np.average(z[:30], axis=0, weights=counts)
        alpha = alpha or 0.3 * np.sum(counts[:, None] * (z[:30] - mean) ** 2) / 6
        model = linear_model.Ridge(alpha).fit(z[:30], y[:30], counts)
        np.testing.assert_allclose(found, model.predict(z), rtol=1e-3, atol=1e-3)


def test_the_classifiers_are_scikit_learns_with_weights(rng):
    labels = rng.integers(0, 3, 90)
    x = 0.5 * rng.normal(size=(3, 5))[labels] + rng.normal(size=(90, 5))
    targets = rng.normal(size=(3, 4)).astype(np.float32)
    pairs = Pairs.from_array(np.stack([np.arange(40)] * 2, 1))
    data = PairedData(Cloud.uniform(x), Cloud.uniform(targets[labels]), pairs)
    counts = rng.integers(0, 4, 40)
    rows = np.repeat(np.arange(40), counts)
    x = np.asarray(data.x.points, float)
    z = (x - x.mean(0)) / x.std(0)
    means = np.stack([z[rows][labels[rows] == c].mean(0) for c in range(3)])
    analysis = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3)
    regression = linear_model.LogisticRegression(C=0.5, max_iter=1000, tol=1e-6)
    for baseline, expected in (
        (NearestClassMean("standardised"), ((z[:, None] - means) ** 2).sum(-1).argmin(1)),
        (ShrinkageLDA(0.3, "standardised"), analysis.fit(z[rows], labels[rows]).predict(z)),
        (LogisticHead(0.5, "standardised"), regression.fit(z[:40], labels[:40], counts).predict(z)),
    ):
        found = baseline.fit_weighted(data, counts.astype(float))(data.x.points)
        agree = (np.asarray(found) == targets[expected]).all(1)
        assert agree.mean() > (0.98 if isinstance(baseline, LogisticHead) else 0.999)


@pytest.mark.parametrize(
    ("baseline", "settings"),
    [
        (
            RidgeCCA((0.1, 10.0), preprocessing="centred", rank=(1, 2, 100)),
            [(("penalty", p), ("rank", r)) for p in (0.1, 10.0) for r in (1, 2, 4)],
        ),
        (PLS((1, 2, 5, 30), "centred"), [(("components", k),) for k in (1, 2, 5, 30)]),
    ],
)
def test_the_choice_is_that_of_the_least_held_out_error(baseline, settings, responses):
    """Each setting fitted alone, without the path of the others."""
    y, errors = np.asarray(responses.y.points), {}
    for setting in settings:
        alone = replace(baseline, **{name: (value,) for name, value in setting})
        errors[setting] = sum(
            np.sum((np.asarray(alone.fit(only(responses, learned))(responses.x.points[held]))
                    - y[held]) ** 2)
            for learned, held in folds(30)
        )  # fmt: skip
    best = min(errors, key=errors.__getitem__)
    fixed = baseline.tuned(responses)
    assert {name: getattr(fixed, name) for name, _ in best} == {n: (v,) for n, v in best}
