"""From a CLIP model to files that other people's tools open."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from flax import nnx

from kdjax.errors import UserError
from kdjax.files import write_whole
from kdjax.models import CLIP, CLIPConfig
from kdjax.weights.files import MSGPACK, to_flax
from kdjax.weights.layouts import LAYOUTS, Layout, hugging_face_layout, write_config
from kdjax.weights.rules import to_theirs

FORMATS = ("safetensors", "msgpack", "open_clip")


def save_clip(
    clip: CLIP, directory: epath.PathLike, *, format: str = "safetensors"
) -> None:
    """Write a model's config and weights.

    Args:
        clip: the model.
        directory: local or in a bucket; made where it is not there.
        format: "safetensors", which `transformers.CLIPModel.from_pretrained` (or
            `SiglipModel`) opens; "msgpack", the same layout with Flax weights; or
            "open_clip", which OpenCLIP opens as `local-dir:`.

    Raises:
        UserError: an unknown format, or one in which the model cannot be written.
    """
    layout = _layout(clip.config, format)
    contents = write_config(clip.config, layout)
    tensors = dict(
        to_theirs(nnx.to_pure_dict(nnx.state(clip)), layout.rules(clip.config))
    )
    path = epath.Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    if format == "msgpack":
        write_whole(path / MSGPACK, _msgpack(tensors))
    else:
        from safetensors.numpy import save

        write_whole(
            path / f"{layout.stem}.safetensors", save(tensors, {"format": "pt"})
        )
    for name, values in contents.items():
        write_whole(path / name, (json.dumps(values, indent=2) + "\n").encode())


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
