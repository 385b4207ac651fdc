"""For the site: the constructors of Equinox modules and named tuples, which their fields make."""

import inspect
from importlib import import_module
from typing import Any

import equinox as eqx
from griffe import Class, Extension, Function, Parameter, ParameterKind, Parameters

KINDS = {kind.value: kind for kind in ParameterKind}


class Signatures(Extension):
    """Gives a class without a written `__init__` the one that it has: the site reads no fields."""

    def on_class(self, *, cls: Class, **_: Any) -> None:
        """Adds it to `cls`, with types as they are written and defaults as they are."""
        if not cls.parent or not cls.parent.is_module or "__init__" in cls.members:
            return
        found = getattr(import_module(cls.parent.path), cls.name)
        named_tuple = issubclass(found, tuple) and hasattr(found, "_fields")
        if inspect.isabstract(found) or not (named_tuple or issubclass(found, eqx.Module)):
            return
        parameters = [Parameter("self", kind=ParameterKind.positional_or_keyword)]
        for name, given in inspect.signature(found).parameters.items():
            evaluated = inspect.formatannotation(given.annotation)
            written = cls.members[name].annotation if name in cls.members else evaluated
            default = None if given.default is given.empty else repr(given.default)
            kind = KINDS[given.kind.description]
            parameters.append(Parameter(name, annotation=written, kind=kind, default=default))
        init = Function("__init__", parent=cls, parameters=Parameters(*parameters))
        cls.set_member("__init__", init)
