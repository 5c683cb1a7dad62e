"""Models by directory or by name on the Hugging Face hub."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from etils import epath

from kdjax.errors import UserError
from kdjax.files import read_json

# What is small and says what a model is: configs, tokenizers, preprocessors.
ABOUT = ("*.json", "*.txt", "*.model")
CONFIG = "config.json"
# Of a run: what says that it is one, and the folder of the model that it made.
ENVIRONMENT = "environment.json"
MODEL = "model"
OPEN_CLIP_CONFIG = "open_clip_config.json"
NO_ADVICE = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


def find_model(
    name_or_directory: str | os.PathLike[str],
    patterns: Sequence[str] = ABOUT,
    revision: str | None = None,
) -> epath.Path:
    """Return the directory of a model; of a name on the hub, its cached snapshot.

    `huggingface_hub` keeps the cache and knows tokens and HF_HUB_OFFLINE.

    Args:
        name_or_directory: a local directory, one in a bucket, the workdir of a run, or
            a name on the hub, of which "name@revision" is one revision.
        patterns: of the files that are wanted from the hub.
        revision: branch, tag or commit on the hub.

    Raises:
        UserError: it is neither.
    """
    if not isinstance(name_or_directory, str | os.PathLike) or not name_or_directory:
        raise UserError(
            f"a model is named by {name_or_directory!r}; give a directory, the workdir "
            "of a run or a name on the hub"
        )
    name_or_directory = os.fspath(name_or_directory)
    path = epath.Path(name_or_directory)
    if _is_directory(path):
        run = (path / ENVIRONMENT).exists() and (path / MODEL).is_dir()
        return path / MODEL if run else path
    name, _, pinned = name_or_directory.partition("@")
    revision = revision or pinned or None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=list(patterns)
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as e:
        at = f" at revision {revision!r}" if revision else ""
        raise UserError(
            f"{name!r} is neither a directory here nor a model that the "
            f"hub gives{at}; check the spelling and the network"
        ) from e
    return epath.Path(found)


def _is_directory(path: epath.Path) -> bool:
    try:
        is_file, is_directory = path.is_file(), path.is_dir()
    # What an address that nothing here reads makes of the path is of many kinds.
    except (ImportError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read here ({error}); for gs:// paths run pip install "
            "'kdjax[gcs]', and download what is elsewhere"
        ) from error
    if is_file:
        raise UserError(
            f"{path} is a file: give the directory with its config and its weights "
            "as safetensors (a .pt or .bin is a pickle, which can run any code and "
            "is never opened)"
        )
    return is_directory


def family_of(directory: epath.Path) -> tuple[str, dict[str, Any]]:
    """Return "clip", "siglip" or "open_clip", and what the directory's config says.

    Raises:
        UserError: it is no model of the family, or its config cannot be read.
    """
    path, theirs = directory / CONFIG, directory / OPEN_CLIP_CONFIG
    if not path.exists() and not theirs.exists():
        raise UserError(
            f"{path} is missing, and so is {OPEN_CLIP_CONFIG}: one of them says what "
            "the model is, and weights alone, such as a .pt or .bin, cannot be loaded"
        )
    values = read_json(path) if path.exists() else {}
    # Configs of old CLIP checkpoints name no type.
    model_type = values.get("model_type", "clip" if values else None)
    if model_type in ("clip", "siglip"):
        return model_type, values
    if theirs.exists():
        return "open_clip", read_json(theirs)
    raise UserError(
        f"{path} is of model_type {model_type!r}; models of type clip or siglip, and "
        "OpenCLIP's, can be loaded"
    )


@contextmanager
def without_advice() -> Iterator[None]:
    """Let `transformers` be imported without its advice to install PyTorch."""
    before = os.environ.get(NO_ADVICE)
    os.environ[NO_ADVICE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[NO_ADVICE]
        else:
            os.environ[NO_ADVICE] = before
