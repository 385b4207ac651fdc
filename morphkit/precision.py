"""Everything is computed in float32: how numbers get there without losing what they say."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import numpy as np
from jaxtyping import Float, Int, Num

P = ParamSpec("P")
R = TypeVar("R")

LOST = 0.01
"""The share of their spread by which rounding to float32 may move points."""

TELLING = 1e-12
"""The spread of points, relative to their size, below which it is float64's own rounding."""

SQUARES = (1e-15, 1e15)
"""Between which sizes squared distances stay far from the ends of float32, 1e±38."""

OFFSET = 1e4
"""How many times its spread a cloud may be away from the origin: float32 then has three digits
left for the differences of its points."""


def in_full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """`function` with matrix products in all digits of float32. By default GPUs take ten bits of
    each factor (TF32): costs of near points are then rounding, and solvers need not converge."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return wrapped


def in_float32(function: Callable[P, R]) -> Callable[P, R]:
    """`function` in full precision, and with JAX's 64-bit types off in it, whatever JAX_ENABLE_X64
    says outside: the same draws, weights and programs for everybody. What it returns is float32."""

    exactly = in_full_precision(function)

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.enable_x64(False):
            return exactly(*args, **kwargs)

    return wrapped


def as_float32(name: str, values: Num[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """`values` rounded to float32, a copy of them but of a file that is mapped to be read; NaN and
    infinities stay.

    Raises ValueError, naming the argument `name`, where finite values would become infinite, or
    all of them zero.
    """
    values = np.asarray(values)
    with np.errstate(over="ignore", under="ignore"):
        rounded = values.astype(np.float32, copy=not _mapped(values))
    exact = values.dtype == np.float32
    if not exact and (over := np.isinf(rounded) & np.isfinite(values)).any():
        raise ValueError(
            f"{name} has {over.sum()} values beyond float32's 3.4e38, such as "
            f"{values[over][0]:.3g}; divide it by its largest value"
        )
    tiny = np.finfo(np.float32).tiny
    largest = max(
        np.fmax.reduce(rounded, None, initial=0), -np.fmin.reduce(rounded, None, initial=0)
    )
    if largest < tiny and values[np.abs(rounded) < tiny].any():
        raise ValueError(
            f"{name} has no value above float32's smallest, 1.2e-38: its largest is "
            f"{np.nanmax(np.abs(values)):.3g}; divide it by that"
        )
    return rounded


def _mapped(values: np.ndarray) -> bool:
    """Whether they are of a file that is mapped, and that nobody can write to in this way."""
    while not isinstance(values, np.memmap):
        if not isinstance(values.base, np.ndarray):
            return False
        values = values.base
    return values.mode == "r"


def points_as_float32(name: str, points: Num[np.ndarray, "n ..."]) -> Float[np.ndarray, "n ..."]:
    """A set of `points` (n, ...), rounded to float32 as in `as_float32`.

    Raises ValueError, naming the argument `name`, also where rounding moves the points by more
    than LOST of their spread: a common offset that is much larger, as of time stamps.
    """
    points = np.asarray(points)
    rounded = as_float32(name, points)
    if np.can_cast(points.dtype, np.float32) or len(points) == 0:
        return rounded
    whole = points.astype(np.int64) if points.dtype.kind == "u" else points
    # From the first row on: integers may have more digits than float64.
    away = (whole - whole[0]).astype(np.float64)
    spread = np.sqrt(away.var(0).sum())
    lost = np.sqrt((away - (rounded - rounded[0].astype(np.float64))).var(0).sum())
    size = np.sqrt(np.square(points.mean(0, dtype=np.float64)).sum())
    rounding = TELLING * size if points.dtype.kind == "f" else 0
    if spread > rounding and lost > LOST * spread:
        raise ValueError(
            f"{name} lies {size / spread:.2g} times its spread away from the origin, and float32 "
            f"cannot tell its rows apart; subtract the mean first: {name} - {name}.mean(axis=0)"
        )
    return rounded


def fits_int32(labels: Int[np.ndarray, "..."]) -> bool:
    """Whether `labels` stay different when JAX takes them as 32 bits."""
    bounds = np.iinfo(np.int32)
    return labels.size == 0 or bool(bounds.min <= labels.min() and labels.max() <= bounds.max)


def doubts(points: Float[np.ndarray, "n d"]) -> list[str]:
    """What float32 makes hard to tell in a cloud of float32 `points`, and what to do about it."""
    if len(points) == 0:
        return []
    largest, found = np.abs(points).max(), []
    low, high = SQUARES
    if largest > 0 and not low < largest < high:
        found.append(
            f"values of size {largest:.2g}, whose squares float32 cannot hold: divide them by that"
        )
    centre = points.mean(0, dtype=np.float64)
    spread = np.sqrt(np.square(points - centre).mean(0).sum())
    if (size := np.linalg.norm(centre)) > OFFSET * spread > OFFSET * TELLING * size:
        found.append(
            f"a mean that is {size / spread:.2g} times their spread, which leaves few digits for "
            "their differences: subtract it, in float64"
        )
    return found
