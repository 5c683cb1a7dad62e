"""Checkpoint files, opened so that tensors are read one at a time."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from etils import epath

from kdjax.errors import UserError
from kdjax.files import read_json
from kdjax.weights.rules import Shape

MSGPACK = "flax_model.msgpack"
# Of Hugging Face's and of OpenCLIP's layout.
STEMS = ("model", "open_clip_model")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5")


@dataclass(frozen=True)
class Tensors:
    """The tensors of a checkpoint.

    Attributes:
        shapes: by name.
        read: gives the tensor of a name, once.
    """

    shapes: Mapping[str, Shape]
    read: Callable[[str], np.ndarray]


@contextmanager
def open_tensors(directory: epath.Path, stem: str) -> Iterator[Tensors]:
    """Open a model directory's weights: safetensors, sharded safetensors or msgpack.

    Args:
        directory: local or in a bucket.
        stem: name of the safetensors file, "model" or "open_clip_model".

    Raises:
        UserError: there are none, only pickles, or a file is damaged.
    """
    whole, index = (directory / f"{stem}.safetensors{x}" for x in ("", ".index.json"))
    with tempfile.TemporaryDirectory() as scratch:
        if whole.exists():
            yield _safetensors([_local(whole, scratch)])
        elif index.exists():
            yield _sharded(index, scratch)
        elif stem == STEMS[0] and (directory / MSGPACK).exists():
            yield _msgpack(directory / MSGPACK)
        else:
            raise UserError(_nothing_to_read(directory, stem))


def _nothing_to_read(directory: epath.Path, stem: str) -> str:
    wanted = f"{stem}.safetensors" + (f" or {MSGPACK}" if stem == STEMS[0] else "")
    pickles = sorted(p.name for pattern in PICKLES for p in directory.glob(pattern))
    convert = (
        f"convert it to {wanted}, where you trust it, with `safetensors.torch."
        "save_file(torch.load(FILE, weights_only=True), ...)`"
    )
    if pickles:
        return (
            f"{directory / pickles[0]} is not opened, because a pickle can run any "
            f"code: {convert}"
        )
    return (
        f"{directory} holds no weights: it needs {wanted}; if there is only a pickle, "
        f"such as pytorch_model.bin, which is neither fetched nor opened, {convert}"
    )


def _local(path: epath.Path, scratch: str) -> Path:
    """Return a local file; one in a bucket is copied to `scratch`."""
    if "://" not in str(path):
        return Path(path)
    return Path(path.copy(epath.Path(scratch) / path.name, overwrite=True))


def _safetensors(paths: list[Path], listed: Mapping[str, str] | None = None) -> Tensors:
    """Open files; of a tensor that two of them hold `listed` says which counts."""
    from safetensors import SafetensorError, safe_open

    place: dict[str, Path] = {}
    shapes: dict[str, Shape] = {}
    for path in paths:
        try:
            with safe_open(path, "numpy") as file:
                for name in file.keys():  # noqa: SIM118 (it is no mapping)
                    if listed and listed.get(name, path.name) != path.name:
                        continue
                    place[name] = path
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        except FileNotFoundError as error:
            raise UserError(f"{path} is missing; a model directory needs it") from error
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path} is damaged or cut off ({error}): fetch it again"
            ) from error

    def read(name: str) -> np.ndarray:
        # Opened for each tensor: what a mapped file has been read stays in memory.
        with safe_open(place[name], "numpy") as file:
            return _floating(file.get_tensor(name), f"{name} of {place[name]}")

    return Tensors(shapes, read)


def _floating(tensor: np.ndarray, what: str) -> np.ndarray:
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise UserError(
            f"{what} is of {tensor.dtype}, and weights are floating-point numbers: "
            "fetch a checkpoint that is not quantised"
        )
    return tensor


def _sharded(index: epath.Path, scratch: str) -> Tensors:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in listed.values()
    ):
        raise UserError(
            f"{index} has no weight_map of tensors to files beside it: fetch it again"
        )
    shards = sorted(set(listed.values()))
    tensors = _safetensors(
        [_local(index.parent / name, scratch) for name in shards], listed
    )
    if missing := sorted(listed.keys() - tensors.shapes.keys()):
        raise UserError(
            f"{index} lists {missing[0]}, which {listed[missing[0]]} does not hold "
            f"({len(missing)} such tensors): fetch the shards again"
        )
    return tensors


def _msgpack(path: epath.Path) -> Tensors:
    """Open Flax weights under the names and in the shapes of PyTorch's."""
    from flax.serialization import msgpack_restore
    from flax.traverse_util import flatten_dict

    try:
        flat = flatten_dict(msgpack_restore(path.read_bytes()), sep=".")
    # What a damaged file makes of the decoder is of many kinds.
    except Exception as error:
        raise UserError(
            f"{path} is damaged or cut off ({error}): fetch it again"
        ) from error
    for name, value in flat.items():
        if not isinstance(value, np.ndarray):
            raise UserError(f"{path} holds {name}, which is no tensor: fetch it again")
        _floating(value, f"{name} of {path}")
    tensors = dict(_from_flax(str(name), value) for name, value in flat.items())
    return Tensors({k: v.shape for k, v in tensors.items()}, tensors.pop)


def _from_flax(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Return a Flax parameter's name and value as PyTorch has them."""
    start, _, leaf = name.rpartition(".")
    if leaf == "kernel" and value.ndim in (2, 4):
        value = value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
    weight = leaf in ("kernel", "scale", "embedding")
    return (f"{start}.weight" if weight else name), value


def to_flax(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Return a PyTorch parameter's name and value as Flax has them."""
    start, _, leaf = name.rpartition(".")
    if leaf != "weight":
        return name, value
    if "norm" in start.rpartition(".")[2]:
        return f"{start}.scale", value
    if start.endswith(("token_embedding", "position_embedding")):
        return f"{start}.embedding", value
    turned = value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)
    return f"{start}.kernel", np.ascontiguousarray(turned)
