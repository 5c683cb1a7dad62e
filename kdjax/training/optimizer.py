"""The optimiser, from a frozen config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from kdjax.models import TOWERS

# Parameters that are decayed: matrices, and nothing that scales or shifts.
DECAYED = ("kernel", "embedding")
MAX_LOGIT_SCALE = 4.605170185988092  # ln 100 (Radford 2021, section 2.5)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with warm-up, a cosine to zero and clipping by the global norm.

    Attributes:
        learning_rate: at the end of the warm-up.
        weight_decay: of matrices.
        warmup: as a fraction of all steps.
        b2: decay of the second moment.
        clip_norm: largest global norm of the gradient.
        vision_rate: factor on the learning rate of the vision tower; 0 freezes it.
        text_rate: the same of the text tower and its projection.
    """

    learning_rate: float
    weight_decay: float
    warmup: float
    b2: float
    clip_norm: float
    vision_rate: float = 1.0
    text_rate: float = 1.0


def learning_rate(
    config: OptimizerConfig, step: Int[Array, ""], steps: Int[Array, ""]
) -> Float[Array, ""]:
    """Return the rate after `step` of `steps` updates: a warm-up, then a cosine.

    Linear up to the last update of the warm-up; it would be zero one update after the
    last, so that every update moves something. Both numbers are arrays, so that runs
    of all lengths share one compiled program.
    """
    warmup = jnp.maximum(1.0, jnp.round(config.warmup * steps))
    rising = (step + 1) / warmup
    falling = (step + 1 - warmup) / jnp.maximum(1.0, steps + 1 - warmup)
    cosine = (1 + jnp.cos(jnp.pi * jnp.clip(falling, 0, 1))) / 2
    return config.learning_rate * jnp.where(step < warmup, rising, cosine)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Return the gradient transformation at a learning rate of one."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(b2=config.b2),
        optax.add_decayed_weights(config.weight_decay, mask=_decayed),
        optax.scale(-1.0),
        optax.stateless(lambda updates, _: _scale_towers(updates, config)),
    )


def stop_frozen(params: Any, config: OptimizerConfig) -> Any:
    """Return parameters of which those that stay as they are get no gradient.

    So a frozen tower does not count in clipping, and nothing goes back through it.
    """

    def stop(path: Any, x: jax.Array) -> jax.Array:
        return x if _factor(path, config) else jax.lax.stop_gradient(x)

    return jax.tree_util.tree_map_with_path(stop, params)


def _decayed(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", None) in DECAYED, params
    )


def _scale_towers(updates: Any, config: OptimizerConfig) -> Any:
    def scale(path: Any, update: jax.Array) -> jax.Array:
        return update * _factor(path, config)

    return jax.tree_util.tree_map_with_path(scale, updates)


def _factor(path: Any, config: OptimizerConfig) -> float:
    """Return the factor on the learning rate of the parameter at a path."""
    keys = [part.key for part in path]
    if "vision" in keys:
        return config.vision_rate
    # The objective has a head that is called text too.
    text = keys[:1] == ["model"] and keys[1] in TOWERS["text"]
    return config.text_rate if text else 1.0


def clamp_logit_scale(params: Any) -> Any:
    """Keep a softmax model's logit scale at no more than 100.

    That of a sigmoid model, which has a logit bias too, is left to itself.
    """
    if not isinstance(params, Mapping):
        return params
    clamped = {key: clamp_logit_scale(value) for key, value in params.items()}
    if "logit_scale" in params and "logit_bias" not in params:
        clamped["logit_scale"] = params["logit_scale"].clip(None, MAX_LOGIT_SCALE)
    return clamped
