"""Components as JSON: their names and arguments, and back."""

import inspect
from collections.abc import Iterator
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


def as_asked(build: Any) -> list[Any]:
    """The class that `build` is, or makes an instance of, and the arguments that it binds."""
    cls, given = getattr(build, "func", build), getattr(build, "keywords", {})
    return [f"{cls.__module__}.{cls.__qualname__}", given]


def as_gin(argument: str, component: eqx.Module, scopes: Iterator[int]) -> list[str]:
    """The bindings that give the gin argument called `argument`, such as run.cost, what `component`
    is: each part in a scope of its own, chosen_1 and so on, numbered by `scopes`. Raises
    LookupError if a part is not registered."""
    reference, lines = _bound(component, scopes)
    return [f"{argument} = {reference}", *lines]


def _bound(value: Any, scopes: Iterator[int]) -> tuple[str, list[str]]:
    """How gin writes `value`, and the bindings that this takes."""
    if isinstance(value, list | tuple):
        parts = [_bound(v, scopes) for v in value]
        inside = ", ".join(text for text, _ in parts)
        return f"({inside},)" if parts else "()", [line for _, more in parts for line in more]
    if not isinstance(value, eqx.Module):
        return repr(value), []
    known, scope, lines = registry.of(value), f"chosen_{next(scopes)}", []
    for name, parameter in known.arguments.items():
        if (given := getattr(value, name)) != parameter.default:
            text, more = _bound(given, scopes)
            lines += [f"{scope}/{known.short}.{name} = {text}", *more]
    return f"@{scope}/{known.short}()", lines


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
