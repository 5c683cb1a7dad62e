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
OPEN_CLIP_CONFIG = "open_clip_config.json"
NO_ADVICE = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


def find_model(
    name_or_directory: str,
    patterns: Sequence[str] = ABOUT,
    revision: str | None = None,
) -> epath.Path:
    """Return the directory of a model; of a name on the hub, its cached snapshot.

    `huggingface_hub` keeps the cache and knows tokens and HF_HUB_OFFLINE.

    Args:
        name_or_directory: a local directory, one in a bucket, or a name on the hub.
        patterns: of the files that are wanted from the hub.
        revision: branch, tag or commit on the hub.

    Raises:
        UserError: it is neither.
    """
    path = epath.Path(name_or_directory)
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        found = snapshot_download(
            name_or_directory, revision=revision, allow_patterns=list(patterns)
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as e:
        at = f" at revision {revision!r}" if revision else ""
        raise UserError(
            f"{name_or_directory!r} is neither a directory here nor a model that the "
            f"hub gives{at}; check the spelling and the network"
        ) from e
    return epath.Path(found)


def family_of(directory: epath.Path) -> tuple[str, dict[str, Any]]:
    """Return "clip", "siglip" or "open_clip", and what the directory's config says.

    Raises:
        UserError: it is no model of the family, or its config cannot be read.
    """
    path, theirs = directory / CONFIG, directory / OPEN_CLIP_CONFIG
    values = read_json(path) if path.exists() or not theirs.exists() else {}
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
