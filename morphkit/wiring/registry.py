"""The registry of components: filled by plugins through one hook, read by gin, CLI and loader."""

import difflib
import inspect
import os
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

import equinox as eqx
import pluggy

import gin

from ..interfaces import (
    Aligner,
    Baseline,
    Data,
    Evaluator,
    FeatureExtractor,
    FusedCost,
    OTSolver,
    VelocityField,
)
from . import hookspecs
from .discovery import Plugin, installed_plugins

KINDS: dict[str, type[eqx.Module]] = {
    "data": Data,
    "extractor": FeatureExtractor,
    "cost": FusedCost,
    "solver": OTSolver,
    "aligner": Aligner,
    "field": VelocityField,
    "baseline": Baseline,
    "eval": Evaluator,
}
"""The interface of each kind of component, which is also its module in gin."""

FILLED = ("input_shape", "source_dim", "target_dim", "key")
"""The arguments of components that a run gives."""


@dataclass(frozen=True)
class Component:
    """One registered class `cls`: `selector` is its full gin name, `kind`.`name` its short one (a
    key of KINDS, and the name of the class). `distribution` and `version` are
    those of the package that registered it, "local" and "0" without one."""

    cls: type[eqx.Module]
    kind: str
    name: str
    distribution: str
    version: str
    selector: str

    @property
    def short(self) -> str:
        return f"{self.kind}.{self.name}"

    @property
    def arguments(self) -> dict[str, inspect.Parameter]:
        """The arguments that a user can bind: all but those that a run fills in."""
        parameters = inspect.signature(self.cls).parameters
        return {name: p for name, p in parameters.items() if name not in FILLED}


class Registry:
    """Every component known to this process, by its full selector."""

    def __init__(self) -> None:
        self.components: dict[str, Component] = {}
        self.failures: dict[str, str] = {}
        self._loaded = False
        self._adding: Plugin | None = None

    def add(self, cls: type[eqx.Module]) -> None:
        """Registers the component class `cls`. Called by plugins in their `morphkit_register` hook.

        Raises TypeError if the class implements no interface, is still abstract or declares not
        all that its interface asks for, and ValueError if its own distribution has already
        registered that name.
        """
        kinds = [kind for kind, interface in KINDS.items() if issubclass(cls, interface)]
        if not kinds:
            names = ", ".join(interface.__name__ for interface in KINDS.values())
            raise TypeError(f"{cls.__qualname__} implements no interface; subclass one of {names}")
        if inspect.isabstract(cls):
            missing = ", ".join(sorted(cls.__abstractmethods__))
            raise TypeError(f"{cls.__qualname__} is abstract: it does not implement {missing}")
        if undeclared := cls.__abstractvars__ | cls.__abstractclassvars__:
            raise TypeError(f"{cls.__qualname__} declares no {', '.join(sorted(undeclared))}")
        distribution = self._adding.distribution if self._adding else "local"
        version = self._adding.version if self._adding else "0"
        module = f"{re.sub(r'[^0-9a-zA-Z]+', '_', distribution)}.{kinds[0]}"
        selector = f"{module}.{cls.__name__}"
        known = self.components.get(selector)
        if known is not None:
            if known.cls is cls:
                return
            raise ValueError(f"{distribution} registers two components named {selector!r}")
        component = Component(cls, kinds[0], cls.__name__, distribution, version, selector)
        self.components[selector] = component
        if self._adding is None:
            _make_configurable(component)

    def load(self) -> "Registry":
        """Loads every installed plugin, once. A plugin that fails is recorded in `failures`."""
        if self._loaded:
            return self
        self._loaded = True
        manager = pluggy.PluginManager("morphkit")
        manager.add_hookspecs(hookspecs)
        for plugin in installed_plugins():
            if not plugin.enabled:
                continue
            before = dict(self.components)
            try:
                module = plugin.entry_point.load()
                if manager.register(module, plugin.name) is None:
                    continue
                manager.check_pending()
                self._adding = plugin
                others = [p for p in manager.get_plugins() if p is not module]
                manager.subset_hook_caller("morphkit_register", others)(registry=self)
                for selector in set(self.components) - set(before):
                    _make_configurable(self.components[selector])
            except (Exception, SystemExit) as error:
                self.components = before  # all of a plugin, or nothing
                self.failures[plugin.name] = (
                    f"{plugin.name} {plugin.version} failed to load: "
                    f"{type(error).__name__}: {error}"
                )
                if os.environ.get("MORPHKIT_DEBUG"):
                    traceback.print_exc()
            finally:
                self._adding = None
        return self

    def __iter__(self) -> Iterator[Component]:
        yield from sorted(self.components.values(), key=lambda c: (c.kind, c.name))

    def find(self, name: str) -> Component:
        """The component called `name`: "Name", "kind.Name" or "distribution.kind.Name".

        Raises LookupError: unknown names come with the closest known ones (and with the
        plugins that failed to load), ambiguous ones with the distributions that claim them.
        """
        self.load()
        matches = [c for c in self if c.selector == name or c.selector.endswith("." + name)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            claims = ", ".join(f"{c.selector} ({c.distribution} {c.version})" for c in matches)
            raise LookupError(
                f"{name!r} is ambiguous; write one of: {claims}, or leave a distribution out of "
                "MORPHKIT_PLUGINS"
            )
        raise LookupError(f"no component is called {name!r}.{self.hint(name)}")

    def hint(self, name: str) -> str:
        """The known names closest to `name`, and whichever plugins failed, for an error message."""
        bare = name.rsplit(".", 1)[-1].lower()
        by_bare = {c.name.lower(): c.short for c in self}
        by_bare |= {"run": "run", "training": "Training"}  # gin knows them, too
        close = [by_bare[b] for b in difflib.get_close_matches(bare, by_bare, n=3, cutoff=0.5)]
        text = f" Did you mean {', '.join(close)}?" if close else ""
        text += " `morphkit plugins --components` lists them all."
        for failure in self.failures.values():
            text += f"\n  (a plugin could not be asked: {failure})"
        return text

    def of(self, component: eqx.Module) -> Component:
        """The registration of the object `component`. Raises LookupError if its class has none."""
        for known in self.load():
            if known.cls is type(component):
                return known
        name = type(component).__name__
        raise LookupError(f"{name} is not registered; call registry.add({name}) first")


def _make_configurable(component: Component) -> None:
    gin.register(component.name, module=component.selector.rpartition(".")[0])(component.cls)


registry = Registry()
