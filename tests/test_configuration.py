"""Gin files and bindings: composition, and every mistake answered early and helpfully."""

from concurrent.futures import ThreadPoolExecutor

import jax
import pytest
from morphkit_costs.bridge import BridgeCost
from morphkit_costs.relative import RelativeCost
from morphkit_costs.total import SumCost
from morphkit_fields.adaln import AdaLN

import gin
from morphkit.api import asked
from morphkit.sweeping import plan
from morphkit.training.loop import Training
from morphkit.wiring.configuration import (
    ConfigurationError,
    _check_values,
    built,
    configured,
    gin_folder,
)

QUICK = "quickstart.gin"


def refused(files, bindings, message):
    with pytest.raises(ConfigurationError, match=message), configured(files, bindings):
        pass


RUNS = sorted(
    p
    for p in gin_folder().rglob("*.gin")
    if "\nrun.data =" in p.read_text() and p.name != "extract.gin"
)


@pytest.mark.parametrize("file", RUNS, ids=lambda p: p.name)
def test_every_shipped_run_is_complete(file):
    with configured([file], []):
        bound = set(gin.get_bindings("morphkit.run"))
    assert {"data", "source", "target", "cost", "solver", "field", "evaluators"} <= bound


def test_the_shipped_extraction_is_complete():
    with configured(["imagenet/extract.gin"], ["Images.path = 'images'"]):
        assert set(built(["data", "source", "target"])) == {"data", "source", "target"}


def test_files_are_found_with_and_without_their_folder():
    for name in (QUICK, f"gin/{QUICK}", gin_folder() / QUICK):
        with configured([name], ["run.seed = 7"]):
            assert gin.query_parameter("run.seed") == 7


def test_nothing_is_left_behind():
    with configured([QUICK], []):
        pass
    assert not gin.config._CONFIG


def test_an_unknown_file_lists_the_known_ones():
    refused(["gin/quikstart.gin"], [], r"no gin file.*quickstart\.gin.*Did you mean")


def test_an_unknown_component_is_answered_with_the_closest():
    refused(
        [QUICK], ["run.cost = @cost.BrigdeCost()"], r"BrigdeCost.*Did you mean cost\.BridgeCost"
    )


def test_an_unknown_argument_is_answered_with_the_closest():
    refused([QUICK], ["Sinkhorn.epsilom = 1.0"], r"no argument 'epsilom'.*epsilon")


def test_an_unknown_argument_of_run_is_answered_too():
    refused([QUICK], ["run.pair_fraction = 1.0"], r"no argument 'pair_fraction'.*paired_fraction")


def test_a_binding_that_nothing_uses_is_refused():
    refused(
        [QUICK], ["BridgeSinkhorn.epsilon = 0.1"],
        r"nothing uses.*BridgeSinkhorn\.epsilon.*run\.solver",
    )  # fmt: skip


def test_where_results_go_is_not_bound():
    refused([QUICK], ["run.out = 'elsewhere'"], r"run has no argument 'out'")


@pytest.mark.parametrize("other", ["self.gin", "other.gin"])
def test_a_file_that_includes_itself_is_explained(tmp_path, monkeypatch, other):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "self.gin").write_text(f"include '{other}'\n")
    (tmp_path / "other.gin").write_text("include 'self.gin'\n")
    refused(["self.gin"], [], "include each other, or themselves")


def test_the_callers_configuration_is_left_alone():
    gin.register("theirs", module="test")(lambda width=1: width)
    with gin.unlock_config():
        gin.parse_config("theirs.width = 5")
    with configured([QUICK], []):
        assert not any(selector == "test.theirs" for _, selector in gin.config._CONFIG)
    assert gin.query_parameter("theirs.width") == 5
    gin.clear_config()


def test_a_configured_run_is_a_value_of_its_own():
    """Bindings of classes, too, hold after gin has forgotten them."""
    experiment, text = asked([QUICK], ["run.seed = 4", "VAEText.beta = 0.5"])
    built_later = experiment.target(input_shape=(10,), key=jax.random.key(0))
    assert (experiment.seed, built_later.beta) == (4, 0.5)
    assert "VAEText.beta = 0.5" in text


def test_two_threads_get_what_each_asked_for():
    def seed(number):
        return asked([QUICK], [f"run.seed = {number}"])[0].seed

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(seed, range(24))) == list(range(24))


def test_a_binding_of_an_unknown_class_is_answered_too():
    refused([QUICK], ["Trainng.steps = 3"], r"Trainng.*Did you mean Training")


def test_a_file_whose_bindings_nothing_uses_is_refused(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text("include 'quickstart.gin'\nMLP.size = 'small'\n")
    refused([path], [], r"in the files that nothing uses.*MLP\.size")


def test_a_binding_may_make_a_file_binding_idle(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text("include 'quickstart.gin'\nAdaLN.size = 'small'\n")
    with configured([path], ["run.field = @field.MLP"]):
        assert not any("AdaLN" in selector for _, selector in gin.config._CONFIG)


def test_later_files_win():
    with configured(["mnist/image_to_text.gin", "mnist/paper.gin"], []):
        assert gin.query_parameter("VAEImage.channels") == (128, 256, 512)


def test_the_papers_field_of_imagenet_undoes_the_one_of_two_cores():
    """The training is that of the defaults."""
    with configured(["imagenet/image_to_text.gin", "imagenet/paper.gin"], []):
        found = built()
    assert found["field"].func is AdaLN
    assert found["field"].keywords == {"size": "large"}
    assert found["training"] == Training()


def test_a_syntax_error_is_explained():
    refused([QUICK], ["run.seed = = 3"], r"run\.seed = = 3.*not gin")


def test_a_value_that_a_component_refuses_is_found_before_anything_runs(tmp_path):
    from morphkit import run

    with pytest.raises(ConfigurationError, match=r"Sinkhorn\.epsilon = -1"):
        run(QUICK, ["Sinkhorn.epsilon = -1"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("run.seed = '3'", r"run\.seed = '3' must be int"),
        ("Sinkhorn.epsilon = 'small'", r"Sinkhorn\.epsilon = 'small' must be float"),
        ("VAEText.latent = 2.5", r"VAEText\.latent = 2\.5 must be int"),
        ("run.solver = @Sinkhorn", r"run\.solver takes @solver\.NAME\(\).*without parentheses"),
        ("run.solver = @cost.BridgeCost()", r"run\.solver takes.*BridgeSinkhorn.*of BridgeCost"),
        ("run.field = @field.AdaLN()", r"AdaLN.* has weights, which the run builds"),
        ("run.field = @cost.BridgeCost", r"run\.field takes @field\.NAME.*AdaLN, MLP"),
        ("run.evaluators = @eval.LabelAccuracy()", r"run\.evaluators takes \[@eval\.NAME"),
        ("run.cost = None", r"run\.cost takes @cost\.NAME"),
        ("run.wandb = 'sometimes'", r"run\.wandb takes .* or 'offline' .*this is 'sometimes'"),
    ],
)
def test_values_of_the_wrong_kind_are_found_before_anything_runs(tmp_path, binding, message):
    from morphkit import run

    with pytest.raises(ConfigurationError, match=message):
        run(QUICK, [binding], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_arguments_are_named(tmp_path):
    from morphkit import run

    with pytest.raises(ConfigurationError, match=r"run needs data, source, target, evaluators"):
        run("base.gin", [], tmp_path / "out")


@pytest.mark.parametrize("binding", ["AdaLN.source_dim = 3", "VAEText.input_shape = (3,)"])
def test_what_the_run_gives_is_not_bound(binding):
    refused([QUICK], [binding], r"cannot be bound: it comes from the data")


def test_a_list_does_for_a_tuple_and_unreadable_annotations_are_left_alone(monkeypatch):
    from morphkit_extractors.vae import VAEText

    with configured([QUICK], ["VAEText.encoder = [8, 8]"]):
        _check_values()
    monkeypatch.setitem(VAEText.__init__.__annotations__, "encoder", "OnlyForATypeChecker")
    with configured([QUICK], ["VAEText.encoder = 3"]):
        _check_values()


def test_gin_makes_a_sum():
    bindings = [
        "run.cost = @cost.SumCost()",
        "SumCost.costs = [@cost.BridgeCost(), @wide/cost.RelativeCost()]",
        "SumCost.weights = [1.0, 0.5]",
        "wide/RelativeCost.comparison = 'jensen-shannon'",
    ]
    with configured([], bindings):
        found = built(["cost"])["cost"]
    assert found == SumCost([BridgeCost(), RelativeCost("jensen-shannon")], [1.0, 0.5])


MACROS = """
include 'quickstart.gin'
SEEDS = (0, 1)
FRACTION = 0.2
UNUSED = 3
run.paired_fraction = %FRACTION
few/Training.steps = %STEPS
STEPS = 7
HOW = {'few': ['run.training = @few/Training()']}
sweep.grid = {'run.seed': %SEEDS, 'how': %HOW}
"""


def test_names_stand_for_values_in_runs_and_in_sweeps(tmp_path):
    """What only the text of a grid, or of a name in it, refers to is used; files may share what
    others use."""
    (file := tmp_path / "x.gin").write_text(MACROS)
    found, text = asked([file], ["FRACTION = 0.3"])
    assert found.paired_fraction == 0.3
    assert "SEEDS" not in text
    runs = plan(file, ["SEEDS = (4,)", "STEPS = 9"], out=tmp_path / "out")
    assert [(one.cell.name, one.experiment.training.steps) for one in runs] == [
        ("seed=4,how=few", 9)
    ]


def test_a_name_that_stands_for_nothing_is_told(tmp_path):
    (file := tmp_path / "x.gin").write_text(MACROS.replace("SEEDS = (0, 1)", ""))
    with pytest.raises(ConfigurationError, match="%SEEDS stands for nothing"):
        plan(file, out=tmp_path / "out")
    with pytest.raises(ConfigurationError, match="SEED"):
        asked([file], ["SEED = 3"])
