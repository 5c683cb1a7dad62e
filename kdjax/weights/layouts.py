"""The layouts in which checkpoints of the CLIP family are published."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

from kdjax.errors import UserError
from kdjax.hub import CONFIG, OPEN_CLIP_CONFIG, family_of
from kdjax.models import CLIPConfig
from kdjax.weights import hugging_face, open_clip
from kdjax.weights.rules import Rule

# What a config says besides the structure.
INITIAL_OR_COMPUTE = ("logit_scale_init", "attention", "remat", "dtype", "param_dtype")


class Layout(NamedTuple):
    """How a family's config and tensors are written.

    Attributes:
        config_file: name of the file that holds the config.
        stem: name of the weights, without ending.
        read: (config, preprocessor config) -> our config.
        write: our config -> (config, preprocessor config, empty where there is none).
        rules: our config -> the table of its tensors.
    """

    config_file: str
    stem: str
    read: Callable[[Mapping[str, Any], Mapping[str, Any]], CLIPConfig]
    write: Callable[[CLIPConfig], tuple[dict[str, Any], dict[str, Any]]]
    rules: Callable[[CLIPConfig], list[Rule]]


LAYOUTS: dict[str, Layout] = {
    "clip": Layout(
        CONFIG,
        "model",
        hugging_face.read_clip,
        hugging_face.write_clip,
        hugging_face.clip_rules,
    ),
    "siglip": Layout(
        CONFIG,
        "model",
        hugging_face.read_siglip,
        hugging_face.write_siglip,
        hugging_face.siglip_rules,
    ),
    "open_clip": Layout(
        OPEN_CLIP_CONFIG,
        "open_clip_model",
        open_clip.read,
        open_clip.write,
        open_clip.rules,
    ),
}


def hugging_face_layout(config: CLIPConfig) -> Layout:
    """Return the Hugging Face layout that suits a model's structure."""
    return LAYOUTS["clip" if config.logit_bias_init is None else "siglip"]


def layout_of(directory: epath.Path) -> tuple[Layout, dict[str, Any]]:
    """Return a model directory's layout and the content of its config file.

    Raises:
        UserError: it is no model of the family, or its config cannot be read.
    """
    family, values = family_of(directory)
    return LAYOUTS[family], values


def write_config(config: CLIPConfig, layout: Layout) -> dict[str, Any]:
    """Return the content of a layout's config files, by name.

    Raises:
        UserError: the layout has no words for something of the model.
    """
    values, preprocessor = layout.write(config)
    again = layout.read(values, preprocessor)
    for key, there, here in _unequal(config, again):
        raise UserError(
            f"the model has {key} {here!r}, which its {layout.config_file} would make "
            f"{there!r}: write it in another format"
        )
    files = {layout.config_file: values}
    return (
        {**files, "preprocessor_config.json": preprocessor} if preprocessor else files
    )


def _unequal(ours: Any, theirs: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield what two configs of a model compute differently: key, theirs, ours."""
    for field in dataclasses.fields(ours):
        here, there = getattr(ours, field.name), getattr(theirs, field.name)
        if dataclasses.is_dataclass(here):
            yield from _unequal(here, there, f"{path}{field.name}.")
        elif field.name == "logit_bias_init":
            if (here is None) != (there is None):
                yield field.name, there, here
        elif field.name == "eos_id" and ours.pooling != "eos":
            continue
        elif field.name not in INITIAL_OR_COMPUTE and here != there:
            yield f"{path}{field.name}", there, here
