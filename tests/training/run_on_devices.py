"""Train the same on one device and on meshes of eight simulated ones; print JSON.

Usage: python run_on_devices.py
"""

import json
import os
import re
from typing import Any

os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from kdjax.models import CLIP, Params, abstract_of, architecture
from kdjax.objectives import expand
from kdjax.parallel import (
    FROZEN,
    hlo,
    make_mesh,
    parameter_shardings,
    to_global,
)
from kdjax.parallel.costs import collectives
from kdjax.training.optimizer import OptimizerConfig
from kdjax.training.steps import TrainState, build_program
from kdjax.training.tasks import ContrastiveTask

STEPS, BATCH = 50, 16
# Each with where its teacher lives.
MESHES = {
    (1, 1, 1): "replicated",
    (8, 1, 1): "replicated",
    (2, 4, 1): "fsdp",
    (2, 2, 2): "tensor",
}
CLIP_CONFIG = architecture("tiny-16")
OPTIMIZER = OptimizerConfig(
    learning_rate=1e-3, weight_decay=0.1, warmup=0.2, b2=0.98, clip_norm=1.0
)


def task_of(objectives: dict[str, Any]) -> ContrastiveTask:
    named = tuple((k, tuple(sorted(v.items()))) for k, v in sorted(objectives.items()))
    return ContrastiveTask(CLIP_CONFIG, (CLIP_CONFIG,), named)


def global_batch(step: int) -> dict[str, Any]:
    """A batch is a function of its number alone."""
    rng = np.random.default_rng(step)
    ids = rng.integers(4, 200, (BATCH, 8), np.int32)
    ids[:, 5] = CLIP_CONFIG.text.eos_id
    image = rng.integers(0, 256, (BATCH, 64, 64, 3), np.uint8)
    bits = rng.integers(0, 2**32, BATCH, np.uint32)
    return {"image": image, "text": {"student": ids, "teacher_0": ids}, "bits": bits}


def trained(mesh: Mesh, teacher: Params, places: str) -> dict[str, Any]:
    """Return the losses of a run, and what its compiled step says of the state."""
    over = FROZEN[places]
    shardings = parameter_shardings(abstract_of(CLIP, CLIP_CONFIG), mesh, over)
    frozen = (jax.device_put(teacher, shardings),)
    objectives = expand({"clip": {}, "crd": {}, "fd": {}})
    program = build_program(task_of(objectives), OPTIMIZER, mesh, (shardings,))
    state, losses = program.init(0, STEPS), []
    batches = [to_global(global_batch(step), mesh) for step in range(STEPS)]
    lowered = program.step.lower(state, frozen, batches[0])
    compiled = lowered.compile({"xla_backend_optimization_level": 0})
    for batch in batches:
        state, metrics = compiled(state, frozen, batch)
        losses.append(float(metrics["loss"]))
    return {
        "losses": losses,
        "elsewhere": elsewhere(state, program.shardings),
        "arrays": len(jax.tree.leaves(state)),
        "donated": len(re.findall(r"(?:may|must)-alias\)", compiled.as_text())),
        "shards": shards(state.params),
        "forward": said_forward(compiled.as_text(), mesh),
        "teacher": shards({"model": frozen[0]}),
    }


def said_forward(text: str, mesh: Mesh) -> list[str]:
    """Return how devices that share weights talk to each other on the way forward."""
    said = collectives(hlo.read(text), mesh.shape, (0,) * mesh.size)
    return sorted({x.kind for x in said if x.over == ("fsdp",) and "/jvp(" in x.scope})


def elsewhere(state: TrainState, shardings: TrainState) -> list[str]:
    """Return the arrays that lie other than as the table says."""
    lies = jax.tree.map(lambda x, place: x.sharding == place, state, shardings)
    paths = jax.tree_util.tree_leaves_with_path(lies)
    return [jax.tree_util.keystr(path) for path, right in paths if not right]


def shards(params: Params) -> list[str | None]:
    kernel = params["model"]["vision"]["transformer"]["blocks"]["mlp"]["up"]["kernel"]
    return list(kernel.sharding.spec)


def main() -> None:
    teacher = nnx.to_pure_dict(nnx.state(CLIP(CLIP_CONFIG, rngs=nnx.Rngs(7))))
    found = {}
    for sizes, places in MESHES.items():
        named = dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))
        mesh = make_mesh(named, jax.devices()[: int(np.prod(sizes))])
        found[str(sizes)] = trained(mesh, teacher, places)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
