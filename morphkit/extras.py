"""Packages that come with an extra, imported only where they are needed."""

from importlib import import_module
from typing import Any


def imported(owner: str, extra: str, *names: str) -> list[Any]:
    """The modules `names`, which the extra `extra` installs. Raises ImportError, saying what to
    install for `owner`, without them."""
    try:
        return [import_module(name) for name in names]
    except ImportError as error:
        raise ImportError(
            f"{owner} needs {error.name or names[-1]}: pip install 'morphkit-align[{extra}]'"
        ) from error
