"""morphkit learns a morph between the latent spaces of two frozen models.

Importing this package loads no plugin and none of the heavy dependencies; the names below
are resolved when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .wiring.hookspecs import hookimpl

if TYPE_CHECKING:
    from .api import align, choose, extract, run, search, suggest
    from .morph import Morph, load
    from .sweeping import sweep
    from .types import Cloud, PairedData, Pairs

_LAZY = {
    "align": ".api",
    "choose": ".api",
    "extract": ".api",
    "run": ".api",
    "search": ".api",
    "suggest": ".api",
    "sweep": ".sweeping",
    "load": ".morph",
    "Morph": ".morph",
    "Cloud": ".types",
    "Pairs": ".types",
    "PairedData": ".types",
}

__all__ = [
    "Cloud", "Morph", "PairedData", "Pairs",
    "align", "choose", "extract", "hookimpl", "load", "run", "search",
    "suggest", "sweep",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'morphkit' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __name__), name)
