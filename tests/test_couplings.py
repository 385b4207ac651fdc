"""Every kind of coupling: sampling against its matrix (χ²), diagnostics against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from morphkit_aligners.aligners import GlobalAlignment, LocalAlignment
from scipy.stats import chisquare

from morphkit.transport.bridges import BridgeCoupling
from morphkit.transport.couplings import (
    Convergence,
    Coupling,
    DenseCoupling,
    PairCoupling,
)
from morphkit.transport.sharpening import medoid, sharpen
from morphkit.transport.streamed import EntropicCoupling
from morphkit.types import Pairs

N, M = 7, 6


def make(kind: str) -> Coupling:
    rng = np.random.default_rng(1)
    if kind == "pairs":
        return PairCoupling(Pairs.from_array(np.array([[0, 1], [3, 5], [6, 1], [2, 2]])), (N, M))
    if kind == "dense":
        values = rng.gamma(0.3, size=(N, M))
        return DenseCoupling(jnp.asarray(values / values.sum(), jnp.float32), Convergence.exact())
    if kind == "entropic":
        factors = rng.gamma(2, size=(N + M, 3)) * np.array([2.0, 1.0, -0.3])
        factors[:N] += [0, 0, 0.6]  # of c_ij = max(a_i · b_j, 0), a few are 0
        f, g = -100 + 3 * rng.normal(size=N), 100 + 3 * rng.normal(size=M)
        sides = (jnp.asarray(a, jnp.float32) for a in (factors[:N], factors[N:]))
        potentials = jnp.asarray(f, jnp.float32), jnp.asarray(g, jnp.float32)
        return EntropicCoupling(*sides, 0.1, *potentials, Convergence.exact())
    left = 5 * rng.normal(size=(N, 3)) - np.array([200.0, 0.0, 60.0])
    right = 5 * rng.normal(size=(M, 3)) + np.array([198.0, 0.0, 60.0])
    nothing = jnp.zeros(N), jnp.zeros(M)
    return BridgeCoupling(
        -jnp.asarray(left), -jnp.asarray(right), 1.0, *nothing, Convergence.exact()
    )


KINDS = pytest.mark.parametrize("kind", ["pairs", "dense", "bridge", "entropic"])


def exact(coupling: Coupling) -> np.ndarray:
    if isinstance(coupling, BridgeCoupling):
        left, right = np.asarray(coupling.left, float), np.asarray(coupling.right, float)
        return np.exp(left[:, None] + right[None]).sum(-1)
    if isinstance(coupling, EntropicCoupling):
        left, right, f, g = (
            np.asarray(a, float) for a in (coupling.left, coupling.right, coupling.f, coupling.g)
        )
        return np.exp(f[:, None] + g - np.maximum(left @ right.T, 0))
    return np.asarray(coupling.to_dense(), float)


@KINDS
def test_samples_follow_the_coupling(kind):
    coupling = make(kind)
    i, j = jax.jit(lambda k: coupling.sample(k, 100_000))(jax.random.key(0))
    counts = np.zeros((N, M))
    np.add.at(counts, (np.asarray(i), np.asarray(j)), 1)
    expected = exact(coupling) / exact(coupling).sum() * 100_000
    rare = expected < 5
    assert counts[expected == 0].sum() == 0
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    keep = wanted > 0
    assert chisquare(observed[keep], wanted[keep] * observed.sum() / wanted.sum()).pvalue > 1e-3


@KINDS
def test_targets_follow_the_conditional(kind):
    coupling, matrix = make(kind), exact(make(kind))
    for i in np.flatnonzero(matrix.sum(1) > 0):
        j = coupling.targets(jax.random.key(i), jnp.full(20_000, i))
        share = np.bincount(np.asarray(j), minlength=M) / 20_000
        expected = matrix[i] / matrix[i].sum()
        assert np.abs(share - expected).max() < 4 / np.sqrt(20_000)
        assert (share[expected == 0] == 0).all()


@KINDS
def test_the_medoid_is_the_draw_nearest_to_all_others(kind):
    coupling, matrix = make(kind), exact(make(kind))
    y = np.random.default_rng(3).normal(size=(M, 2))
    point = medoid(coupling, jnp.asarray(y), 2_000, jax.random.key(0))
    np.testing.assert_allclose(point.marginal(0), matrix.sum(1), rtol=1e-3)
    far = matrix @ np.linalg.norm(y[:, None] - y, axis=-1)  # exact: of all draws there could be
    mass, chosen = matrix.sum(1), np.asarray(point.target)
    possible = np.where(matrix > 1e-2 * mass[:, None], far, np.inf)
    for i in np.flatnonzero(mass > 0):
        assert far[i, chosen[i]] <= possible[i].min() + 0.1 * mass[i]
        assert matrix[i, chosen[i]] > 0


@KINDS
def test_rows_marginals_and_conditionals(kind):
    coupling, matrix = make(kind), exact(make(kind))
    np.testing.assert_allclose(coupling.to_dense(), matrix, rtol=1e-3)
    np.testing.assert_allclose(coupling.marginal(0), matrix.sum(1), rtol=1e-3)
    np.testing.assert_allclose(coupling.marginal(1), matrix.sum(0), rtol=1e-3)
    with np.errstate(divide="ignore", invalid="ignore"):
        conditional = np.nan_to_num(matrix / matrix.sum(1, keepdims=True))
    rows = np.exp(coupling.log_conditional(jnp.arange(N)))
    np.testing.assert_allclose(rows, conditional, rtol=1e-3, atol=1e-7)


@KINDS
def test_diagnostics(kind):
    coupling, matrix = make(kind), exact(make(kind))
    probability = matrix / matrix.sum()
    labels_x, labels_y = np.arange(N) % 2, np.arange(M) % 2
    agree = probability[labels_x[:, None] == labels_y[None]].sum()
    ours = coupling.matching_accuracy(jnp.asarray(labels_x), jnp.asarray(labels_y))
    np.testing.assert_allclose(ours, agree, rtol=1e-3)
    sampled = coupling.matching_accuracy(
        jnp.asarray(labels_x), jnp.asarray(labels_y), key=jax.random.key(1), num=20_000
    )
    assert abs(float(sampled) - agree) < 4 * np.sqrt(agree * (1 - agree) / 20_000) + 1e-6
    positive = probability[probability > 0]
    entropy = -(positive * np.log(positive)).sum()
    np.testing.assert_allclose(coupling.entropy(), entropy, rtol=1e-3)
    rows = probability.sum(1)
    row_entropy = -(rows[rows > 0] * np.log(rows[rows > 0])).sum()
    np.testing.assert_allclose(
        coupling.effective_support(), np.exp(entropy - row_entropy), rtol=2e-3
    )


def test_a_row_without_mass_is_never_drawn():
    values = jnp.zeros((3, 4)).at[1, 2].set(0.5)
    i, j = DenseCoupling(values, Convergence.exact()).sample(jax.random.key(0), 1000)
    assert set(np.asarray(i).tolist()) == {1}
    assert set(np.asarray(j).tolist()) == {2}


def test_a_dense_copy_that_is_too_large_is_refused():
    pairs = Pairs.from_array(np.array([[0, 0]]))
    with pytest.raises(MemoryError, match="rows"):
        PairCoupling(pairs, (2**22, 2**22)).to_dense()


@KINDS
@pytest.mark.parametrize("temperature", [0.5, 0.0])
def test_sharpening_tempers_the_conditional_and_keeps_the_first_marginal(kind, temperature):
    matrix = exact(make(kind))
    sharp = sharpen(make(kind), temperature)
    rows = matrix**2 if temperature else matrix == matrix.max(1, keepdims=True)
    mass = matrix.sum(1, keepdims=True)
    total = rows.sum(1, keepdims=True) * np.ones_like(matrix)
    expected = np.where(mass > 0, mass * rows / np.where(total > 0, total, 1), 0)
    np.testing.assert_allclose(sharp.to_dense(), expected, rtol=2e-3, atol=1e-7)
    np.testing.assert_allclose(sharp.marginal(0), matrix.sum(1), rtol=1e-3)
    np.testing.assert_allclose(sharp.marginal(1), expected.sum(0), rtol=2e-3, atol=1e-7)
    i, j = sharp.sample(jax.random.key(0), 1000)
    assert (expected[np.asarray(i), np.asarray(j)] > 0).all()


def test_a_temperature_is_not_negative():
    assert sharpen(make("dense"), 1.0).shape == (N, M)
    with pytest.raises(ValueError, match=r"temperature = -1"):
        sharpen(make("dense"), -1)
    with pytest.raises(ValueError, match=r"GlobalAlignment\.draws = 0"):
        GlobalAlignment(draws=0)
    for aligner in (GlobalAlignment, LocalAlignment):
        with pytest.raises(ValueError, match=rf"{aligner.__name__}\.temperature = -0\.5"):
            aligner(temperature=-0.5)


@KINDS
def test_violation_is_the_distance_of_a_marginal(kind):
    matrix = exact(make(kind))
    for axis, size in enumerate((N, M)):
        weights = np.random.default_rng(axis).dirichlet(np.ones(size))
        expected = np.abs(matrix.sum(1 - axis) / matrix.sum() - weights).sum()
        violation = make(kind).violation(axis, jnp.asarray(weights, jnp.float32))
        np.testing.assert_allclose(violation, expected, rtol=1e-4)


@KINDS
def test_excluded_ratio_is_equation_29(kind):
    coupling, matrix = make(kind), exact(make(kind))
    matrix = matrix / matrix.sum()
    keys = jax.random.split(jax.random.key(0), 300)
    drawn = jax.jit(jax.vmap(lambda key: coupling.excluded_ratio(key=key)))(keys)
    exact_ratio = float(coupling.excluded_ratio())
    assert abs(np.mean(drawn) - exact_ratio) < 4 * np.std(drawn) / np.sqrt(300) + 1e-6
    size = N + M
    seen = sum((1 - (1 - matrix.sum(1 - axis)) ** size).sum() for axis in (0, 1))
    np.testing.assert_allclose(exact_ratio, 1 - seen / size, rtol=1e-4)
    labels = jnp.arange(N) % 2, jnp.arange(M) % 2
    expected = coupling.matching_accuracy(*labels) / exact_ratio
    np.testing.assert_allclose(coupling.aes(*labels), expected, rtol=1e-5)


def test_points_and_bridges_without_mass_are_never_met():
    """A mixture of low rank may have components, and points, that nothing belongs to."""
    q = np.random.default_rng(0).gamma(1, size=(N, 4))
    r = np.random.default_rng(1).gamma(1, size=(M, 4))
    q[2] = r[4] = 0
    r[:, 1] = 0
    with np.errstate(divide="ignore"):
        factors = (-jnp.asarray(np.log(a), jnp.float32) for a in (q, r))
        coupling = BridgeCoupling(*factors, 1.0, jnp.zeros(N), jnp.zeros(M), Convergence.exact())
    np.testing.assert_allclose(coupling.to_dense(), q @ r.T, rtol=1e-4)
    np.testing.assert_allclose(coupling.marginal(0), (q @ r.T).sum(1), rtol=1e-4)
    y = jnp.asarray(np.random.default_rng(2).normal(size=(M, 3)), jnp.float32)
    np.testing.assert_allclose(coupling.barycentres(y), q @ r.T @ np.asarray(y), atol=1e-4)
    i, j = (np.asarray(k) for k in coupling.sample(jax.random.key(0), 20_000))
    assert 2 not in i
    assert 4 not in j
    share = np.bincount(i, minlength=N) / 20_000
    expected = (q @ r.T).sum(1) / (q @ r.T).sum()
    assert np.abs(share - expected).max() < 4 / np.sqrt(20_000)
