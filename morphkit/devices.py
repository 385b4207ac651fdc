"""Points shared out between devices: a mesh of one axis, of one device unless told otherwise."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

AXIS = "points"
"""The name of the axis."""

SPLIT, WHOLE = PartitionSpec(AXIS), PartitionSpec()
"""What is shared out by its leading axis, and what every device has."""

GATHERED = "gathered"
"""A result that is computed in parts, and then given to every device."""

T = TypeVar("T")


@contextmanager
def devices(count: int | None = None) -> Iterator[None]:
    """Within, costs, solvers, training and predictions share their points out between the first
    `count` devices, by default all. Raises ValueError unless there are so many, and for less than
    all where several processes have them."""
    there = jax.devices()
    count = len(there) if count is None else count
    if jax.process_count() > 1 and count != len(there):
        raise ValueError(
            f"devices = {count}, but {jax.process_count()} processes have {len(there)} together, "
            "and share out to all; leave it out"
        )
    if not 1 <= count <= len(there):
        raise ValueError(
            f"devices = {count}, but JAX has {len(there)} ({there[0].platform}); take from 1 to "
            f"{len(there)}"
        )
    mesh = jax.make_mesh((count,), (AXIS,), (AxisType.Auto,), devices=there[:count])
    with jax.set_mesh(mesh):
        yield


def number() -> int:
    """How many devices there are to share out between."""
    mesh = jax.sharding.get_abstract_mesh()  # a caller's own, perhaps, of other axes
    return mesh.shape[AXIS] if AXIS in mesh.axis_names else 1


def over_points(
    function: Callable[..., T], split: tuple[Any, ...], whole: tuple[Any, ...], out: Any
) -> T:
    """`function`(*split, *whole) on every device with its part of the leading axis of all arrays in
    `split`, and all of those in `whole`.

    `out` says of each result, as a tree of SPLIT, GATHERED and WHOLE, whether it is a part again, a
    part that all devices are to have, or the same on all of them, as after `total`. Where the
    leading axis cannot be shared out equally, zeros are appended, and cut off results.
    """
    if number() == 1:
        return function(*split, *whole)
    size = jax.tree.leaves(split)[0].shape[0]
    spare = -size % number()

    def padded(array: Array) -> Array:
        return jnp.pad(array, ((0, spare), *[(0, 0)] * (array.ndim - 1))) if spare else array

    specs = (*[SPLIT] * len(split), *[WHOLE] * len(whole))
    parts = jax.tree.map(lambda spec: SPLIT if spec == GATHERED else spec, out, is_leaf=_is_spec)
    shared = jax.shard_map(
        function,
        mesh=jax.sharding.get_abstract_mesh(),
        in_specs=specs,
        out_specs=parts,
        check_vma=False,
    )
    found = shared(*jax.tree.map(padded, split), *whole)

    def cut(spec: PartitionSpec | str, part: Any) -> Any:
        if spare and spec != WHOLE:
            part = jax.tree.map(lambda array: array[:size], part)
        return gathered(part) if spec == GATHERED else part

    return jax.tree.map(cut, out, found, is_leaf=_is_spec)


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, PartitionSpec | str)


def gathered(tree: T) -> T:
    """`tree`, all of its arrays on every device."""
    if number() == 1:
        return tree
    return jax.tree.map(lambda array: jax.lax.with_sharding_constraint(array, WHOLE), tree)


def first_row(rows: int) -> Array:
    """Inside `over_points`, the index of the first of this device's `rows` among all."""
    return jnp.int32(0) if number() == 1 else jax.lax.axis_index(AXIS) * rows


def total(part: Float[Array, "..."]) -> Float[Array, "..."]:
    """Inside `over_points`, the sum of `part` over all devices."""
    return part if number() == 1 else jax.lax.psum(part, AXIS)


def log_total(part: Float[Array, "..."]) -> Float[Array, "..."]:
    """Inside `over_points`, log Σ exp(`part`) over all devices."""
    if number() == 1:
        return part
    largest = jax.lax.pmax(part, AXIS)
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    return largest + jnp.log(total(jnp.exp(part - largest)))


def shared_out(batch: T) -> T:
    """`batch`, its arrays shared out by their leading axis where that is a multiple of the number
    of devices."""
    count = number()
    if count == 1:
        return batch

    def constrained(array: Array) -> Array:
        if array.ndim == 0 or array.shape[0] % count:
            return array
        return jax.lax.with_sharding_constraint(array, SPLIT)

    return jax.tree.map(constrained, batch)
