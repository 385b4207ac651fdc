"""Files that are written whole or not at all, and arrays by tree path. No pickle anywhere."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save


def _named_arrays(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(tree, eqx.is_array_like))
    return {jax.tree_util.keystr(path).lstrip("."): leaf for path, leaf in leaves}


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Has `path` written elsewhere in its folder (made if need be), and put in place whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{os.getpid()}.partial.{path.name}")  # np.save looks at the end
    write(partial)
    os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    replace_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def save_arrays(path: Path, tree: Any) -> None:
    """Writes every array of `tree` under its tree path (safetensors), replacing `path` whole.

    A run killed while writing leaves the old file as it was.
    """
    arrays = {name: np.array(leaf, order="C") for name, leaf in _named_arrays(tree).items()}
    # save_file would let nobody else read it
    replace_file(path, lambda partial: partial.write_bytes(save(arrays)))


def load_arrays(path: Path, like: Any) -> Any:
    """`like` with its arrays replaced by those saved in `path`; `like` may hold shapes only.

    Raises ValueError for a damaged file and, naming the leaves, when names or shapes do not
    agree.
    """
    try:
        with safe_open(path, "numpy") as file:
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); make it again") from None

    def is_leaf(leaf: Any) -> bool:
        return eqx.is_array_like(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)

    wanted, rest = eqx.partition(like, is_leaf)
    leaves, structure = jax.tree_util.tree_flatten_with_path(wanted)
    names = [jax.tree_util.keystr(p).lstrip(".") for p, _ in leaves]
    missing, extra = set(names) - set(saved), set(saved) - set(names)
    if missing or extra:
        raise ValueError(
            f"{path} does not fit: missing {sorted(missing)[:3]}, unexpected {sorted(extra)[:3]}"
        )
    for name, (_, leaf) in zip(names, leaves, strict=True):
        if saved[name].shape != np.shape(leaf):
            raise ValueError(
                f"{path} does not fit: {name} is {saved[name].shape} there, not {np.shape(leaf)}"
            )
    loaded = jax.tree_util.tree_unflatten(structure, [jnp.asarray(saved[n]) for n in names])
    return eqx.combine(loaded, rest)
