"""Arguments are checked by their annotated types, early, and named."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from morphkit.checks import Checked, Count, Metric, Positive, Seed, Tau
from morphkit.cli import main


class Example(Checked):
    """One argument of each kind."""

    k: Count = eqx.field(static=True, default=3)
    tau: Tau = 1.0
    scale: Positive | None = eqx.field(static=True, default=None)
    metric: Metric = eqx.field(static=True, default="cosine")
    alphas: tuple[Positive, ...] = eqx.field(static=True, default=(1.0,))
    seed: Seed = eqx.field(static=True, default=0)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"k": 0}, r"Example\.k = 0 must be greater than or equal to 1"),
        ({"k": 2.5}, r"Example\.k = 2\.5 must be a valid integer"),
        ({"k": True}, r"Example\.k = True"),
        ({"tau": 0.0}, r"Example\.tau = 0\.0 must be greater than 0: 1 keeps the marginal"),
        ({"tau": math.nan}, r"Example\.tau = nan"),
        ({"scale": math.inf}, r"Example\.scale = inf must be a finite number"),
        ({"metric": "manhattan"}, r"metric = 'manhattan' must be 'cosine', 'sqeuclidean' or"),
        ({"alphas": (1.0, -2.0)}, r"Example\.alphas = \(1\.0, -2\.0\) must be greater than 0"),
        ({"seed": 2**32}, r"Example\.seed = 4294967296 must be less than"),
    ],
)
def test_what_an_argument_may_not_be_is_named(argument, message):
    with pytest.raises(ValueError, match=message):
        Example(**argument)


def test_numbers_of_numpy_and_jax_are_numbers():
    Example(k=np.int64(4), tau=jnp.float32(0.5), scale=np.float32(2))


@pytest.mark.parametrize(
    "binding",
    ["Sinkhorn.max_iterations = 0", "Sinkhorn.epsilon = 1e999", "Training.learning_rate = 1e999"],
)
def test_limits_of_nothing_and_infinity_are_refused_by_the_command_line(binding, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["run", "gin/quickstart.gin", "--out", str(out), "--set", binding]) == 2
    assert binding.partition(" ")[0] in capsys.readouterr().err
    assert not out.exists()
