"""Components as JSON: their names and arguments, and back."""

import inspect
from typing import Any

import equinox as eqx

from .registry import registry


def arguments(component: eqx.Module) -> dict[str, Any]:
    """The constructor arguments of `component`, `key` apart, read from its fields of the same
    names."""
    names = inspect.signature(type(component)).parameters
    return {name: getattr(component, name) for name in names if name != "key"}


def record(component: eqx.Module) -> dict[str, Any]:
    """What it takes to build `component` again, as JSON. Raises LookupError if it is not
    registered."""
    known = registry.of(component)
    values = {name: _value(value) for name, value in arguments(component).items()}
    return {
        "component": known.selector,
        "distribution": known.distribution,
        "version": known.version,
        "arguments": values,
    }


def _value(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_value(v) for v in value]
    return record(value) if isinstance(value, eqx.Module) else value


def rebuild(saved: dict[str, Any], **extra: Any) -> Any:
    """The component of the record `saved`, built with the arguments `extra` beside its own (`key`).
    Raises LookupError, naming the package, if it is not installed."""
    try:
        known = registry.find(saved["component"])
    except LookupError as error:
        raise LookupError(
            f"this was made with {saved['component']} from {saved['distribution']} "
            f"{saved['version']}; install that package. ({error})"
        ) from None
    values = {name: _restore(value) for name, value in saved["arguments"].items()}
    return known.cls(**values, **extra)


def _restore(value: Any) -> Any:
    if isinstance(value, dict) and "component" in value:
        return rebuild(value)
    return tuple(_restore(v) for v in value) if isinstance(value, list) else value
