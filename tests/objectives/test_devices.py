"""Eight devices say what one says: this file is also the program that has them."""

import json
import os
import subprocess
import sys

import pytest

from kdjax.objectives import objective_names

MESHES = [(8, 1, 1), (1, 8, 1), (2, 4, 1)]
NAMES = objective_names()
BATCH, STUDENT, TEACHER, CLASSES = 16, 8, 12, 5
LAYERED = ("image_hidden", "image_attention")
LAYERS, HEADS = 1, 2
# Of towers, the width and the patches.
TOWERS = {"student": (4, 9), "teacher": (6, 4)}


@pytest.fixture(scope="module")
def distances():
    # What is compared does not depend on how well it is optimised; the time does.
    flags = (
        "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
        "--xla_llvm_disable_expensive_passes=true"
    )
    run = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", NAMES)
def test_devices_agree(distances, mesh, name):
    far = distances[str(mesh)]
    assert far["devices"] == 8
    assert far["values"][name] < 1e-5
    gradients = far["gradients"][name]
    assert len(gradients) >= 2
    assert max(gradients.values()) < 1e-4


def shapes(side, joint):
    """Of one row of a side's embeddings."""
    width, patches = TOWERS[side]
    return {
        "image": (joint,),
        "text": (joint,),
        "image_tokens": (patches, width),
        "image_hidden": (LAYERS, patches, width),
        "image_attention": (LAYERS, HEADS, patches, patches),
    }


def main():
    import jax
    import numpy as np
    from flax import nnx
    from jax.sharding import NamedSharding, PartitionSpec

    from kdjax.embeddings import Embeddings
    from kdjax.models.config import TransformerConfig
    from kdjax.objectives import build_objective
    from kdjax.parallel import make_mesh, to_global

    towers = {
        side: TransformerConfig(
            width=width, layers=LAYERS, num_heads=HEADS, mlp_width=1
        )
        for side, (width, _) in TOWERS.items()
    }
    objective = build_objective(
        {name: {} for name in NAMES},
        student_width=STUDENT,
        teacher_width=TEACHER,
        student_vision=towers["student"],
        teacher_vision=towers["teacher"],
        rngs=nnx.Rngs(0),
    )
    graph, state = nnx.split(objective)

    def terms(student, state, teacher):
        scale = np.float32(9)
        sides = [
            Embeddings(
                **{
                    k: np.swapaxes(v, 0, 1) if k in LAYERED else v for k, v in x.items()
                },
                masked_image=x["image"][::-1],
                logit_scale=scale,
            )
            for x in (student, teacher)
        ]
        found = nnx.merge(graph, nnx.State(state))(*sides)[1]
        return found, found

    answer = jax.jit(jax.jacrev(terms, argnums=(0, 1), has_aux=True))
    rng = np.random.default_rng(0)
    student, teacher = (
        {
            name: rng.normal(size=(BATCH, *shape)).astype("float32")
            for name, shape in shapes(side, width).items()
        }
        for side, width in (("student", STUDENT), ("teacher", TEACHER))
    )
    for side in (student, teacher):
        side["image_attention"] = np.abs(side["image_attention"])
        side["class_logits"] = rng.normal(size=(BATCH, CLASSES)).astype("float32")
    student["class_targets"] = rng.uniform(size=(BATCH, CLASSES)).astype("float32")
    student["class_weights"] = rng.uniform(size=BATCH).astype("float32")
    state = nnx.to_pure_dict(state)
    gradients, values = answer(student, state, teacher)

    def far(theirs, ours):
        theirs, ours = np.asarray(theirs), np.asarray(ours)
        return float(np.linalg.norm(theirs - ours) / max(np.linalg.norm(ours), 1e-9))

    report = {}
    for sizes in MESHES:
        mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
        whole = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
        rows = [to_global(side, mesh) for side in (student, teacher)]
        others = answer(rows[0], whole, rows[1])
        report[str(sizes)] = {
            "devices": len(
                {s.index[0].start for s in rows[0]["image"].addressable_shards}
            ),
            "values": jax.tree.map(far, others[1], values),
            "gradients": {
                name: {
                    jax.tree_util.keystr(path): far(theirs, ours)
                    for (path, theirs), ours in zip(
                        jax.tree_util.tree_leaves_with_path(others[0][name]),
                        jax.tree.leaves(gradients[name]),
                        strict=True,
                    )
                }
                for name in NAMES
            },
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
