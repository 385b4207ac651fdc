"""From layers of an image model to recorded V4 responses, per paired fraction (Fig. 10).

`python benchmarks/neural.py` runs what is missing in benchmarks/results/neural.jsonl (a line of
JSON a session, layer, method, fraction and seed; a killed benchmark goes on where it was) and
writes neural.md beside it and docs/neural.png. Settings are those of gin/neural/unbalanced.gin;
`--validation` measures on the validation stimuli, by which they were chosen, and writes nothing.
"""

import argparse
import itertools
import statistics
import time
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
from morphkit_aligners.aligners import GlobalAlignment, TrueAlignment
from morphkit_baselines.cca import RidgeCCA
from morphkit_baselines.linear import PLS, Ridge
from morphkit_costs.bridge import BridgeCost
from morphkit_extractors.identity import Identity
from morphkit_fields.adaln import AdaLN
from morphkit_metrics.layers import RSA, EffectiveDimensionality, Predictivity
from morphkit_metrics.neural import correlations
from morphkit_solvers.sinkhorn import Sinkhorn
from problems import trained, training_clouds
from scipy.stats import rankdata
from tables import append, deviation, measured_by, read, summary

from morphkit.data.arrays import data_folder
from morphkit.data.recordings import Recordings
from morphkit.experiment.prepare import choose_pairs
from morphkit.interfaces import Baseline, Scene
from morphkit.morph import Morph
from morphkit.report.significance import compare
from morphkit.training.loop import Training
from morphkit.types import Dataset, PairedData, Pairs

RESULTS = Path(__file__).parent / "results"
LINES = RESULTS / "neural.jsonl"
SESSIONS = ("201025", "210224")
LAYERS = ("block2", "block5", "block9", "block12", "features")
FRACTIONS = (0.2, 0.4, 0.6, 0.8)
SEEDS = 5
DRAWS = 20
COST = BridgeCost("correlation", "correlation")
MORPHS = {
    "true": (TrueAlignment(), Sinkhorn()),
    "global": (GlobalAlignment(), Sinkhorn(1e-3, 0.99, 0.99)),
}
BASELINES: dict[str, Baseline] = {"ridge": Ridge(), "PLS": PLS(), "ridge CCA": RidgeCCA()}
METHODS = (*MORPHS, *BASELINES)
TRAINING = Training(steps=200, learning_rate=1e-3, standardise="whole", steps_per_dispatch=200)
FIELD = partial(AdaLN, size="small")
SHOWN = ("block2", "block9", "features")

Key = tuple[str, str, str, float, int]  # session, layer, method, fraction, seed


@cache
def recordings(session: str, layer: str, evaluate: str) -> Dataset:
    path = data_folder() / "v4" / f"v4_{session}.npz"
    return Recordings(str(path), layer, evaluate=evaluate).load()  # pyright: ignore[reportArgumentType]


def measure(key: Key, evaluate: str) -> dict:
    """The squared error of each test stimulus, mean over sites of unit variance, of one draw; over
    all stimuli, that of the mean of DRAWS; the median correlation of a site with that mean."""
    session, layer, method, fraction, seed = key
    data = recordings(session, layer, evaluate)
    x, y = training_clouds(data)
    known = PairedData(x, y, Pairs.from_array(choose_pairs(data.train.pairs, fraction, seed)))
    test, true = data.test.source, data.test.target
    if method in BASELINES:
        drawn = np.asarray(BASELINES[method].fit(known)(test))[None]
    else:
        drawn = np.asarray(morph(known, method, seed)(test, draws=DRAWS))  # pyright: ignore[reportArgumentType]
    mean = drawn.mean(0)
    return {
        "key": key,
        "errors": [round(float(e), 3) for e in ((drawn[0] - true) ** 2).mean(1)],
        "mean_error": float(((mean - true) ** 2).mean()),
        "correlation": float(np.median(correlations(mean, true))),
    }


def morph(known: PairedData, method: str, seed: int) -> Morph:
    aligner, solver = MORPHS[method]
    sampler = aligner.prepare(known, COST, solver)
    if not bool(sampler.coupling.convergence.converged):
        print("the solver did not converge", flush=True)
    return trained(known, sampler, TRAINING, FIELD, jax.random.split(jax.random.key(seed)))


def keys() -> list[Key]:
    grid = itertools.product(range(SEEDS), SESSIONS, METHODS, FRACTIONS, LAYERS)
    return [
        (session, layer, method, fraction, seed) for seed, session, method, fraction, layer in grid
    ]


def run() -> None:
    there = read(LINES, "key")
    missing = [key for key in keys() if key not in there]
    for k, key in enumerate(missing):
        start = time.perf_counter()
        if k % 50 == 0:
            jax.clear_caches()  # compiled programs pile up until memory cannot be mapped
        found = measure(key, "test")
        append(LINES, found)
        print(
            f"{k + 1}/{len(missing)} {key} {error(found):.3f}, {time.perf_counter() - start:.1f} s",
            flush=True,
        )


def validate() -> None:
    for method, layer, fraction in itertools.product(METHODS, SHOWN, FRACTIONS[1::2]):
        found = measure((SESSIONS[0], layer, method, fraction, 0), "validation")
        one, mean = error(found), found["mean_error"]
        print(f"{method} {layer} {fraction}: {one:.3f}, mean of draws {mean:.3f}, "
              f"correlation {found['correlation']:.3f}", flush=True)  # fmt: skip


def layer_table(session: str) -> list[str]:
    """The three criteria of App. G.3.1 on the training stimuli, and the mean of their ranks."""
    found = []
    for layer in LAYERS:
        data = recordings(session, layer, "test")
        x, y = training_clouds(data)
        model = Identity((x.dim,), key=jax.random.key(0))
        paired = PairedData(x, y, Pairs.from_array(data.train.pairs))
        scene = Scene(model, model, paired, x, y, data.test)
        metrics = {}
        for evaluator in (Predictivity(), EffectiveDimensionality(), RSA()):
            metrics |= evaluator.evaluate(scene, key=jax.random.key(0))
        found.append(
            [metrics[m] for m in ("predictivity", "source_effective_dimensionality", "rsa")]
        )
    ranks = rankdata(-np.array(found), axis=0).mean(1)
    lines = [
        "| layer | predictivity | effective dimensionality | RSA | mean rank |",
        "|---|---|---|---|---|",
    ]
    for layer, (pls, dimensions, rsa), rank in zip(LAYERS, found, ranks, strict=True):
        lines.append(f"| {layer} | {pls:.3f} | {dimensions:.1f} | {rsa:.3f} | {rank:.1f} |")
    return lines


def by_seed(there: dict[Key, dict], group: tuple, value) -> list[float]:
    return [value(there[(*group, seed)]) for seed in range(SEEDS) if (*group, seed) in there]


def table(there: dict[Key, dict], session: str, value) -> list[str]:
    lines = ["| layer | method | " + " | ".join(f"{f:.0%}" for f in FRACTIONS) + " |"]
    lines.append("|---|---|" + "---|" * len(FRACTIONS))
    for layer, method in itertools.product(LAYERS, METHODS):
        cells = [
            summary(by_seed(there, (session, layer, method, f), value), SEEDS) for f in FRACTIONS
        ]
        lines.append(f"| {layer} | {method} | " + " | ".join(cells) + " |")
    return lines


def per_stimulus(there: dict[Key, dict], group: tuple) -> np.ndarray | None:
    """Errors of the test stimuli, the mean over seeds, which are no further stimuli."""
    found = by_seed(there, group, lambda line: line["errors"])
    return np.mean(found, axis=0) if len(found) == SEEDS else None


def tests(there: dict[Key, dict], session: str) -> list[str]:
    """Within each layer, all pairs of methods and fractions; those of one fraction are shown."""
    shown = [("true", "global"), ("true", "PLS"), ("global", "PLS")]
    lines = ["| layer | compared | " + " | ".join(f"{f:.0%}" for f in FRACTIONS) + " | in all |"]
    lines.append("|---|---|" + "---|" * (len(FRACTIONS) + 1))
    for layer in LAYERS:
        values = {
            f"{fraction} {method}": errors
            for fraction, method in itertools.product(FRACTIONS, METHODS)
            if (errors := per_stimulus(there, (session, layer, method, fraction))) is not None
        }
        found = {(c.first, c.second): c for c in compare(values)}
        different = sum(c.adjusted < 0.05 for c in found.values())
        for a, b in shown:
            kept = [found.get((f"{f} {a}", f"{f} {b}")) for f in FRACTIONS]
            cells = [significance(test, a, b) if test else "–" for test in kept]
            cells.append(f"{different} of {len(found)}" if (a, b) == shown[0] else "")
            lines.append(f"| {layer} | {a} / {b} | " + " | ".join(cells) + " |")
    return lines


def significance(test, a: str, b: str) -> str:
    if test.adjusted >= 0.05:
        return "ns"
    better = b if test.superiority > 0.5 else a
    return f"{better} (p = {test.adjusted:.0e})"


def draw(there: dict[Key, dict]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(SESSIONS), len(LAYERS), figsize=(12, 5.2), sharey="row", sharex=True,
        layout="constrained",
    )  # fmt: skip
    colours = dict(zip(METHODS, ("C0", "C3", "0.6", "0.2", "0.8"), strict=True))
    shown = [(method, error, "-") for method in METHODS]
    shown += [(method, mean_error, ":") for method in MORPHS]
    for row, session in zip(axes, SESSIONS, strict=True):
        for axis, layer in zip(row, LAYERS, strict=True):
            for method, value, style in shown:
                groups = [(session, layer, method, f) for f in FRACTIONS]
                numbers = [by_seed(there, group, value) for group in groups]
                if not all(numbers):
                    continue
                label = f"morph, {method}" if method in MORPHS else method
                label += f", mean of {DRAWS}" if value is mean_error else ""
                mean, spread = (list(map(f, numbers)) for f in (np.mean, deviation))
                axis.errorbar(
                    FRACTIONS, mean, spread, marker="o", ms=3, ls=style, color=colours[method],
                    label=label,
                )  # fmt: skip
            axis.axhline(1, color="0.8", lw=1, zorder=0)
            axis.set(title=layer if session == SESSIONS[0] else "", xticks=FRACTIONS)
            axis.grid(alpha=0.3)
        row[0].set_ylabel(f"session {session}\nprediction error")
    for axis in axes[-1]:
        axis.set_xlabel("paired fraction")
    lines, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    figure.savefig(RESULTS.parent.parent / "docs" / "neural.png", dpi=130)


def error(line: dict) -> float:
    return statistics.mean(line["errors"])


def mean_error(line: dict) -> float:
    return line["mean_error"]


def write() -> None:
    there = read(LINES, "key")
    lines = [
        "# From an image model to recorded V4",
        "",
        measured_by("neural", SEEDS) + "A seed "
        "chooses the pairs, initialisation and batches; the split of the stimuli is fixed. The "
        "prediction error is the mean over test stimuli and sites of the squared error of "
        "responses that have mean 0 and variance 1 over the training stimuli: 1 is the mean "
        "response. The recordings are means over repeats, so nothing is corrected for noise.",
    ]
    for session in SESSIONS:
        measured = partial(table, there, session)
        lines += [
            "",
            f"## Session {session}",
            "",
            "Layers by the criteria of App. G.3.1, on all training stimuli:",
            "",
            *layer_table(session),
            "",
            "Prediction error of one draw of the morph (Eq. 12), and of the baselines:",
            "",
            *measured(error),
            "",
            f"Prediction error of the mean of {DRAWS} draws:",
            "",
            *measured(mean_error),
            "",
            "Correlation with that mean over test stimuli, median over sites:",
            "",
            *measured(lambda line: line["correlation"]),
            "",
            "Which has the smaller error of a draw, stimulus by stimulus (mean over seeds), by "
            "Wilcoxon-Mann-Whitney tests with Holm's correction for all pairs of methods and "
            "fractions of a layer; how many of these pairs differ (adjusted p < .05):",
            "",
            *tests(there, session),
        ]
    draw(there)
    (RESULTS / "neural.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table-only", action="store_true", help="write what is there")
    parser.add_argument("--validation", action="store_true", help="measure on validation stimuli")
    arguments = parser.parse_args()
    if arguments.validation:
        validate()
        return
    if not arguments.table_only:
        run()
    write()


if __name__ == "__main__":
    main()
