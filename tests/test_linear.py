"""The singular value decomposition, where LAPACK's faster one gives up."""

import numpy as np
import pytest
from conftest import DATA, needs
from morphkit_costs.canonical import CanonicalCost

from morphkit.linear import svd
from morphkit.types import Cloud, PairedData, Pairs


def give_up(*_, **__):
    raise np.linalg.LinAlgError("SVD did not converge")


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
@pytest.mark.parametrize("converges", [True, False])
def test_it_decomposes_also_where_divide_and_conquer_gives_up(rng, monkeypatch, shape, converges):
    matrix = rng.normal(size=shape)
    expected = np.sqrt(np.linalg.eigvalsh(matrix.T @ matrix)[::-1][:4])
    if not converges:
        monkeypatch.setattr(np.linalg, "svd", give_up)
    u, s, vt = svd(matrix)
    np.testing.assert_allclose(s, expected, rtol=1e-8)
    np.testing.assert_allclose(u * s @ vt, matrix, atol=1e-12)
    assert (u.shape, vt.shape) == ((shape[0], 4), (4, shape[1]))


def test_nan_is_named(rng):
    matrix = rng.normal(size=(4, 3))
    matrix[1, 1] = np.nan
    with pytest.raises(ValueError, match="infs or NaNs"):
        svd(matrix)


@needs("things")
def test_a_cross_covariance_that_it_gave_up_on():
    """Finite and harmless, of 50 pairs of 1,050 concepts."""
    with np.load(DATA / "things" / "things_groups_3_4.npz") as file:
        x, y = file["group3"].astype(np.float32), file["group4"].astype(np.float32)
    random = np.random.default_rng(3)
    order = random.permutation(len(x))[:1050]
    mixed = random.permutation(len(order))
    pairs = Pairs.from_array(np.stack([np.arange(50), np.argsort(mixed)[:50]], 1))
    data = PairedData(Cloud.uniform(x[order]), Cloud.uniform(y[order][mixed]), pairs)
    assert np.isfinite(CanonicalCost().fit(data).to_a).all()
