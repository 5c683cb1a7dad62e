"""What is saved comes back bit for bit, also on another mesh."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from kdjax.parallel import make_mesh
from kdjax.training.checkpoints import Checkpoints
from kdjax.training.steps import TrainState

ALONE = (1, 1, 1)
MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2)]
PLACES = {"kernel": PartitionSpec("fsdp", "tensor"), "bias": PartitionSpec("tensor")}


def numbers():
    return iter(grain.MapDataset.range(100).to_iter_dataset())


def train_state(step, sizes=ALONE):
    """A state of awkward numbers that depend on the step, and its shardings."""
    rng = np.random.default_rng(step)
    params = {
        "kernel": rng.normal(size=(8, 16)).astype(np.float32),
        "bias": np.array([-0.0, 1e-45, np.inf, step / 3] * 4, np.float32),
    }
    moments = {name: x.astype(jnp.bfloat16) for name, x in params.items()}
    opt_state = (moments, np.int32(step))
    skipped = np.int32(step % 3), np.int32(0)
    values = TrainState(np.int32(step), np.int32(9), params, opt_state, *skipped)
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), sizes, strict=True)))
    places = {name: NamedSharding(mesh, spec) for name, spec in PLACES.items()}
    whole = NamedSharding(mesh, PartitionSpec())
    shardings = TrainState(whole, whole, places, (places, whole), whole, whole)
    return jax.device_put(values, shardings), shardings


def bits(state):
    return [(x.dtype, x.tobytes()) for x in jax.tree.leaves(jax.device_get(state))]


def save(workdir, *steps, keep=2):
    """Save a state at each step, with an iterator that has given as many numbers."""
    checkpoints = Checkpoints(epath.Path(workdir), keep)
    batches = numbers()
    for step in range(1, max(steps) + 1):
        next(batches)
        if step in steps:
            checkpoints.save(train_state(step)[0], batches)
    checkpoints.close()


def restore(workdir, sizes=ALONE):
    state, shardings = train_state(0, sizes)
    batches = numbers()
    checkpoints = Checkpoints(epath.Path(workdir), 2)
    restored = checkpoints.restore(state, shardings, batches)
    checkpoints.close()
    return restored, batches


def test_the_newest_state_comes_back_bit_for_bit_with_the_iterator(tmp_path):
    save(tmp_path, 3, 7)
    restored, batches = restore(tmp_path)
    assert bits(restored) == bits(train_state(7)[0])
    assert jax.tree.structure(restored) == jax.tree.structure(train_state(7)[0])
    assert next(batches) == 7


def test_without_a_checkpoint_nothing_changes(tmp_path):
    restored, batches = restore(tmp_path)
    assert bits(restored) == bits(train_state(0)[0])
    assert next(batches) == 0


@pytest.mark.parametrize("keep", [1, 2])
def test_the_newest_few_are_kept(keep, tmp_path):
    save(tmp_path, 2, 4, 5, keep=keep)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["2", "4", "5"][-keep:]


def test_a_step_that_is_saved_stays_as_it_is(tmp_path):
    save(tmp_path, 3)
    checkpoints = Checkpoints(epath.Path(tmp_path), 2)
    other = replace(train_state(4)[0], step=train_state(3)[0].step)
    checkpoints.save(other, numbers())
    checkpoints.close()
    restored, batches = restore(tmp_path)
    assert bits(restored) == bits(train_state(3)[0])
    assert next(batches) == 3


def test_a_saved_state_may_be_donated_at_once(tmp_path):
    checkpoints = Checkpoints(epath.Path(tmp_path), 2)
    state, _ = train_state(4)
    checkpoints.save(state, numbers())
    jax.jit(lambda x: jax.tree.map(lambda y: y * 0, x), donate_argnums=0)(state)
    checkpoints.close()
    assert bits(restore(tmp_path)[0]) == bits(train_state(4)[0])


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """What a program with eight devices finds where one device saved."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save(folder, 6)
    run = subprocess.run(
        [sys.executable, __file__, str(folder)],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("mesh", MESHES)
def test_another_mesh_finds_the_same_bits_where_it_wants_them(elsewhere, mesh):
    _, fsdp, tensor = mesh
    assert elsewhere[str(mesh)] == {
        "same": True,
        "next": 6,
        "kernel": [8 // fsdp, 16 // tensor],
        "moment": [16 // tensor],
    }


def main():
    report = {}
    for sizes in MESHES:
        restored, batches = restore(sys.argv[1], sizes)
        kernel, moment = restored.params["kernel"], restored.opt_state[0]["bias"]
        report[str(sizes)] = {
            "same": bits(restored) == bits(train_state(6, sizes)[0]),
            "next": int(next(batches)),
            "kernel": kernel.addressable_shards[0].data.shape,
            "moment": moment.addressable_shards[0].data.shape,
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
