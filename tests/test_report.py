"""Reports of made-up runs, checked against numbers worked out by NumPy and scikit-learn."""

import json
import re
from html.parser import HTMLParser

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Int
from sklearn.decomposition import PCA

from morphkit.cli import main
from morphkit.experiment.picture import MAX_BINS, MAX_POINTS, collect
from morphkit.interfaces import Codec, LatentMap, Scene, silent
from morphkit.report.comparison import write_comparison
from morphkit.report.figures import plot_coupling, plot_overview
from morphkit.report.page import write_report
from morphkit.report.read import read_kept, read_loss, read_story
from morphkit.report.tables import format_table
from morphkit.types import Cloud, PairedData, Pairs, Split

COUPLING_DRAWS = 20_000
MANIFEST = "morph/manifest.json"

KEY = jax.random.key(0)
METRICS = {
    "morph/test_accuracy": 0.91,
    "morph/paired_mse": 0.2,
    "baseline/ridge/test_accuracy": 0.93,
    "baseline/ridge/paired_mse": 0.3,
    "baseline/nearest_anchor/test_accuracy": 0.5,
    "coupling/matching_accuracy": 0.873,
    "coupling/converged": 1.0,
    "time/train_s": 41.2,
    "config/paired_fraction": 0.05,
}
DIRECTIONS = {"test_accuracy": "higher", "paired_mse": "lower", "matching_accuracy": "higher"}


class Reshape(Codec):
    """Features are the flattened inputs."""

    shape: tuple[int, ...] = eqx.field(static=True)

    def fit(self, inputs, *, key, report=silent):
        return self

    def encode(self, inputs, *, key):
        return jnp.asarray(inputs).reshape(len(inputs), -1)

    def decode(self, features):
        return features.reshape(-1, *self.shape)


class Linear(LatentMap):
    matrix: Float[Array, "p q"]

    def __call__(self, x, *, key=None):
        return x @ self.matrix


class Matching(eqx.Module):
    """All mass on (k, partner[k])."""

    partner: Int[Array, " n"]

    def sample(self, key, num):
        i = jax.random.randint(key, (num,), 0, len(self.partner))
        return i, self.partner[i]


def make_scene(source, target, labels) -> Scene:
    x = Reshape(source.shape[1:]).encode(source, key=KEY)
    y = Reshape(target.shape[1:]).encode(target, key=KEY)
    pairs = np.stack([np.arange(len(x))] * 2, 1)
    cloud_x, cloud_y = Cloud.uniform(x, labels), Cloud.uniform(y, labels)
    train = PairedData(cloud_x, cloud_y, Pairs.from_array(pairs))
    split = Split(source, target, pairs, labels, labels)
    codecs = Reshape(source.shape[1:]), Reshape(target.shape[1:])
    return Scene(*codecs, train, cloud_x, cloud_y, split)


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 4, 4, 1), dtype=np.float32)


def write_run(dir, metrics, **story):
    dir.mkdir(parents=True, exist_ok=True)
    (dir / "metrics.json").write_text(json.dumps(metrics))
    if story:
        (dir / "morph").mkdir(exist_ok=True)
        (dir / "morph" / "manifest.json").write_text(json.dumps({"provenance": story}))
    return dir


class Tables(HTMLParser):
    """The body rows of a page as (cells, cells in bold), and every address it refers to."""

    def __init__(self, page: str):
        super().__init__()
        self.rows, self.links, self.cell = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.links += [v for k, v in attrs if k in ("src", "href")]
        if tag == "tr":
            self.rows.append(([], []))
        elif tag == "td":
            self.cell = attributes.get("class", "")
            self.rows[-1][0].append("")

    def handle_endtag(self, tag):
        if tag == "td":
            if self.cell == "best":
                self.rows[-1][1].append(self.rows[-1][0][-1])
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.rows[-1][0][-1] += data

    def row(self, name):
        return next(row for row in self.rows if row[0][:1] == [name])


def test_planes_are_the_principal_components_of_the_true_features():
    n = MAX_POINTS + 500
    rng = np.random.default_rng(0)
    scene = make_scene(rng.normal(size=(n, 6)) * [9, 5, 1, 1, 1, 1], rng.normal(size=(n, 3)), None)
    matrix = jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)
    found = collect(scene, Linear(matrix), None, None, key=KEY)

    assert set(found) == {"source", "target", "predicted"}
    assert found["source"].shape == found["predicted"].shape == (MAX_POINTS, 2)
    x, y = np.asarray(scene.x.points), np.asarray(scene.y.points)
    everything = PCA(2).fit_transform(x)
    rows = [np.abs(np.abs(everything) - np.abs(p)).sum(1).argmin() for p in found["source"]]
    assert len(set(rows)) == MAX_POINTS
    np.testing.assert_allclose(np.abs(found["source"]), np.abs(everything[rows]), atol=1e-3)
    expected = PCA(2).fit(y).transform(x[rows] @ np.asarray(matrix))
    np.testing.assert_allclose(np.abs(found["predicted"]), np.abs(expected), atol=1e-3)


def test_class_mass_counts_what_the_coupling_joins():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    partner = np.where(labels == 1, 99, np.arange(100))  # all of class 1 goes to class 2
    scene = make_scene(images(100), images(100, 1), labels)
    drawn = Matching(jnp.asarray(partner)).sample(KEY, COUPLING_DRAWS)
    found = collect(scene, Linear(jnp.eye(16)), drawn, None, key=KEY)["coupling"]
    expected = np.array([[0.5, 0, 0], [0, 0, 0.3], [0, 0, 0.2]])
    assert found.sum() == pytest.approx(1, abs=1e-4)
    assert (found[expected == 0] == 0).all()
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / np.sqrt(COUPLING_DRAWS))


def test_without_labels_the_coupling_is_shown_along_the_principal_components():
    line = np.linspace(-1, 1, 90)[:, None] * [3.0, 1.0] + [7.0, 0.0]
    scene = make_scene(line, line @ [[2.0, 0, 0], [0, 1.0, 0]], None)
    drawn = Matching(jnp.arange(90)).sample(KEY, COUPLING_DRAWS)
    found = collect(scene, Linear(jnp.zeros((2, 3))), drawn, None, key=KEY)
    mass = found["coupling_bins"]
    assert mass.shape == (MAX_BINS, MAX_BINS)
    assert mass.sum() == pytest.approx(1, abs=1e-4)
    # Each point goes with itself; the sign of a component is arbitrary.
    assert max(np.trace(mass), np.trace(mass[::-1])) == pytest.approx(1, abs=1e-4)
    assert plot_overview(found, np.zeros((0, 2))) is not None
    (panel,) = plot_coupling(found).axes
    np.testing.assert_allclose(panel.images[0].get_array().sum(1), 1, atol=1e-5)
    assert plot_coupling({}) is None


def test_decoded_images_are_those_of_the_predictions_of_their_class():
    labels = np.arange(60) % 3
    pictures = (labels[:, None, None, None] * np.ones((60, 4, 4, 1)) / 2).astype(np.float32)
    found = collect(
        make_scene(pictures, pictures, labels), Linear(jnp.eye(16) / 2), None, None, key=KEY
    )
    assert found["class_ids"].tolist() == [0, 1, 2]
    for label, (true, decoded) in enumerate(
        zip(found["class_true"], found["class_decoded"], strict=True)
    ):
        assert decoded.shape == (6, 4, 4, 1)
        assert (true == int(label / 2 * 255)).all()
        assert (decoded == int(label / 4 * 255)).all()


def test_test_images_carry_the_class_decoded_from_the_target():
    labels = np.arange(40) % 4
    columns = 3 - labels  # columns of the one-hot vectors in another order than the classes
    scene = make_scene(images(40), np.eye(4, dtype=np.float32)[columns], labels)
    answer = Linear(jnp.zeros((16, 4)).at[:, 3].set(1.0))  # always the column of class 0
    found = collect(scene, answer, None, None, key=KEY)
    assert found["test_predicted"].tolist() == [0] * 24
    assert found["test_true"].tolist() == labels[:24].tolist()


def test_report_is_one_file_with_the_winner_in_bold(tmp_path):
    scene = make_scene(images(100), images(100, 1), np.arange(100) % 3)
    drawn = Matching(jnp.arange(100)).sample(KEY, COUPLING_DRAWS)
    found = collect(scene, Linear(jnp.eye(16)), drawn, ("a<b", "c", "d"), key=KEY)
    np.savez_compressed(tmp_path / "figures.npz", **found)
    (tmp_path / "config.gin").write_text("run.name = '<script>'\n")
    lines = [{"step": s, "metrics": {"train/loss": 1 / (s + 1)}} for s in range(50)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    page = write_report(write_run(tmp_path, METRICS, directions=DIRECTIONS)).read_text()

    tables = Tables(page)
    assert tables.row("morph") == (["morph", "0.9100", "0.2000"], ["0.2000"])
    assert tables.row("ridge") == (["ridge", "0.9300", "0.3000"], ["0.9300"])
    assert tables.row("nearest anchor") == (["nearest anchor", "0.5000", "–"], [])
    assert "On test_accuracy, ridge (0.9300) beats the morph (0.9100)." in page
    assert "On paired_mse" not in page
    assert "<th>test_accuracy ↑</th><th>paired_mse ↓</th>" in page
    assert tables.row("train")[0][1] == "41.2 s"
    assert len(tables.links) == 1
    assert tables.links[0].startswith("data:image/png;base64,")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert 'class="warning"' not in page
    assert (tmp_path / "overview.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "coupling.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "did NOT converge"), (0.4, "only 40% of the minibatches")]
)
def test_an_unconverged_coupling_is_a_visible_warning(tmp_path, share, text):
    metrics = METRICS | {"coupling/converged": share}
    page = write_report(write_run(tmp_path, metrics)).read_text()
    assert re.search(f'class="warning">[^<]*{text}', page)
    assert text in format_table(metrics, DIRECTIONS)
    assert "<img" not in page  # nothing to draw: no log, no figures
    assert not list(tmp_path.glob("*.png"))


def test_a_diverged_morph_loses_to_every_baseline(tmp_path):
    table = format_table(METRICS | {"morph/test_accuracy": float("nan")}, DIRECTIONS)
    assert "On test_accuracy, ridge (0.9300) and nearest anchor (0.5000) beat the morph" in table


def test_table_for_the_terminal_marks_the_best_of_each_column():
    lines = format_table(METRICS, DIRECTIONS).splitlines()
    assert re.fullmatch(r"morph +0\.9100 +0\.2000\*", lines[1])
    assert re.fullmatch(r"ridge +0\.9300\* +0\.3000", lines[2])
    assert re.fullmatch(r"nearest anchor +0\.5000 +–", lines[3])
    assert lines[-1] == "coupling: matching_accuracy 0.8730. The solver converged."
    assert "train" not in format_table(METRICS, DIRECTIONS)


def test_the_best_is_what_the_evaluator_says_and_not_what_the_name_suggests(tmp_path):
    # A guess by words, "mse" or "error", would star both of the first two wrongly.
    metrics = {
        "morph/mae": 1.0, "morph/error_free": 0.9, "morph/count": 7.0,
        "baseline/ridge/mae": 2.0, "baseline/ridge/error_free": 0.1, "baseline/ridge/count": 9.0,
    }  # fmt: skip
    said = {"mae": "lower", "error_free": "higher", "count": "neither"}
    text = format_table(metrics, said)
    assert re.search(r"mae ↓ +error_free ↑ +count$", text, re.MULTILINE)
    assert re.search(r"^morph +1\.0\* +0\.9000\* +7$", text, re.MULTILINE)
    assert "No baseline beats the morph on any metric." in text
    page = write_report(write_run(tmp_path / "run", metrics, directions=said)).read_text()
    assert Tables(page).row("morph")[1] == ["1.0", "0.9000"]
    record = {"seed": 0, "paired_fraction": 1.0, "aligner": "global"}
    run = write_run(tmp_path / "again", metrics, directions=said, **record)
    page = write_comparison([run], tmp_path / "compared")[0].read_text()
    rows = [(cells[1], bold) for cells, bold in Tables(page).rows if cells[:1] == ["global"]]
    assert rows == [("1.0 (1)", ["1.0 (1)"]), ("0.9000 (1)", ["0.9000 (1)"]), ("7 (1)", [])]
    assert [page.count(f"{word} is better.") for word in ("Lower", "Higher")] == [1, 1]


def test_a_run_that_does_not_say_what_is_better_has_no_best(tmp_path):
    run = write_run(tmp_path / "old", METRICS, seed=0, paired_fraction=1.0, aligner="global")
    other = write_run(
        tmp_path / "odd", METRICS, seed=1, paired_fraction=1.0, aligner="local",
        directions={**DIRECTIONS, "paired_mse": "higher"},
    )  # fmt: skip
    page = write_report(run).read_text()
    assert all(not bold for _, bold in Tables(page).rows)
    assert not re.search(r"[↑↓]|beats? the morph", page)
    known = write_run(tmp_path / "new", METRICS, seed=2, paired_fraction=1.0, directions=DIRECTIONS)
    page = write_comparison([run, other, known], tmp_path / "out")[0].read_text()
    assert "Lower is better." not in page, "the runs do not agree on paired_mse"
    assert page.count("Higher is better.") == 2  # test_accuracy, coupling matching_accuracy


def test_runs_that_differ_by_their_anchor_are_not_averaged(tmp_path):
    ridge = {"component": "morphkit_align.baseline.Ridge", "arguments": {}}
    dirs = [
        write_run(
            tmp_path / str(k), {"morph/test_accuracy": value}, seed=0, paired_fraction=1.0,
            aligner="global", anchor=anchor, directions=DIRECTIONS,
        )
        for k, (value, anchor) in enumerate([(0.5, None), (0.7, ridge), (0.9, "coupling")])
    ]  # fmt: skip
    rows = [
        cells for cells, _ in Tables(write_comparison(dirs, tmp_path / "out")[0].read_text()).rows
    ]
    expected = [["global", "0.5000 (1)"], ["global · Ridge", "0.7000 (1)"],
                ["global · coupling", "0.9000 (1)"]]  # fmt: skip
    assert [cells for cells in rows if cells and cells[0].startswith("global")] == expected


def test_loss_curve_of_a_resumed_and_torn_log(tmp_path):
    steps = [(0, 9.0), (10, 8.0), (20, 7.0), (10, 3.0), (20, None), (30, 1.0)]
    lines = [json.dumps({"step": s, "metrics": {"train/loss": v}}) for s, v in steps]
    lines += [json.dumps({"info": "hello"}), '{"step": 40, "metr']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert read_loss(tmp_path).tolist() == [[0, 9], [10, 3], [30, 1]]
    assert read_kept(tmp_path) is None


def test_the_picture_says_which_networks_were_kept(tmp_path):
    lines = [{"step": s, "metrics": {"train/kept": k}} for s, k in ((0, 0.0), (10, 10.0))]
    lines += [{"step": 20, "metrics": {"train/loss": 3.0}}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_kept(tmp_path) == 10
    for kept, title in ((10, "networks of step 10 kept"), (None, "at the end")):
        figure = plot_overview({}, np.array([[0.0, 9.0], [20.0, 3.0]]), kept)
        assert title in figure.axes[0].get_title("left")


def test_comparison_gives_mean_and_deviation_over_seeds(tmp_path):
    rng = np.random.default_rng(0)
    values = {(e, f, s): rng.random() for e in (0.1, 0.5) for f in (0.01, 1.0) for s in range(3)}
    ridge = {(f, s): rng.random() for f in (0.01, 1.0) for s in range(3)}
    dirs = [
        write_run(
            tmp_path / f"{epsilon}-{fraction}-{seed}",
            {
                "morph/test_accuracy": value,
                "baseline/ridge/test_accuracy": ridge[fraction, seed],
                "coupling/converged": 0.0 if seed == 2 else 1.0,
            },
            aligner="global",
            cost={"component": "cost.BridgeCost", "arguments": {"metric": "cosine"}},
            solver={"component": "solver.Sinkhorn", "arguments": {"epsilon": epsilon, "tau": 1}},
            seed=seed,
            paired_fraction=fraction,
            directions=DIRECTIONS,
        )
        for (epsilon, fraction, seed), value in values.items()
    ]
    out = write_comparison(dirs, tmp_path / "out")[0]
    page = out.read_text()
    tables = Tables(page)

    def expected(three: list[float]) -> str:
        return f"{np.mean(three):.4f} ± {np.std(three, ddof=1):.4f} (3)"

    for epsilon in (0.1, 0.5):
        name = f"global · BridgeCost · Sinkhorn epsilon={epsilon}"
        cells = [expected([values[epsilon, f, s] for s in range(3)]) for f in (0.01, 1.0)]
        assert tables.row(name)[0] == [name, *cells]
    cells = [expected([ridge[f, s] for s in range(3)]) for f in (0.01, 1.0)]
    assert tables.row("ridge")[0] == ["ridge", *cells]  # counted once a seed, not once a run
    assert sum(len(bold) for _, bold in tables.rows) == 2
    assert "In 4 of 12 runs the coupling did not converge." in page
    assert out == tmp_path / "out" / "comparison.html"
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_runs_on_other_data_are_never_averaged(tmp_path):
    """Also where only the content of a file differs: then the hash of the features says so."""

    def data(fraction):
        return {"component": "data.Arrays", "arguments": {"test_fraction": fraction}}

    stories = [(0.2, "aaaaaaa1"), (0.2, "bbbbbbb1"), (0.5, "ccccccc1")]
    dirs = [
        write_run(
            tmp_path / features,
            {"morph/paired_mse": 1.0 + k, "baseline/ridge/paired_mse": 5.0 + k},
            data=data(fraction), features=features, aligner="global", seed=0, paired_fraction=1.0,
        )
        for k, (fraction, features) in enumerate(stories)
    ]  # fmt: skip
    rows = {
        row[0][0]: row[0][1]
        for row in Tables(write_comparison(dirs, tmp_path)[0].read_text()).rows
        if row[0]
    }
    assert rows == {
        "Arrays test_fraction=0.2 aaaaaa: global": "1.0 (1)",
        "Arrays test_fraction=0.2 bbbbbb: global": "2 (1)",
        "Arrays test_fraction=0.5: global": "3 (1)",
        "Arrays test fraction=0.2 aaaaaa: ridge": "5 (1)",
        "Arrays test fraction=0.2 bbbbbb: ridge": "6 (1)",
        "Arrays test fraction=0.5: ridge": "7 (1)",
    }


def test_only_runs_on_the_same_data_compete(tmp_path):
    """Of four morphs on two data the best on each is marked, and only two and two are told apart;
    one that is alone on its data has nothing to be better than."""
    errors = {("a", "global"): 1.0, ("a", "true"): 2.0, ("b", "global"): 4.0, ("b", "true"): 3.0,
              ("c", "true"): 0.5}  # fmt: skip
    dirs = [
        write_run(
            tmp_path / f"{data}{aligner}{seed}",
            {"morph/paired_mse": error + 0.01 * seed},
            data={"component": f"data.{data.upper()}", "arguments": {}},
            directions=DIRECTIONS, aligner=aligner, seed=seed, paired_fraction=1.0,
        )
        for (data, aligner), error in errors.items() for seed in range(5)
    ]  # fmt: skip
    *_, markdown = write_comparison(dirs, tmp_path, markdown=True)
    text = markdown.read_text()
    assert "best on each data in bold" in text
    marked = {line.split(":")[0].strip("| ") + line.split(":")[1].split("|")[0] for line in
              text.splitlines() if "**" in line}  # fmt: skip
    assert marked == {"A global ", "B true "}
    assert "2 Wilcoxon-Mann-Whitney tests" in text


def test_aligned_runs_on_the_same_arrays_are_one_row(tmp_path):
    """Their arrays lie in each run's folder, and each seed holds out other pairs."""
    dirs = [
        write_run(
            tmp_path / str(seed),
            {"morph/paired_mse": 1.0 + seed, "baseline/ridge/paired_mse": 5.0 + seed},
            data={
                "component": "data.Arrays",
                "arguments": {"source": f"/runs/{seed}/arrays-0123456789ab.npz::x", "seed": seed},
            },
            features=f"hash{seed}", aligner="global", seed=seed, paired_fraction=1.0,
        )
        for seed in (0, 1)
    ]  # fmt: skip
    tables = Tables(write_comparison(dirs, tmp_path)[0].read_text())
    assert tables.row("global")[0][1].endswith("(2)")
    assert tables.row("ridge")[0][1].endswith("(2)")


def test_what_is_no_run_directory_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no run directory, it has no metrics"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "metrics.json").write_text('{"morph": {"nested": 1}}')
    with pytest.raises(ValueError, match=r"metrics\.json is damaged \(morph: "):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="does not say how the run was made"):
        write_comparison([write_run(tmp_path / "old", METRICS)], tmp_path)
    with pytest.raises(ValueError, match="nothing to compare"):
        write_comparison([], tmp_path)


def test_an_outlier_leaves_the_others_to_be_seen():
    """One point at 1e20, in the source and in the predictions, overflows float32 when squared."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)) * [5, 2, 1, 1]
    x[7] = 1e20
    scene = make_scene(x, rng.normal(size=(200, 3)), np.arange(200) % 3)
    matrix = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    drawn = jnp.arange(200), jnp.arange(200)
    found = collect(scene, Linear(matrix * 1e30), drawn, None, key=KEY)
    rest = np.arange(200) != 7
    plane = PCA(2).fit_transform(x[rest])
    for k in range(2):
        assert abs(np.corrcoef(found["source"][rest, k], plane[:, k])[0, 1]) > 0.95
    figure = plot_overview(found, np.zeros((0, 2)))
    figure.canvas.draw()
    low, high = figure.axes[0].get_xlim()
    assert 20 < high - low < 100
    assert "0.5 % outside the frame" in {text.get_text() for text in figure.axes[0].texts}


@pytest.mark.parametrize("name", ["$$", "$x_1", "a\nb", "\x00", "\ud800", "{x:g}", "%s", "", "数"])
def test_any_name_can_be_drawn(name, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 3
    scene = make_scene(images(40), images(40, 1), labels)
    drawn = jnp.asarray(rng.integers(0, 40, 400)), jnp.asarray(rng.integers(0, 40, 400))
    found = collect(scene, Linear(jnp.eye(16)), drawn, (name, "$$", "c"), key=KEY)
    np.savez_compressed(tmp_path / "figures.npz", **found)
    page = write_report(write_run(tmp_path, METRICS)).read_text(encoding="utf-8")
    assert "<img" in page
    assert "cannot be drawn" not in page


EXTREMES = {
    "infinite predictions": {"predicted": np.full((20, 2), np.inf, np.float32)},
    "undefined predictions": {"predicted": np.full((20, 2), np.nan, np.float32)},
    "undefined targets": {"target": np.full((20, 2), np.nan, np.float32)},
    "huge": {"source": np.full((20, 2), 3e38, np.float32) * np.resize([1, -1], (20, 1))},
    "constant": {"source": np.ones((20, 2), np.float32)},
    "unknown labels": {"source_labels": np.full(20, -1)},
    "huge labels": {"source_labels": np.arange(20) + 2**31 - 30},
    "undefined coupling": {"coupling": np.full((3, 3), np.nan, np.float32)},
    "two channels": {
        "class_ids": np.arange(2), "class_true": np.zeros((2, 4, 4, 2), np.uint8),
        "class_decoded": np.zeros((2, 3, 4, 4, 2), np.uint8),
    },
}  # fmt: skip


@pytest.mark.parametrize("what", EXTREMES)
def test_extremes_can_be_drawn(what, tmp_path):
    rng = np.random.default_rng(0)
    clouds = ("source", "target", "predicted")
    arrays = {name: rng.normal(size=(20, 2)).astype(np.float32) for name in clouds}
    arrays |= {"source_labels": np.arange(20) % 3, "target_labels": np.arange(20) % 3}
    np.savez(tmp_path / "figures.npz", **arrays | EXTREMES[what])
    lines = [{"step": s, "metrics": {"train/loss": 10.0 ** (s * 10)}} for s in range(10)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    page = write_report(write_run(tmp_path, METRICS)).read_text()
    assert "cannot be drawn" not in page


def test_a_picture_that_cannot_be_drawn_leaves_the_numbers(tmp_path):
    np.savez(tmp_path / "figures.npz", source=np.zeros(3), coupling=np.array(["x"]))
    page = write_report(write_run(tmp_path, METRICS, directions=DIRECTIONS)).read_text()
    assert "<img" not in page
    assert re.search('class="warning">Overview: this picture cannot be drawn', page)
    assert Tables(page).row("morph") == (["morph", "0.9100", "0.2000"], ["0.2000"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", b"[]"), ("metrics.json", b'{"a": "1"}'), ("metrics.json", b'{"a": 1'),
        ("metrics.json", b'{"a": 1' + b"0" * 400 + b"x}"), ("metrics.json", b"\xff"),
        (MANIFEST, b"[]"), (MANIFEST, b"{"), (MANIFEST, b'{"provenance": {"seed": 1}}'),
        (MANIFEST, b'{"provenance": {"seed": [], "paired_fraction": 1}}'),
        (MANIFEST, b'{"provenance": {"seed": 1, "paired_fraction": NaN}}'),
        (MANIFEST, b'{"provenance": {"seed": 1, "paired_fraction": 0}}'),
        ("figures.npz", b""), ("figures.npz", b"PK\x03\x04"), ("config.gin", b"\xff\xfe"),
    ],
)  # fmt: skip
def test_damaged_files_of_a_run_are_named(tmp_path, capsys, name, content):
    write_run(tmp_path, METRICS, seed=0, paired_fraction=1.0)
    (tmp_path / name).write_bytes(content)
    assert main(["report", str(tmp_path), *(["--out", str(tmp_path)] * (name == MANIFEST))]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert f"{tmp_path / name} is damaged" in line
    assert "run it again" in line


def test_lines_of_a_log_that_mean_nothing_are_skipped(tmp_path):
    lines = [
        '{"step": 0, "metrics": {"train/loss": 9.0}}', "[]", "3", "", '{"step": 1, "metr',
        '{"step": "2", "metrics": {"train/loss": 8.0}}', '{"step": 3, "metrics": []}',
        '{"step": 4, "metrics": {"train/loss": "7"}}', '{"metrics": {"train/loss": 6.0}}',
        '{"step": 5, "metrics": {"train/loss": NaN}}', '{"step": -1, "metrics": {"train/loss": 1}}',
        '{"step": 1' + "0" * 400 + ', "metrics": {"train/loss": 5.0}}', "\x00",
        '{"step": 7, "metrics": {"train/loss": 4}}',
    ]  # fmt: skip
    (tmp_path / "log.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff\xfe")
    assert read_loss(tmp_path).tolist() == [[0, 9], [7, 4]]


def test_a_comparison_reads_stories_of_any_shape(tmp_path):
    stories = [
        {"cost": 5, "solver": [1], "data": None}, {"cost": {"component": "a.B", "arguments": 3}},
        {"cost": {"component": "a.$$", "arguments": {"$": "$"}}, "source": {"x": [{}]}},
    ]  # fmt: skip
    dirs = [
        write_run(tmp_path / str(k), METRICS | {"morph/big": 1e30}, **story, seed=k,
                  paired_fraction=0.5)
        for k, story in enumerate(stories)
    ]  # fmt: skip
    page = write_comparison(dirs, tmp_path)[0].read_text()
    assert "cannot be drawn" not in page
    assert "<img" in page


def test_the_story_of_a_run_is_that_of_its_morph(tmp_path):
    run = write_run(tmp_path / "run", METRICS)
    story = {"provenance": {"seed": 3, "paired_fraction": 0.25, "aligner": "global"}}
    (run / "morph").mkdir()
    (run / "morph" / "manifest.json").write_text(json.dumps(story))
    assert read_story(run) == story["provenance"]
