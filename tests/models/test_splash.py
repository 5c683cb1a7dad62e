"""The fused kernel of TPUs, interpreted, says what XLA does; so do its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.models.splash import on_mesh, splits
from kdjax.parallel import make_mesh

ROWS, LENGTH, HEADS, WIDTH = 2, 9, 2, 8
SEEN = jnp.arange(LENGTH) < jnp.array([[LENGTH], [5]])


def value_and_gradients(attend):
    rng = np.random.default_rng(0)
    shape = (4, ROWS, LENGTH, HEADS, WIDTH)
    *qkv, weights = jnp.asarray(rng.normal(size=shape), jnp.float32)

    def loss(*qkv):
        attended = attend(*qkv)
        return (attended * weights).sum(), attended

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*qkv)


@pytest.mark.parametrize("causal", [False, True])
def test_the_kernel_is_attention_though_no_tile_is_full(causal):
    """On the mesh of the context, as in a step; some keys are not to be seen."""
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1}).abstract_mesh

    def fused(*qkv):
        with jax.sharding.use_abstract_mesh(mesh):
            split = splits(qkv[0])
            assert split is not None
            return on_mesh(*qkv, SEEN, split, causal=causal, interpret=True)

    def plain(*qkv):
        mask = SEEN[:, None, None, :]
        return jax.nn.dot_product_attention(*qkv, mask=mask, is_causal=causal)

    found, expected = value_and_gradients(fused), value_and_gradients(plain)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_it_is_not_for_rows_without_a_mesh():
    assert splits(jnp.zeros((ROWS, LENGTH, HEADS, WIDTH))) is None
