"""Attention and activations by hand, and a stack that is its blocks one by one."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from models.sample import drawn
from scipy.special import erf, expit

from kdjax.models.config import TransformerConfig
from kdjax.models.transformer import ACTIVATIONS, Attention, Transformer

WIDTH, HEADS = 8, 2
DTYPES = {"dtype": jnp.float32, "param_dtype": jnp.float32}
CAUSAL = jnp.tril(jnp.ones((5, 5), bool))[None, None]
PADDED = (jnp.arange(5) < jnp.array([[5], [2], [3]]))[:, None, None]

attend = nnx.jit(lambda module, x, *rest: module(x, *rest, with_map=True))
show = nnx.jit(
    lambda layers, module, *x: module(*x, hidden=layers, attention=layers),
    static_argnums=0,
)


def tokens(length=5, batch=3, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(batch, length, WIDTH)), jnp.float32)


@pytest.fixture(scope="module")
def attention():
    return drawn(
        lambda: Attention(WIDTH, HEADS, "xla", dtypes=DTYPES, rngs=nnx.Rngs(0))
    )


def by_hand(attention, x, context, mask):
    """Attended queries and maps in float64, head by head."""

    def linear(layer, y):
        kernel, bias = (np.asarray(p[...], float) for p in (layer.kernel, layer.bias))
        return np.asarray(y, float) @ kernel + bias

    query = linear(attention.query, x)
    key, value = linear(attention.key, context), linear(attention.value, context)
    maps, attended = [], []
    for part in np.split(np.arange(WIDTH), HEADS):
        logits = query[..., part] @ key[..., part].swapaxes(1, 2) / np.sqrt(len(part))
        powers = np.exp(logits) * (1 if mask is None else np.asarray(mask)[:, 0])
        maps.append(powers / powers.sum(-1, keepdims=True))
        attended.append(maps[-1] @ value[..., part])
    out = linear(attention.out, np.concatenate(attended, -1))
    return out, np.stack(maps, axis=1)


@pytest.mark.parametrize("mask", [None, CAUSAL, PADDED], ids=["all", "causal", "pad"])
def test_attention_and_its_map_are_those_by_hand(attention, mask):
    x = tokens()
    out, maps = attend(attention, x, None, mask)
    expected_out, expected_maps = by_hand(attention, x, x, mask)
    np.testing.assert_allclose(out, expected_out, atol=1e-5)
    np.testing.assert_allclose(maps, expected_maps, atol=1e-6)
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-6)
    if mask is not None:
        assert not maps[jnp.broadcast_to(~mask, maps.shape)].any()


def test_queries_may_look_at_something_else(attention):
    x, context = tokens(), tokens(length=7, seed=1)
    out, maps = attend(attention, x, context)
    assert maps.shape == (3, HEADS, 5, 7)
    expected_out, expected_maps = by_hand(attention, x, context, None)
    np.testing.assert_allclose(out, expected_out, atol=1e-5)
    np.testing.assert_allclose(maps, expected_maps, atol=1e-6)


def test_a_map_is_made_only_when_asked_for(attention):
    assert attention(tokens())[1] is None


FORMULAS = {
    "quick_gelu": lambda x: x * expit(1.702 * x),
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "gelu_tanh": lambda x: (
        x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_are_their_formulas(name):
    x = np.linspace(-6, 6, 49)
    found = ACTIVATIONS[name](jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, FORMULAS[name](x), atol=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_keeps_its_slope_alone_for_its_gradient(name):
    x = np.linspace(-6, 6, 49)
    _, backward = jax.vjp(ACTIVATIONS[name], jnp.asarray(x, jnp.float32))
    kept = [leaf.shape for leaf in jax.tree.leaves(backward)]
    assert kept == [x.shape]
    (slope,) = backward(jnp.ones(x.shape, jnp.float32))
    step = 1e-5
    central = (FORMULAS[name](x + step) - FORMULAS[name](x - step)) / (2 * step)
    np.testing.assert_allclose(slope, central, atol=5e-6)


# Two blocks are unrolled, three are looped over.
@pytest.fixture(scope="module", params=[2, 3])
def transformer(request):
    config = TransformerConfig(
        width=WIDTH, layers=request.param, num_heads=HEADS, mlp_width=16
    )
    return drawn(lambda: Transformer(config, dtypes=DTYPES, rngs=nnx.Rngs(0)))


def blocks_of(transformer):
    graph, stacked = nnx.split(transformer.blocks)
    return [
        nnx.merge(graph, jax.tree.map(lambda x, i=i: x[i], stacked))
        for i in range(transformer.layers)
    ]


@pytest.mark.parametrize("mask", [None, CAUSAL], ids=["all", "causal"])
def test_a_stack_is_its_blocks_one_by_one(transformer, mask):
    expected = tokens()
    out, trace = show(range(transformer.layers), transformer, expected, mask)
    for layer, block in enumerate(blocks_of(transformer)):
        expected, maps = attend(block, expected, mask)
        np.testing.assert_allclose(trace.hidden[layer], expected, atol=1e-5)
        np.testing.assert_allclose(trace.attention[layer], maps, atol=1e-5)
    assert len(trace.hidden) == len(trace.attention) == transformer.layers
    np.testing.assert_allclose(out, expected, atol=1e-5)
    _, some = show((1,), transformer, tokens(), mask)
    for part, whole in zip(some, trace, strict=True):
        np.testing.assert_allclose(part, whole[1:2], atol=1e-5)


def test_layers_start_unlike_each_other():
    config = TransformerConfig(width=4, layers=3, num_heads=1, mlp_width=4)
    stack = nnx.jit(lambda: Transformer(config, dtypes=DTYPES, rngs=nnx.Rngs(0)))()
    kernels = stack.blocks.mlp.up.kernel[...]
    assert kernels.shape == (3, 4, 4)
    assert len(np.unique(kernels)) == kernels.size


def test_nothing_is_traced_unless_asked_for(transformer):
    out, trace = nnx.jit(lambda module, x: module(x))(transformer, tokens())
    assert trace == (None, None)
    np.testing.assert_allclose(out, show((0,), transformer, tokens())[0], atol=1e-6)


@pytest.fixture(scope="module")
def gradients():
    """A deep stack's values, gradients and bytes kept for them, by what is kept."""
    config = TransformerConfig(width=16, layers=12, num_heads=2, mlp_width=64)
    module = drawn(lambda: Transformer(config, dtypes=DTYPES, rngs=nnx.Rngs(0)))
    params = nnx.state(module)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 32, 16)), jnp.float32)

    def of(remat):
        other = replace(config, remat=remat)
        graph = nnx.graphdef(
            nnx.eval_shape(lambda: Transformer(other, dtypes=DTYPES, rngs=nnx.Rngs(0)))
        )

        def loss(params, x):
            return jnp.square(nnx.merge(graph, params)(x)[0]).mean()

        lowered = jax.jit(jax.value_and_grad(loss)).lower(params, x)
        compiled = lowered.compile({"xla_backend_optimization_level": 0})
        kept = compiled.memory_analysis().temp_size_in_bytes
        value, gradients = compiled(params, x)
        return value, ravel_pytree(gradients)[0], kept

    return {remat: of(remat) for remat in ("none", "dots", "full")}


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_what_is_computed_again_is_the_same(gradients, remat):
    (expected, by_none, _), (found, by_remat, _) = gradients["none"], gradients[remat]
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    far = jnp.linalg.norm(by_remat - by_none) / jnp.linalg.norm(by_none)
    assert float(far) < 1e-6


def test_the_more_is_computed_again_the_less_is_kept(gradients):
    none, dots, full = (gradients[remat][2] for remat in ("none", "dots", "full"))
    assert full < dots / 2 < none / 4
