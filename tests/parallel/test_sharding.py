"""The table: which dimension of which array lies on which axis of the mesh."""

import jax
import numpy as np
import pytest
from flax import nnx, traverse_util
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from kdjax.models import CLIP, abstract_of, architecture, architecture_names
from kdjax.parallel import (
    BATCH_AXES,
    make_mesh,
    parameter_shardings,
    replicated,
    to_global,
)
from kdjax.parallel.sharding import partition_spec

SIZES = {"data": 2, "fsdp": 4, "tensor": 2}
MANY = AbstractMesh(tuple(SIZES.values()), tuple(SIZES), (AxisType.Auto,) * 3)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh({"data": -1, "fsdp": 1, "tensor": 1})


@pytest.mark.parametrize(
    ("axis", "place"),
    [
        ("embed", "fsdp"),
        ("mlp", "tensor"),
        ("heads", "tensor"),
        ("vocab", "tensor"),
        ("layers", None),
        ("patch", None),
        ("joint", None),
        ("answers", None),
        (None, None),
    ],
)
def test_the_table(axis, place):
    assert partition_spec((axis,), (8,), MANY) == PartitionSpec(place)


@pytest.mark.parametrize("size", range(1, 13))
@pytest.mark.parametrize(("axis", "place"), [("embed", "fsdp"), ("mlp", "tensor")])
def test_a_dimension_that_does_not_divide_is_replicated(axis, place, size):
    divides = size % SIZES[place] == 0
    expected = PartitionSpec(None, place if divides else None)
    assert partition_spec((None, axis), (3, size), MANY) == expected


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


def test_rows_of_a_batch_lie_over_data_and_fsdp(mesh):
    assert set(BATCH_AXES) == {"data", "fsdp"}
    rows = NamedSharding(MANY, PartitionSpec(BATCH_AXES))
    assert rows.shard_shape((16, 5)) == (2, 5)
    batch = {"image": np.zeros((8, 2, 2, 3), np.uint8), "text": {"a": np.ones((8, 3))}}
    for x in jax.tree.leaves(to_global(batch, mesh)):
        assert x.sharding.spec == PartitionSpec(BATCH_AXES)
