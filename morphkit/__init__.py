"""morphkit learns a morph between the latent spaces of two frozen models.

Importing this package loads no plugin and none of the heavy dependencies; the names below
are resolved when they are first used.
"""

from importlib import import_module
from typing import Any

from .hookspecs import hookimpl

_LAZY = {
    "align": ".api",
    "run": ".api",
    "load": ".morph",
    "Morph": ".morph",
    "Cloud": ".types",
    "Pairs": ".types",
    "PairedData": ".types",
}

__all__ = ["hookimpl", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'morphkit' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name], __name__), name)
