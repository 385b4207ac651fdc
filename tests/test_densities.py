"""The re-weighting networks of Eq. 4, judged: SciPy, scikit-learn, points that are left out."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_aligners.aligners import GlobalAlignment
from morphkit_costs.bridge import BridgeCost
from morphkit_fields.mlp import MLP
from morphkit_metrics import densities
from morphkit_metrics.densities import Densities, energy_distance
from morphkit_solvers.bridge_sinkhorn import BridgeSinkhorn
from scipy import stats
from sklearn.metrics import r2_score, roc_auc_score

from morphkit.interfaces import Scene
from morphkit.morph import Morph
from morphkit.training.flow import Networks, Noise, Reweighting, genot_loss
from morphkit.training.loop import Training
from morphkit.training.scaling import Scaling
from morphkit.types import Cloud, PairedData, Pairs, Split

KEYS = jax.random.split(jax.random.key(0), 3)
LOST = 3
"""The class that has no counterpart."""


@pytest.fixture(scope="module")
def data() -> PairedData:
    """Four clusters of 40 source points, and three of target points: those of the last source
    cluster belong to nothing."""
    rng = np.random.default_rng(0)
    of_x, of_y = np.repeat(np.arange(4), 40), np.repeat(np.arange(3), 40)
    x = 4 * np.eye(4)[of_x] + 0.3 * rng.normal(size=(160, 4))
    y = 4 * np.eye(3)[of_y] + 0.3 * rng.normal(size=(120, 3))
    known = np.array([[40 * c + k, 40 * c + k] for c in range(3) for k in range(5)])
    return PairedData(Cloud.uniform(x, of_x), Cloud.uniform(y, of_y), Pairs.from_array(known))


def networks(reweight: bool) -> Networks:
    field = MLP(4, 3, layers=1, hidden=16, key=KEYS[0])
    if not reweight:
        return Networks(field, None, None)
    return Networks(field, Reweighting(4, key=KEYS[1]), Reweighting(3, key=KEYS[2]))


def trained(data: PairedData, reweight: bool, tau: float = 0.5, steps: int = 600):
    solver = BridgeSinkhorn(epsilon=0.05, tau_x=tau, tau_y=tau)
    sampler = GlobalAlignment().sampler(data, BridgeCost(), solver)
    scaling = Scaling.fit(data.x.points, data.y.points, "each")
    training = Training(steps, 128, learning_rate=3e-3, reweight=reweight)
    found = training.fit(networks(reweight), scaling, sampler, key=jax.random.key(1))
    return Morph(found, scaling, 1.0), sampler.coupling


@pytest.fixture(scope="module")
def unbalanced(data):
    return trained(data, True)


def scene(data: PairedData, morph, coupling) -> Scene:
    labels = np.asarray(data.x.labels)
    # New points of the same clusters.
    x = np.asarray(data.x.points) + 0.1 * np.random.default_rng(1).normal(size=(160, 4))
    test = Split(x, np.asarray(data.y.points), np.zeros((0, 2), int), labels)
    new = Cloud.uniform(x, labels)
    return Scene(None, None, data, new, data.y, test, map=morph, coupling=coupling)  # pyright: ignore[reportArgumentType]


def test_densities_are_those_of_the_marginals(data, unbalanced):
    morph, coupling = unbalanced
    found = Densities().evaluate(scene(data, morph, coupling), key=jax.random.key(0))
    for name, axis, cloud, paired, side in (
        ("eta_r2", 0, data.x, data.pairs.source, "source"),
        ("xi_r2", 1, data.y, data.pairs.target, "target"),
    ):
        free = np.setdiff1d(np.arange(cloud.size), paired)
        density = np.asarray(coupling.marginal(axis)) * cloud.size
        given = np.asarray(morph.density(cloud.points, side))
        assert found[name] == pytest.approx(r2_score(density[free], given[free]), rel=1e-4)
    assert found["eta_r2"] > 0.9


def test_points_that_belong_to_nothing_are_known_by_their_density(data, unbalanced):
    morph, coupling = unbalanced
    new = scene(data, morph, coupling)
    belongs = np.asarray(new.x.labels) != LOST
    assert roc_auc_score(belongs, morph.density(new.x.points)) > 0.99


def test_weighted_by_densities_the_predictions_are_nearer_to_the_targets(data, unbalanced):
    """A quarter of the source points belongs to nothing, and is sent somewhere all the same."""
    found = Densities().evaluate(scene(data, *unbalanced), key=jax.random.key(0))
    assert found["reweighted_distance"] < 0.7 * found["marginal_distance"]


def test_re_weighting_changes_nothing_of_the_flow(data):
    """Its networks have parameters of their own: the field's gradient is the same with and without
    them."""
    solver = BridgeSinkhorn(epsilon=0.05, tau_x=0.5, tau_y=0.5)
    batch = GlobalAlignment().sampler(data, BridgeCost(), solver)(jax.random.key(1), 128)
    scaling = Scaling.fit(data.x.points, data.y.points, "each")
    plain, reweighted = (
        eqx.filter_grad(genot_loss)(networks(there), scaling, batch, jax.random.key(2), Noise())
        for there in (False, True)
    )
    fields = (jax.tree.leaves(gradient.field) for gradient in (plain, reweighted))
    for a, b in zip(*fields, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * np.abs(a).max())
    assert any(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(reweighted.eta))


def test_of_a_balanced_coupling_there_is_nothing_to_explain(data):
    morph, coupling = trained(data, True, tau=1.0, steps=300)
    found = Densities().evaluate(scene(data, morph, coupling), key=jax.random.key(0))
    assert "eta_r2" not in found
    np.testing.assert_allclose(morph.density(data.x.points), 1, atol=0.1)


def test_the_energy_distance_is_that_of_scipy_without_its_bias(rng):
    a, b = rng.normal(size=50), rng.normal(1, 2, size=70)
    u, v = rng.uniform(size=50), rng.uniform(size=70)
    found = energy_distance(a[:, None], b[:, None], u, v)
    # SciPy's counts the distance of a point to itself.
    for points, weights in ((a, u / u.sum()), (b, v / v.sum())):
        within = weights @ np.abs(points[:, None] - points) @ weights
        found += within / (1 - weights @ weights) - within
    assert found == pytest.approx(stats.energy_distance(a, b, u, v) ** 2)


def test_the_energy_distance_of_two_samples_of_one_distribution_is_nought(rng):
    found = [
        energy_distance(*rng.normal(size=(2, 10, 3)), np.ones(10), rng.uniform(0.1, 1, 10))
        for _ in range(300)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(300)


def test_distances_are_of_some_points_where_there_are_many(data, unbalanced, monkeypatch):
    seen = []
    whole = densities.cdist
    monkeypatch.setattr(densities, "cdist", lambda a, b: seen.append(len(a)) or whole(a, b))
    few = Densities(points=30).evaluate(scene(data, *unbalanced), key=jax.random.key(0))
    assert set(seen) == {30}
    assert np.isfinite(list(few.values())).all()


def test_a_morph_without_densities_is_not_judged(data, unbalanced):
    morph, coupling = unbalanced
    plain = replace(morph, networks=Networks(morph.networks.field, None, None))
    assert Densities().evaluate(scene(data, plain, coupling), key=jax.random.key(0)) == {}
    assert plain.density(data.x.points) is None
    with pytest.raises(ValueError, match=r"points has shape .*\(n, 3\) target"):
        morph.density(data.x.points, "target")
    with pytest.raises(ValueError, match="side = 'sources' is unknown"):
        morph.density(data.x.points, "sources")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="NaN"):
        morph.density(jnp.full((2, 4), jnp.nan))
