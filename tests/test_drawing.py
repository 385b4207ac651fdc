"""Draws from distributions of any length, against their exact probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from morphkit.transport import drawing
from morphkit.transport.collapse import Groups
from morphkit.transport.drawing import Table, choose, choose_each
from morphkit.types import Cloud


def probabilities(table: Table) -> np.ndarray:
    """What the levels of a table of one distribution say, in float64."""
    found = np.ones(1)
    for level in table.levels:
        each = np.diff(np.asarray(level, np.float64), axis=1, prepend=0)
        found = (found[: len(each), None] * each).ravel()
    return found[: table.size]


@pytest.mark.parametrize("size", [5_000_000, 5_000_001, 2048, 3])
def test_each_of_millions_of_entries_has_its_probability(size):
    """One cumulative distribution of 5 million entries in float32 is off by up to 79 % of each."""
    weights = np.random.default_rng(0).uniform(0.5, 1.5, size)
    found = probabilities(Table.of(jnp.asarray(weights, jnp.float32)))
    np.testing.assert_allclose(found, weights / weights.sum(), rtol=1e-3)


@pytest.mark.parametrize("how", ["table", "choose"])
def test_draws_of_long_rows_follow_their_weights(monkeypatch, how):
    monkeypatch.setattr(drawing, "WIDTH", 8)  # of 150 entries: three levels
    weights = np.random.default_rng(1).gamma(0.3, size=(3, 150))
    weights[1, 40:] = 0  # whole blocks without mass
    row = jnp.arange(60_000) % 3
    if how == "table":
        table = Table.of(jnp.asarray(weights))
        assert [level.shape for level in table.levels] == [(3, 3), (9, 7), (57, 8)]
        drawn = table.draw(jax.random.key(0), row)
    else:
        drawn = choose(jax.random.key(0), jnp.asarray(weights)[row])
    for k in range(3):
        counts = np.bincount(np.asarray(drawn)[np.asarray(row) == k], minlength=150)
        expected = weights[k] / weights[k].sum() * counts.sum()
        assert counts[weights[k] == 0].sum() == 0
        often = expected >= 5
        observed = np.append(counts[often], counts[~often].sum())
        wanted = np.append(expected[often], expected[~often].sum())
        there = wanted > 0
        assert chisquare(observed[there], wanted[there]).pvalue > 1e-3


def test_a_row_without_mass_gives_an_entry_that_is_there():
    nothing = jnp.zeros((4, 5000))
    for drawn in (
        Table.of(nothing).draw(jax.random.key(0), jnp.arange(4)),
        choose(jax.random.key(0), nothing),
    ):
        assert ((drawn >= 0) & (drawn < 5000)).all()


def test_draws_by_blocks_are_the_same_however_many_there_are(monkeypatch):
    weights = jnp.asarray(np.random.default_rng(2).gamma(1, size=(20, 30)), jnp.float32)
    i = jnp.arange(700) % 20
    once = choose_each(jax.random.key(3), i, lambda i: weights[i])
    monkeypatch.setattr(drawing, "ROWS", 64)
    np.testing.assert_array_equal(choose_each(jax.random.key(3), i, lambda i: weights[i]), once)


def test_entries_without_weight_have_no_share_and_sums_never_fall():
    """Sums in float32 may fall where there is no weight, and give the next entry too much."""
    weights = np.random.default_rng(3).uniform(size=(200, 2048)).astype(np.float32)
    weights[:, ::2] = 0
    (level,) = Table.of(jnp.asarray(weights)).levels
    shares = np.diff(np.asarray(level, np.float64), axis=1, prepend=0)
    assert (shares >= 0).all()
    assert (shares[weights == 0] == 0).all()
    np.testing.assert_array_equal(np.asarray(level)[:, -1], 1)


@pytest.mark.parametrize("size", [2049, 3000, 5000])
def test_blocks_are_filled(size):
    levels = Table.of(jnp.ones((3, size))).levels
    assert sum(level.size for level in levels) < 1.01 * 3 * size


def test_drawing_again_compiles_nothing(caplog):
    weights = np.random.default_rng(0).uniform(size=(3, 300)).astype(np.float32)
    table = Table.of(jnp.asarray(weights))
    _, groups = Groups.of(Cloud.uniform(np.repeat(weights[:, :2], 4, axis=0)))
    for k in range(2):
        caplog.clear()
        with jax.log_compiles():
            table.draws(jax.random.key(k), 50)
            groups.draw(jax.random.key(k), jnp.arange(3))
    assert not [m for m in caplog.messages if m.startswith("Compiling")]
