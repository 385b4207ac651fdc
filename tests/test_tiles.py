"""The tiles of a GPU's kernel, interpreted, against blocks of rows and against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Jaxpr, jaxprs_in_params
from morphkit_solvers import tiles
from morphkit_solvers.scaling import StreamedKernel
from morphkit_solvers.sinkhorn import Sinkhorn
from morphkit_solvers.tiles import TiledKernel
from scipy.special import logsumexp

from morphkit.transport.geometry import PointGeometry
from morphkit.types import Cloud

SIZES = [(150, 200, 7), (64, 128, 16), (1, 65, 33), (70, 3, 1)]
"""Points and ranks, whole tiles and not."""


def sides(rng, n, m, r, scale=1.0):
    return (jnp.asarray(scale * rng.normal(size=(k, r)), jnp.float32) for k in (n, m))


def exact(left, right):
    """The logarithm of the kernel, in float64."""
    return -np.maximum(np.asarray(left, float) @ np.asarray(right, float).T, 0)


@pytest.fixture
def parts(monkeypatch, request):
    """One program for all columns, or programs for parts of them, of which the last is shorter."""
    monkeypatch.setattr(tiles, "PROGRAMS", request.param)


@pytest.mark.parametrize("parts", [1, 5], indirect=True)
@pytest.mark.parametrize("size", SIZES)
def test_log_sums_are_those_of_float64(rng, size, parts):
    left, right = sides(rng, *size)
    f, g = (jnp.asarray(rng.normal(size=k), jnp.float32) for k in size[:2])
    f, g = f.at[0].set(-jnp.inf if len(f) > 1 else 0), g.at[1].set(-jnp.inf)
    found, log = TiledKernel(left, right), exact(left, right)
    source, target = (
        logsumexp(np.asarray(g, float) + log, axis=1),
        logsumexp(np.asarray(f, float)[:, None] + log, axis=0),
    )
    np.testing.assert_allclose(found.log_to_source(g), source, atol=1e-5)
    np.testing.assert_allclose(found.log_to_target(f), target, atol=1e-5)
    streamed = StreamedKernel(left, right)
    np.testing.assert_allclose(found.log_to_source(g), streamed.log_to_source(g), atol=1e-5)
    np.testing.assert_allclose(found.log_to_target(f), streamed.log_to_target(f), atol=1e-5)


def test_exponents_of_ten_thousands_neither_overflow_nor_vanish(rng):
    """The largest of a row comes first, last, or in between; and a row that nothing reaches."""
    left, right = sides(rng, 130, 200, 5, scale=60)
    log = exact(left, right)
    assert log.min() < -1e4
    for g in (np.linspace(-1e4, 1e4, 200), np.linspace(1e4, -1e4, 200), 1e4 * rng.normal(size=200)):
        found = TiledKernel(left, right).log_to_source(jnp.asarray(g, jnp.float32))
        np.testing.assert_allclose(found, logsumexp(g + log, axis=1), rtol=1e-6, atol=1e-2)
    nothing = TiledKernel(left, right).log_to_source(jnp.full(200, -jnp.inf))
    np.testing.assert_array_equal(nothing, np.full(130, -np.inf))


@pytest.mark.parametrize("tau", [1.0, 0.9])
def test_a_circuit_is_that_of_blocks_and_of_float64(rng, tau):
    """A point that no mass reaches stays where it is."""
    left, right = sides(rng, 150, 200, 7)
    left = left.at[3].set(0).at[3, 0].set(1e4)
    right = right.at[:, 0].set(jnp.abs(right[:, 0]) + 0.1)
    f, offset = (jnp.asarray(rng.normal(size=150), jnp.float32) for _ in "12")
    g, v = (jnp.asarray(rng.normal(size=200), jnp.float32) for _ in "12")
    u, column = TiledKernel(left, right).around(f, g)(v, offset, tau)
    kernel = np.exp(np.asarray(f, float)[:, None] + np.asarray(g, float) + exact(left, right))
    with np.errstate(divide="ignore"):
        mass = np.log(kernel @ np.exp(np.asarray(v, float)))
    expected = np.where(np.arange(150) == 3, 0, np.asarray(offset, float) - tau * mass)
    np.testing.assert_allclose(u, expected, atol=1e-4)
    np.testing.assert_allclose(column, np.exp(expected) @ kernel, rtol=1e-4)
    blocks = StreamedKernel(left, right).around(f, g)(v, offset, tau)
    for ours, theirs in zip((u, column), blocks, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("metric", "tau"), [("sqeuclidean", 1.0), ("cosine", 0.9)])
def test_a_solve_in_tiles_is_one_by_blocks(rng, caplog, metric, tau):
    x, y = (Cloud.uniform(rng.normal(size=(n, 3))) for n in (150, 130))
    cost = PointGeometry(x.points, y.points, metric)
    expected = Sinkhorn(0.05, tau, 1.0, points=50).solve(cost, x, y)
    assert "interpreted" not in caplog.text
    found = Sinkhorn(0.05, tau, 1.0, points=50, tiled=True).solve(cost, x, y)
    assert "Sinkhorn.tiled is for GPUs: its kernel is interpreted on cpu" in caplog.text
    assert bool(found.convergence.converged)
    assert int(found.convergence.iterations) == int(expected.convergence.iterations)
    np.testing.assert_allclose(found.to_dense(), expected.to_dense(), atol=1e-3 * 1 / 150)


def test_what_is_no_truth_value_is_refused():
    with pytest.raises(ValueError, match=r"Sinkhorn.tiled = 'yes' must be a valid boolean"):
        Sinkhorn(tiled="yes")


def largest(jaxpr: Jaxpr) -> int:
    """The size of the largest array, but for those in a Pallas kernel, which are on the chip."""
    found = 0
    for equation in jaxpr.eqns:
        found = max(found, *(variable.aval.size for variable in equation.outvars), 0)
        if equation.primitive.name != "pallas_call":
            found = max(found, *map(largest, jaxprs_in_params(equation.params)), 0)
    return found


def test_no_array_in_memory_is_as_large_as_a_block_of_rows(rng):
    n, m, r = 2_000, 3_000, 5

    def circuit(left, right, f, g):
        kernel = TiledKernel(left, right)
        f = -kernel.log_to_source(g)
        return kernel.around(f, g)(g, f, 1.0), kernel.log_to_target(f)

    arguments = *sides(rng, n, m, r), jnp.zeros(n), jnp.zeros(m)
    assert largest(jax.make_jaxpr(circuit)(*arguments).jaxpr) < 2 * (n + m) * tiles.RANK
    blocks = jax.make_jaxpr(StreamedKernel(*arguments[:2]).log_to_source)(arguments[3])
    assert largest(blocks.jaxpr) >= n * m


def test_a_gpu_is_given_one_kernel_in_full_precision(rng):
    """As far as there is no need of a GPU: what Pallas hands over to Triton."""
    left, right = sides(rng, 150, 200, 7)
    sums = jax.jit(lambda *arrays: tiles.log_row_sums(*arrays, interpret=False))
    lowered = sums.trace(left, right, jnp.zeros(200)).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    assert text.count("xla.gpu.triton") == 1
    assert "tensor<150x200" not in text
    traced = str(jax.make_jaxpr(sums)(left, right, jnp.zeros(200)))
    assert "HIGHEST" in traced
