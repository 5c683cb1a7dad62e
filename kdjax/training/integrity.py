"""What tells whether a checkpoint is what was saved, and why one cannot be read."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

# Of what cannot be read now and may be whole: in TensorStore's words, and by type.
HINDERED = re.compile(
    "(PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED"
    "|RESOURCE_EXHAUSTED|UNKNOWN): "
)
HINDERING = (OSError, ImportError, MemoryError)
UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}


def hindrance(folder: epath.Path, error: Exception) -> BaseException | None:
    """Return what keeps a checkpoint from being read that may be whole, if that is so.

    A file that is not there is damage, for a folder gets its name when all is.
    """
    for one in _chain(error):
        hinders = isinstance(one, HINDERING) and not isinstance(one, FileNotFoundError)
        if hinders or HINDERED.match(str(one)):
            return one
    try:  # where it must not look Orbax finds nothing, and says other things
        _open_all(folder)
    except FileNotFoundError:
        return None
    except OSError as hindrance:
        return hindrance
    return None


def _open_all(path: epath.Path) -> None:
    """Look into every folder, and at the first byte of every file."""
    if path.is_dir():
        for inner in path.iterdir():
            _open_all(inner)
    else:
        with path.open("rb") as file:
            file.read(1)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and those that it comes from: Orbax wraps what TensorStore says."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def cause(folder: epath.Path, error: BaseException) -> str:
    """Return an error's words; of many the last, which are the most particular."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = " ".join(str(error).split()).partition(" [tensorstore_spec")[0]
    words = words.replace(f"{folder}/", "") or type(error).__name__
    return words if len(words) <= 200 else f"... {words[-200:]}"


def digest(data: Any, about: Mapping[str, Any]) -> str:
    """Return what tells an iterator's state and a record from all others."""
    plain = json.loads(json.dumps([data, about]))  # as they are when they are read
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def sums_of_bits(state: Any) -> dict[str, int]:
    """Return the sum of each array's bits, by its path and shape.

    OCDBT, in which Orbax writes, checks what tells where arrays are but not the arrays.
    """
    sums = jax.device_get(_sums(jax.tree.leaves(state)))
    return {name: int(x) for name, x in zip(names_of(state), sums, strict=True)}


def names_of(state: Any) -> list[str]:
    """Return the path and shape of each of a state's arrays, in the order of leaves."""

    def name(path: Any, shape: tuple[int, ...]) -> str:
        said = jax.tree_util.keystr(path, simple=True, separator="/")
        return f"{said} {list(shape)}" if shape else said

    return [name(p, x.shape) for p, x in jax.tree_util.tree_leaves_with_path(state)]


@jax.jit
def _sums(arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """Return sums of bits, as whole numbers, which are the same on every mesh."""

    def bits(x: jax.Array) -> jax.Array:
        unsigned = jax.lax.bitcast_convert_type(x, UNSIGNED[x.dtype.itemsize])
        return jnp.sum(unsigned.astype(jnp.uint32))

    return list(map(bits, arrays))
