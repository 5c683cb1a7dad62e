"""The rules by which gradients become updates, at a learning rate of one."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from kdjax.training.rates import is_stacked, name_of

Transform: TypeAlias = optax.GradientTransformation
# The kinds of parameters; the first is Muon's alone.
MATRIX, OTHER = "matrix", "other"
# Muon's momentum (Jordan 2024), and its updates' size: that of AdamW's (Liu 2025).
MUON_MOMENTUM, MUON_RMS = 0.95, 0.2
# Of Adafactor (Shazeer 2018, sections 6 and 7.2).
ADAFACTOR_RMS, ADAFACTOR_EXPONENT = 1.0, 0.8


def _adamw(b1: float, b2: float) -> dict[str, Transform]:
    """Loshchilov 2019, arXiv:1711.05101."""
    return {OTHER: optax.scale_by_adam(b1=b1, b2=b2)}


def _lion(b1: float, b2: float) -> dict[str, Transform]:
    """Chen 2023, arXiv:2302.06675."""
    return {OTHER: optax.scale_by_lion(b1=b1, b2=b2)}


def _adafactor(b1: float, b2: float) -> dict[str, Transform]:
    """Shazeer 2018, arXiv:1804.04235, as Zhai 2022, arXiv:2106.04560, has it.

    That is at an absolute rate, with a first moment and a bound on the second's decay.
    """

    def decay(step: Array, exponent: float) -> Array:
        return jnp.minimum(b2, 1 - (step + 1.0) ** -exponent)

    scaled = optax.scale_by_factored_rms(
        decay_rate=ADAFACTOR_EXPONENT, decay_rate_fn=decay
    )
    mean = optax.ema(b1, debias=False)
    clipped = optax.stateless(lambda updates, _: _clip_rms(updates))
    return {OTHER: optax.chain(scaled, clipped, mean if b1 else optax.identity())}


def _muon(b1: float, b2: float) -> dict[str, Transform]:
    """Jordan 2024, of the size of AdamW's updates as in Liu 2025, arXiv:2502.16982."""
    last_two = optax.contrib.MuonDimensionNumbers(-2, -1)

    def resize(update: Array) -> Array:
        return MUON_RMS * math.sqrt(max(update.shape[-2:])) * update

    orthogonal = optax.contrib.scale_by_muon(
        beta=MUON_MOMENTUM,
        weight_dimension_numbers=lambda x: jax.tree.map(lambda _: last_two, x),
    )
    resized = optax.stateless(lambda updates, _: jax.tree.map(resize, updates))
    return {MATRIX: optax.chain(orthogonal, resized), **_adamw(b1, b2)}


# What becomes of gradients, by the kinds of parameters, from (b1, b2).
RULES: Mapping[str, Callable[[float, float], dict[str, Transform]]] = {
    "adamw": _adamw,
    "adafactor": _adafactor,
    "lion": _lion,
    "muon": _muon,
}


def rule_of(name: str, rules: Mapping[str, Transform]) -> str:
    """Return the kind of a parameter for which there is a rule.

    A matrix is one from hidden states to hidden states.
    """
    *above, last = name.split("/")
    hidden = last == "kernel" and not {"attention", "mlp"}.isdisjoint(above)
    return MATRIX if hidden and MATRIX in rules else OTHER


def _clip_rms(updates: Any) -> Any:
    """Return updates with a root mean square of at most one, each layer's by itself."""

    def clip(path: Any, update: Array) -> Array:
        axes = tuple(range(is_stacked(name_of(path)), update.ndim))
        mean = jnp.mean(update**2, axis=axes, keepdims=True)
        return update / jnp.maximum(1.0, jnp.sqrt(mean) / ADAFACTOR_RMS)

    return jax.tree_util.tree_map_with_path(clip, updates)
