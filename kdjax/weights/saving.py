"""From a CLIP model to files that other people's tools open."""

import json
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from etils import epath
from flax import nnx

from kdjax.errors import UserError
from kdjax.files import make_folder, write_whole
from kdjax.hosts import whole
from kdjax.models import CLIP, CLIPConfig
from kdjax.weights.files import MSGPACK, to_flax
from kdjax.weights.layouts import LAYOUTS, Layout, hugging_face_layout, write_config
from kdjax.weights.rules import to_theirs

FORMATS = ("safetensors", "msgpack", "open_clip")


@runtime_checkable
class Saves(Protocol):
    """What writes its own files into a directory, such as a tokenizer."""

    def save(self, directory: epath.Path, length: int) -> None:
        """Write them; `length` is of the model's texts."""
        ...


def save_clip(
    clip: CLIP,
    directory: epath.PathLike,
    *,
    format: str = "safetensors",
    tokenizer: Saves | None = None,
) -> None:
    """Write a model's config and weights, and its tokenizer where one is given.

    Args:
        clip: the model.
        directory: local or in a bucket; made where it is not there.
        format: "safetensors", which `transformers.CLIPModel.from_pretrained` (or
            `SiglipModel`) opens; "msgpack", the same layout with Flax weights; or
            "open_clip", which OpenCLIP opens as `local-dir:`.
        tokenizer: of the model's texts, such as `load_processor(...).tokenizer`.

    Raises:
        UserError: an unknown format, or one in which the model cannot be written; or
            the directory holds a model in another format.
    """
    if not str(directory):
        raise UserError("the directory is empty; give one to write the model into")
    layout, _ = check_format(clip.config, format)
    tensors = dict(
        to_theirs(whole(nnx.to_pure_dict(nnx.state(clip))), layout.rules(clip.config))
    )
    path = epath.Path(directory)
    wanted = MSGPACK if format == "msgpack" else f"{layout.stem}.safetensors"
    _refuse_others(path, {wanted, layout.config_file})
    make_folder(path)
    if format == "msgpack":
        write_whole(path / wanted, _msgpack(tensors))
    else:
        from safetensors.numpy import save

        write_whole(path / wanted, save(tensors, {"format": "pt"}))
    save_description(clip.config, path, format=format, tokenizer=tokenizer)


def save_description(
    config: CLIPConfig,
    directory: epath.PathLike,
    *,
    format: str = "safetensors",
    tokenizer: Saves | None = None,
) -> None:
    """Write all of a model but its weights, as `save_clip` does.

    Raises:
        UserError: an unknown format, or one in which the model cannot be written.
    """
    layout, contents = check_format(config, format)
    path = epath.Path(directory)
    if tokenizer is not None and layout is LAYOUTS["open_clip"]:
        # Without a name OpenCLIP takes OpenAI's tokenizer; in a local directory any
        # name stands for the files that lie there.
        text = contents[layout.config_file]["model_cfg"]["text_cfg"]
        text["hf_tokenizer_name"] = path.name or "tokenizer"
    make_folder(path)
    for name, values in contents.items():
        write_whole(path / name, (json.dumps(values, indent=2) + "\n").encode())
    if tokenizer is not None:
        tokenizer.save(path, config.text.context_length)


def has_weights(directory: epath.Path) -> bool:
    """Return whether a directory has weights that `save_clip` wrote beside a config."""
    names = {f"{layout.stem}.safetensors" for layout in LAYOUTS.values()} | {MSGPACK}
    return any((directory / name).exists() for name in names)


def _refuse_others(path: epath.Path, wanted: set[str]) -> None:
    """Refuse a directory with a model in another format: either might be read."""
    for other in LAYOUTS.values():
        weights = {f"{other.stem}.safetensors", f"{other.stem}.safetensors.index.json"}
        for name in sorted({other.config_file, *weights, MSGPACK} - wanted):
            if (path / name).exists():
                raise UserError(
                    f"{path} holds {name}, of another format, which would be read "
                    "in place of what is written: give another directory"
                )


def check_format(config: CLIPConfig, format: str) -> tuple[Layout, dict[str, Any]]:
    """Return the layout of a format, and the content of its config files by name.

    Raises:
        UserError: an unknown format, or one in which the model cannot be written.
    """
    layout = _layout(config, format)
    return layout, write_config(config, layout)


def _layout(config: CLIPConfig, format: str) -> Layout:
    if format not in FORMATS:
        raise UserError(f"there is no format {format!r}; give {', '.join(FORMATS)}")
    if format == "open_clip":
        return LAYOUTS["open_clip"]
    layout = hugging_face_layout(config)
    if format == "msgpack" and layout is not LAYOUTS["clip"]:
        raise UserError(
            "Flax weights are of CLIP models only, and this is a SigLIP: give the "
            "format safetensors"
        )
    return layout


def _msgpack(tensors: Mapping[str, np.ndarray]) -> bytes:
    from flax.serialization import msgpack_serialize
    from flax.traverse_util import unflatten_dict

    flat: dict[str, Any] = dict(to_flax(*item) for item in tensors.items())
    return msgpack_serialize(unflatten_dict(flat, sep="."))
