"""Gin files and bindings in, a ready call of `run` out; every mistake in them found early."""

import contextlib
import difflib
import errno
import functools
import importlib.resources
import inspect
import logging
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import equinox as eqx
from pydantic import PydanticUserError, TypeAdapter, ValidationError

import gin

from . import gin_state
from .registry import FILLED, KINDS, registry

ROOT = "morphkit.run"
"""What gin files and bindings describe, by its selector."""

SWEEP = "morphkit.sweep"
"""Which runs a sweep makes of it. No run reads it."""

SEARCH = "morphkit.search"
"""What a search tries. No run reads it."""


MOST_NAMED = 5
"""Bindings that a message names, at most."""

Bindings = dict[tuple[gin_state.Key, str], Any]


class ConfigurationError(ValueError):
    """The request was wrong: a file, a name or a binding."""


def gin_folder() -> Path:
    """The folder of the gin files that come with morphkit."""
    packaged = Path(str(importlib.resources.files("morphkit"))) / "gin"
    return packaged if packaged.exists() else Path(__file__).parents[2] / "gin"


@contextlib.contextmanager
def configured(
    files: Sequence[str | Path], bindings: Sequence[str], root: str = ROOT
) -> Iterator[None]:
    """Gin holds exactly this configuration inside the context, and the caller's outside it: what
    `root`, a selector, can reach of it.

    `files` are looked for as they are given, then among the ones that come with morphkit
    (with or without the leading "gin/"). `bindings` are lines like "run.seed = 1" and win over
    the files. Other threads wait meanwhile, so
    build what is asked for, and leave. Raises ConfigurationError for unknown files, names and
    arguments, and for bindings that nothing uses.
    """
    with _parsed(files):
        _bind(bindings)
        gin_state.keep(_reached(root))
        yield


@contextlib.contextmanager
def _parsed(files: Sequence[str | Path]) -> Iterator[None]:
    """Gin holds what `files` say inside the context; see `configured`."""
    registry.load()
    with gin_state.apart(str(gin_folder())):
        found = [_find(Path(file)) for file in files]
        _parse(found)
        # Files may share names that only some of them use.
        macros = {key for key, _ in gin_state.bindings() if key[1] == gin_state.MACRO}
        overridden = _used_by_parts(found) if _unused(gin_state.bindings(), macros) else set()
        _refuse_unused(gin_state.bindings(), "in the files", macros | overridden)
        yield


def _bind(bindings: Sequence[str]) -> None:
    """Adds `bindings` to what gin holds; refuses those that nothing uses."""
    before = gin_state.bindings()
    for binding in bindings:
        with _explained(f"{binding!r}: "):
            gin.parse_config(binding)
    given = {k: v for k, v in gin_state.bindings().items() if before.get(k) != v}
    _refuse_unused(given, "given")


def _parse(files: Sequence[Path]) -> None:
    with _explained(), _without_gins_log():
        gin.parse_config_files_and_bindings(list(map(str, files)), [], finalize_config=False)


def _used_by_parts(files: Sequence[Path]) -> set[gin_state.Key]:
    """What one of `files`, or of those that they include, uses by itself: others that are named or
    included beside it may have put something else in its place."""
    used: set[gin_state.Key] = set()
    pending, known = list(files), set()
    while pending:
        file = pending.pop()
        if file in known:
            continue
        known.add(file)
        with gin_state.apart(str(gin_folder())):
            _parse([file])
            used |= _reached_by_any()
        included = re.findall(r"^include\s+['\"](.+)['\"]", file.read_text(encoding="utf-8"), re.M)
        pending += [_find(Path(name)) for name in included]
    return used


@contextlib.contextmanager
def _without_gins_log() -> Iterator[None]:
    """gin logs an error for each place that it looks in before the last."""
    quiet = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(quiet)


def built(needed: Sequence[str] | None = None) -> dict[str, Any]:
    """The arguments of a run as configured, every component constructed.

    A reference without parentheses gives the class with its bindings, as a partial: gin has no
    part in what is done with it later. Raises ConfigurationError, naming it, for an argument
    that is `needed` (by default, that has no default) and that nothing provides, or that is of
    the wrong kind.
    """
    target = gin_state.wrapped(ROOT)
    parameters = inspect.signature(target).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty] if needed is None else needed
    bound = gin.get_bindings(ROOT, resolve_references=False)
    if missing := [name for name in needed if name not in bound]:
        raise ConfigurationError(
            f"run needs {', '.join(missing)}: bind them, as in run.{missing[0]} = ..., or include "
            "a file that does"
        )
    _check_values()
    with _explained():
        found = gin.get_bindings(ROOT)
        for name, value in bound.items():
            if key := gin_state.uncalled(value):
                found[name] = functools.partial(
                    gin_state.wrapped(key[1]), **gin.get_bindings("/".join(filter(None, key)))
                )
    hints = get_type_hints(target)
    for name, value in found.items():
        _check_kind(f"run.{name}", value, hints[name])
    return found


def build() -> Any:
    """The run as configured, see `built`; what it is, its module registers as ROOT."""
    arguments, target = built(), gin_state.wrapped(ROOT)
    try:
        return target(**arguments)
    except ValueError as error:
        text = str(error).replace(f"{target.__name__}.", "run.")
        raise ConfigurationError(text) from error


def built_each(
    files: Sequence[str | Path], bindings: Sequence[str], variants: Mapping[str, Sequence[str]]
) -> dict[str, tuple[Any, str]]:
    """The run that `files` and `bindings` describe with the further bindings of each of `variants`,
    and its configuration as text, by their names; the files are read once. Raises
    ConfigurationError, which begins with the name of the variant that is wrong."""
    found = {}
    with _parsed(files):
        for name, more in variants.items():
            with gin_state.restored():
                try:
                    _bind([*bindings, *more])
                    gin_state.keep(_reached(ROOT))
                    found[name] = build(), text()
                except ConfigurationError as error:
                    raise ConfigurationError(f"{name}: {error}") from error
    return found


def unresolved(selector: str, argument: str) -> Any:
    """What is bound to `argument` of the configurable `selector`, with what its macros stand for;
    references in it stay what they are, and are written as gin writes them. None if nothing is.
    Raises ValueError for a macro that stands for nothing."""
    return gin_state.without_macros(gin_state.bindings().get((("", selector), argument)))


def text() -> str:
    """The configuration in force, as a gin file."""
    return gin.config_str(max_line_length=88)


def _check_values() -> None:
    """Raises ConfigurationError for the first literal that has not its argument's type."""
    for ((_, selector), argument), value in gin_state.bindings().items():
        if next(gin_state.references(value), None):
            continue
        target = gin_state.wrapped(selector)
        try:
            hints = get_type_hints(target) if inspect.isclass(target) else {}
            hints |= get_type_hints(target.__init__ if inspect.isclass(target) else target)
            if argument not in hints or _kind(hints[argument]):
                continue
            expected = TypeAdapter(hints[argument])
        except (NameError, TypeError, AttributeError, PydanticUserError):
            continue  # annotations that only a type checker can read
        if get_origin(hints[argument]) is tuple and isinstance(value, list):
            value = tuple(value)
        try:
            expected.validate_python(value, strict=True)
        except ValidationError as error:
            wanted = inspect.formatannotation(hints[argument])
            raise ConfigurationError(
                f"{selector.partition('.')[2]}.{argument} = {value!r} must be {wanted}: "
                f"{error.errors()[0]['msg'].lower()}"
            ) from None


def _kind(hint: Any) -> type[eqx.Module] | None:
    """The interface in X, type[X] or Sequence[X]."""
    inner = (get_args(hint) or (hint,))[0]
    return inner if inspect.isclass(inner) and issubclass(inner, eqx.Module) else None


def _check_kind(name: str, value: Any, hint: Any) -> None:
    """Raises ConfigurationError, with the way to write it, for another kind than the hint's."""
    kind = _kind(hint)
    beside = get_args(hint)[1:]
    words = [word for part in beside for word in get_args(part)]
    if kind is None or (value is None and NoneType in beside):
        return
    if isinstance(value, str) and value in words:
        return
    module = next((k for k, interface in KINDS.items() if interface is kind), "")
    example = f"@{module}.NAME" if module else f"@{kind.__name__}"
    value = value.func if isinstance(value, functools.partial) else value
    if get_origin(hint) is type:
        right, form = inspect.isclass(value) and issubclass(value, kind), example
    elif get_origin(hint) is Sequence:
        right = isinstance(value, list | tuple) and all(isinstance(v, kind) for v in value)
        form = f"[{example}(), ...]"
    else:
        right, form = isinstance(value, kind), f"{example}()"
    if not right:
        got = value.__name__ if inspect.isclass(value) else type(value).__name__
        names = ", ".join(c.name for c in registry if c.kind == module)
        raise ConfigurationError(
            f"{name} takes {form}"
            + "".join(f" or {word!r}" for word in words)
            + (f", with NAME one of {names}" if names else "")
            + "; this is "
            + (
                f"the class {got}, without parentheses"
                if inspect.isclass(value)
                else repr(value)
                if isinstance(value, str)
                else f"of {got}"
            )
        )


def _find(path: Path) -> Path:
    candidates = [path, gin_folder() / path, gin_folder().parent / path]
    if path.parts[:1] == ("gin",):
        candidates.append(gin_folder() / Path(*path.parts[1:]))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = sorted(str(p.relative_to(gin_folder())) for p in gin_folder().rglob("*.gin"))
    close = difflib.get_close_matches(str(path), [f"gin/{k}" for k in known], n=1, cutoff=0.3)
    raise ConfigurationError(
        f"no gin file {str(path)!r}, neither here nor among those that come with morphkit "
        f"({', '.join(known)})." + (f" Did you mean {close[0]}?" if close else "")
    )


@contextlib.contextmanager
def _explained(where: str = "") -> Iterator[None]:
    """Turns gin's own errors into ConfigurationErrors that name the closest alternatives."""
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:
        text = re.sub(
            r"\s*\n\s*(In (file|bindings|call to)|No values supplied).*",
            "",
            str(error),
            flags=re.DOTALL,
        )
        endless = isinstance(error, RecursionError) or getattr(error, "errno", 0) == errno.EMFILE
        if endless:
            text = "the gin files include each other, or themselves, without end"
        if isinstance(error, SyntaxError | tokenize.TokenError):
            text = f"this is not gin: {text.splitlines()[0]} (strings need quotes)"
        if re.search(r"missing .* required .*'(source_dim|input_shape)'", text):
            text = f"{text.split('.')[0]} has weights, which the run builds: leave out its ()"
        unknown = re.search(r"[Nn]o configurable matching (?:reference )?'?@?([\w./]+)", text)
        if "Ambiguous selector" in text:
            name = re.findall(r"'([\w.]+)'", text)[0]
            try:
                registry.find(name)
            except LookupError as explained:
                text = str(explained)
        elif unknown:
            name = unknown.group(1)
            text = f"no component is called {name!r}.{registry.hint(name)}"
        else:
            text = _closest_argument(text)
        raise ConfigurationError(where + text) from error


def _closest_argument(text: str) -> str:
    """Adds the closest arguments to gin's message about an argument that does not exist."""
    match = re.search(r"'([\w./]+)' doesn't have a parameter named '(\w+)'", text)
    if not match:
        return text
    selector, argument = match.groups()
    names = [n for n in gin_state.arguments_of(selector.split("/")[-1]) if n not in FILLED]
    close = difflib.get_close_matches(argument, names, n=3, cutoff=0.5)
    hint = f" Did you mean {', '.join(close)}?" if close else ""
    return f"{selector} has no argument {argument!r}.{hint} It takes: {', '.join(names)}"


def _reached(root: str) -> set[gin_state.Key]:
    """What a call of `root` can reach; of a sweep also what the text of its bindings names."""
    grid = gin_state.bindings().get((("", SWEEP), "grid")) if root == SWEEP else None
    return gin_state.reachable(("", root), *gin_state.named_in(grid))


def _reached_by_any() -> set[gin_state.Key]:
    return _reached(ROOT) | _reached(SWEEP) | _reached(SEARCH)


def _unused(bindings: Bindings, overridden: Set[gin_state.Key] = frozenset()) -> list[str]:
    reached = _reached_by_any() | overridden
    return [
        f"{scope + '/' if scope else ''}{selector}.{argument}"
        for (scope, selector), argument in bindings
        if (scope, selector) not in reached
    ]


def _refuse_unused(
    bindings: Bindings, where: str, overridden: Set[gin_state.Key] = frozenset()
) -> None:
    for (_, selector), argument in bindings:
        if selector in registry.components and argument in FILLED:
            raise ConfigurationError(
                f"{selector}.{argument} cannot be bound: it comes from the data and run.seed"
            )
    if unused := _unused(bindings, overridden):
        more = f" and {len(unused) - MOST_NAMED} more" if len(unused) > MOST_NAMED else ""
        raise ConfigurationError(
            f"bindings {where} that nothing uses: {', '.join(unused[:MOST_NAMED])}{more}. Remove "
            "them, or use the component they belong to, as in run.solver = @solver.Sinkhorn()"
        )
