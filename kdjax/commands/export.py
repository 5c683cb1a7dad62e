"""`kdjax export`: a model in the formats of other people's tools, with its card."""

import json
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from kdjax.commands.calibration import carry_calibration
from kdjax.commands.card import CARD, PROGRAM, export_command, model_card
from kdjax.commands.names import check_name, model_of, run_of
from kdjax.commands.reporter import Reporter
from kdjax.commands.workdir import folder_of
from kdjax.data.tokenizer import Tokenizer, load_tokenizer
from kdjax.data.tokenizer_files import has_vocabulary
from kdjax.errors import UserError
from kdjax.files import make_folder, write_whole
from kdjax.hub import MODEL, find_model
from kdjax.models import CLIPConfig
from kdjax.models.zoo import ARCHITECTURES
from kdjax.weights import (
    FORMATS,
    check_format,
    image_tower_program,
    load_clip,
    save_clip,
)

EXPORTED = (*FORMATS, "stablehlo")
ABOUT_PROGRAM = "image_tower.json"


def export(
    config: ConfigDict, path: epath.PathLike, reporter: Reporter
) -> dict[str, Any]:
    """Write a model for other tools; return the names of the files.

    Args:
        config: with `checkpoint`, the workdir of a run, a directory or a hub name, and
            `format`: "safetensors", "msgpack" or "open_clip", as `save_clip` writes
            them, or "stablehlo", the image tower as one program.
        path: where the files go; a new folder, or that of the same export before.
        reporter: is told what is left out.

    Raises:
        UserError: there is no such model, the model cannot be written in it,
            or the folder holds something else.
    """
    checkpoint, format = config["checkpoint"], config["format"]
    directory = folder_of(path)
    _check_folder(directory, export_command(checkpoint, format))
    run, source = _find(checkpoint, directory)
    clip = load_clip(source)
    if format == "stablehlo":
        tokenizer, program = None, image_tower_program(clip)
    else:
        check_format(clip.config, format)
        tokenizer, program = _tokenizer(source, reporter), None
    card = model_card(checkpoint, format, clip.config, run, tokenizer is not None)
    make_folder(directory)
    # First, so that what is left of a broken export may be written again.
    write_whole(directory / CARD, card.encode())
    if program is not None:
        write_whole(directory / PROGRAM, program)
        about = json.dumps(_about_program(clip.config), indent=2) + "\n"
        write_whole(directory / ABOUT_PROGRAM, about.encode())
    else:
        save_clip(clip, directory, format=format, tokenizer=tokenizer)
        carry_calibration(source, directory)
    return {"files": sorted(file.name for file in directory.iterdir())}


def _check_folder(directory: epath.Path, command: str) -> None:
    """Refuse a folder that holds anything but the same export."""
    if not directory.exists() or not any(directory.iterdir()):
        return
    card = directory / CARD
    told = card.read_bytes() if card.is_file() else b""
    if f"    {command}\n".encode() not in told:
        raise UserError(
            f"the folder {directory} is not empty, and what is there is not this "
            "export; give a new folder as --workdir"
        )


def _find(checkpoint: str, directory: epath.Path) -> tuple[epath.Path | None, str]:
    """Return the run that a checkpoint is of, if any, and where its model is."""
    if checkpoint in ARCHITECTURES:
        raise UserError(
            f"{checkpoint!r} is an architecture without weights: name a run, a "
            "directory or a hub name"
        )
    run = run_of(checkpoint, directory)
    if run is None:
        check_name(checkpoint, directory)
        return None, checkpoint
    if (run / MODEL / "vqa.json").exists():
        raise UserError(
            f"the run in {run} answers questions, which no other tool's format has "
            "words for: export the run that its tower is from"
        )
    return run, model_of(run)


def _tokenizer(source: str, reporter: Reporter) -> Tokenizer | None:
    try:
        return load_tokenizer(source)
    except UserError as error:
        if has_vocabulary(find_model(source)):
            raise
        reporter.say(f"the export goes without a tokenizer: {error}")
        return None


def _about_program(config: CLIPConfig) -> dict[str, Any]:
    """Return what a program takes and gives, for who cannot read the card."""
    side = config.vision.image_size
    return {
        "jax": jax.__version__,
        "input": ["batch", side, side, 3],
        "output": ["batch", config.embed_dim],
        "dtype": "float32",
        "mean": config.vision.mean,
        "std": config.vision.std,
    }
