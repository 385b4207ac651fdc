"""What an argument may be, said once in its annotation and checked when a component is made."""

import functools
from typing import Annotated, Any, Literal, get_type_hints

import equinox as eqx
import jax
import numpy as np
from pydantic import Field, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number, 0 or above."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A number in [0, 1]."""

Whole = Annotated[int, Field(ge=0)]
"""A whole number, 0 or above."""

Count = Annotated[int, Field(ge=1)]
"""A whole number, 1 or above."""

Seed = Annotated[
    int, Field(ge=0, lt=2**32, description="of a larger one only the last 32 bits would count")
]
"""Where random numbers start: a whole number, 0 or above and below 2³²."""

Tau = Annotated[
    float,
    Field(
        gt=0, le=1,
        description="1 keeps the marginal exactly, smaller values let a solver leave points out "
        "(Eq. 28)",
    ),
]  # fmt: skip
"""The unbalancedness of a marginal, τ = λ / (λ + ε) (Eq. 28), in (0, 1]."""

Metric = Literal["cosine", "sqeuclidean", "correlation"]
"""An intra-space cost, see `morphkit.transport.geometry.pairwise`."""

Statistic = Literal["mean", "median"]
"""What of a cost is its unit, see `morphkit.transport.geometry.Geometry.scale`."""


class Checked(eqx.Module):
    """A module whose arguments are checked against their annotations, such as `k: Count = 15`.

    Every component is one. Static fields are checked, and others that are `Annotated`; a `Field`'s
    description is added to the message as the reason. Raises ValueError, naming class and
    argument.
    """

    def __check_init__(self) -> None:
        check(type(self), **{name: getattr(self, name) for name in _adapters(type(self))})


def check(cls: type[Checked], **values: Any) -> None:
    """Checks `values`, arguments of `cls` by name, as `Checked` does: for a constructor that
    computes with them. Raises ValueError, naming class and argument."""
    for name, value in values.items():
        adapter, why = _adapters(cls)[name]
        _validate(f"{cls.__name__}.{name}", value, adapter, why)


def check_seed(name: str, seed: int) -> int:
    """`seed`. Raises ValueError, naming the argument `name`, unless it is a `Seed`."""
    _validate(name, seed, TypeAdapter(Seed), _why(Seed))
    return seed


def _validate(where: str, value: Any, adapter: TypeAdapter, why: str) -> None:
    try:
        adapter.validate_python(_plain(value), strict=True)
    except ValidationError as error:
        wanted = error.errors()[0]["msg"].replace("Input should", "must")
        raise ValueError(f"{where} = {value!r} {wanted}" + (f": {why}" if why else "")) from None


@functools.cache
def _adapters(cls: type[Checked]) -> dict[str, tuple[TypeAdapter, str]]:
    """What can be checked of a class: by field, its adapter and the reason behind it."""
    found = {}
    hints = get_type_hints(cls, include_extras=True)
    for name, field in cls.__dataclass_fields__.items():
        hint = hints[name]
        if not (_notes(hint) or field.metadata.get("static")):
            continue
        try:
            found[name] = TypeAdapter(hint), _why(hint)
        except PydanticSchemaGenerationError:
            continue  # not data: a class, a function
    return found


def _notes(hint: Any) -> list[FieldInfo]:
    return [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, FieldInfo)]


def _why(hint: Any) -> str:
    return "; ".join(note.description or "" for note in _notes(hint))


def _plain(value: Any) -> Any:
    """Arrays of one number, and NumPy's numbers, as Python's."""
    scalar = isinstance(value, np.generic | np.ndarray | jax.Array) and np.size(value) == 1
    return value.item() if scalar else value
