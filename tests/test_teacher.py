"""A cost that a baseline makes, and what a coupling teaches the baseline."""

from dataclasses import replace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_aligners.refined import RefinedAlignment
from morphkit_baselines.anchor import NearestAnchor
from morphkit_baselines.classes import LogisticHead, NearestClassMean, ShrinkageLDA
from morphkit_baselines.linear import PLS, Ridge
from morphkit_costs.teacher import TeacherCost, told
from morphkit_solvers.sinkhorn import Sinkhorn
from scipy.spatial.distance import cdist
from sklearn import linear_model

from morphkit.interfaces import Baseline, LatentMap
from morphkit.transport.couplings import Convergence, DenseCoupling
from morphkit.transport.partly import unpaired
from morphkit.types import Cloud, PairedData, Pairs
from morphkit.wiring.structure import structure


class Counted(LatentMap):
    """The map `of`, and how many points it was `asked` about, each time."""

    of: LatentMap
    asked: list = eqx.field(static=True)

    def __call__(self, x, *, key=None):
        self.asked.append(len(x))
        return self.of(x)


class Counting(Baseline):
    asked: list = eqx.field(static=True)

    def fit(self, data: PairedData) -> LatentMap:
        return Counted(Ridge(1.0, "centred").fit(data), self.asked)


def test_it_is_the_distance_from_what_is_predicted(paired):
    teacher = Ridge(1.0, "centred").fit(paired)
    predicted, y = np.asarray(teacher(paired.x.points)), np.asarray(paired.y.points)
    expected = cdist(predicted - y.mean(0), y - y.mean(0), "cosine")
    fitted = TeacherCost(Ridge(1.0, "centred")).fit(paired)
    np.testing.assert_allclose(fitted.geometry.matrix(), expected, atol=1e-5)
    x = np.asarray(paired.x.points)
    np.testing.assert_allclose(fitted.at(x[5:9]).matrix(), expected[5:9], atol=1e-5)


def test_the_cloud_is_predicted_once(paired):
    fitted = TeacherCost(Counting(asked := [])).fit(paired)
    for _ in range(3):
        fitted.geometry.matrix()
    assert asked == [60]
    fitted.at(np.asarray(paired.x.points[:4]))
    assert asked == [60, 4]


def test_settled_it_has_no_more_of_the_sources(paired):
    fitted = TeacherCost(Ridge(1.0, "centred")).fit(paired)
    kept, x = fitted.settled(), np.asarray(paired.x.points)
    np.testing.assert_array_equal(kept.at(x[:4]).matrix(), fitted.at(x[:4]).matrix())
    assert not [leaf for leaf in map(np.shape, eqx.filter(vars(kept), eqx.is_array)) if 60 in leaf]
    assert kept.data.x.size == kept.data.pairs.size == len(kept.predicted) == 0
    structure(kept)


def rows(data: PairedData, cost: TeacherCost):
    """The cost as fitted, its unpaired part and their coupling."""
    fitted, part = cost.fit(data), unpaired(data)
    assert part is not None
    geometry = fitted.geometry.take(part.i, part.j)
    return fitted, part, Sinkhorn(0.1).solve(geometry, part.x, part.y)


def test_a_regression_is_taught_barycentres(paired):
    fitted, part, coupling = rows(paired, TeacherCost(Ridge((0.1, 3.0), "centred")))
    learned = fitted.learn(coupling, part.i, part.j, 0.3)
    pi, y = np.asarray(coupling.to_dense(), float), np.asarray(paired.y.points, float)
    barycentres = pi @ y[part.j] / pi.sum(1, keepdims=True)
    x = np.asarray(paired.x.points, float)
    z = (x - x.mean(0)) / (x - x.mean(0)).std()
    weights = np.repeat([1, 0.3], [9, len(part.i)])
    weights *= 9 / weights.sum()
    (alpha,) = fitted.baseline.alphas
    model = linear_model.Ridge(alpha).fit(
        np.concatenate([z[:9], z[part.i]]), np.concatenate([y[:9], barycentres]), weights
    )
    np.testing.assert_allclose(learned.predicted, model.predict(z), rtol=1e-3, atol=1e-3)


@pytest.fixture
def named(rng) -> tuple[PairedData, np.ndarray]:
    """120 points of four classes in 6 dimensions, whose targets are the four names; a pair of
    points of each class but the last, and the classes."""
    labels = np.arange(120) % 4
    x = 2.5 * rng.normal(size=(4, 6))[labels] + rng.normal(size=(120, 6))
    known = np.flatnonzero(labels < 3)[:6]
    pairs = Pairs.from_array(np.stack([known, labels[known]], 1))
    return PairedData(Cloud.uniform(x), Cloud.uniform(3 * np.eye(4, 5)), pairs), labels


def test_a_classifier_is_taught_the_most_probable_target(named, rng):
    data, labels = named
    fitted, part = TeacherCost(NearestClassMean("centred")).fit(data), unpaired(data)
    assert part is not None
    likely = np.eye(4)[labels[part.i]][:, part.j] + rng.random((len(part.i), len(part.j)))
    coupling = DenseCoupling(jnp.asarray(likely, jnp.float32), Convergence.exact())
    learned = fitted.learn(coupling, part.i, part.j, 0.5)
    mode = np.asarray(part.j)[likely.argmax(1)]
    assert 3 in mode
    x = np.asarray(data.x.points, float)
    points = np.concatenate([x[data.pairs.source], x[part.i]])
    classes = np.concatenate([data.pairs.target, mode])
    weights = np.repeat([1, 0.5], [6, len(part.i)])
    means = np.stack([np.average(points[classes == c], axis=0, weights=weights[classes == c])
                      for c in range(4)])  # fmt: skip
    expected = np.asarray(data.y.points)[cdist(x, means).argmin(1)]
    np.testing.assert_array_equal(learned.predicted, expected)
    assert not (fitted.predicted == data.y.points[3]).all(1).any()  # no pair has it
    assert (learned.predicted == data.y.points[3]).all(1).any()


def test_a_source_without_mass_teaches_nothing(named):
    data, _ = named
    fitted, part, coupling = rows(data, TeacherCost(ShrinkageLDA(0.3, "centred")))
    half = jnp.arange(len(part.i)) % 2
    dense = eqx.tree_at(lambda c: c.values, coupling, coupling.values * half[:, None])
    part_of = eqx.tree_at(lambda c: c.values, coupling, coupling.values[half == 1])
    learned = fitted.learn(dense, part.i, part.j, 0.5)
    expected = fitted.learn(part_of, part.i[half == 1], part.j, 0.5)
    np.testing.assert_array_equal(learned.predicted, expected.predicted)


@pytest.mark.parametrize("baseline", [NearestClassMean(), ShrinkageLDA(), LogisticHead(), PLS()])
def test_refinement_by_a_taught_baseline_finds_more(baseline, named):
    data, labels = named
    right = {}
    for weight in (0.0, 0.5):
        coupling = RefinedAlignment(5, weight).couple(data, TeacherCost(baseline), Sinkhorn(0.05))
        right[weight] = np.mean(np.asarray(coupling.to_dense()).argmax(1) == labels)
    assert right[0.5] > right[0.0]


@pytest.fixture
def labelled(rng) -> PairedData:
    """60 points a side of three classes, with labels, 15 in pairs."""
    labels = np.arange(60) % 3
    x, y = (2 * rng.normal(size=(3, d))[labels] + rng.normal(size=(60, d)) for d in (5, 4))
    pairs = Pairs.from_array(np.stack([np.arange(15)] * 2, 1))
    return PairedData(Cloud.uniform(x, labels), Cloud.uniform(y, labels), pairs)


def test_no_label_is_told_but_those_of_pairs(labelled, rng):
    unknown = np.concatenate([np.arange(15) % 3, rng.permutation(45) % 3])
    other = replace(labelled, y=replace(labelled.y, labels=jnp.asarray(unknown)))
    y = np.asarray(labelled.y.points, float)
    means = np.stack([y[:15][np.arange(15) % 3 == c].mean(0) for c in range(3)])
    nearest = cdist(y, means).argmin(1)
    nearest[:15] = np.arange(15) % 3
    for data in (labelled, other):
        np.testing.assert_array_equal(told(data).labels, nearest)
    found = []
    for data in (labelled, other):
        fitted, part, coupling = rows(data, TeacherCost(NearestClassMean()))
        found.append(fitted.learn(coupling, part.i, part.j, 0.5).predicted)
    np.testing.assert_array_equal(*found)


def test_a_baseline_without_weights_is_named(paired):
    fitted, part, coupling = rows(paired, TeacherCost(NearestAnchor()))
    with pytest.raises(ValueError, match="NearestAnchor cannot weigh its pairs"):
        fitted.learn(coupling, part.i, part.j, 0.5)
