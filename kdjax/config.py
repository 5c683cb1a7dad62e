"""Config files, their overrides, their identity, and the choices they share."""

import ast
import hashlib
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from kdjax.errors import UserError

# What on a command line may be a mapping, or a key of it that is new: objectives with
# their options, and patterns of parameters with their rates.
MAPPINGS = ("objectives", "rates")
IN_MAPPING = re.compile(
    r"--config\.((?:\w+\.)*(?:objectives(?:\.\w+)*|optimizer\.rates(?:\.[^.=]+)?))=(.*)",
    re.DOTALL,
)
# Settings that say how a run is watched and not what it computes, at any depth.
WATCHING = (
    "log_every", "wandb", "profile", "every_steps", "every_minutes", "keep",
    "max_nonfinite",
)  # fmt: skip
# And those that say where and in what order it is computed, which changes roundings.
PLACING = ("mesh", "microbatch", "remat", "teacher_sharding")
NO_FUNCTION = "it has no function get_config()"


def training_defaults() -> ConfigDict:
    """Return the choices that all training configs share."""
    return ConfigDict(
        {
            "seed": 0,
            "steps": 300,
            "batch_size": 64,
            "microbatch": 0,
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
            "optimizer": {
                "name": "adamw",
                "schedule": "cosine",
                "learning_rate": 1e-3,
                "weight_decay": 0.1,
                "warmup": 0.1,
                "b1": 0.9,
                "b2": 0.98,
                "clip_norm": 1.0,
                "layer_decay": 1.0,
                "rates": {"vision": 1.0},
                "ema": 0.0,
                "max_logit_scale": 100.0,
            },
            "log_every": 50,
            "wandb": "",
            "checkpoint": {
                "every_steps": 200,
                "every_minutes": 0.0,
                "keep": 2,
                "best": "",
                "best_mode": "max",
            },
            "eval": {"split": "validation", "every_steps": 0, "evaluators": ()},
            "max_nonfinite": 10,
            "profile": (),
            "dtype": "auto",
            "param_dtype": "float32",
            "attention": "xla",
            "remat": {"vision": "none"},
        }
    )


def find_config(path: str) -> Path:
    """Return a config file where one stands, or else among those of the package.

    Raises:
        UserError: it is in neither place.
    """
    package = Path(str(importlib.resources.files("kdjax")))
    relative = Path(path)
    if relative.parts[:1] == ("configs",):
        relative = Path(*relative.parts[1:])
    # An editable install has no copy inside the package: the checkout's own are used.
    for candidate in (
        Path(path),
        package / "configs" / relative,
        package.parent / "configs" / relative,
    ):
        if candidate.is_file():
            return candidate
    raise UserError(
        f"there is no config file {path!r}, neither here nor among the package's; "
        "give the path of a Python file with a function get_config()"
    )


def load_config(config: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Return the config of FILE[:argument] with `--config.a.b=value` overrides.

    Raises:
        UserError: no such file, an unknown key (the nearest is named) or a wrong type.
    """
    from absl import flags
    from ml_collections import config_flags

    file, _, argument = config.partition(":")
    path = f"{find_config(file)}{':' + argument if argument else ''}"
    # They may get what the file's do not have, as no other key may.
    in_mappings = [x.groups() for x in map(IN_MAPPING.fullmatch, overrides) if x]
    others = [x for x in overrides if not IN_MAPPING.fullmatch(x)]
    argv = ["kdjax", f"--config={path}", *others]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "", flag_values=values, sys_argv=argv
    )
    try:
        rest = values(argv)
    except Exception as error:  # a config file is a program and may fail in any way
        raise UserError(f"config {file}: {_one_line(error)}") from error
    if rest[1:]:
        raise UserError(f"{rest[1]!r} is not understood; overrides are --config.a=b")
    if not isinstance(values.config, ConfigDict):
        raise UserError(
            f"config {file}: its get_config() returns {values.config!r}; it must be a "
            "ml_collections.ConfigDict"
        )
    for path, text in in_mappings:
        _set_in_mapping(values.config, path, text)
    return values.config


def _set_in_mapping(config: ConfigDict, path: str, text: str) -> None:
    """Set a mapping, or something in it that may be new, to a word or a literal.

    Raises:
        UserError: there is no such mapping, it is a preset, or a key has a dot.
    """
    *above, last = path.split(".")
    at: Any = config
    for depth, key in enumerate(above):
        new = isinstance(at, ConfigDict) and key not in at
        if new and _in_mapping(above[:depth]):
            with at.unlocked():
                at[key] = ConfigDict()
        at = at.get(key) if isinstance(at, ConfigDict) else None
    if not isinstance(at, ConfigDict) or not (_in_mapping(above) or last in at):
        raise UserError(
            f"there is no mapping in which to set {path}; give a key that the config "
            "has, whose objectives are no preset"
        )
    value = _literal(text)
    try:
        with at.ignore_type(), at.unlocked():
            at[last] = ConfigDict(value) if isinstance(value, dict) else value
    except ValueError as error:
        raise UserError(f"{path} is {text}; no key of a config has a dot") from error


def _in_mapping(path: Sequence[str]) -> bool:
    return not set(MAPPINGS).isdisjoint(path)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _one_line(error: Exception) -> str:
    """Return what is wrong without quoting and without a traceback."""
    said = error.args[0] if error.args else error
    text = str(said)
    if near := re.search(r'Did you mean "(\w+)" instead of "(\w+)"', text):
        return f"there is no key {near[2]!r}; did you mean {near[1]!r}?"
    if isinstance(said, KeyError):  # ml_collections found no key that is near
        key = text.strip("'\"")
        return f"there is no key {key!r}; give one that the config has"
    if "Traceback" in text:
        # What the file raised begins with the last line like "ValueError: ...".
        lines = text.strip().splitlines()
        begins = [i for i, x in enumerate(lines) if re.match(r"[\w.]+(:|$)", x)]
        text = " ".join(lines[begins[-1] if begins else -1 :])
    text = re.sub(r"module '\w+' has no attribute 'get_config'", NO_FUNCTION, text)
    if option := re.search(r"Unknown command line flag '([\w.]+)'", text):
        text = (
            f"there is no option --{option[1]}; a key of the config is set by "
            f"--config.{option[1]}=..."
        )
    return " ".join(text.split())


def to_plain(value: Any) -> Any:
    """Return a config as plain dicts and lists, for JSON."""
    if isinstance(value, ConfigDict | Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def config_hash(
    command: str,
    config: ConfigDict | Mapping[str, Any],
    made_from: Mapping[str, Any] | None = None,
) -> str:
    """Return what names a run: twelve hex digits.

    Args:
        command: that it is of.
        config: of the run.
        made_from: what is known of the runs that the config names, if it is to count.
    """
    known = [to_plain(made_from)] if made_from else []
    text = json.dumps([command, _computed(to_plain(config)), *known], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _computed(plain: Any) -> Any:
    """Return a plain config of what is computed, not how it is watched and placed."""
    if isinstance(plain, list):
        return [_computed(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    kept = {k: _computed(v) for k, v in plain.items() if k not in (*WATCHING, *PLACING)}
    checkpoint = plain.get("checkpoint")
    if isinstance(checkpoint, dict) and checkpoint.get("best"):
        kept["eval"] = plain["eval"]  # which steps are scored decides which is the best
    return kept


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what keeps a run from going on: keys whose values differ.

    How a run is watched and placed may differ, and its own `steps` may grow.
    """

    def walk(a: Any, b: Any, path: str) -> list[str]:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            keys = sorted({*a, *b})
            return [d for k in keys for d in walk(a.get(k), b.get(k), f"{path}.{k}")]
        if a == b:
            return []
        if path == ".steps" and isinstance(a, int) and isinstance(b, int) and b >= a:
            return []
        return [f"{path[1:]} was {a!r} and is now {b!r}"]

    return walk(_computed(to_plain(old)), _computed(to_plain(new)), "")
