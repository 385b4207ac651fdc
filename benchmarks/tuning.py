"""What to give a peer's setting so that both of its marginals are as exact as is asked."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from peers import OTT_ITERATIONS, THRESHOLD, Problem, Setting


class Unsolved(Exception):
    """Why a setting has no time."""


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start, result


class Trials:
    """A setting's solves of one problem, with their seconds and results by what it was given."""

    def __init__(self, setting: Setting, problem: Problem) -> None:
        self.setting, self.problem = setting, problem
        self.arrays = setting.prepare(problem)
        self.found: dict[Any, tuple[float, Any]] = {}

    def reach(self, knob: Any) -> bool:
        self.found[knob] = timed(lambda: self.setting.solve(self.arrays, knob))
        error = self.setting.error(self.problem, self.found[knob][1])
        if not np.isfinite(error):
            raise Unsolved("diverges")
        return error <= THRESHOLD

    def tuned(self, count: int, limit: float) -> Any:
        """The least knob that is enough; `count` is that of Sinkhorn's plain iterations."""
        if self.setting.tuning == "threshold":
            return self._threshold()
        if self.setting.tuning == "plain":
            return self._plain(count, limit)
        if self.setting.tuning == "search":
            return self._search(limit)
        assert self.reach(None)
        return None

    def first(self, knob: Any) -> float:
        """Seconds of the first call, with compilation where there is any."""
        if self.setting.library == "POT":
            return self.found[knob][0]
        return next(iter(self.found.values()))[0]

    def _threshold(self) -> float:
        for knob in map(float, THRESHOLD * 0.8 ** np.arange(8)):
            if self.reach(knob):
                return knob
            if self.setting.iterations(knob, self.found[knob][1]) >= OTT_ITERATIONS:
                raise Unsolved(f"not in {OTT_ITERATIONS:,} iterations")
        raise Unsolved("diverges")

    def _plain(self, count: int, limit: float) -> int:
        def seconds(iterations: int) -> float:
            return min(timed(lambda: self.setting.solve(self.arrays, iterations))[0] for _ in "12")

        few, more = seconds(5), seconds(15)
        expected = few + (more - few) * (count - 5) / 10
        if expected > limit:
            raise Unsolved(f"more than {limit:.0f} s, by the time of ten iterations")
        for knob in (count, count + 10, count + 20):
            if self.reach(knob):
                return knob
        raise Unsolved("out of float32's range" if "32" in self.setting.name else "not reached")

    def _search(self, limit: float) -> int:
        low, high = 0, 10
        while not self.reach(high):
            if 2 * self.found[high][0] > limit:
                raise Unsolved(f"more than {limit:.0f} s")
            low, high = high, 2 * high
        while high - low > max(1, high // 10):
            middle = (low + high) // 2
            low, high = (low, middle) if self.reach(middle) else (middle, high)
        return high
