"""gin's process-wide state: every private name of gin that morphkit touches is in this file."""

import contextlib
import copy
import inspect
import re
import threading
from collections.abc import Iterator
from typing import Any

import gin
from gin import config as _gin

Key = tuple[str, str]
"""Scope and full selector of a configurable, as ("", "morphkit.run")."""

MACRO = "gin.macro"
"""What stands for NAME = value, by its selector; the scope is NAME."""

_LOCK = threading.RLock()


@contextlib.contextmanager
def apart(search_path: str) -> Iterator[None]:
    """An empty gin configuration inside, the caller's again outside; one thread at a time.

    `search_path` is where gin looks for included files, beside the working directory.
    """
    # gin-config 0.5 keeps these in module variables, which clear_config empties.
    with _LOCK:
        held = [copy.copy(found) for found in (_gin._CONFIG, _gin._IMPORTS, _gin._SINGLETONS)]
        operative, locked = dict(_gin._OPERATIVE_CONFIG), _gin._CONFIG_IS_LOCKED
        prefixes = list(_gin._LOCATION_PREFIXES)
        gin.clear_config()
        gin.add_config_file_search_path(search_path)
        try:
            yield
        finally:
            gin.clear_config()
            _gin._CONFIG.update(held[0])
            _gin._IMPORTS.update(held[1])
            _gin._SINGLETONS.update(held[2])
            _gin._OPERATIVE_CONFIG.update(operative)
            _gin._LOCATION_PREFIXES[:] = prefixes
            _gin._set_config_is_locked(locked)


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """What is bound before is bound again after."""
    held = {key: dict(arguments) for key, arguments in _gin._CONFIG.items()}
    try:
        yield
    finally:
        _gin._CONFIG.clear()
        _gin._CONFIG.update(held)


def bindings() -> dict[tuple[Key, str], Any]:
    """What is bound, references unresolved, by configurable and argument."""
    return {
        (key, argument): value
        for key, arguments in _gin._CONFIG.items()
        for argument, value in arguments.items()
    }


def keep(reached: set[Key]) -> None:
    """Forgets the bindings of all configurables but those in `reached`."""
    for key in set(_gin._CONFIG) - reached:
        del _gin._CONFIG[key]


def reachable(*roots: Key) -> set[Key]:
    """The configurables whose bindings a call of one of `roots` can reach."""
    reached: set[Key] = set()
    called: set[Key] = set()
    pending: list[Key] = list(roots)
    while pending:
        scope, selector = pending.pop()
        if (scope, selector) in called:
            continue
        called.add((scope, selector))
        scopes = scope.split("/") if scope else []
        for depth in range(len(scopes) + 1):
            key = ("/".join(scopes[:depth]), selector)
            reached.add(key)
            for value in _gin._CONFIG.get(key, {}).values():
                # gin calls what is referred to in the scope of the caller, unless it names its own.
                pending.extend((own or scope, found) for own, found in references(value))
    return reached


def references(value: Any) -> Iterator[Key]:
    """The configurables that the bound `value` refers to."""
    if isinstance(value, _gin.ConfigurableReference):
        assert value.configurable is not None
        yield "/".join(value.scopes), value.configurable.selector
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from references(item)


def named_in(value: Any) -> Iterator[Key]:
    """The configurables and macros that text in `value` refers to, and in what its macros stand
    for: bindings that are for later."""
    if isinstance(value, str):
        for scope, name in re.findall(r"@((?:\w+/)*)([\w.]+)", value):
            if found := _gin._REGISTRY.get_match(name):
                yield scope.rstrip("/"), found.selector
        yield from ((name, MACRO) for name in re.findall(r"%(\w+)", value))
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from named_in(item)
    elif isinstance(value, _gin.ConfigurableReference):
        for key in references(value):
            if key[1] == MACRO:
                yield from named_in(_gin._CONFIG.get(key, {}).get("value"))


def without_macros(value: Any) -> Any:
    """The bound `value` with what its macros stand for in their place. Raises ValueError, naming
    it, for a macro that stands for nothing."""
    if (
        isinstance(value, _gin.ConfigurableReference)
        and (key := next(references(value)))[1] == MACRO
    ):
        if key not in _gin._CONFIG:
            raise ValueError(f"%{key[0]} stands for nothing: give it a value, {key[0]} = ...")
        return without_macros(_gin._CONFIG[key]["value"])
    if isinstance(value, dict):
        return {k: without_macros(item) for k, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(without_macros, value))
    return value


def uncalled(value: Any) -> Key | None:
    """The configurable of `value`, a reference without parentheses, which stands for the class
    itself."""
    is_class = isinstance(value, _gin.ConfigurableReference) and not value.evaluate
    return next(references(value)) if is_class else None


def wrapped(selector: str) -> Any:
    """The function or class that is registered under the full `selector`."""
    return _gin._REGISTRY[selector].wrapped


def arguments_of(name: str) -> list[str]:
    """The arguments of the configurable that gin knows by the (short) `name`; empty for none."""
    found = _gin._REGISTRY.get_match(name)
    return list(inspect.signature(found.wrapped).parameters) if found else []
