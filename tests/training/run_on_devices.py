"""Print the losses of short distillations on a mesh of simulated devices.

One learns both towers, and the other has a frozen text tower.

Usage: python run_on_devices.py DEVICES DATA FSDP TENSOR
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

DEVICES, *SIZES = map(int, sys.argv[1:])
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"

import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402

from kdjax.models import CLIP, abstract_of, architecture  # noqa: E402
from kdjax.objectives import expand  # noqa: E402
from kdjax.parallel import make_mesh, parameter_shardings, to_global  # noqa: E402
from kdjax.training.optimizer import OptimizerConfig  # noqa: E402
from kdjax.training.steps import build_program  # noqa: E402
from kdjax.training.tasks import ContrastiveTask  # noqa: E402

STEPS, BATCH = 6, 16


CLIP_CONFIG = architecture("tiny-16")


def batches() -> Iterator[Any]:
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        ids = rng.integers(4, 200, (BATCH, 24), np.int32)
        ids[:, 9] = CLIP_CONFIG.text.eos_id
        image = rng.integers(0, 256, (BATCH, 64, 64, 3), np.uint8)
        bits = rng.integers(0, 2**32, BATCH, np.uint32)
        text = {"student": ids, "teacher_0": ids}
        yield {"image": image, "text": text, "bits": bits}


def main() -> None:
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), SIZES, strict=True)))
    objectives = expand("clip_kd") | expand({"mfd": {}, "afd": {}, "siglip": {}})
    named = tuple((k, tuple(sorted(v.items()))) for k, v in sorted(objectives.items()))
    task = ContrastiveTask(CLIP_CONFIG, (CLIP_CONFIG,), named)
    teacher = nnx.to_pure_dict(nnx.state(CLIP(CLIP_CONFIG, rngs=nnx.Rngs(7))))
    places = parameter_shardings(abstract_of(CLIP, CLIP_CONFIG), mesh)
    frozen = jax.device_put(teacher, places)
    losses = {}
    for text in (1.0, 0.0):
        optimizer = OptimizerConfig(
            learning_rate=1e-3,
            weight_decay=0.1,
            warmup=0.2,
            b2=0.98,
            clip_norm=1.0,
            rates=(("text", text),),
        )
        program = build_program(task, optimizer, mesh)
        state, found = program.init(0, STEPS), []
        for batch in batches():
            state, metrics = program.step(state, (frozen,), to_global(batch, mesh))
            found.append(float(metrics["loss"]))
        losses["learning" if text else "frozen"] = found
    kernel = state.params["model"]["vision"]["transformer"]["blocks"]["mlp"]["up"]
    print(
        json.dumps({"losses": losses, "shards": list(kernel["kernel"].sharding.spec)})
    )


if __name__ == "__main__":
    main()
