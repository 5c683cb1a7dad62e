"""A CLIP model by what people call it is opened, fitted to a run, and saved."""

from dataclasses import dataclass, replace

import jax
from etils import epath
from flax import nnx
from jax.sharding import Mesh, SingleDeviceSharding

from kdjax.commands.calibration import CALIBRATION
from kdjax.commands.compute import Compute
from kdjax.commands.names import directory_of, is_described, run_of, under_way
from kdjax.data.processor import load_processor
from kdjax.data.tokenizer import Tokenizer
from kdjax.errors import UserError
from kdjax.files import remove_file
from kdjax.hub import MODEL
from kdjax.models import (
    CLIP,
    TOWERS,
    CLIPConfig,
    Params,
    abstract_of,
    architecture,
    graph_of,
)
from kdjax.models.zoo import ARCHITECTURES, with_vocabulary
from kdjax.parallel import parameter_shardings
from kdjax.training.checkpoints import Say, restore_model
from kdjax.weights import (
    check_format,
    load_clip,
    load_clip_config,
    save_clip,
    save_description,
)


@dataclass(frozen=True)
class NamedModel:
    """A CLIP model that a config names.

    Attributes:
        config: of the model.
        params: its weights, or those of some of its parts; None for a fresh
            architecture.
        tokenizer: its own, or None for a fresh architecture.
        directory: that it was loaded from, or its name on the hub.
    """

    config: CLIPConfig
    params: Params | None
    tokenizer: Tokenizer | None
    directory: str = ""


def open_model(
    name: str,
    workdir: epath.Path,
    compute: Compute,
    mesh: Mesh | None = None,
    say: Say = lambda line: None,
) -> NamedModel:
    """Return the model that a config names.

    Args:
        name: an architecture of the zoo, the workdir of a run (where one stands, or
            beside `workdir`; of one that has not ended it is the newest checkpoint), a
            directory in the hub's layout, a hub name.
        workdir: of the run that asks.
        compute: how the model computes.
        mesh: where its weights go; None for the default device.
        say: told of checkpoints that are damaged.
    """
    if name in ARCHITECTURES:
        return NamedModel(compute.of(architecture(name)), None, None)
    run = run_of(name, workdir)
    if run is not None and is_described(run / MODEL) and under_way(run):
        return _of_checkpoint(run, compute, mesh, say)
    return _load(directory_of(name, workdir), compute, mesh)


def _load(directory: str, compute: Compute, mesh: Mesh | None) -> NamedModel:
    clip = load_clip(
        directory, param_dtype=compute.param_dtype, mesh=mesh, over=compute.over
    )
    params = nnx.to_pure_dict(nnx.state(clip))
    # Of all that a processor knows the tower needs most; it refuses what none can do.
    tokenizer = load_processor(directory).tokenizer
    return NamedModel(compute.of(clip.config), params, tokenizer, directory)


def _of_checkpoint(
    run: epath.Path, compute: Compute, mesh: Mesh | None, say: Say
) -> NamedModel:
    """Return the model of a run that has not ended, as its newest checkpoint has it."""
    directory = run / MODEL
    config = compute.of(load_clip_config(directory))
    abstract = abstract_of(CLIP, config)
    shapes = nnx.to_pure_dict(abstract)
    device = SingleDeviceSharding(jax.local_devices()[0])
    places = (
        jax.tree.map(lambda x: device, shapes)
        if mesh is None
        else parameter_shardings(abstract, mesh, compute.over)
    )
    target = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places
    )
    params = restore_model(run, target, say)
    tokenizer = load_processor(str(directory)).tokenizer
    return NamedModel(config, params, tokenizer, str(directory))


def with_parts(model: NamedModel, parts: str) -> NamedModel:
    """Return a model with the weights of all its parts or of one tower alone.

    Args:
        model: that may have weights.
        parts: "all", "vision" or "text", a tower with its projection.

    Raises:
        UserError: parts are asked for of a model without weights.
    """
    if parts == "all":
        return model
    if model.params is None:
        raise UserError(
            f"parts is {parts!r} and the model an architecture, which has no weights: "
            "name a run, a directory or a hub name, or set parts to all"
        )
    kept = {k: x for k, x in model.params.items() if k in TOWERS[parts]}
    return replace(model, params=kept)


def fit_vocabulary(model: NamedModel, tokenizer: Tokenizer) -> CLIPConfig:
    """Return the model's config for a tokenizer; a loaded model keeps its own.

    Raises:
        UserError: the tokenizer does not end texts.
    """
    check_ends(model.config, tokenizer)
    if model.params is not None:
        return model.config
    return with_vocabulary(model.config, tokenizer.vocab_size, tokenizer.eos_id)


def check_ends(config: CLIPConfig, tokenizer: Tokenizer) -> None:
    """Check that texts have the end at which a model reads them.

    Raises:
        UserError: the tokenizer does not end texts.
    """
    if config.text.pooling != "last" and not tokenizer.ends_texts:
        raise UserError(
            "the tokenizer does not put its eos_token after a text, and a CLIP model "
            "reads a text at that token: save the tokenizer with a post-processor that "
            "does"
        )


def format_of(config: CLIPConfig) -> str:
    """Return the format in which a run writes its model, which may be checked before.

    Hugging Face's layout, or OpenCLIP's where that has no words for the model.

    Raises:
        UserError: neither has.
    """
    refused = []
    for format in ("safetensors", "open_clip"):
        try:
            check_format(config, format)
            return format
        except UserError as error:
            refused.append(f"{format}: {error}")
    raise UserError(
        f"the run could not write its model in the end ({'; '.join(refused)}): name "
        "another student or teacher"
    )


def begin_model(config: CLIPConfig, tokenizer: Tokenizer, workdir: epath.Path) -> None:
    """Write what a run's model is, so that others can use its checkpoints."""
    format = format_of(config)
    save_description(config, workdir / MODEL, format=format, tokenizer=tokenizer)


def save_model(
    config: CLIPConfig, params: Params, tokenizer: Tokenizer, workdir: epath.Path
) -> None:
    """Write a run's CLIP model in a layout of others, with its tokenizer."""
    clip = nnx.merge(graph_of(CLIP, config), params)
    format = format_of(config)
    # It is of the weights that were there before.
    remove_file(workdir / MODEL / CALIBRATION)
    save_clip(clip, workdir / MODEL, format=format, tokenizer=tokenizer)
