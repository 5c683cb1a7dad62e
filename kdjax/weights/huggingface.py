"""CLIP in the layout of the Hugging Face hub: config.json and model.safetensors."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from kdjax.errors import UserError
from kdjax.models import (
    CLIP,
    CLIPConfig,
    TextConfig,
    VisionConfig,
    abstract_of,
    graph_of,
)
from kdjax.models.config import OPENAI_MEAN, OPENAI_STD

Tensors = dict[str, np.ndarray]


class Rule(NamedTuple):
    """One parameter there and here; `{tower}` and `{layer}` stand in names.

    Attributes:
        theirs: name in the checkpoint.
        ours: path in our parameters.
        to_ours: turns their tensor into ours.
        to_theirs: the inverse.
    """

    theirs: str
    ours: tuple[str, ...]
    to_ours: Callable[[np.ndarray], np.ndarray] = np.asarray
    to_theirs: Callable[[np.ndarray], np.ndarray] = np.asarray


def _linear(theirs: str, *ours: str, bias: bool = True) -> list[Rule]:
    kernel = Rule(f"{theirs}.weight", (*ours, "kernel"), np.transpose, np.transpose)
    return [kernel, Rule(f"{theirs}.bias", (*ours, "bias"))] if bias else [kernel]


def _norm(theirs: str, *ours: str) -> list[Rule]:
    return [
        Rule(f"{theirs}.weight", (*ours, "scale")),
        Rule(f"{theirs}.bias", (*ours, "bias")),
    ]


BLOCK = [
    *_norm("layer_norm1", "attention_norm"),
    *_linear("self_attn.q_proj", "attention", "query"),
    *_linear("self_attn.k_proj", "attention", "key"),
    *_linear("self_attn.v_proj", "attention", "value"),
    *_linear("self_attn.out_proj", "attention", "out"),
    *_norm("layer_norm2", "mlp_norm"),
    *_linear("mlp.fc1", "mlp", "up"),
    *_linear("mlp.fc2", "mlp", "down"),
]


def _rules(config: CLIPConfig) -> list[Rule]:
    """Return the table of everything outside of the blocks."""
    patch = config.vision.patch_size

    def patch_to_ours(x: np.ndarray) -> np.ndarray:  # [W, 3, p, p] -> [p p 3, W]
        return x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])

    def patch_to_theirs(x: np.ndarray) -> np.ndarray:
        return x.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)

    vision, text = "vision_model.", "text_model."
    return [
        Rule("logit_scale", ("logit_scale",)),
        Rule(f"{vision}embeddings.class_embedding", ("vision", "class_embedding")),
        Rule(
            f"{vision}embeddings.patch_embedding.weight",
            ("vision", "patch_embedding", "kernel"),
            patch_to_ours,
            patch_to_theirs,
        ),
        Rule(
            f"{vision}embeddings.position_embedding.weight",
            ("vision", "position_embedding"),
        ),
        *_norm(f"{vision}pre_layrnorm", "vision", "pre_norm"),
        *_norm(f"{vision}post_layernorm", "vision", "post_norm"),
        *_linear("visual_projection", "visual_projection", bias=False),
        Rule(
            f"{text}embeddings.token_embedding.weight",
            ("text", "token_embedding", "embedding"),
        ),
        Rule(
            f"{text}embeddings.position_embedding.weight",
            ("text", "position_embedding"),
        ),
        *_norm(f"{text}final_layer_norm", "text", "final_norm"),
        *_linear("text_projection", "text_projection", bias=False),
    ]


def from_theirs(tensors: Tensors, config: CLIPConfig) -> dict[str, Any]:
    """Return our parameters, nested, from a checkpoint's tensors.

    Raises:
        UserError: tensors are missing, left over or of another shape; all are listed.
    """
    left = {k: v for k, v in tensors.items() if not k.endswith("position_ids")}
    shapes = nnx.to_pure_dict(abstract_of(CLIP, config))
    problems: list[str] = []
    params: dict[str, Any] = {}

    def take(name: str, rule: Rule) -> np.ndarray | None:
        if name not in left:
            problems.append(f"{name} is missing")
            return None
        return rule.to_ours(left.pop(name))

    def put(path: tuple[str, ...], name: str, value: np.ndarray | None) -> None:
        if value is None:
            return
        wanted = _at(shapes, path)
        if value.shape != wanted.shape:
            problems.append(f"{name} gives {value.shape} and not {wanted.shape}")
        place = params
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = jnp.asarray(value, wanted.dtype)

    for rule in _rules(config):
        put(rule.ours, rule.theirs, take(rule.theirs, rule))
    for tower, layers in _towers(config):
        for rule in BLOCK:
            names = [_block_name(tower, i, rule) for i in range(layers)]
            values = [take(name, rule) for name in names]
            whole = [v for v in values if v is not None]
            same = len(whole) == layers and len({v.shape for v in whole}) == 1
            path = (tower, "transformer", "blocks", *rule.ours)
            put(path, names[0], np.stack(whole) if same else None)
    problems += [f"{name} {value.shape} is unexpected" for name, value in left.items()]
    if problems:
        raise UserError("the weights do not fit the config: " + "; ".join(problems))
    return params


def to_theirs(params: dict[str, Any], config: CLIPConfig) -> Tensors:
    """Return a checkpoint's tensors from our parameters; inverse of `from_theirs`."""
    params = jax.device_get(params)
    tensors = {r.theirs: r.to_theirs(_at(params, r.ours)) for r in _rules(config)}
    for tower, layers in _towers(config):
        for rule in BLOCK:
            stacked = _at(params, (tower, "transformer", "blocks", *rule.ours))
            for i in range(layers):
                tensors[_block_name(tower, i, rule)] = rule.to_theirs(stacked[i])
    return {name: np.asarray(x, order="C") for name, x in tensors.items()}


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _towers(config: CLIPConfig) -> list[tuple[str, int]]:
    return [("vision", config.vision.layers), ("text", config.text.layers)]


def _block_name(tower: str, layer: int, rule: Rule) -> str:
    return f"{tower}_model.encoder.layers.{layer}.{rule.theirs}"


def _tower_to_theirs(config: VisionConfig | TextConfig) -> dict[str, Any]:
    activation = {"gelu_tanh": "gelu_pytorch_tanh"}.get(
        config.activation, config.activation
    )
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_width,
        "hidden_act": activation,
        "layer_norm_eps": config.norm_epsilon,
    }


def config_to_theirs(config: CLIPConfig) -> dict[str, Any]:
    """Return the content of config.json."""
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "logit_scale_init_value": config.logit_scale_init,
        "vision_config": {
            **_tower_to_theirs(config.vision),
            "image_size": config.vision.image_size,
            "patch_size": config.vision.patch_size,
            "projection_dim": config.embed_dim,
        },
        "text_config": {
            **_tower_to_theirs(config.text),
            "vocab_size": config.text.vocab_size,
            "max_position_embeddings": config.text.context_length,
            "bos_token_id": None,
            "eos_token_id": config.text.eos_id,
            "pad_token_id": None,
            "projection_dim": config.embed_dim,
        },
    }


def config_from_theirs(
    values: dict[str, Any], preprocessor: dict[str, Any], dtype: str
) -> CLIPConfig:
    """Return our config from config.json and preprocessor_config.json.

    What a file leaves out takes the default of `transformers`.
    """
    from transformers import CLIPConfig as TheirConfig

    given = {k: v for k, v in values.items() if k != "model_type"}
    theirs: Any = TheirConfig(**given)
    vision, text = theirs.vision_config, theirs.text_config

    def tower(config: Any) -> dict[str, Any]:
        names = {"gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
        return {
            "width": config.hidden_size,
            "layers": config.num_hidden_layers,
            "num_heads": config.num_attention_heads,
            "mlp_width": config.intermediate_size,
            "activation": names.get(config.hidden_act, config.hidden_act),
            "norm_epsilon": config.layer_norm_eps,
        }

    return CLIPConfig(
        vision=VisionConfig(
            **tower(vision),
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            mean=tuple(preprocessor.get("image_mean", OPENAI_MEAN)),
            std=tuple(preprocessor.get("image_std", OPENAI_STD)),
        ),
        text=TextConfig(
            **tower(text),
            vocab_size=text.vocab_size,
            context_length=text.max_position_embeddings,
            eos_id=text.eos_token_id,
        ),
        embed_dim=theirs.projection_dim,
        logit_scale_init=theirs.logit_scale_init_value,
        dtype=dtype,
    )


def save_clip(clip: CLIP, directory: epath.PathLike) -> None:
    """Write a model that `transformers.CLIPModel.from_pretrained` opens."""
    from safetensors.numpy import save

    config = clip.config
    path = epath.Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    tensors = to_theirs(nnx.to_pure_dict(nnx.state(clip)), config)
    (path / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
    size = config.vision.image_size
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": list(config.vision.mean),
        "image_std": list(config.vision.std),
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
    }
    for name, content in (
        ("config.json", config_to_theirs(config)),
        ("preprocessor_config.json", preprocessor),
    ):
        (path / name).write_text(json.dumps(content, indent=2) + "\n")


def load_clip(name_or_directory: str, *, dtype: str = "float32") -> CLIP:
    """Return a CLIP model from a directory in the hub's layout or from the hub.

    Args:
        name_or_directory: with config.json and model.safetensors.
        dtype: in which the model computes; parameters are float32.

    Raises:
        UserError: a file is missing or damaged, or the weights do not fit the config.
    """
    path = find_model(name_or_directory)
    values = _read_json(path / "config.json")
    if values.get("model_type", "clip") != "clip":
        raise UserError(
            f"{path / 'config.json'} is of model_type {values['model_type']!r}; "
            "models of type 'clip' can be loaded"
        )
    optional = path / "preprocessor_config.json"
    preprocessor = _read_json(optional) if optional.exists() else {}
    config = config_from_theirs(values, preprocessor, dtype)
    params = from_theirs(_read_tensors(path / "model.safetensors"), config)
    return nnx.merge(graph_of(CLIP, config), params)


def find_model(name_or_directory: str) -> epath.Path:
    """Return the directory of a model, downloaded when it is a name of the hub."""
    path = epath.Path(name_or_directory)
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    patterns = ["*.json", "*.txt", "model.safetensors"]
    try:
        return epath.Path(snapshot_download(name_or_directory, allow_patterns=patterns))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as e:
        raise UserError(
            f"{name_or_directory!r} is neither a directory here nor a model that the "
            "hub gives; check the spelling and the network"
        ) from e


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; a model directory needs it") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def _read_tensors(path: epath.Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; a model directory needs it") from error
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or cut off: {error}") from error
