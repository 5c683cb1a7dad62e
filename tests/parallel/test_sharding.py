"""The table: which dimension of which array lies on which axis of the mesh."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, traverse_util
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from kdjax.models import (
    CLIP,
    VQAConfig,
    VQAModel,
    abstract_of,
    architecture,
    architecture_names,
)
from kdjax.objectives import expand
from kdjax.parallel import (
    BATCH_AXES,
    FROZEN,
    by_rows,
    make_mesh,
    parameter_shardings,
    replicated,
    state_shardings,
    to_global,
    unsplit,
    whole_rows,
)
from kdjax.parallel.sharding import RULES, Dimension, dimensions, partition_spec
from kdjax.training.tasks import ContrastiveTask

MIB = 2**20


def mesh_of(data, fsdp, tensor):
    sizes = (data, fsdp, tensor)
    return AbstractMesh(sizes, ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)


MANY = mesh_of(2, 4, 2)
B16 = architecture("vit-b-16")
# All that a state may hold: both kinds of pooling, heads of its own, another teacher.
SIGLIP = replace(
    B16,
    vision=replace(B16.vision, pooling="attention", class_token=False, patch_bias=True),
    text_projection_bias=True,
    logit_bias_init=-10.0,
)
VQA = VQAConfig(
    vision=B16.vision,
    vocab_size=49_408,
    question_length=32,
    question_layers=2,
    width=768,
    layers=4,
    num_heads=12,
    num_answers=3129,
)
TEACHER = replace(
    B16, embed_dim=1280, vision=replace(B16.vision, width=1280, num_heads=16)
)


def learnt_by_objectives():
    """What there is of a teacher of other widths: heads, adaptors, statistics."""
    learning = {"tokens": {"form": "phi_s"}, "hidden": {}, "principal": {}}
    given = expand("clip_kd") | expand(learning)
    objectives = tuple((k, tuple(sorted(v.items()))) for k, v in sorted(given.items()))
    task = ContrastiveTask(B16, (TEACHER,), objectives)
    return nnx.state(task.objective_shapes())


@pytest.fixture(scope="module", params=["siglip", "vqa", "objectives"])
def params(request):
    if request.param == "objectives":
        return learnt_by_objectives()
    model = (CLIP, SIGLIP) if request.param == "siglip" else (VQAModel, VQA)
    return abstract_of(*model)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh({"data": -1, "fsdp": 1, "tensor": 1})


def dim(axis, units, size=None):
    return Dimension(axis, size or units, units)


@pytest.mark.parametrize(
    ("axis", "place"),
    [
        ("embed", "fsdp"),
        ("mlp", "tensor"),
        ("heads", "tensor"),
        ("vocab", "tensor"),
        ("layers", None),
        ("patch", None),
        ("position", None),
        ("joint", None),
        ("answers", None),
        (None, None),
    ],
)
def test_the_table(axis, place):
    assert partition_spec((dim(axis, 8),), MANY) == PartitionSpec(place)


@pytest.mark.parametrize("size", range(1, 13))
@pytest.mark.parametrize(("axis", "place"), [("embed", "fsdp"), ("mlp", "tensor")])
def test_a_dimension_that_does_not_divide_is_whole(axis, place, size):
    divides = size % MANY.shape[place] == 0
    expected = PartitionSpec(None, place if divides else None)
    assert partition_spec((dim(None, 3), dim(axis, size)), MANY) == expected


def test_a_head_of_attention_is_never_cut():
    """The student of CLIP-KD has three heads of 64 in its image tower."""
    params = abstract_of(CLIP, architecture("vit-t-16"))
    places = parameter_shardings(params, MANY)
    blocks = {k: places[k]["transformer"]["blocks"] for k in ("vision", "text")}
    attention, mlp = (blocks["vision"][k] for k in ("attention", "mlp"))
    assert attention["query"]["kernel"].spec == PartitionSpec(None, "fsdp", None)
    assert attention["out"]["kernel"].spec == PartitionSpec(None, None, "fsdp")
    assert mlp["up"]["kernel"].spec == PartitionSpec(None, "fsdp", "tensor")
    text = blocks["text"]["attention"]["query"]  # six heads
    assert text["kernel"].spec == PartitionSpec(None, "fsdp", "tensor")
    assert text["bias"].spec == PartitionSpec(None, "tensor")


def test_what_cannot_be_split_is_told_once():
    params = abstract_of(CLIP, architecture("vit-t-16"))
    assert unsplit(params, MANY) == ("heads 3 by mesh.tensor 2",)
    assert unsplit(params, mesh_of(1, 5, 4)) == (
        "embed 192 by mesh.fsdp 5",
        "embed 384 by mesh.fsdp 5",
        "heads 3 by mesh.tensor 4",
        "heads 6 by mesh.tensor 4",
    )
    assert unsplit(params, mesh_of(1, 5, 4), FROZEN["tensor"]) == (
        "heads 3 by mesh.tensor 4",
        "heads 6 by mesh.tensor 4",
    )
    assert unsplit(params, mesh_of(1, 5, 4), FROZEN["replicated"]) == ()
    assert unsplit(params, mesh_of(8, 1, 1)) == ()


def flat(tree):
    return traverse_util.flatten_dict(tree)


@pytest.mark.parametrize("name", architecture_names())
def test_every_parameter_has_a_place_for_each_of_its_dimensions(name, mesh):
    abstract = abstract_of(CLIP, architecture(name))
    shapes = flat(nnx.to_pure_dict(abstract))
    places = flat(parameter_shardings(abstract, mesh))
    assert places.keys() == shapes.keys()
    for path, place in places.items():
        assert len(place.spec) == len(shapes[path].shape), path
        split = {"fsdp", "tensor"} & set(place.spec)
        if path[-1] in ("kernel", "embedding"):
            assert "fsdp" in split, path
        if "blocks" in path and path[-1] == "kernel":
            assert place.spec[0] is None
            assert split == {"fsdp", "tensor"}, path


def test_parameters_without_names_are_on_every_device(mesh):
    module = nnx.eval_shape(lambda: nnx.Linear(4, 4, rngs=nnx.Rngs(0)))
    places = parameter_shardings(nnx.state(module), mesh)
    assert places["kernel"].spec == PartitionSpec(None, None)
    assert places["bias"].spec == PartitionSpec(None)
    assert replicated(mesh).is_fully_replicated


def test_every_name_is_in_the_table_and_what_has_none_is_small(params):
    for path, x in nnx.to_flat_state(params):
        names = [d.axis for d in dimensions(x)]
        assert {*names} - {None} <= {*RULES}, path
        if None in names:
            assert np.prod(x.shape) * 4 < MIB, path


@pytest.mark.parametrize("sharding", FROZEN)
def test_a_frozen_teacher_is_split_over_its_own_axis_alone(sharding):
    params = abstract_of(CLIP, B16)
    places = jax.tree.leaves(parameter_shardings(params, MANY, FROZEN[sharding]))
    over = {axis for place in places for axis in place.spec} - {None}
    assert over == {*FROZEN[sharding]}


def _matrices(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)


OPTIMIZERS = {
    "adamw": optax.adamw(1e-3),
    "adafactor": optax.adafactor(1e-3),
    "lion": optax.lion(1e-3),
    "muon": optax.contrib.muon(1e-3),
    "masked": optax.masked(optax.adam(1e-3), _matrices),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_array_of_a_state_above_a_mebibyte_is_whole_unless_the_table_says_so(
    name, params
):
    """Of every optimiser, and of an average of the parameters too."""
    pure = nnx.to_pure_dict(params)
    state = {
        "ema": pure,
        "opt_state": jax.eval_shape(OPTIMIZERS[name].init, pure),
        "params": pure,
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
    mesh = mesh_of(2, 2, 2)
    places = state_shardings(state, params, mesh)
    arrays = jax.tree_util.tree_leaves_with_path(state)
    whole = [
        (jax.tree_util.keystr(path), x.shape)
        for (path, x), place in zip(arrays, jax.tree.leaves(places), strict=True)
        if place.is_fully_replicated and x.size * x.dtype.itemsize > MIB
    ]
    assert whole == []
    expected = parameter_shardings(params, mesh)
    assert places["params"] == expected
    assert places["ema"] == expected
    assert places["step"] == replicated(mesh)


def test_moments_lie_as_their_parameters_and_factored_ones_by_what_they_keep():
    params = abstract_of(CLIP, B16)
    pure = nnx.to_pure_dict(params)
    adam, factored = (
        state_shardings(jax.eval_shape(transform.init, pure), params, MANY)
        for transform in (optax.scale_by_adam(), optax.scale_by_factored_rms())
    )
    assert adam.mu == adam.nu == parameter_shardings(params, MANY)
    up = ("vision", "transformer", "blocks", "mlp", "up", "kernel")
    token = ("text", "token_embedding", "embedding")
    rows, columns = flat(factored.v_row), flat(factored.v_col)
    assert rows[up].spec == PartitionSpec(None, "fsdp")
    assert columns[up].spec == PartitionSpec(None, "tensor")
    assert {rows[token].spec, columns[token].spec} == {
        PartitionSpec("tensor"),
        PartitionSpec("fsdp"),
    }
    assert flat(factored.v)[up].is_fully_replicated  # one number stands for none


def test_rows_of_a_batch_lie_over_data_and_fsdp(mesh):
    assert set(BATCH_AXES) == {"data", "fsdp"}
    rows = NamedSharding(MANY, PartitionSpec(BATCH_AXES))
    assert rows.shard_shape((16, 5)) == (2, 5)
    batch = {"image": np.zeros((8, 2, 2, 3), np.uint8), "text": {"a": np.ones((8, 3))}}
    for x in jax.tree.leaves(to_global(batch, mesh)):
        assert x.sharding.spec == PartitionSpec(BATCH_AXES)


def test_a_mesh_of_another_kind_asks_nothing_of_rows():
    rows = jnp.ones((4, 2))
    for axes in (("batch",), ("data",), ("data", "fsdp")):
        mesh = jax.make_mesh((1,) * len(axes), axes)
        with jax.set_mesh(mesh):
            assert by_rows(rows) is rows
            assert whole_rows(rows) is rows
