"""What the files of a model say of its texts, in the layouts of all families."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from etils import epath
from tokenizers import normalizers

from kdjax.errors import UserError
from kdjax.files import read_json
from kdjax.hub import (
    CONFIG,
    OPEN_CLIP_CONFIG,
    family_of,
    find_model,
    without_advice,
)

Read = tuple[tokenizers.Tokenizer, dict[str, str]]

VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
# Whose tokenizer OpenCLIP carries with it.
OPENAI = "openai/clip-vit-base-patch32"
ONE_SPACE = [normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip()]
WITHOUT_PUNCTUATION = [
    normalizers.Replace(tokenizers.Regex(r"[!-/:-@\[-`{-~]"), ""),
    *ONE_SPACE,
]
# The steps by their names in OpenCLIP's `tokenizer_kwargs.clean`.
CLEANING: dict[str, list[normalizers.Normalizer]] = {
    "whitespace": ONE_SPACE,
    "lower": [*ONE_SPACE, normalizers.Lowercase()],
    "canonicalize": [
        normalizers.Replace("_", " "),
        normalizers.Lowercase(),
        *WITHOUT_PUNCTUATION,
    ],
}


def read_tokenizer(name_or_directory: str) -> Read:
    """Return a model's tokenizer and its special tokens by `transformers`' names.

    Raises:
        UserError: there is none, a file is damaged, or it needs what is not known here.
    """
    try:
        folder = find_model(name_or_directory)
    except UserError as error:
        raise UserError(_nothing_there(name_or_directory)) from error
    text = _open_clip_text(folder)
    if text is not None:
        return _read_open_clip(folder, text)
    backend, special = _read(folder)
    _normalise_first(backend, _steps_of_class(folder))
    return backend, special


def _nothing_there(name: str) -> str:
    return (
        f"there is no tokenizer at {name!r}: give a directory with tokenizer.json or a "
        "name on the Hugging Face hub that has one (and unset HF_HUB_OFFLINE to "
        "download it)"
    )


def _normalise_first(
    backend: tokenizers.Tokenizer, steps: Sequence[normalizers.Normalizer]
) -> None:
    """Let a tokenizer take these steps before its own."""
    own = [] if backend.normalizer is None else [backend.normalizer]
    if steps:
        backend.normalizer = normalizers.Sequence([*steps, *own])


def _steps_of_class(folder: epath.Path) -> list[normalizers.Normalizer]:
    """Return what a tokenizer's class does to texts besides what its file says."""
    settings = _read_json(folder / "tokenizer_config.json")
    model_type = _read_json(folder / CONFIG).get("model_type")
    # A directory that names no class has that of its model.
    own = {"siglip": "SiglipTokenizer", "siglip2": "Siglip2Tokenizer"}.get(
        str(model_type)
    )
    name = str(settings.get("tokenizer_class") or own).removesuffix("Fast")
    if name == "Siglip2Tokenizer":
        return [normalizers.Lowercase()]
    if name == "SiglipTokenizer":
        lower = settings.get("do_lower_case", True)
        return [*([normalizers.Lowercase()] if lower else []), *WITHOUT_PUNCTUATION]
    return []


def _open_clip_text(folder: epath.Path) -> dict[str, Any] | None:
    """Return the `text_cfg` of a directory in OpenCLIP's layout; None of any other."""
    if not (folder / OPEN_CLIP_CONFIG).exists():
        return None
    family, values = family_of(folder)
    if family != "open_clip":
        return None
    text = values.get("model_cfg", values).get("text_cfg")
    if not isinstance(text, dict):
        raise UserError(
            f"{folder / OPEN_CLIP_CONFIG} has no text_cfg, which says how texts are "
            "read: fetch it again"
        )
    return text


def _read_open_clip(folder: epath.Path, text: Mapping[str, Any]) -> Read:
    """Return the tokenizer that OpenCLIP makes of a `text_cfg`."""
    named, options = text.get("hf_tokenizer_name"), text.get("tokenizer_kwargs") or {}
    clean = options.get("clean", "whitespace" if named else "lower")
    unknown = sorted(options.keys() - {"clean", "strip_sep_token"})
    if unknown or clean not in CLEANING or text.get("tokenizer_mode"):
        raise UserError(
            f"{folder / OPEN_CLIP_CONFIG} has a tokenizer_mode or tokenizer_kwargs "
            f"({', '.join(unknown) or clean}) that kdjax does not know: save a "
            "tokenizer that needs none in the directory, and take them out"
        )
    if (folder / "tokenizer.json").exists():
        backend, special = _read(folder)
    else:
        backend, special = _elsewhere(folder, named or OPENAI)
    _normalise_first(backend, CLEANING[clean])
    if options.get("strip_sep_token"):
        special |= _end_with_padding(backend, special)
    elif not named:
        special["pad_token"] = _token_of_zero(backend)
    return backend, special


def _elsewhere(folder: epath.Path, name: str) -> Read:
    try:
        return _read(find_model(name))
    except UserError as error:
        raise UserError(
            f"{folder} holds no tokenizer.json, and the tokenizer {name!r} that its "
            "texts need is not here: put it there, or unset HF_HUB_OFFLINE to download "
            "it"
        ) from error


def _end_with_padding(
    backend: tokenizers.Tokenizer, special: Mapping[str, str]
) -> dict[str, str]:
    """Let texts end with id 0 and not the separator, as CLIPA's; return its token."""
    written = json.loads(backend.to_str())
    ends = (written["post_processor"] or {}).get("special_tokens", {})
    separator, padding = special.get("sep_token", "[SEP]"), _token_of_zero(backend)
    if separator not in ends:
        raise UserError(
            f"the tokenizer puts no {separator} after texts, which strip_sep_token "
            "takes away: give the tokenizer that the model was trained with"
        )
    ends[separator] |= {"ids": [0], "tokens": [padding]}
    changed = tokenizers.Tokenizer.from_str(json.dumps(written))
    backend.post_processor = changed.post_processor
    return {"pad_token": padding, "eos_token": padding}


def _token_of_zero(backend: tokenizers.Tokenizer) -> str:
    token = backend.id_to_token(0)
    if token is None:
        raise UserError("the tokenizer has no token of id 0, with which OpenCLIP pads")
    return token


def has_vocabulary(folder: epath.Path) -> bool:
    """Return whether a directory has a tokenizer of its own, whole or not."""
    return any(path for kind in VOCABULARIES for path in folder.glob(kind))


def _read(folder: epath.Path) -> Read:
    if (folder / "tokenizer.json").exists():
        return _read_directory(folder)
    # Of a directory without one `transformers` makes a tokenizer that knows no word.
    if not has_vocabulary(folder):
        raise UserError(_nothing_there(str(folder)))
    return _read_with_transformers(str(folder))


def _read_directory(
    folder: epath.Path,
) -> Read:
    path = folder / "tokenizer.json"
    try:
        text = path.read_text()
        backend = tokenizers.Tokenizer.from_str(text)
        padding = json.loads(text).get("padding") or {}
        entries = {
            **_read_json(folder / "special_tokens_map.json"),
            **_read_json(folder / "tokenizer_config.json"),
        }
        named = _special_tokens(entries)
    # The Rust side raises bare exceptions.
    except Exception as error:
        raise UserError(
            f"{path} or the files beside it cannot be read as a tokenizer ({error}): "
            "save it again"
        ) from error
    _check_side(folder, entries)
    special = {"pad_token": padding["pad_token"]} if "pad_token" in padding else {}
    return backend, special | named


def _check_side(folder: epath.Path, entries: Mapping[str, Any]) -> None:
    """Refuse texts that are padded in front: towers read from their first token."""
    # Where the file is silent the class is asked; Gemma's alone pads in front.
    gemma = str(entries.get("tokenizer_class")).startswith("GemmaTokenizer")
    if entries.get("padding_side", "left" if gemma else "right") == "left":
        raise UserError(
            f"{folder / 'tokenizer_config.json'} pads texts on the left, which is not "
            'done here: set its padding_side to "right" if the model was trained so'
        )


def _read_with_transformers(name: str) -> Read:
    try:
        with without_advice():
            from transformers import AutoTokenizer

            loaded = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        backend = tokenizers.Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    # What an incomplete directory makes of the library is of many kinds.
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"the tokenizer of {name!r} cannot be opened ({said}): give a directory "
            "with tokenizer.json"
        ) from error
    return backend, _special_tokens(loaded.special_tokens_map)


def _read_json(path: epath.Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _special_tokens(entries: Mapping[str, Any]) -> dict[str, str]:
    """Return the named tokens of a config, written as strings or `{"content": ...}`."""
    tokens = {}
    for key in ("pad_token", "unk_token", "bos_token", "eos_token", "sep_token"):
        value = entries.get(key)
        if value is not None:
            tokens[key] = str(value["content"] if isinstance(value, dict) else value)
    return tokens
