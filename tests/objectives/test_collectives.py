"""What eight devices tell each other of pairs: this file is also their program."""

import json
import math
import re
import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from objectives.forms import combinations, has_blocks
from objectives.on_devices import TESTS, with_devices

from kdjax.embeddings import Embeddings
from kdjax.objectives import build_objective
from kdjax.parallel import BATCH_AXES, make_mesh, replicated

COUNTED = {"clip": {}, "crd": {}, "icl": {}}
# What a sample of triples needs does not grow with the batch, which is small here.
IN_BLOCKS = {
    name: options
    for name, options in combinations()[0].items()
    if has_blocks(name) and name != "rkd"
}
DEVICES, BATCH, WIDTH, BLOCK_ROWS = 8, 512, 32, 16
SHAPE = r"(\w+)\[([\d,]*)\]"
BYTES = {"f32": 4, "s32": 4, "u32": 4, "pred": 1}
KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
FEATURES, STATISTICS = 4 * BATCH * WIDTH, 4 * BATCH


@pytest.fixture(scope="module")
def programs():
    """As compiled: those of `COUNTED` and of `IN_BLOCKS`, with gradients."""
    run = subprocess.run(
        [sys.executable, "-m", "objectives.test_collectives"],
        cwd=TESTS,
        env=with_devices(DEVICES),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def elements(shape):
    return math.prod(int(size) for size in shape.split(",") if size)


def collectives(program):
    """Bytes of every kind of collective, as of the whole batch."""
    found = Counter()
    for shapes, kind in re.findall(rf"= (.*?) ({KINDS})(?:-start)?\(", program):
        sizes = (BYTES[of] * elements(shape) for of, shape in re.findall(SHAPE, shapes))
        found[kind] += sum(sizes) * (DEVICES if kind == "reduce-scatter" else 1)
    return found


def test_features_are_gathered_once_and_the_rest_is_small(programs):
    found = collectives(programs[0])
    # What is compared with all rows: the student's texts, the teacher's and its images.
    # Of the two matrices whose columns are softmaxes, two statistics of every column.
    expected = {
        "all-gather": 3 * FEATURES + 4 * STATISTICS,
        "all-reduce": 4 * STATISTICS,
        "reduce-scatter": FEATURES,
    }
    assert found == pytest.approx(expected, rel=0.1)


def test_no_device_holds_its_rows_with_all_columns(programs):
    assert BATCH * WIDTH < BATCH * BATCH // DEVICES
    for program in programs:
        sizes = [elements(shape) for _, shape in re.findall(SHAPE, program)]
        assert BATCH * BLOCK_ROWS <= max(sizes) <= BATCH * WIDTH


def compiled(spec):
    mesh = make_mesh({"data": 2, "fsdp": 4, "tensor": 1})
    graph, state = nnx.split(
        build_objective(
            spec,
            student_width=WIDTH,
            teacher_width=WIDTH,
            student_bias=True,
            block_rows=BLOCK_ROWS,
            rngs=nnx.Rngs(0),
        )
    )

    def loss(student, state, teacher):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return nnx.merge(graph, state)(student, teacher)[0]

    def side(rows, scalar):
        return Embeddings(image=rows, text=rows, logit_scale=scalar, logit_bias=scalar)

    rows, whole = NamedSharding(mesh, PartitionSpec(BATCH_AXES)), replicated(mesh)
    places = side(rows, whole)
    given = side(
        jax.ShapeDtypeStruct((BATCH, WIDTH), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.float32),
    )
    gradient = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1)),
        in_shardings=(places, whole, places),
        out_shardings=(whole, (places, whole)),
    )
    return gradient.lower(given, state, given).compile().as_text()


if __name__ == "__main__":
    print(json.dumps([compiled(spec) for spec in (COUNTED, IN_BLOCKS)]))
