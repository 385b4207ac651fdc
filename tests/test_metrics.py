"""The evaluators against plain NumPy, on a scene with a linear two-way model."""

import re
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_aligners.aligners import GlobalAlignment
from morphkit_costs.distribution import LocalDistributionCost
from morphkit_metrics.classes import LabelAccuracy, NearestTargetAccuracy
from morphkit_metrics.draws import DrawScores, energy_score
from morphkit_metrics.expected import ExpectedValue
from morphkit_metrics.features import FeatureOverlap, KNNAccuracy
from morphkit_metrics.held_out import HeldOutPairs
from morphkit_metrics.images import ClassImageMSE
from morphkit_metrics.layers import Predictivity
from morphkit_metrics.matching import MatchingAccuracy
from morphkit_metrics.pairs import PairedError
from morphkit_solvers.sinkhorn import Sinkhorn
from scipy.spatial.distance import cdist

from morphkit.experiment.evaluate import check_evaluators, directions, evaluate
from morphkit.interfaces import Better, Codec, Evaluator, FeatureExtractor, LatentMap, RawMap, Scene
from morphkit.loggers import Log
from morphkit.transport.couplings import Convergence, DenseCoupling, PairCoupling
from morphkit.types import Cloud, PairedData, Pairs, Split
from morphkit.wiring.registry import Registry, registry

KEY = jax.random.key(0)
N, CLASSES = 60, 3


class Identity(FeatureExtractor):
    """Features are the flattened inputs."""

    def fit(self, inputs, *, key, tell=lambda *_: None):
        return self

    def encode(self, inputs, *, key):
        return jnp.asarray(inputs.reshape(len(inputs), -1), jnp.float32)


class Shaped(Codec):
    """Features are the flattened inputs, and decode to inputs of the given shape."""

    shape: tuple[int, ...]

    def fit(self, inputs, *, key, tell=lambda *_: None):
        return self

    def encode(self, inputs, *, key):
        return jnp.asarray(inputs.reshape(len(inputs), -1), jnp.float32)

    def decode(self, features):
        return features.reshape(-1, *self.shape)


class Linear(LatentMap):
    weight: jax.Array

    def __call__(self, x, *, key=None):
        return x @ self.weight


class Knowing(LatentMap):
    """A linear map that knows densities, as a morph trained with Training.reweight does."""

    weight: jax.Array

    def __call__(self, x, *, key=None):
        return x @ self.weight

    def density(self, points, side="source"):
        return jnp.linspace(0.5, 1.5, len(points))


def scene(target, shape, seed=0):
    """Test and training clouds of 60 points of 3 classes, a random linear map between them."""
    rng = np.random.default_rng(seed)
    source_labels, target_labels = np.arange(N) % CLASSES, rng.permutation(N) % CLASSES
    centers = rng.normal(size=(CLASSES, 5))
    x = (centers[source_labels] + rng.normal(size=(N, 5))).astype(np.float32)
    raw = rng.uniform(size=(N, *shape)).astype(np.float32)
    y = raw.reshape(N, -1)
    pairs = np.stack([np.arange(N), rng.permutation(N)], 1)
    cloud_x = Cloud.uniform(x, source_labels)
    cloud_y = Cloud.uniform(y, target_labels)
    return Scene(
        source=Identity(),
        target=target,
        train=PairedData(cloud_x, cloud_y, Pairs.from_array(pairs[:4])),
        x=Cloud.uniform(x[::-1], source_labels[::-1]),
        y=cloud_y,
        test=Split(x[::-1], raw, pairs, source_labels[::-1], target_labels),
        map=Linear(jnp.asarray(rng.normal(size=(5, y.shape[1])), jnp.float32)),
        coupling=DenseCoupling(
            jnp.asarray(rng.dirichlet(np.ones(N * N)).reshape(N, N), jnp.float32),
            Convergence.exact(),
        ),
    )


def predicted(s):
    return np.asarray(s.x.points) @ np.asarray(s.map.weight)


def test_label_accuracy():
    s = scene(Shaped((CLASSES,)), (CLASSES,))
    expected = np.mean(predicted(s).argmax(1) == s.test.source_labels)
    assert 0 < expected < 1
    assert LabelAccuracy().evaluate(s, key=KEY) == {"test_accuracy": pytest.approx(expected)}


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_nearest_target_accuracy(metric):
    s = scene(Identity(), (4,))
    y, labels = np.asarray(s.train.y.points), np.asarray(s.train.y.labels)
    means = np.stack([y[labels == c].mean(0) for c in range(CLASSES)])
    expected = np.mean(cdist(predicted(s), means, metric).argmin(1) == s.test.source_labels)
    values = NearestTargetAccuracy(metric).evaluate(s, key=KEY)
    assert values == {"nearest_target_accuracy": pytest.approx(expected)}


def test_nearest_target_accuracy_takes_labels_that_are_not_0_to_c():
    s = scene(Identity(), (5,))
    points = np.eye(5, dtype=np.float32)[[1, 1, 3]]
    train = PairedData(s.train.x, Cloud.uniform(points, np.array([40, 40, 7])), s.train.pairs)
    labels = np.where(np.asarray(s.x.points[:, 1] > s.x.points[:, 3]), 40, 7)
    s = replace(s, train=train, map=Linear(jnp.eye(5)), test=s.test._replace(source_labels=labels))
    assert NearestTargetAccuracy().evaluate(s, key=KEY) == {"nearest_target_accuracy": 1.0}


@pytest.mark.parametrize("binarize", [False, True])
def test_class_image_mse(binarize):
    s = scene(Shaped((2, 3, 1)), (2, 3, 1))
    drawn, true = predicted(s).reshape(N, 2, 3), s.test.target[..., 0]
    if binarize:
        drawn, true = drawn > 0.5, true > 0.5
    expected = 0.0
    for c in range(CLASSES):
        own = drawn[s.test.source_labels == c].mean(0) - true[s.test.target_labels == c].mean(0)
        expected += sum(own[j, k] ** 2 for j in range(2) for k in range(3)) / 6 / CLASSES
    values = ClassImageMSE(binarize).evaluate(s, key=KEY)
    assert values == {"class_image_mse": pytest.approx(expected, rel=1e-4)}


def test_paired_error():
    s = scene(Identity(), (4,))
    prediction = predicted(s)[s.test.pairs[:, 0]]
    y = np.asarray(s.y.points)
    true = y[s.test.pairs[:, 1]]
    distances = cdist(prediction, y, "cosine")
    values = PairedError().evaluate(s, key=KEY)
    residual = np.sum((prediction - true) ** 2)
    assert values == pytest.approx(
        {
            "paired_mse": residual / true.size,
            "paired_cosine": 1 - np.mean(distances[np.arange(N), s.test.pairs[:, 1]]),
            "paired_r2": 1 - residual / np.sum((true - true.mean(0)) ** 2),
            "retrieval_at_1": np.mean(distances.argmin(1) == s.test.pairs[:, 1]),
        },
        rel=1e-4,
    )


def test_a_perfect_map_scores_perfectly_even_with_coinciding_targets():
    s = scene(Identity(), (5,))
    points = np.asarray(s.x.points)[np.repeat(np.arange(N // 2), 2)]
    pairs = np.stack([np.arange(N)] * 2, 1)
    cloud = Cloud.uniform(points)
    s = replace(s, x=cloud, y=cloud, map=Linear(jnp.eye(5)), test=s.test._replace(pairs=pairs))
    values = PairedError().evaluate(s, key=KEY)
    assert values == pytest.approx(
        {"paired_mse": 0, "paired_cosine": 1, "paired_r2": 1, "retrieval_at_1": 1}, abs=1e-6
    )


def captioned() -> Scene:
    """Every third test source point has three of the targets, the pairs in any order."""
    s = scene(Identity(), (4,))
    rng = np.random.default_rng(1)
    pairs = np.stack([np.arange(N) // 3 * 3, rng.permutation(N)], 1)[rng.permutation(N)]
    return replace(s, test=s.test._replace(pairs=pairs))


def test_any_of_the_targets_of_a_source_point_is_right():
    s = captioned()
    pairs, y = s.test.pairs.copy(), np.asarray(s.y.points)
    answers = cdist(predicted(s), y, "cosine").argmin(1)
    for i in range(0, N, 6):  # half of the source points are answered with one of their targets
        pairs[np.flatnonzero(pairs[:, 0] == i)[i % 3], 1] = answers[i]
    s = replace(s, test=s.test._replace(pairs=pairs))
    theirs = {i: set(pairs[pairs[:, 0] == i, 1]) for i in range(0, N, 3)}
    expected = np.mean([answers[i] in targets for i, targets in theirs.items()])
    one = np.mean(answers[pairs[:, 0]] == pairs[:, 1])  # what counting every pair would give
    found = PairedError().evaluate(s, key=KEY)
    assert expected > 1.5 * one > 0
    assert found["retrieval_at_1"] == pytest.approx(expected)
    error = (predicted(s)[pairs[:, 0]] - y[pairs[:, 1]]) ** 2
    assert found["paired_mse"] == pytest.approx(error.mean(), rel=1e-5)


def test_held_out_source_points_take_all_of_their_pairs_with_them():
    s = captioned()
    train = PairedData(s.train.x, s.train.y, Pairs.from_array(s.test.pairs))
    conditional = np.asarray(s.coupling.values / s.coupling.values.sum(1, keepdims=True))
    asked = []

    def couple(data):
        asked.append(np.asarray(data.pairs.source))
        return s.coupling

    found = HeldOutPairs(folds=4, within=0.2).evaluate(
        replace(s, train=train, couple=couple), key=KEY
    )
    assert [len(sources) for sources in asked] == [45] * 4
    assert all(set(np.unique(sources, return_counts=True)[1]) == {3} for sources in asked)
    distances = cdist(s.train.y.points, s.train.y.points, "cosine")
    there, far, chance = [], [], []
    for i in range(0, N, 3):
        nearest = distances[s.test.pairs[s.test.pairs[:, 0] == i, 1]].min(0)
        order = np.argsort(nearest)[: round(0.2 * (N - 1)) + 1]
        there.append(conditional[i, order].sum())
        far.append(conditional[i] @ nearest)
        chance.append(nearest.mean())
    assert found["held_out_accuracy"] == pytest.approx(np.mean(there), rel=1e-5)
    assert found["held_out_distance"] == pytest.approx(np.mean(far) / np.mean(chance), rel=1e-5)


def test_predictivity_never_predicts_a_point_that_it_was_fitted_to():
    """Targets are noise: only a point that is on both sides of a split could be predicted."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 60)), np.repeat(rng.normal(size=(40, 3)), 5, axis=0)
    pairs = np.stack([np.repeat(np.arange(40), 5), np.arange(200)], 1)
    data = PairedData(Cloud.uniform(x), Cloud.uniform(y), Pairs.from_array(pairs))
    s = replace(scene(Identity(), (4,)), train=data)
    found = Predictivity(components=25, folds=4).evaluate(s, key=KEY)["predictivity"]
    assert abs(found) < 0.4
    with pytest.raises(ValueError, match="not 40"):
        Predictivity(folds=21).evaluate(s, key=KEY)


def test_matching_accuracy():
    s = scene(Identity(), (4,))
    same = np.asarray(s.train.x.labels)[:, None] == np.asarray(s.train.y.labels)
    exact = np.sum(np.asarray(s.coupling.values), where=same)
    values = MatchingAccuracy(20_000).evaluate(s, key=KEY)
    assert values["matching_accuracy_exact"] == pytest.approx(exact, abs=1e-5)
    assert values["matching_accuracy"] == pytest.approx(exact, abs=0.02)
    ratio = float(s.coupling.excluded_ratio())
    assert values["aes"] == pytest.approx(exact / ratio, rel=1e-4)


def test_feature_overlap():
    s = scene(Identity(), (4,))
    values = FeatureOverlap(k=7).evaluate(s, key=KEY)
    for name, cloud in (("source", s.train.x), ("target", s.train.y)):
        distances = cdist(cloud.points, cloud.points) + np.diag(np.full(N, np.inf))
        neighbours = np.argsort(distances, 1)[:, :7]
        labels = np.asarray(cloud.labels)
        expected = np.mean(labels[neighbours] != labels[:, None])
        assert values[f"{name}_overlap"] == pytest.approx(expected)


def test_feature_overlap_of_batches_of_coinciding_points():
    s = scene(Identity(), (4,))
    labels = np.arange(N) % 2
    apart = Cloud.uniform(100.0 * labels[:, None], labels)
    mixed = Cloud.uniform(np.zeros((N, 1)), np.zeros(N, int))
    s = replace(s, train=PairedData(apart, mixed, s.train.pairs))
    values = FeatureOverlap(k=3, batch_size=30, repeats=2).evaluate(s, key=KEY)
    assert values == {"source_overlap": 0.0, "target_overlap": 0.0}


def test_knn_accuracy():
    s = scene(Identity(), (4,))
    nearest = cdist(s.x.points, s.train.x.points).argmin(1)
    expected = np.mean(np.asarray(s.train.x.labels)[nearest] == s.test.source_labels)
    assert KNNAccuracy(1).evaluate(s, key=KEY) == {"source_1nn_accuracy": pytest.approx(expected)}
    votes = np.argsort(cdist(s.x.points, s.train.x.points), 1)[:, :5]
    counts = np.eye(CLASSES)[np.asarray(s.train.x.labels)[votes]].sum(1)
    expected = np.mean(counts.argmax(1) == s.test.source_labels)
    assert KNNAccuracy().evaluate(s, key=KEY) == {"source_5nn_accuracy": pytest.approx(expected)}


def test_held_out_pairs_judge_what_the_coupling_was_not_told():
    s = scene(Identity(), (4,))
    values = s.coupling.values
    conditional = np.asarray(values / values.sum(1, keepdims=True))
    asked = []

    def couple(data):
        asked.append(set(np.asarray(data.pairs.source).tolist()))
        return s.coupling

    found = HeldOutPairs(folds=4, within=0.2).evaluate(replace(s, couple=couple), key=KEY)
    sources, targets = np.asarray(s.train.pairs.source), np.asarray(s.train.pairs.target)
    distances = cdist(s.train.y.points, s.train.y.points, "cosine")
    assert sorted(map(len, asked)) == [3] * 4
    there, far, chance = [], [], []
    for i, j in zip(sources, targets, strict=True):
        nearest = np.argsort(distances[j])[: round(0.2 * (N - 1)) + 1]
        there.append(conditional[i, nearest].sum())
        far.append(conditional[i] @ distances[j])
        chance.append(distances[j].mean())
    assert found["held_out_accuracy"] == pytest.approx(np.mean(there), rel=1e-5)
    assert found["held_out_distance"] == pytest.approx(np.mean(far) / np.mean(chance), rel=1e-5)


def test_held_out_pairs_know_the_best_and_the_silent_coupling():
    s = scene(Identity(), (4,))
    everything = np.zeros((N, N), np.float32)
    everything[np.asarray(s.test.pairs[:, 0]), np.asarray(s.test.pairs[:, 1])] = 1 / N
    perfect = DenseCoupling(jnp.asarray(everything), Convergence.exact())
    found = HeldOutPairs().evaluate(replace(s, couple=lambda data: perfect), key=KEY)
    assert found["held_out_accuracy"] == pytest.approx(1)
    assert found["held_out_distance"] == pytest.approx(0, abs=1e-5)

    def true_alignment(data):
        return PairCoupling(data.pairs, (N, N))

    single = PairedData(
        s.train.x, s.train.y, Pairs(s.train.pairs.source[:1], s.train.pairs.target[:1])
    )
    assert HeldOutPairs().evaluate(replace(s, couple=true_alignment), key=KEY) == {}
    assert HeldOutPairs().evaluate(replace(s, couple=lambda data: None), key=KEY) == {}
    assert HeldOutPairs().evaluate(replace(s, train=single, couple=true_alignment), key=KEY) == {}


def test_what_is_missing_is_named():
    s = scene(Identity(), (CLASSES,))
    codec = replace(s, target=Shaped((CLASSES,)))
    bare = PairedData(Cloud.uniform(s.x.points), Cloud.uniform(s.y.points), s.train.pairs)
    cases = [
        (LabelAccuracy(), s, "decoder"),
        (LabelAccuracy(), replace(codec, map=None), "scene.map"),
        (LabelAccuracy(), replace(codec, test=s.test._replace(source_labels=None)), "test.source"),
        (LabelAccuracy(), replace(codec, target=Shaped((1, CLASSES))), "one-hot"),
        (NearestTargetAccuracy(), replace(s, train=bare), "train.y.labels"),
        (ClassImageMSE(), s, "decoder"),
        (ClassImageMSE(), replace(codec, test=s.test._replace(target_labels=None)), "test.target"),
        (ClassImageMSE(), replace(codec, test=s.test._replace(target=np.zeros((N, 9)))), "images"),
        (PairedError(), replace(s, test=s.test._replace(pairs=np.zeros((0, 2), int))), "pairs"),
        (MatchingAccuracy(), replace(s, coupling=None), "scene.coupling"),
        (HeldOutPairs(), s, "scene.couple"),
        (MatchingAccuracy(), replace(s, train=bare), "train.x.labels"),
        (FeatureOverlap(), replace(s, train=bare), "train.x.labels"),
        (FeatureOverlap(k=N), s, "k: 60"),
        (KNNAccuracy(), replace(s, train=bare), "train.x.labels"),
    ]
    for metric, bad, named in cases:
        with pytest.raises(ValueError, match=named):
            metric.evaluate(bad, key=KEY)


def test_bad_arguments_are_named():
    for make, name in (
        (lambda: NearestTargetAccuracy("dot"), "metric"),
        (lambda: MatchingAccuracy(0), "samples"),
        (lambda: HeldOutPairs(1), "folds"),
        (lambda: HeldOutPairs(metric="dot"), "metric"),
        (lambda: HeldOutPairs(within=1), "within"),
        (lambda: FeatureOverlap(k=15, batch_size=15), "batch_size"),
        (lambda: KNNAccuracy(0), "KNNAccuracy.k = 0"),
    ):
        with pytest.raises(ValueError, match=name):
            make()


class Given(Evaluator):
    """A metric of maps that gives the numbers it is told, or raises the error it is told."""

    gives: dict = eqx.field(static=True)
    subject = "map"
    metrics: ClassVar = {"mae": "lower"}

    def evaluate(self, scene, *, key):
        if isinstance(found := self.gives.get("mae"), Exception):
            raise found
        return self.gives


class Two(Given):
    """The same metric by another class."""


def test_every_evaluator_gives_the_metrics_that_it_declares_and_the_docs_list(tmp_path):
    """All of them on one scene; those that need labels, couplings and decoders have them."""
    s = scene(Shaped((CLASSES,)), (CLASSES,))
    known = PairedData(s.train.x, s.train.y, Pairs.from_array(s.test.pairs[:40]))
    s = replace(
        s, train=known, inputs=s.test,
        couple=lambda data: GlobalAlignment().couple(data, LocalDistributionCost(), Sinkhorn()),
        test=s.test._replace(reliability=np.full(CLASSES, 0.5, np.float32)),
    )  # fmt: skip
    s = replace(s, map=Knowing(s.map.weight))
    small = {
        "Predictivity": Predictivity(components=2, folds=3),
        "ExpectedValue": ExpectedValue(LabelAccuracy()),
    }
    ours = [c for c in registry.load() if c.kind == "eval"]
    found = {c.name: small.get(c.name) or c.cls() for c in ours}
    check_evaluators(list(found.values()))
    with Log(tmp_path, wandb="disabled") as log:
        numbers, failures = evaluate(s, {"morph": s.map}, list(found.values()), KEY, log)
    assert failures == []
    assert {name.split("/")[-1] for name in numbers} == set(directions(list(found.values())))
    page = (Path(__file__).parent.parent / "docs" / "components.md").read_text()
    for name, evaluator in found.items():
        (row,) = re.findall(rf"^\| `eval\.{name}` \|.*$", page, re.MULTILINE)
        assert all(f"`{metric}`" in row for metric in evaluator.metrics), row


def test_the_names_of_metrics_may_depend_on_arguments():
    assert directions([KNNAccuracy(3), PairedError()]) == {
        "source_3nn_accuracy": "higher",
        "paired_mse": "lower",
        "paired_cosine": "higher",
        "paired_r2": "higher",
        "retrieval_at_1": "higher",
    }


def test_one_metric_of_two_evaluators_is_refused_before_anything_is_computed():
    with pytest.raises(ValueError, match=r"run\.evaluators.*'mae', Given and Two"):
        check_evaluators([Given({}), PairedError(), Two({})])
    with pytest.raises(ValueError, match="'source_5nn_accuracy', KNNAccuracy and KNNAccuracy"):
        check_evaluators([KNNAccuracy(), KNNAccuracy(5)])
    check_evaluators([KNNAccuracy(), KNNAccuracy(1)])


@pytest.mark.parametrize("name", ["entropy", "converged", "marginal_violation_source"])
def test_a_diagnostic_of_the_coupling_is_no_metric_of_an_evaluator(name):
    class Judge(Given):
        subject = "coupling"
        metrics: ClassVar = {name: "higher"}

    with pytest.raises(ValueError, match=rf"Judge\.metrics has '{name}', .* another name"):
        check_evaluators([Judge({})])

    class OfMaps(Given):
        metrics: ClassVar = {name: "higher"}

    check_evaluators([OfMaps({})])  # morph/entropy is no coupling/entropy


def test_a_direction_that_is_none_is_named():
    class Wrong(Given):
        metrics: ClassVar = {"mae": "smaller"}

    assert "smaller" not in get_args(Better)
    with pytest.raises(ValueError, match=r"Wrong\.metrics\['mae'\] = 'smaller' must be one of"):
        check_evaluators([Wrong({})])


def test_an_evaluator_that_declares_no_metrics_is_not_registered():
    class Silent(Evaluator):
        """A metric that does not say its name."""

        subject = "map"

        def evaluate(self, scene, *, key):
            return {}

    with pytest.raises(TypeError, match="Silent declares no metrics"):
        Registry().add(Silent)


def test_evaluators_that_fail_leave_the_numbers_of_the_others(tmp_path, capsys):
    s = scene(Identity(), (4,))

    class Broken(LatentMap):
        def __call__(self, x, *, key=None):
            raise RuntimeError("no weights")

    bad = {
        "raises": Given({"mae": RuntimeError("no luck")}),
        "is silent": Given({"mae": ZeroDivisionError()}),
        "gives what it has not declared": Given({"mae": 1.0, "rmse": 2.0}),
        "gives no number": Given({"mae": "much"}),
    }
    with Log(tmp_path, wandb="disabled") as log:
        for evaluator in bad.values():
            found, failures = evaluate(s, {"morph": s.map}, [evaluator, PairedError()], KEY, log)
            assert set(found) == {f"morph/{name}" for name in PairedError().metrics}
            assert len(failures) == 1
        maps = {"morph": s.map, "baseline/broken": Broken()}
        found, failures = evaluate(s, maps, [PairedError(), Given({"mae": 1.0})], KEY, log)
        _, (once,) = evaluate(s, maps, [LabelAccuracy()], KEY, log)
    assert set(found) == {
        "baseline/broken/mae", "morph/mae", *(f"morph/{name}" for name in PairedError().metrics),
    }  # fmt: skip
    assert failures == ["PairedError failed on baseline/broken: no weights"]
    assert once.startswith(
        "LabelAccuracy failed on morph, baseline/broken: the target model has no "
    )
    said = capsys.readouterr().err
    for text in (
        "warning: Given failed on morph: no luck", "Given failed on morph: ZeroDivisionError",
        "gives 'rmse', which is not among its metrics", failures[0],
    ):  # fmt: skip
        assert text in said


class Normal(LatentMap):
    """Draws from N(x, scale² I)."""

    scale: float

    def __call__(self, x, *, key=None):
        return x + self.scale * jax.random.normal(key, x.shape)

    def expected(self, x, *, key=None):
        return x


def normal_scene(map, n=1500, d=2):
    """y ~ N(x, I), so that a map is right or known to be wrong."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d))
    y = x + rng.normal(size=(n, d))
    pairs = np.stack([np.arange(n), rng.permutation(n)], 1)
    test = Split(x, y[np.argsort(pairs[:, 1])], pairs)
    return replace(
        scene(Identity(), (d,)),
        x=Cloud.uniform(x),
        y=Cloud.uniform(test.target),
        test=test,
        map=map,
    )


def test_draws_of_the_right_distribution_have_its_energy_score_and_coverage():
    """E|N(0, 2 I)| = √π in the plane, so that the score of N(x, I) itself is √π / 2."""
    right, narrow, wide = (
        DrawScores().evaluate(normal_scene(Normal(s)), key=KEY) for s in (1.0, 0.3, 3.0)
    )
    assert right["energy_score"] == pytest.approx(np.sqrt(np.pi) / 2, rel=0.03)
    assert right["coverage"] == pytest.approx(0.9, abs=0.015)
    assert right["energy_score"] < min(narrow["energy_score"], wide["energy_score"])
    assert narrow["coverage"] < 0.6 < 0.95 < wide["coverage"]
    half = DrawScores(draws=39, level=0.5).evaluate(normal_scene(Normal(1.0)), key=KEY)
    assert half["coverage"] == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ValueError, match=r"level = 0.95 needs 39 draws or more, not 19"):
        DrawScores(level=0.95)


def test_the_energy_score_of_few_draws_is_that_of_all_their_pairs(rng):
    drawn, true = rng.normal(size=(4, 5, 3)), rng.normal(size=(5, 3))
    for row, found in enumerate(energy_score(drawn, true)):
        apart = cdist(drawn[:, row], drawn[:, row])[np.triu_indices(4, 1)].mean()
        expected = cdist(drawn[:, row], true[row : row + 1]).mean() - apart / 2
        assert found == pytest.approx(expected)


def test_a_point_is_judged_by_the_expected_value_and_a_draw_where_that_is_asked():
    s = normal_scene(Normal(2.0))
    assert PairedError().evaluate(s, key=KEY)["paired_mse"] == pytest.approx(1, rel=0.05)
    drawn = PairedError(estimate="draw").evaluate(s, key=KEY)
    assert drawn["paired_mse"] == pytest.approx(5, rel=0.05)
    predicted = DrawScores().evaluate(normal_scene(Linear(jnp.eye(2))), key=KEY)
    assert predicted["energy_score"] == pytest.approx(np.sqrt(np.pi / 2), rel=0.03)
    assert predicted["coverage"] == 0


def test_any_metric_of_draws_tells_of_the_expected_value_under_a_name_of_its_own():
    s = normal_scene(Normal(2.0))
    metric = ExpectedValue(PairedError(estimate="draw"))
    found = metric.evaluate(s, key=KEY)
    assert found["expected_paired_mse"] == pytest.approx(1, rel=0.05)
    assert set(found) <= set(metric.metrics)
    assert metric.metrics["expected_paired_mse"] == PairedError.metrics["paired_mse"]
    assert not metric.decodes
    with pytest.raises(ValueError, match=r"ExpectedValue\.of = KNNAccuracy\(\) has no estimate"):
        ExpectedValue(KNNAccuracy())


class Halves(RawMap):
    """The first half of raw inputs is of class 0."""

    def __call__(self, inputs, *, key=None):
        return jax.nn.one_hot(np.arange(len(inputs)) * 2 // len(inputs), 2)


def test_a_map_of_raw_inputs_is_its_own_expected_value():
    labels = np.array([0, 0, 1, 0])
    test = Split(np.zeros((4, 3)), np.zeros((4, 2)), np.zeros((0, 2), int), labels)
    s = replace(scene(Identity(), (2,)), test=test, map=Halves())
    metric = ExpectedValue(LabelAccuracy())
    assert metric.decodes
    assert metric.evaluate(s, key=KEY) == {"expected_test_accuracy": 0.75}
