"""How models compute on a machine, and how they are held there."""

from dataclasses import dataclass, replace

import jax
from ml_collections import ConfigDict

from kdjax.commands.reporter import Reporter
from kdjax.models import CLIPConfig, VisionConfig, VQAConfig
from kdjax.models.config import Kernel, Remat
from kdjax.parallel import FROZEN, SPLIT

# Fused kernels of attention, and the machine that each is for.
KERNELS = {"cudnn": "gpu", "splash": "tpu"}


@dataclass(frozen=True)
class Compute:
    """How a model computes, and how it is held.

    Attributes:
        dtype: of activations.
        attention: the kernel.
        param_dtype: of parameters.
        vision_remat: what the gradient of the image tower computes again.
        text_remat: and that of the text tower.
        over: axes of the mesh that may split the parameters.
    """

    dtype: str
    attention: Kernel
    param_dtype: str = "float32"
    vision_remat: Remat = "none"
    text_remat: Remat = "none"
    over: tuple[str, ...] = SPLIT

    def of(self, config: CLIPConfig) -> CLIPConfig:
        """Return a model's config that computes so."""
        text = replace(config.text, attention=self.attention, remat=self.text_remat)
        return replace(
            config,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            vision=self._of_tower(config.vision),
            text=text,
        )

    def of_vqa(self, config: VQAConfig) -> VQAConfig:
        """Return a VQA model's config that computes so."""
        return replace(
            config,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            attention=self.attention,
            vision=self._of_tower(config.vision),
        )

    def _of_tower(self, config: VisionConfig) -> VisionConfig:
        return replace(config, attention=self.attention, remat=self.vision_remat)


def compute_of(
    config: ConfigDict, reporter: Reporter, backend: str | None = None
) -> Compute:
    """Return how a run computes: what its config asks for and a machine can do.

    Args:
        config: of the run.
        reporter: is told what the machine cannot.
        backend: of the machine: cpu, gpu or tpu; None for this one's.
    """
    backend, attention = backend or jax.default_backend(), config.attention
    needed = KERNELS.get(attention, backend)
    if needed != backend:
        reporter.say(
            f"attention {attention} needs a {needed.upper()} and this is a {backend}: "
            "using xla"
        )
        attention = "xla"
    remat = config.get("remat", {})
    return Compute(
        _dtype(config.dtype, backend),
        attention,
        config.get("param_dtype", "float32"),
        remat.get("vision", "none"),
        remat.get("text", "none"),
    )


def compute_of_teacher(
    config: ConfigDict, compute: Compute, backend: str | None = None
) -> Compute:
    """Return how a frozen teacher computes beside a student that computes so.

    It is held in what it computes in, and without gradient it keeps nothing for one.
    """
    dtype = _dtype(config.teacher_dtype, backend or jax.default_backend())
    over = FROZEN[config.teacher_sharding]
    return Compute(dtype, compute.attention, dtype, over=over)


def _dtype(name: str, backend: str) -> str:
    """Return a dtype; "auto" is bfloat16 on accelerators and float32 on CPUs."""
    if name != "auto":
        return name
    return "float32" if backend == "cpu" else "bfloat16"
