"""Models by directory or by name on the Hugging Face hub."""

from collections.abc import Sequence

from etils import epath

from kdjax.errors import UserError

# What is small and says what a model is: configs, tokenizers, preprocessors.
ABOUT = ("*.json", "*.txt", "*.model")


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
