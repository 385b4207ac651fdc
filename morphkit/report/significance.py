"""Do conditions differ? Wilcoxon-Mann-Whitney tests of all pairs, corrected for their number."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import mannwhitneyu


class Comparison(NamedTuple):
    """One two-sided test. `superiority` is the chance that a value of `first` exceeds one of
    `second` (ties count half); `p` is of this test alone, `adjusted` for all that were made."""

    first: str
    second: str
    superiority: float
    p: float
    adjusted: float


def compare(values: Mapping[str, Float[np.ndarray, " n"]]) -> list[Comparison]:
    """Every pair of conditions by the Wilcoxon-Mann-Whitney test (Fig. 10), adjusted by Holm.

    `values` are independent measurements, such as the error of each test stimulus, by
    condition. Raises ValueError, naming the condition, for no or NaN values.
    """
    for name, numbers in values.items():
        if np.size(numbers) == 0 or not np.isfinite(numbers).all():
            raise ValueError(f"values[{name!r}] must be finite, and at least one")
    tests = list(combinations(values, 2))
    found = [mannwhitneyu(values[a], values[b], alternative="two-sided") for a, b in tests]
    p = [float(test.pvalue) for test in found]
    adjusted = holm(p)
    sizes = {name: np.size(numbers) for name, numbers in values.items()}
    return [
        Comparison(a, b, float(test.statistic) / (sizes[a] * sizes[b]), float(q), float(r))
        for (a, b), test, q, r in zip(tests, found, p, adjusted, strict=True)
    ]


def holm(p: Sequence[float]) -> Float[np.ndarray, " m"]:
    """The values `p` of m tests, adjusted for their number. Holm (1979): the k-th smallest is
    (m - k + 1) p, made monotone, and the chance of a false alarm anywhere stays below the level,
    whatever the tests have to do with each other."""
    found = np.asarray(p, float)
    order = np.argsort(found, kind="stable")
    stepped = np.maximum.accumulate(found[order] * np.arange(len(found), 0, -1))
    adjusted = np.empty_like(found)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
