"""The card that goes with an exported model, for the hub and for people."""

import json
import shlex
from typing import Any

import jinja2
from etils import epath

from kdjax.commands.workdir import environment
from kdjax.hub import CONFIG, ENVIRONMENT
from kdjax.models import CLIPConfig, parameter_counts

# Keys of a run's config that say how it was made, in the order of the card.
MADE_BY = (
    "stages", "teacher", "student", "inherit", "inherit_from", "text_tower", "model",
    "data", "objectives", "teacher_scale", "teacher_entropy", "caption_length",
    "steps", "batch_size", "optimizer", "seed",
)  # fmt: skip
CARD = "README.md"
PROGRAM = "image_tower.stablehlo"
LIBRARIES = {
    "safetensors": "transformers",
    "msgpack": "transformers",
    "open_clip": "open_clip",
    "stablehlo": "jax",
}


def export_command(checkpoint: str, format: str) -> str:
    """Return what makes an export; its card says it, so that it can be made again."""
    return shlex.join(
        ["kdjax", "export", f"--checkpoint={checkpoint}", f"--format={format}"]
    )


def model_card(
    checkpoint: str,
    format: str,
    model: CLIPConfig,
    run: epath.Path | None,
    with_tokenizer: bool,
) -> str:
    """Return the README.md of an exported model.

    Args:
        checkpoint: that is exported.
        format: that it is exported in.
        model: its config.
        run: that made it, whose config and results are told; None for another's.
        with_tokenizer: whether its tokenizer lies beside it.
    """
    config = _asked(run)
    results = _read(run, "results.json")
    # A run may have been told to make more steps than its model has made.
    made = {**config, **{k: v for k, v in results.items() if k == "steps"}}
    scores = {
        key.removesuffix("_accuracy").replace("_", " "): value
        for key, value in results.items()
        if key.endswith("_accuracy") and value is not None
    }
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("kdjax.commands", ""),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    ).get_template("card.md.j2")
    return template.render(
        command=export_command(checkpoint, format),
        checkpoint=checkpoint,
        program=PROGRAM,
        model=model,
        counts=parameter_counts(model),
        format=format,
        library=LIBRARIES[format],
        family="SigLIP" if model.logit_bias_init is not None else "CLIP",
        config=config,
        made_by={key: _told(made[key]) for key in MADE_BY if key in made},
        scores=scores,
        results=results,
        environment=_read(run, ENVIRONMENT) or environment(),
        with_tokenizer=with_tokenizer,
    )


def _asked(run: epath.Path | None) -> dict[str, Any]:
    """Return a run's config; of a chain, that of its last stage with all of them."""
    config = _read(run, CONFIG)
    if run is None or "stages" not in config:
        return config
    stages = config["stages"]
    first = {**config["distill"], **stages[0]}
    last = _read(run / str(len(stages)), CONFIG)
    asked = {**config["distill"], **last, "teacher": first["teacher"], "stages": stages}
    # The stages say it, by words that are known outside of the chain.
    return {key: value for key, value in asked.items() if key != "inherit_from"}


def _read(run: epath.Path | None, name: str) -> dict[str, Any]:
    path = None if run is None else run / name
    return json.loads(path.read_text()) if path is not None and path.exists() else {}


def _told(value: Any) -> str:
    """Return a config's value as a table's cell has it."""
    if isinstance(value, dict):
        told = [k if v == {} else f"{k} {_told(v)}" for k, v in value.items()]
        return ", ".join(told)
    if isinstance(value, list):
        return "; ".join(_told(item) for item in value)
    return str(value).replace("|", "\\|")
