"""Fitted modules as JSON, and back: what is no component has no arguments to be built from."""

import importlib
from types import NoneType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .registry import registry

PLAIN = (NoneType, bool, int, float, str)


def structure(value: Any) -> Any:
    """What `value`, a module of arrays, modules and plain values, is made of, as JSON.

    Arrays are left out but for their shape and type; they have their own file, by tree path. Raises
    ValueError, naming the field, for what is none of these, such as another library's model.
    """
    return _described(value, type(value).__name__)


def _described(value: Any, where: str) -> Any:
    if isinstance(value, eqx.Module):
        cls = type(value)
        fields = {name: getattr(value, name) for name in cls.__dataclass_fields__}
        return {
            "class": f"{cls.__module__}.{cls.__qualname__}",
            "fields": {name: _described(v, f"{where}.{name}") for name, v in fields.items()},
        }
    if isinstance(value, jax.Array):
        return {"array": str(value.dtype), "shape": list(value.shape)}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_described(v, where) for v in value]}
    if type(value) in PLAIN:
        return value
    raise ValueError(
        f"{where} is of {type(value).__module__}.{type(value).__qualname__}, which is neither an "
        "array nor a plain value, and so cannot be saved"
    )


def restored(saved: Any) -> Any:
    """The value that `structure` described as `saved`, with shapes for arrays. Raises LookupError,
    naming the package, for a class of one that is not installed, and ValueError for what is no
    module."""
    if not isinstance(saved, dict):
        return saved
    if "array" in saved:
        return jax.ShapeDtypeStruct(tuple(saved["shape"]), jnp.dtype(saved["array"]))
    if "tuple" in saved:
        return tuple(restored(v) for v in saved["tuple"])
    if "list" in saved:
        return [restored(v) for v in saved["list"]]
    cls = _class(saved["class"])
    if set(saved["fields"]) != set(cls.__dataclass_fields__):
        raise ValueError(f"{saved['class']} has other fields than when this was saved")
    module = object.__new__(cls)
    for name, value in saved["fields"].items():
        object.__setattr__(module, name, restored(value))
    return module


def _class(name: str) -> type[eqx.Module]:
    """Only of morphkit and of plugin packages: a file is not to say what else gets imported."""
    module, _, last = name.rpartition(".")
    package = module.partition(".")[0]
    known = {c.cls.__module__.partition(".")[0] for c in registry.load()} | {"morphkit"}
    if package not in known:
        raise LookupError(f"this was made with {name}; install the plugin package {package}")
    cls = getattr(importlib.import_module(module), last, None)
    if not (isinstance(cls, type) and issubclass(cls, eqx.Module)):
        raise ValueError(f"{name} is no module")
    return cls
