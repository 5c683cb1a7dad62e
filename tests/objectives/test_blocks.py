from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractMesh, AxisType

from kdjax.objectives.blocks import (
    BLOCK,
    DENSE_ROWS,
    Added,
    Layout,
    column_peaks,
    layout_of,
    over_rows,
)

BATCH, WIDTH = 7, 3
few = settings(max_examples=10)


def arrays(seed):
    rng = np.random.default_rng(seed)
    drawn = [rng.normal(size=(BATCH, WIDTH)).astype(np.float32) for _ in "ab"]
    return (*map(jnp.asarray, drawn), jnp.float32(rng.normal()))


def parts(index, rows, columns, scalar):
    """Of rows, of columns and of all pairs, with the place of every row."""
    pairs = jnp.sin(scalar * rows @ columns.T) * (1 + index)[:, None]
    return Added(pairs @ columns, pairs.T @ rows, {"all": jnp.sum(pairs**2)})


def some_number(rows, columns, scalar, layout):
    found = over_rows(parts, rows, columns, scalar, layout)
    weights = jnp.cos(jnp.arange(BATCH * WIDTH).reshape(BATCH, WIDTH))
    of_rows, of_columns = (jnp.sum(x * weights) for x in (found.rows, found.columns))
    return of_rows + of_columns**2 + found.total["all"]


@few
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, BATCH))
def test_blocks_of_any_size_give_what_one_block_gives(seed, size):
    def answer(layout):
        return jax.value_and_grad(some_number, argnums=(0, 1, 2))(*arrays(seed), layout)

    whole, cut = answer(Layout(BATCH, dense=True)), answer(Layout(size, dense=False))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), cut, whole)


def test_what_is_constant_gets_no_gradient():
    rows, columns, scalar = arrays(0)

    def loss(rows):
        fixed = jax.lax.stop_gradient(columns)
        return some_number(rows, fixed, scalar, Layout(2, dense=False))

    graph = str(jax.make_jaxpr(jax.grad(loss))(rows))
    both = str(
        jax.make_jaxpr(jax.grad(some_number, argnums=(0, 1)), static_argnums=3)(
            rows, columns, scalar, Layout(2, dense=False)
        )
    )
    assert graph.count("dot_general") < both.count("dot_general")


@few
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, BATCH),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_normalisers_of_columns_are_found_block_by_block(seed, size, scale):
    rows, columns, _ = arrays(seed)

    def logits(index, rows, columns, scalar):
        return [scalar * rows @ columns.T]

    layout = Layout(size, dense=False)
    (found,) = column_peaks(logits, rows, columns, jnp.float32(scale), layout)
    expected = scale * np.asarray(rows, np.float64) @ np.asarray(columns, np.float64).T
    top = expected.max(0)
    powers = np.exp(expected - top).sum(0)
    np.testing.assert_allclose(found.largest, top, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        np.log(found.powers) + found.largest,
        np.log(powers) + top,
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_large_batch_is_cut_and_a_small_one_is_not():
    assert layout_of(DENSE_ROWS).dense
    large = layout_of(32768)
    assert not large.dense
    assert large.size * 32768 <= BLOCK
    assert layout_of(4, block_rows=3).size == 3


@pytest.mark.parametrize("batch", [1, 2])
def test_a_block_has_no_more_rows_than_there_are(batch):
    assert layout_of(batch, block_rows=5).size == batch


def layout_on(sizes, kind=AxisType.Auto, batch=48):
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes), (kind,) * len(sizes))
    with jax.sharding.use_abstract_mesh(mesh):
        return layout_of(batch, block_rows=5)


def test_rows_are_split_over_the_axes_of_a_batch():
    layout = layout_on({"data": 2, "fsdp": 4, "tensor": 2})
    assert layout.mesh.size == 16
    assert layout.size == 5
    assert layout_on({"data": 4, "fsdp": 4, "tensor": 1}).size == 3


def test_rows_that_do_not_divide_are_not_split():
    assert layout_on({"data": 2, "fsdp": 4, "tensor": 1}, batch=47).mesh is None


@pytest.mark.parametrize(
    ("sizes", "kind"),
    [
        ({"data": 8}, AxisType.Auto),
        ({"fsdp": 4, "model": 2}, AxisType.Auto),
        ({"data": 2, "fsdp": 4, "tensor": 1}, AxisType.Explicit),
        ({"data": 2, "fsdp": 4, "tensor": 1}, AxisType.Manual),
    ],
)
def test_on_a_mesh_of_another_kind_nothing_is_split_here(sizes, kind):
    assert layout_on(sizes, kind).mesh is None
