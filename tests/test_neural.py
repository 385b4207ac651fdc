"""Recordings, the metrics of the neural experiment, the choice of τ and ε: against references."""

import csv
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from conftest import DATA, needs
from morphkit_baselines.linear import PLS
from morphkit_costs.bridge import BridgeCost
from morphkit_extractors.hub import ViT
from morphkit_extractors.identity import Identity
from morphkit_extractors.pca import PCA
from morphkit_metrics.layers import RSA, EffectiveDimensionality, Predictivity
from morphkit_metrics.neural import (
    CategoryDecoding,
    NeuralPrediction,
    TargetDecoding,
    correlations,
    decoder,
)
from morphkit_solvers.sinkhorn import Sinkhorn
from PIL import Image
from scipy.stats import mannwhitneyu, pearsonr, spearmanr
from sklearn import decomposition
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

import morphkit
from morphkit.cli import main
from morphkit.data.recordings import Recordings, read_recordings, reliability
from morphkit.experiment.search import Trial, best, regress, search_grid, write_search
from morphkit.interfaces import LatentMap, Scene
from morphkit.report.significance import compare
from morphkit.transport.couple import couple
from morphkit.types import Cloud, PairedData, Pairs, Split

KEY = jax.random.key(0)
STIMULI, SITES, REPEATS = 40, 6, 4


@pytest.fixture
def presentations(rng):
    """Responses (160, 6) to 40 stimuli shown 4 times in random order, signal and noise alike."""
    order = rng.permutation(np.repeat(np.arange(STIMULI), REPEATS))
    signal = rng.normal(size=(STIMULI, SITES))
    responses = signal[order] + rng.normal(size=(len(order), SITES))
    return {
        "responses": responses.astype(np.float32),
        "stimulus_id": np.array([f"im{k:03d}" for k in order]),
        "category_name": np.array(["Cars", "Faces"])[order % 2],
        "region": np.array(["V4", "IT"])[np.arange(SITES) % 2],
    }


@pytest.fixture
def features(rng, tmp_path):
    file = tmp_path / "features.npz"
    rows = rng.normal(size=(STIMULI, 5)).astype(np.float32)
    ids = np.array([f"im{k:03d}" for k in range(STIMULI)])
    shuffled = rng.permutation(STIMULI)
    np.savez(file, layer=rows, shuffled=rows[shuffled], ids=ids[shuffled])
    return file


def netcdf(path, presentations, bins=1):
    """A file as Brain-Score writes its assemblies: neuroids first, one time bin, old names."""
    values = presentations["responses"].T[..., None]
    array = xarray.DataArray(
        np.repeat(values, bins, axis=2),
        dims=("neuroid", "presentation", "time_bin"),
        coords={
            "image_id": ("presentation", presentations["stimulus_id"]),
            "category_name": ("presentation", presentations["category_name"]),
            "region": ("neuroid", presentations["region"]),
        },
    )
    array.to_dataset(name="dicarlo.MajajHong2015").to_netcdf(path, engine="h5netcdf")


def test_netcdf_and_npz_hold_the_same_recordings(tmp_path, presentations):
    netcdf(tmp_path / "a.nc", presentations)
    np.savez(tmp_path / "a.npz", **presentations)
    one, other = read_recordings(tmp_path / "a.nc"), read_recordings(tmp_path / "a.npz")
    assert set(one) == set(other) == set(presentations)
    for name, values in presentations.items():
        np.testing.assert_array_equal(one[name], values)
        np.testing.assert_array_equal(other[name], values)


def test_recordings_are_averaged_split_and_standardised(tmp_path, presentations, features):
    netcdf(tmp_path / "a.nc", presentations)
    given = dict(path=str(tmp_path / "a.nc"), features=f"{features}::layer", region="IT", repeats=4)
    raw = Recordings(**given, standardise=False).load()
    assert [len(s.source) for s in (raw.train, raw.test)] == [24, 8]
    assert raw.class_names == ("Cars", "Faces")
    rows = np.load(features)["layer"]
    everything = presentations["responses"][:, 1::2]
    for split in (raw.train, raw.test):
        for x, y, label in zip(split.source, split.target, split.source_labels, strict=True):
            stimulus = int(np.flatnonzero((rows == x).all(1))[0])
            shown = presentations["stimulus_id"] == f"im{stimulus:03d}"
            np.testing.assert_allclose(y, everything[shown].mean(0), rtol=1e-5)
            assert label == stimulus % 2
        np.testing.assert_array_equal(split.pairs[:, 0], split.pairs[:, 1])
    scaled = Recordings(**given).load()
    np.testing.assert_allclose(scaled.train.target.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.train.target.std(0), 1, rtol=1e-5)
    spread = (raw.test.target - raw.train.target.mean(0)) / raw.train.target.std(0)
    np.testing.assert_allclose(scaled.test.target, spread, rtol=1e-4, atol=1e-5)
    validation = Recordings(**given, evaluate="validation").load()
    parts = [scaled.train, validation.test, scaled.test]
    assert len(np.unique(np.concatenate([p.source for p in parts]), axis=0)) == STIMULI


def test_rows_of_features_go_by_their_ids(tmp_path, presentations, features):
    np.savez(tmp_path / "a.npz", **presentations)
    given = {"path": str(tmp_path / "a.npz")}
    plain = Recordings(**given, features=f"{features}::layer").load()
    named = Recordings(**given, features=f"{features}::shuffled", stimuli=f"{features}::ids").load()
    np.testing.assert_array_equal(plain.train.source, named.train.source)


def test_stimuli_shown_too_rarely_are_left_out(tmp_path, presentations, features):
    presentations["responses"][presentations["stimulus_id"] == "im007", 2] = np.nan
    np.savez(tmp_path / "a.npz", **presentations)
    given = dict(path=str(tmp_path / "a.npz"), features=f"{features}::shuffled")
    assert sum(len(part.source) for part in Recordings(**given).load()[2:4]) == 31
    raw = Recordings(**given, stimuli=f"{features}::ids").load()
    assert len(raw.train.source) + 2 * len(raw.test.source) == 39
    with pytest.raises(ValueError, match="repeats = 5 leaves no stimulus: at most 4"):
        Recordings(**given, repeats=5).load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"region": "V1"}, r"region = 'V1', but the file has \['IT', 'V4'\]"),
        ({"features": "nothing"}, "nothing"),
        ({"path": "nowhere.nc"}, "no file nowhere.nc"),
        ({"evaluate": "train"}, "'test' or 'validation'"),
        ({"labels": "colour"}, "Recordings.labels = 'colour' must be 'stimulus_id', "),
        ({"repeats": 0}, "Recordings.repeats = 0 must be"),
    ],
)
def test_recordings_say_what_is_wrong(tmp_path, presentations, features, change, message):
    np.savez(tmp_path / "a.npz", **presentations)
    given = {"path": str(tmp_path / "a.npz"), "features": f"{features}::layer"}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Recordings(**given | change).load()


def test_netcdf_without_its_packages_says_what_to_install(tmp_path, presentations, monkeypatch):
    netcdf(tmp_path / "a.nc", presentations)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"Recordings needs h5py: .*morphkit-align\[neural\]"):
        read_recordings(tmp_path / "a.nc")


def test_netcdf_of_another_kind_is_refused(tmp_path, presentations):
    (tmp_path / "text.nc").write_text("responses")
    with pytest.raises(ValueError, match=r"text.nc cannot be read"):
        read_recordings(tmp_path / "text.nc")
    netcdf(tmp_path / "bins.nc", presentations, bins=2)
    with pytest.raises(ValueError, match="keep one time bin"):
        read_recordings(tmp_path / "bins.nc")


def test_reliability_is_the_share_of_signal(rng):
    """Signal of variance 1, noise of variance s² a repeat: 1 / (1 + s² / r) of the mean of r."""
    count, repeats = 4000, 6
    noise = np.array([0.3, 1.0, 3.0])
    group = np.repeat(np.arange(count), repeats)
    signal = rng.normal(size=(count, 4))
    signal[:, 3] = 0  # a site that only is noise
    responses = signal[group] + rng.normal(size=(len(group), 4)) * np.append(noise, 1.0)
    expected = 1 / (1 + noise**2 / repeats)
    found = reliability(responses, group)
    np.testing.assert_allclose(found[:3], expected, atol=0.02)
    assert found[3] < 0.05
    still = np.full((len(group), 2), [0.1, 7.7])
    np.testing.assert_array_equal(reliability(still, group), 0)
    missing = responses + 10
    gone = rng.random(len(group)) < 0.4
    missing[gone, 0] = np.nan
    assert reliability(missing, group)[0] == pytest.approx(expected[0], abs=0.05)


def test_number_ids_are_in_the_order_of_numbers(tmp_path, rng):
    ids = rng.permutation(30)
    np.savez(
        tmp_path / "a.npz", stimulus_id=ids, responses=np.stack([ids, -ids], 1).astype(float),
        features=np.arange(30.0)[:, None], region=np.array([b"IT", b"V4"]),
    )  # fmt: skip
    raw = Recordings(str(tmp_path / "a.npz"), region="IT", standardise=False).load()
    np.testing.assert_array_equal(raw.train.source, raw.train.target)


def test_two_rows_of_one_stimulus_are_refused(tmp_path, presentations, features):
    np.savez(tmp_path / "a.npz", **presentations)
    np.save(tmp_path / "ids.npy", np.load(features)["ids"][[0, *range(39)]])
    with pytest.raises(ValueError, match="has two rows of 'im"):
        Recordings(
            str(tmp_path / "a.npz"), f"{features}::shuffled", stimuli=str(tmp_path / "ids.npy")
        ).load()


def test_pca_is_scikit_learns_and_goes_back(rng):
    inputs = (rng.normal(size=(50, 12)) @ rng.normal(size=(12, 12))).reshape(50, 3, 4)
    flat = inputs.reshape(50, 12).astype(np.float32)
    model = PCA((3, 4), components=5, key=KEY).fit(inputs, key=KEY)
    np.testing.assert_allclose(
        np.abs(model.encode(inputs, key=KEY)),
        np.abs(decomposition.PCA(5).fit_transform(flat)),
        rtol=1e-3, atol=1e-3,
    )  # fmt: skip
    whole = PCA((3, 4), components=1000, key=KEY).fit(inputs, key=KEY)
    np.testing.assert_allclose(whole.decode(whole.encode(inputs, key=KEY)), inputs, atol=1e-4)
    with pytest.raises(ValueError, match="12 components need as many inputs, not 4"):
        PCA((3, 4), key=KEY).fit(inputs[:4], key=KEY)


class Shift(LatentMap):
    """The identity, and noise of the given size."""

    size: float

    def __call__(self, x, *, key=None):
        return x + self.size * jax.random.normal(key, x.shape)


@pytest.fixture
def scene(rng):
    """Source points that are the targets with noise: 200 to train on, 90 to test, 3 classes."""
    labels = np.arange(290) % 3
    y = rng.normal(size=(3, 4))[labels] * 2 + rng.normal(size=(290, 4)) * [0.5, 1, 2, 1]
    x = y + rng.normal(size=y.shape)
    train, test = slice(0, 200), slice(200, None)
    pairs = np.stack([np.arange(200)] * 2, 1)
    data = PairedData(
        Cloud.uniform(x[train], labels[train]), Cloud.uniform(y[train], labels[train]),
        Pairs.from_array(pairs),
    )  # fmt: skip
    raw = Split(x[test], y[test], pairs[:90], labels[test], labels[test])
    identity = Identity((4,), key=KEY)
    return Scene(
        identity, identity, data, Cloud.uniform(x[test], labels[test]),
        Cloud.uniform(y[test], labels[test]), raw, map=Shift(0.0),
    )  # fmt: skip


def test_prediction_errors_and_correlations_by_site(scene):
    found = NeuralPrediction(draws=2).evaluate(scene, key=KEY)
    x, y = np.asarray(scene.x.points), np.asarray(scene.y.points)
    variance = np.asarray(scene.train.y.points).var(0)
    expected = np.mean([((x - y)[:, s] ** 2).mean() / variance[s] for s in range(4)])
    each = [pearsonr(x[:, s], y[:, s])[0] for s in range(4)]
    assert found["prediction_error"] == pytest.approx(expected, rel=1e-4)
    assert found["mean_prediction_error"] == pytest.approx(expected, rel=1e-4)
    assert found["site_correlation"] == pytest.approx(np.median(each), rel=1e-4)
    assert "site_correlation_corrected" not in found
    share = np.array([0.25, 1.0, 0.81, 0.0], np.float32)
    known = replace(scene, test=scene.test._replace(reliability=share))
    found = NeuralPrediction().evaluate(known, key=KEY)
    expected = np.median(np.array(each[:3]) / np.sqrt(share[:3]))
    assert found["site_correlation_corrected"] == pytest.approx(expected, rel=1e-4)


def test_the_mean_of_draws_has_a_draws_error_less_its_noise(scene):
    noisy = replace(scene, map=Shift(2.0))
    found = NeuralPrediction(draws=400).evaluate(noisy, key=KEY)
    clean = NeuralPrediction(draws=1).evaluate(scene, key=KEY)
    extra = np.mean(4 / np.asarray(scene.train.y.points).var(0))
    assert found["mean_prediction_error"] == pytest.approx(clean["prediction_error"], rel=0.05)
    assert found["prediction_error"] == pytest.approx(clean["prediction_error"] + extra, rel=0.25)


def test_constant_sites_do_not_count(scene):
    still = scene.train.y.points.at[:, 1].set(0.1)  # no float32: its variance is of rounding
    train = replace(scene.train, y=Cloud.uniform(still, scene.train.y.labels))
    found = NeuralPrediction(draws=1).evaluate(replace(scene, train=train), key=KEY)
    x, y = np.asarray(scene.x.points), np.asarray(scene.y.points)
    variance = np.asarray(still, np.float64).var(0)
    expected = np.mean([((x - y)[:, s] ** 2).mean() / variance[s] for s in (0, 2, 3)])
    assert found["prediction_error"] == pytest.approx(expected, rel=1e-4)


def test_decoding_of_predictions_and_of_the_targets_themselves(scene):
    bound = TargetDecoding().evaluate(scene, key=KEY)["target_decoding"]
    same = replace(scene, x=scene.y)
    assert CategoryDecoding().evaluate(same, key=KEY)["category_decoding"] == bound
    assert 0.75 < bound <= 1
    blurred = replace(same, map=Shift(100.0))
    assert CategoryDecoding().evaluate(blurred, key=KEY)["category_decoding"] < 0.5
    few = replace(scene.train, y=scene.train.y.take(jnp.arange(12)))
    with pytest.raises(ValueError, match="2 classes with 5 training points each"):
        TargetDecoding().evaluate(replace(scene, train=few), key=KEY)


@needs("it")
def test_decoding_reaches_the_reference_on_recorded_it():
    """About 93 % of 7 objects, by 132 sites, over 3 positions of 20 trials."""
    with np.load(DATA / "it" / "zd7_it_rates.npz") as file:
        rates = file["rate_100_500ms"]
    responses = rates.reshape(len(rates), -1).T
    responses = np.where(np.isnan(responses), np.nanmean(responses, 0), responses)
    labels = np.repeat(np.arange(7), 60)
    folds = StratifiedKFold(5, shuffle=True, random_state=1)
    model = decoder(responses, labels).best_estimator_
    assert cross_val_score(model, responses, labels, cv=folds).mean() == pytest.approx(
        0.93, abs=0.02
    )


def test_effective_dimensionality_between_one_and_all(scene, rng):
    still = replace(scene.train, x=Cloud.uniform(np.full((9, 2), 0.1)))
    found = EffectiveDimensionality().evaluate(replace(scene, train=still), key=KEY)
    assert found["source_effective_dimensionality"] == 0
    flat = np.outer(rng.normal(size=100), np.ones(5))
    isotropic = np.concatenate([np.eye(5), -np.eye(5)])
    data = replace(scene.train, x=Cloud.uniform(flat), y=Cloud.uniform(isotropic))
    found = EffectiveDimensionality().evaluate(replace(scene, train=data), key=KEY)
    assert found["source_effective_dimensionality"] == pytest.approx(1, rel=1e-4)
    assert found["target_effective_dimensionality"] == pytest.approx(5, rel=1e-4)
    values = np.linalg.eigvalsh(np.cov(np.asarray(scene.train.y.points).T))
    found = EffectiveDimensionality().evaluate(scene, key=KEY)
    expected = values.sum() ** 2 / (values**2).sum()
    assert found["target_effective_dimensionality"] == pytest.approx(expected, rel=1e-4)


def test_rsa_is_spearmans_of_the_upper_triangles(scene):
    found = RSA().evaluate(scene, key=KEY)["rsa"]
    upper = np.triu_indices(200, 1)
    a, b = (
        (1 - np.corrcoef(np.asarray(cloud.points, np.float64)))[upper]
        for cloud in (scene.train.x, scene.train.y)
    )
    assert found == pytest.approx(spearmanr(a, b)[0], rel=1e-3)
    same = replace(scene, train=replace(scene.train, x=scene.train.y))
    assert RSA(points=50).evaluate(same, key=KEY)["rsa"] == pytest.approx(1)
    silent = replace(scene.train, x=Cloud.uniform(scene.train.x.points.at[3].set(0)))
    assert np.isfinite(RSA().evaluate(replace(scene, train=silent), key=KEY)["rsa"])


def test_predictivity_is_that_of_held_out_folds(scene):
    found = Predictivity(components=3, folds=5).evaluate(scene, key=KEY)["predictivity"]
    x, y = (np.asarray(c.points) for c in (scene.train.x, scene.train.y))
    # What is fitted to the points it is judged on does a little better.
    ceiling = np.median(correlations(PLSRegression(3, scale=False).fit(x, y).predict(x), y))
    assert ceiling - 0.1 < found < ceiling
    order = jax.random.permutation(KEY, 200)
    shuffled = replace(scene.train, pairs=Pairs(scene.train.pairs.source, order))
    nothing = Predictivity(components=3, folds=5).evaluate(replace(scene, train=shuffled), key=KEY)
    assert abs(nothing["predictivity"]) < 0.25


def test_pls_is_scikit_learns(scene):
    fitted = PLS(2, "centred").fit(scene.train)
    x, y = (np.asarray(c.points, np.float64) for c in (scene.train.x, scene.train.y))
    reference = PLSRegression(2, scale=False, tol=1e-12, max_iter=5000).fit(x, y)
    expected = reference.predict(np.asarray(scene.x.points))
    np.testing.assert_allclose(fitted(scene.x.points), expected, rtol=1e-3, atol=1e-4)
    doubled = jnp.concatenate(
        [scene.train.x.points, scene.train.x.points, 0 * scene.train.x.points], 1
    )
    wide = replace(scene.train, x=Cloud.uniform(doubled))
    least = np.linalg.lstsq(x - x.mean(0), y - y.mean(0), rcond=None)[0]
    predicted = PLS(25, "centred").fit(wide)(doubled)
    np.testing.assert_allclose(predicted, (x - x.mean(0)) @ least + y.mean(0), rtol=1e-3, atol=1e-4)
    one = replace(scene.train, pairs=Pairs(jnp.array([3]), jnp.array([3])))
    np.testing.assert_allclose(PLS().fit(one)(scene.x.points)[0], y[3], rtol=1e-5)


def test_holm_adjusts_the_tests_of_all_pairs(rng):
    values = {"a": rng.normal(size=60), "b": rng.normal(size=60), "c": rng.normal(size=60) + 2}
    found = {(c.first, c.second): c for c in compare(values)}
    assert len(found) == 3
    raw = {key: mannwhitneyu(values[key[0]], values[key[1]]).pvalue for key in found}
    (first, second, third) = sorted(raw, key=raw.__getitem__)
    assert found[first].adjusted == pytest.approx(min(1, 3 * raw[first]))
    assert found[second].adjusted == pytest.approx(max(3 * raw[first], 2 * raw[second]))
    assert found[third].adjusted == pytest.approx(max(found[second].adjusted, raw[third]))
    assert found["a", "c"].superiority < 0.2
    assert found["a", "b"].adjusted > 0.05 > found["a", "c"].adjusted
    with pytest.raises(ValueError, match=r"values\['b'\]"):
        compare({"a": np.ones(3), "b": np.array([np.nan])})


def test_search_tries_the_whole_grid_and_agrees_with_one_coupling(paired):
    grid = dict(taus=(0.9, 1.0), epsilons=(1e-2, 1e-1), fractions=(0.5, 1.0), seeds=2)
    trials = search_grid(paired, BridgeCost(), Sinkhorn(threshold=1e-5), **grid)
    assert len({t[:5] for t in trials}) == len(trials) == 2 * 2 * 2 * 2 * 2
    (trial,) = [t for t in trials if t[:5] == (0.9, 1.0, 1e-2, 1.0, 0)]
    coupling = couple(paired, BridgeCost(), Sinkhorn(1e-2, 0.9, 1.0, threshold=1e-5))
    same = np.asarray(paired.x.labels)[:, None] == np.asarray(paired.y.labels)
    plan = np.asarray(coupling.to_dense())
    assert trial.matching_accuracy == pytest.approx(plan[same].sum() / plan.sum(), rel=1e-3)
    excluded = float(coupling.excluded_ratio(key=KEY))  # by draws
    assert trial.excluded_ratio == pytest.approx(excluded, abs=0.05)
    assert trial.aes == pytest.approx(
        plan[same].sum() / plan.sum() / trial.excluded_ratio, rel=1e-3
    )
    for wrong in ({"fractions": (40.0,)}, {"seeds": 0}, {"taus": ()}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            search_grid(paired, BridgeCost(), Sinkhorn(), **grid | wrong)
    with pytest.raises(ValueError, match="no labels"):
        search_grid(replace(paired, y=Cloud.uniform(paired.y.points)), BridgeCost(), Sinkhorn())


def test_regression_and_choice_of_trials(rng):
    def trial(tau_x, tau_y, epsilon, fraction, aes, converged=1):
        return Trial(tau_x, tau_y, epsilon, fraction, 0, 0.5, 0.5 / aes, aes, converged)

    settings = [
        (*rng.choice([0.8, 0.9, 1.0], 2), 10.0 ** rng.integers(-3, 0), rng.uniform(0.2, 0.8))
        for _ in range(40)
    ]
    line = [trial(*s, 2 + s[0] - s[1] - 0.3 * np.log10(s[2]) + 4 * s[3]) for s in settings]
    exact = regress(line)
    assert exact.adjusted_r2 == pytest.approx(1)
    np.testing.assert_allclose(exact.predicted, [t.aes for t in line], rtol=1e-6)
    noise = [t._replace(aes=float(rng.uniform(1, 2))) for t in line]
    design = np.column_stack([np.ones(40), [(np.log10(s[2]), s[0], s[1], s[3]) for s in settings]])
    aes = np.array([t.aes for t in noise])
    residual = aes - design @ np.linalg.lstsq(design, aes, rcond=None)[0]
    expected = 1 - (residual @ residual / 35) / (aes.var(ddof=1))
    assert regress(noise).adjusted_r2 == pytest.approx(expected)
    assert np.isnan(regress(noise[:5]).adjusted_r2)
    one_fraction = [t._replace(paired_fraction=0.5) for t in noise]
    residual = aes - (d := design[:, :4]) @ np.linalg.lstsq(d, aes, rcond=None)[0]
    expected = 1 - (residual @ residual / 36) / (aes.var(ddof=1))
    assert regress(one_fraction).adjusted_r2 == pytest.approx(expected)
    broken = [noise[0]._replace(aes=value) for value in (np.inf, np.nan)]
    assert regress([*noise, *broken])[0] == regress(noise)[0]
    assert regress([*noise, *broken]).left_out == 2
    assert np.isnan(regress(broken).adjusted_r2)
    choices = [
        trial(0.9, 0.9, 1e-2, 0.2, 3.0), trial(0.9, 0.9, 1e-2, 0.8, 1.0),
        trial(1.0, 0.9, 1e-2, 0.2, 2.5), trial(0.8, 0.8, 1e-2, 0.2, 9.0, converged=0),
    ]  # fmt: skip
    assert best(choices) == (1.0, 0.9, 1e-2)
    assert best([*choices, trial(0.5, 0.5, 1e-2, 0.2, np.inf)]) == (1.0, 0.9, 1e-2)


def test_features_come_from_a_store_by_file_name(tmp_path, rng, vit, minilm):
    (tmp_path / "stimuli").mkdir()
    for k in rng.permutation(10):
        pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "stimuli" / f"im{k}.png")
    bindings = [
        f"Images.path = '{tmp_path / 'stimuli'}'", "Images.fractions = (0.5, 0, 0.5)",
        f"ViT.model = '{vit}'", f"MiniLM.model = '{minilm}'",
    ]  # fmt: skip
    store = morphkit.extract("gin/imagenet/extract.gin", bindings, out=tmp_path / "store")
    ids = np.array([f"im{k}" for k in range(10)])
    np.savez(tmp_path / "a.npz", responses=rng.normal(size=(10, 3)), stimulus_id=ids)
    raw = Recordings(str(tmp_path / "a.npz"), str(store), pretrain=str(store)).load()
    files = [str(tmp_path / "stimuli" / f"{name}.png") for name in ids]
    expected = np.asarray(ViT((), model=vit, key=KEY).encode(np.array(files), key=KEY))
    order = np.random.default_rng(0).permutation(10)
    np.testing.assert_allclose(raw.train.source, expected[np.sort(order[:6])], atol=1e-5)
    assert raw.pretrain is not None
    assert raw.pretrain.source.shape == (10, 24)
    (store / "splits.npz").unlink()
    with pytest.raises(ValueError, match="no complete store of files"):
        Recordings(str(tmp_path / "a.npz"), str(store)).load()


@pytest.fixture
def session(tmp_path, rng):
    """A small file as v4_SESSION.npz: responses that depend on the features."""
    features = rng.normal(size=(100, 6))
    responses = np.tanh(features @ rng.normal(size=(6, 5))) + 0.3 * rng.normal(size=(100, 5))
    np.savez(tmp_path / "session.npz", responses=responses, features=features)
    return [f"Recordings.path = '{tmp_path / 'session.npz'}'", "run.wandb = 'disabled'"]


def test_the_neural_experiment_runs(tmp_path, session):
    bindings = [*session, "Training.steps = 20", "Predictivity.folds = 4"]
    result = morphkit.run("gin/neural/v4.gin", bindings, tmp_path / "run")
    for row in ("morph", "baseline/ridge", "baseline/pls"):
        assert np.isfinite(result.metrics[f"{row}/mean_prediction_error"])
    assert result.metrics["baseline/ridge/prediction_error"] < 0.6
    assert result.metrics["features/predictivity"] > 0 < result.metrics["features/rsa"]
    assert (tmp_path / "run" / "report.html").exists()


def test_search_from_the_command_line(tmp_path, session, capsys):
    options = [arg for b in session[:1] for arg in ("--set", b)]
    request = [
        "search", "gin/neural/v4.gin", *options, "--set", "Recordings.evaluate = 'validation'",
        "--taus", "0.9", "1", "--epsilons", "0.01", "--fractions", "0.4", "0.8", "--seeds", "2",
        "--out", str(tmp_path / "search"),
    ]  # fmt: skip
    assert main(request) == 0
    printed = capsys.readouterr().out
    assert "16 couplings, 0 of which did not converge" in printed
    with (tmp_path / "search" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert {row["tau_x"] for row in rows} == {"0.9", "1.0"}
    assert (tmp_path / "search" / "search.png").stat().st_size > 5000


def test_a_search_picture_that_cannot_be_drawn_leaves_the_trials(tmp_path):
    (tmp_path / "search.png").write_bytes(b"of other trials")
    trials = [Trial(tau, 1.0, 0.01, 0.5, 0, 0.8, 0.2, 4.0, 1) for tau in (0.9, 1.0)]
    assert write_search(trials, tmp_path) == ["search.png: this picture cannot be drawn (KeyError"
                                              ": (0.01, 0.5, 0.9, 0.9))."]  # fmt: skip
    assert not (tmp_path / "search.png").exists()
    with (tmp_path / "trials.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
