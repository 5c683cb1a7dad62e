"""What objectives cost: FLOPs, temporary memory and, where they are run, time.

    python benchmarks/objectives.py            # every objective, compiled and not run
    python benchmarks/objectives.py time       # clip, crd and icl, in blocks and dense

A cost is that of value and gradient along a student and what is learnt, of embeddings
that are there: what a step spends beside the towers.
"""

import sys
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kdjax.embeddings import Embeddings
from kdjax.models.config import TransformerConfig
from kdjax.objectives import blocks, build_objective
from kdjax.objectives.registry import REGISTRY

SMALL, LARGE = 1024, 32768
STUDENT, TEACHER = 512, 768
# Of towers, ViT-T/16 and ViT-B/16: what comparing patches costs is given for so many.
IMAGES = 64
TOWERS = {
    "student": TransformerConfig(width=192, layers=1, num_heads=3, mlp_width=1),
    "teacher": TransformerConfig(width=768, layers=1, num_heads=12, mlp_width=1),
}
PATCHES = 196
CLASSES = 3129
COMBINED = {"clip": {}, "crd": {}, "icl": {}}
WORDS = ("image", "text")


def shapes(name: str, side: str, batch: int, width: int) -> dict[str, Any]:
    """Return the shapes of what an objective reads of one side."""
    tower, entry = TOWERS[side], REGISTRY[name]
    sizes: dict[str, tuple[int, ...]] = {
        "image": (batch, width),
        "text": (batch, width),
        "logit_scale": (),
    }
    if "masked_image" in entry.needs:
        sizes["masked_image"] = (batch, width)
    if "image_tokens" in entry.needs:
        sizes["image_tokens"] = (batch, PATCHES, tower.width)
    if "image_hidden" in entry.needs:
        sizes["image_hidden"] = (1, batch, PATCHES, tower.width)
    if "image_attention" in entry.needs:
        sizes["image_attention"] = (1, batch, tower.num_heads, PATCHES, PATCHES)
    if entry.of == "classes":
        sizes |= {"class_logits": (batch, CLASSES), "class_targets": (batch, CLASSES)}
    return {k: jax.ShapeDtypeStruct(x, jnp.float32) for k, x in sizes.items()}


def gradient_of(spec: Mapping[str, Any], student: int, teacher: int) -> Any:
    """Return the jitted value and gradient of objectives, and what they learn."""
    graph, state = nnx.split(
        build_objective(
            spec,
            student_width=student,
            teacher_width=teacher,
            student_vision=TOWERS["student"],
            teacher_vision=TOWERS["teacher"],
            rngs=nnx.Rngs(0),
        )
    )

    def loss(student: Any, learnt: Any, teacher: Any) -> Any:
        sides = Embeddings(**student), Embeddings(**teacher)
        return nnx.merge(graph, learnt)(*sides)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)), state


def compiled(name: str, batch: int) -> tuple[Any, int]:
    """Return the compiled program of one objective, and how many numbers it learns."""
    gradient, learnt = gradient_of({name: {}}, STUDENT, TEACHER)
    student, teacher = (
        shapes(name, side, batch, width)
        for side, width in (("student", STUDENT), ("teacher", TEACHER))
    )
    count = sum(x.size for x in jax.tree.leaves(learnt))
    return gradient.lower(student, learnt, teacher).compile(), count


def gib(program: Any) -> float:
    """Return a program's temporary memory."""
    return program.memory_analysis().temp_size_in_bytes / 2**30


def print_costs() -> None:
    """Print a table of what every objective costs."""
    heads = f"GFLOP at {SMALL} | MiB at {SMALL} | GiB at {LARGE}"
    print(f"| name | learns | {heads} |\n|---|---|---|---|---|")
    for name, entry in REGISTRY.items():
        few = any(field.startswith("image_") for field in entry.needs)
        small, learnt = compiled(name, IMAGES if few else SMALL)
        flops = small.cost_analysis()["flops"] / 1e9
        large = "" if few else f"{gib(compiled(name, LARGE)[0]):.2g}"
        costs = f"{flops:.2g} | {1024 * gib(small):.0f} | {large}"
        print(f"| `{name}` | {learnt:,} | {costs} |")


def print_times(batch: int = 4096, rounds: int = 7) -> None:
    """Print the time of clip, crd and icl in blocks and dense, in turns."""
    rng = np.random.default_rng(0)
    sides = [
        {
            word: jnp.asarray(rng.normal(size=(batch, STUDENT)), "float32")
            for word in WORDS
        }
        | {"logit_scale": jnp.float32(20)}
        for _ in range(2)
    ]
    programs = {}
    for label, dense_rows in (("blocks", 0), ("dense", batch)):
        blocks.DENSE_ROWS = dense_rows
        gradient, learnt = gradient_of(COMBINED, STUDENT, STUDENT)
        programs[label] = gradient.lower(sides[0], learnt, sides[1]).compile(), learnt
    seconds: dict[str, list[float]] = {label: [] for label in programs}
    for _ in range(rounds + 1):
        for label, (program, learnt) in programs.items():
            started = time.perf_counter()
            jax.block_until_ready(program(sides[0], learnt, sides[1]))
            seconds[label].append(time.perf_counter() - started)
    for label, (program, _) in programs.items():
        print(f"{label}: {spread(seconds[label][1:])} s, {1024 * gib(program):.0f} MiB")
    ratios = [a / b for a, b in zip(*(x[1:] for x in seconds.values()), strict=True)]
    print(f"blocks / dense: {spread(ratios)}; B = {batch}, {jax.devices()[0]}")


def spread(numbers: list[float]) -> str:
    """Return the median and the range of numbers as text."""
    return f"{median(numbers):.2f} ({min(numbers):.2f} to {max(numbers):.2f})"


if __name__ == "__main__":
    print_times() if sys.argv[1:] == ["time"] else print_costs()
