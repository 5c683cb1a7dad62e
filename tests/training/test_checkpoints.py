"""What is saved comes back bit for bit, also on another mesh."""

import json
import re
import shutil
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
from objectives.on_devices import TESTS, with_devices
from orbax.checkpoint._src.serialization import serialization

from kdjax.errors import Transient, UserError
from kdjax.parallel import make_mesh
from kdjax.process import quiet_libraries
from kdjax.training.checkpoints import Checkpoints, Record, restore_model
from kdjax.training.choosing import Best
from kdjax.training.steps import TrainState

ALONE = (1, 1, 1)
MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2)]
PLACES = {"kernel": PartitionSpec("fsdp", "tensor"), "bias": PartitionSpec("tensor")}


@pytest.fixture(autouse=True, scope="module")
def quiet():
    """As commands are, about what Orbax leaves behind where it cannot read."""
    quiet_libraries()


def numbers():
    return iter(grain.MapDataset.range(100).to_iter_dataset())


def train_state(step, sizes=ALONE):
    """A state of awkward numbers that depend on the step, and its shardings."""
    rng = np.random.default_rng(step)
    params = {
        "kernel": rng.normal(size=(8, 1024)).astype(np.float32),
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


def record(step, best=None):
    return Record(seed=5, seconds=step / 4, best=best)


def save(workdir, *steps, keep=2, best=None):
    """Save a state at each step, with an iterator that has given as many numbers."""
    checkpoints = Checkpoints(epath.Path(workdir), keep)
    batches = numbers()
    for step in range(1, max(steps) + 1):
        next(batches)
        if step in steps:
            checkpoints.save(train_state(step)[0], batches, record(step, best))
    checkpoints.close()


def restore(workdir, sizes=ALONE, say=lambda line: None):
    """What is restored, or None, and the iterator."""
    state, shardings = train_state(0, sizes)
    batches = numbers()
    checkpoints = Checkpoints(epath.Path(workdir), 2, say)
    restored = checkpoints.restore(state, shardings, batches)
    checkpoints.close()
    return restored, batches


def test_the_newest_state_comes_back_bit_for_bit_with_the_iterator(tmp_path):
    save(tmp_path, 3, 7)
    restored, batches = restore(tmp_path)
    assert bits(restored.state) == bits(train_state(7)[0])
    assert restored.record == record(7)
    assert jax.tree.structure(restored.state) == jax.tree.structure(train_state(7)[0])
    assert next(batches) == 7


def test_without_a_checkpoint_there_is_nothing(tmp_path):
    restored, batches = restore(tmp_path)
    assert restored is None
    assert next(batches) == 0


@pytest.mark.parametrize("keep", [1, 2])
def test_the_newest_few_are_kept(keep, tmp_path):
    save(tmp_path, 2, 4, 5, keep=keep)
    assert folders(tmp_path) == ["2", "4", "5"][-keep:]


def test_a_step_that_is_saved_stays_as_it_is(tmp_path):
    save(tmp_path, 3)
    checkpoints = Checkpoints(epath.Path(tmp_path), 2)
    other = replace(train_state(4)[0], step=train_state(3)[0].step)
    checkpoints.save(other, numbers(), record(4))
    checkpoints.close()
    restored, batches = restore(tmp_path)
    assert bits(restored.state) == bits(train_state(3)[0])
    assert next(batches) == 3


def test_a_saved_state_may_be_donated_at_once(tmp_path):
    checkpoints = Checkpoints(epath.Path(tmp_path), 2)
    state, _ = train_state(4)
    checkpoints.save(state, numbers(), record(4))
    jax.jit(lambda x: jax.tree.map(lambda y: y * 0, x), donate_argnums=0)(state)
    checkpoints.close()
    assert bits(restore(tmp_path)[0].state) == bits(train_state(4)[0])


def test_the_best_is_kept_beside_the_newest_also_by_a_run_that_goes_on(tmp_path):
    save(tmp_path, 2, 3, best=Best(2, 0.5))
    restored, _ = restore(tmp_path)
    assert restored.record.best == Best(2, 0.5)
    save(tmp_path, 4, 5, 6, best=Best(2, 0.5))
    assert folders(tmp_path) == ["2", "5", "6"]
    checkpoints = Checkpoints(epath.Path(tmp_path), 2)
    state = checkpoints.state_after([2], *train_state(0))
    assert bits(state) == bits(train_state(2)[0])
    checkpoints.close()


def folders(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def largest(folder):
    """The file with the arrays."""
    files = (path for path in (folder / "state").rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def flip_a_bit(folder):
    """In the middle of a large array's bytes, where nothing is but they."""
    file = largest(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_in_half(folder):
    file = largest(folder)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def take_another_state(folder):
    """All is as Orbax has written it, but of another step."""
    shutil.rmtree(folder / "state")
    shutil.copytree(folder.with_name("3") / "state", folder / "state")


def flip_in_json(name, old, new):
    """The file is JSON as before."""

    def flip(folder):
        text = (folder / name).read_text()
        assert text.count(old) == 1
        (folder / name).write_text(text.replace(old, new))

    return flip


# What is done, and what is said of it.
DAMAGES = {
    "a bit is another": (flip_a_bit, "its array .* is not what was saved"),
    "arrays are others": (take_another_state, "its array step is not what was saved"),
    "arrays are cut": (cut_in_half, "not valid for value of size"),
    "arrays are missing": (lambda folder: largest(folder).unlink(), "Error reading"),
    "what was where is missing": (
        lambda folder: (folder / "state/_METADATA").unlink(),
        "structure|subtree",
    ),
    "the iterator is cut": (
        lambda folder: (folder / "data/metadata").write_text("{"),
        "Expecting property name",
    ),
    "the record is missing": (
        lambda folder: (folder / "run/metadata").unlink(),
        "File run/metadata not found",
    ),
    "the iterator is elsewhere": (
        flip_in_json("data/metadata", ": 7", ": 6"),
        "its iterator's state or its record is not what was saved",
    ),
    "the seed is another": (
        flip_in_json("run/metadata", '"seed": 5', '"seed": 4'),
        "its iterator's state or its record is not what was saved",
    ),
    "nothing is there": (shutil.rmtree, r"Available items: \[\]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_of_put_aside_and_saved_anew(damage, tmp_path):
    save(tmp_path, 3, 7)
    folder = tmp_path / "checkpoints/7"
    harm, cause = DAMAGES[damage]
    harm(folder)
    folder.mkdir(exist_ok=True)
    said = []
    restored, batches = restore(tmp_path, say=said.append)
    assert bits(restored.state) == bits(train_state(3)[0])
    assert next(batches) == 3
    (line,) = said
    told = re.fullmatch(
        f"the checkpoint {folder} is damaged \\((.+)\\) and not used: going on from 3",
        line,
    )
    assert re.search(cause, told[1])
    assert len(told[1]) < 210
    assert folders(tmp_path) == ["3", "damaged-7"]
    save(tmp_path, 7)
    assert bits(restore(tmp_path)[0].state) == bits(train_state(7)[0])


def test_every_damaged_checkpoint_of_a_step_stays(tmp_path):
    save(tmp_path, 3)
    for _ in range(3):
        save(tmp_path, 7)
        flip_a_bit(tmp_path / "checkpoints/7")
        restore(tmp_path)
    assert folders(tmp_path) == ["3", "damaged-7", "damaged-7-2", "damaged-7-3"]


@pytest.mark.parametrize("what", ["an array", "run/metadata", "state"])
def test_what_cannot_be_read_is_not_taken_for_damaged(what, tmp_path):
    """Such as without permission or on a file system that is away; here by a loop."""
    save(tmp_path, 3, 7)
    folder = tmp_path / "checkpoints/7"
    there = largest(folder) if what == "an array" else folder / what
    away = there.rename(tmp_path / "away")
    there.symlink_to(there.name)
    with pytest.raises(
        Transient, match=r"7 cannot be read, .*mend that, or remove its"
    ):
        restore(tmp_path)
    assert folders(tmp_path) == ["3", "7"]
    there.unlink()
    away.rename(there)
    assert bits(restore(tmp_path)[0].state) == bits(train_state(7)[0])


def test_other_arrays_than_the_runs_are_no_damage(tmp_path):
    """Such as another version's, whose moments are of another kind or shape."""
    save(tmp_path, 3, 7)
    state, places = train_state(0)
    count, place = state.opt_state[1], places.opt_state[1]
    more = replace(state, opt_state=(*state.opt_state, count))
    where = replace(places, opt_state=(*places.opt_state, place))
    checkpoints = Checkpoints(epath.Path(tmp_path), 2)
    with pytest.raises(UserError, match=r"7 has other arrays .*\(opt_state/2\).*go on"):
        checkpoints.restore(more, where, numbers())
    longer = replace(state, opt_state=(state.opt_state[0], jnp.zeros(3, jnp.int32)))
    with pytest.raises(UserError, match=r"7 has other arrays .*\(opt_state/1"):
        checkpoints.restore(longer, places, numbers())
    checkpoints.close()
    assert folders(tmp_path) == ["3", "7"]


def test_where_all_are_damaged_nothing_is_done_but_to_say_so(tmp_path):
    save(tmp_path, 3, 7)
    for step in ("3", "7"):
        cut_in_half(tmp_path / "checkpoints" / step)
    with pytest.raises(UserError, match=r"no checkpoint in .* can be restored"):
        restore(tmp_path)
    assert folders(tmp_path) == ["3", "7"]


@pytest.mark.parametrize("words", ["ABORTED: too slow", "UNKNOWN: I/O error"])
def test_an_error_that_passes_is_not_taken_for_damage(words, tmp_path, monkeypatch):
    """However Orbax wraps it; the files are all there again when one looks."""
    save(tmp_path, 3, 7)

    async def fail(**kwargs):
        raise ValueError(words)

    with monkeypatch.context() as patch:
        patch.setattr(serialization, "_read_shard", fail)
        with pytest.raises(Transient, match=rf"nothing says that .* \({words}\)"):
            restore(tmp_path)
    assert bits(restore(tmp_path)[0].state) == bits(train_state(7)[0])


def test_a_file_where_the_folder_would_be_is_told_of(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(UserError, match=r"checkpoints is a file, .* remove it, or"):
        Checkpoints(epath.Path(tmp_path), 2)


@pytest.mark.parametrize(
    ("averaged", "harm"),
    [(False, cut_in_half), (False, take_another_state), (True, take_another_state)],
)
def test_a_model_alone_is_taken_from_the_newest_that_is_whole(averaged, harm, tmp_path):
    """The average where there is one, in the dtype that is asked for."""
    checkpoints = Checkpoints(epath.Path(tmp_path), 2)
    for step in (3, 7):
        state = train_state(step)[0]
        model = {"model": {"kernel": state.params["kernel"]}}
        state = replace(state, params={**model, "objective": state.params["bias"]})
        if averaged:
            state = replace(state, ema=jax.tree.map(lambda x: 2 * x, state.params))
        checkpoints.save(state, numbers(), record(step))
    checkpoints.close()
    harm(tmp_path / "checkpoints/7")
    place = train_state(0)[1].params["kernel"]
    target = {"kernel": jax.ShapeDtypeStruct((8, 1024), jnp.bfloat16, sharding=place)}
    said = []
    found = restore_model(epath.Path(tmp_path), target, said.append)
    expected = train_state(3)[0].params["kernel"] * (2 if averaged else 1)
    np.testing.assert_array_equal(found["kernel"], expected.astype(jnp.bfloat16))
    assert len(said) == 1
    assert folders(tmp_path) == ["3", "7"]


def test_of_a_run_without_checkpoints_there_is_no_model(tmp_path):
    assert restore_model(epath.Path(tmp_path), {}, print) is None


def test_what_was_left_unfinished_is_removed(tmp_path):
    save(tmp_path, 3)
    torn = tmp_path / "checkpoints/4.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints/3", torn)
    checkpoints = Checkpoints(epath.Path(tmp_path), 2)
    restored = checkpoints.restore(*train_state(0), numbers())
    assert bits(restored.state) == bits(train_state(3)[0])
    checkpoints.save(train_state(4)[0], numbers(), record(4))
    checkpoints.close()
    assert folders(tmp_path) == ["3", "4"]
    assert bits(restore(tmp_path)[0].state) == bits(train_state(4)[0])


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """What a program with eight devices finds where one device saved."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save(folder, 6)
    run = subprocess.run(
        [sys.executable, "-m", "training.test_checkpoints", str(folder)],
        cwd=TESTS,
        env=with_devices(8),
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
        "kernel": [8 // fsdp, 1024 // tensor],
        "moment": [16 // tensor],
    }


def main():
    report = {}
    for sizes in MESHES:
        (restored, _), batches = restore(sys.argv[1], sizes)
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
