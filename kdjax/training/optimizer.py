"""The optimiser, from a frozen config."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from kdjax.training.rates import Rates, moves, name_of, rate_factors
from kdjax.training.rules import RULES, rule_of

# Parameters that are decayed: matrices, and nothing that scales or shifts.
DECAYED = ("kernel", "embedding")
FROZEN = "frozen"


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How parameters follow their gradients.

    Attributes:
        name: one of `RULES`.
        schedule: one of `SCHEDULES`, after the warm-up.
        learning_rate: at the end of the warm-up.
        weight_decay: of matrices, decoupled, at the learning rate.
        warmup: as a fraction of all steps.
        b1: decay of the first moment; Muon's matrices have a momentum of their own.
        b2: decay of the second moment; the most that Adafactor's rises to; of Lion's
            only moment.
        clip_norm: largest global norm of the gradient; 0 for any.
        layer_decay: factor on the rate for each layer from the top of a tower.
        rates: patterns of parameters with factors on their rate; 0 freezes.
        ema: decay of the averaged parameters; 0 for none.
        max_logit_scale: largest factor on a softmax model's logits (Radford 2021,
            section 2.5).
    """

    name: str = "adamw"
    schedule: str = "cosine"
    learning_rate: float
    weight_decay: float
    warmup: float
    b1: float = 0.9
    b2: float
    clip_norm: float
    layer_decay: float = 1.0
    rates: Rates = ()
    ema: float = 0.0
    max_logit_scale: float = 100.0


def _cosine(number: Array, warmup: Array, steps: Array) -> Array:
    return (1 + jnp.cos(jnp.pi * _fallen(number, warmup, steps))) / 2


def _linear(number: Array, warmup: Array, steps: Array) -> Array:
    return 1 - _fallen(number, warmup, steps)


def _rsqrt(number: Array, warmup: Array, steps: Array) -> Array:
    return jnp.sqrt(warmup / number)


def _constant(number: Array, warmup: Array, steps: Array) -> Array:
    return jnp.ones_like(warmup)


def _fallen(number: Array, warmup: Array, steps: Array) -> Array:
    """Return the share of the way down, all of it one update after the last."""
    return jnp.clip((number - warmup) / jnp.maximum(1.0, steps + 1 - warmup), 0, 1)


# The share of the rate after the warm-up, by the updates' numbers, counted from one.
SCHEDULES: Mapping[str, Callable[[Array, Array, Array], Array]] = {
    "cosine": _cosine,
    "linear": _linear,
    "rsqrt": _rsqrt,
    "constant": _constant,
}


def learning_rate(
    config: OptimizerConfig, step: Int[Array, ""], steps: Int[Array, ""]
) -> Float[Array, ""]:
    """Return the rate after `step` of `steps` updates: a warm-up, then the schedule.

    Linear up to the last update of the warm-up; what falls to zero would be there one
    update after the last, so that every update moves something. Both numbers are
    arrays, so that runs of all lengths share one compiled program.
    """
    warmup = jnp.maximum(1.0, jnp.round(config.warmup * steps))
    rising = (step + 1) / warmup
    share = SCHEDULES[config.schedule](step + 1, warmup, steps)
    return config.learning_rate * jnp.where(step < warmup, rising, share)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Return the gradient transformation at a learning rate of one.

    Its state has no moments of what is frozen.
    """
    rules = RULES[config.name](config.b1, config.b2)

    def rule_of_each(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, moving: rule_of(name_of(path), rules) if moving else FROZEN,
            moves(params, config.rates),
        )

    def clip(updates: Any, _: Any) -> Any:
        # optax's divides every array, which XLA then writes down before the moments.
        largest = config.clip_norm
        factor = largest / jnp.maximum(optax.tree.norm(updates), largest)
        return jax.tree.map(lambda x: (factor * x).astype(x.dtype), updates)

    def scale(updates: Any, _: Any) -> Any:
        factors = rate_factors(updates, config.rates, config.layer_decay)
        return jax.tree.map(jnp.multiply, updates, factors)

    return optax.chain(
        optax.stateless(clip) if config.clip_norm else optax.identity(),
        optax.partition({**rules, FROZEN: optax.set_to_zero()}, rule_of_each),
        optax.add_decayed_weights(config.weight_decay, mask=_decayed),
        optax.scale(-1.0),
        optax.stateless(scale),
    )


def _decayed(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: name_of(path).split("/")[-1] in DECAYED, params
    )


def stop_frozen(params: Any, config: OptimizerConfig) -> Any:
    """Return parameters of which those that stay as they are get no gradient.

    So what is frozen does not count in clipping, and nothing goes back through it.
    """

    def stop(x: Array, moving: bool) -> Array:
        return x if moving else jax.lax.stop_gradient(x)

    return jax.tree.map(stop, params, moves(params, config.rates))


def begin_average(params: Any) -> Any:
    """Return the average of parameters that have not moved: a float32 copy of them."""
    return jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), params)


def move_average(
    average: Any, params: Any, step: Int[Array, ""], config: OptimizerConfig
) -> Any:
    """Return the average after the update `step`, counted from zero.

    Its decay rises to `config.ema` as (1 + step) / (10 + step), so that short runs
    forget where they began. What is frozen is its own average, to the last bit.
    """
    decay = jnp.minimum(config.ema, (1 + step) / (10 + step))
    moved = optax.incremental_update(params, average, 1 - decay)
    return jax.tree.map(
        lambda new, old, moving: new if moving else old,
        moved,
        average,
        moves(params, config.rates),
    )


def clamp_logit_scale(params: Any, largest: float) -> Any:
    """Keep a softmax model's logit scale at no more than `largest`.

    That of a sigmoid model, which has a logit bias too, is left to itself.
    """
    if not isinstance(params, Mapping):
        return params
    clamped = {key: clamp_logit_scale(value, largest) for key, value in params.items()}
    if "logit_scale" in params and "logit_bias" not in params:
        clamped["logit_scale"] = params["logit_scale"].clip(None, math.log(largest))
    return clamped
