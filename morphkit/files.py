"""Files that are written whole or not at all, and checked when read. No pickle anywhere."""

import contextlib
import csv
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.numpy import save

from .hosts import writes

T = TypeVar("T")


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Has `path` written elsewhere in its folder (made if need be), and put in place whole.

    What `write` raises leaves the old file as it was, and nothing else behind; so does a kill,
    but for a file called `….partial.NAME`. Of several processes that make a run together, only
    the first one writes.
    """
    if not writes():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{secrets.token_hex(4)}.partial.{path.name}")  # np.save wants the end
    try:
        write(partial)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # or a power cut could leave the new name on an empty file
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` in UTF-8. What has no UTF-8, such as the bytes of some file
    names, is escaped as in Python."""
    content = text.encode("utf-8", "backslashreplace")
    replace_file(path, lambda partial: partial.write_bytes(content))


def write_json(path: Path, value: Any, indent: int = 2) -> None:
    """Replaces `path` by `value` as JSON, indented by `indent` spaces."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


@contextlib.contextmanager
def reading(path: Path | str, remedy: str = "") -> Iterator[None]:
    """Whatever a parser raises on the bad file `path` becomes a ValueError that names it.

    `remedy` says what to do about a file of ours that is damaged. A missing file stays a
    FileNotFoundError, a missing plugin a LookupError, and a ValueError that names the file
    already stays as it is.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        named = isinstance(error, ValueError) and str(path) in str(error)
        if named or type(error) is LookupError:
            raise
        if remedy:
            raise ValueError(f"{path} is damaged ({_reason(error)}); {remedy}") from error
        raise ValueError(f"{path} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8 text"
    text = " ".join(str(error).split())
    plain = text and not isinstance(error, LookupError)
    return text if plain else f"{type(error).__name__} {text}".rstrip()


def read_text(path: Path, remedy: str = "") -> str:
    """The text of the UTF-8 file `path`, with or without a byte order mark; errors, and `remedy`,
    as in `reading`."""
    with reading(path, remedy):
        return path.read_text(encoding="utf-8-sig")


def read_json(path: Path, form: type[T], remedy: str = "") -> T:
    """The value of the JSON file `path`, of the type `form` (such as a dataclass); errors, and
    `remedy`, as in `reading`.

    Fields that `form` does not have are left out.
    """
    with reading(path, remedy):
        return TypeAdapter(form).validate_json(path.read_bytes(), strict=True)


def read_csv(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of the UTF-8 CSV file `path` that are not empty, each with the number of its line,
    from 1; errors as in `reading`."""
    with reading(path), open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    return [(line, row) for line, row in rows if row not in ([], [""])]


@contextlib.contextmanager
def open_npz(path: Path, remedy: str = "") -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of the .npz file `path`, each read when it is asked for; errors, and `remedy`, as
    in `reading`, also those of the body."""
    with reading(path, remedy), np.load(path, allow_pickle=False) as arrays:
        yield arrays


def checksum(path: Path) -> str:
    """The SHA-256 of the file `path`, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Replaces `path` by `arrays` by name (safetensors) and the checksum of their content."""
    content = save(dict(arrays), {"sha256": _content(arrays)})
    # save_file would let nobody else read it
    replace_file(path, lambda partial: partial.write_bytes(content))


def read_tensors(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """The arrays that `write_tensors` wrote to `path`.

    Raises FileNotFoundError, and ValueError, which names the file and gives the `remedy`, where
    it is damaged or was altered, and for NaN and infinities.
    """
    with reading(path, remedy):
        with safe_open(path, "numpy") as file:
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get("sha256")
        if expected != _content(saved):
            raise ValueError("its content does not agree with its checksum")
        for name, array in saved.items():
            if array.dtype.kind in "fc" and not np.isfinite(array).all():
                raise ValueError(f"{name} has NaN or infinite values")
    return saved


def _content(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def save_arrays(path: Path, tree: Any) -> None:
    """Writes every array of `tree` to `path` under its tree path, by `write_tensors`."""
    if not writes():
        return  # what others would prepare for nothing
    leaves, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(tree, eqx.is_array_like))
    write_tensors(path, {_name(path): np.array(leaf, order="C") for path, leaf in leaves})


def load_arrays(path: Path, like: Any, remedy: str = "make it again") -> Any:
    """`like` with its arrays replaced by those saved in `path`; `like` may hold shapes only.

    Raises what `read_tensors` does and, naming the leaves, ValueError when names, shapes or types
    do not agree, with the `remedy`; 64-bit types agree with those of 32 bits, which JAX may make of
    them.
    """
    saved = read_tensors(path, remedy)

    def is_leaf(leaf: Any) -> bool:
        return eqx.is_array_like(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)

    wanted, rest = eqx.partition(like, is_leaf)
    leaves, structure = jax.tree_util.tree_flatten_with_path(wanted)
    names = [_name(place) for place, _ in leaves]
    missing, extra = set(names) - set(saved), set(saved) - set(names)
    if missing or extra:
        raise ValueError(
            f"{path} does not fit: missing {sorted(missing)[:3]}, unexpected {sorted(extra)[:3]}; "
            f"{remedy}"
        )
    for name, (_, leaf) in zip(names, leaves, strict=True):
        for what, there, here in (
            ("shape", saved[name].shape, np.shape(leaf)),
            ("type", _type(saved[name]), _type(leaf)),
        ):
            if there != here:
                raise ValueError(
                    f"{path} does not fit: {name} has {what} {there} there, not {here}; {remedy}"
                )
    loaded = jax.tree_util.tree_unflatten(structure, [jnp.asarray(saved[n]) for n in names])
    return eqx.combine(loaded, rest)


def _type(leaf: Any) -> str:
    return str(getattr(leaf, "dtype", np.asarray(leaf).dtype)).replace("64", "32")


def _name(place: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(place).lstrip(".")
