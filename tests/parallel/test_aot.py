"""What a compiler writes down is what it makes."""

import tempfile

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from kdjax.errors import UserError
from kdjax.parallel import hlo
from kdjax.parallel.aot import optimised
from kdjax.parallel.costs import memory_traffic
from kdjax.training.memory import memory_of, memory_written


def update(weights, x):
    """A step of some layers, which puts new weights in the place of the old."""

    def loss(weights):
        out, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)
        return out.sum()

    value, slopes = jax.value_and_grad(loss)(weights)
    return weights - slopes, value, x.sum(0)


@pytest.fixture(scope="module")
def lowered():
    weights = jax.ShapeDtypeStruct((6, 128, 128), jnp.float32)
    x = jax.ShapeDtypeStruct((256, 128), jnp.float32)
    return jax.jit(update, donate_argnums=0).lower(weights, x)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Where those lie that a compiler is left to write to."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def uncached():
    """Let JAX compile what it has in its cache too."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("uncached")
def test_program_and_memory_are_those_of_the_compiled_one(lowered):
    written, compiled = optimised(lowered), lowered.compile()
    program, made = hlo.read(written.program), hlo.read(compiled.as_text())
    assert memory_traffic(program) == memory_traffic(made) > 0
    assert memory_written(written.buffers) == memory_of(compiled)


def test_a_compiler_that_writes_nothing_is_told_of(lowered):
    class Silent:
        def compile(self, compiler_options):
            return lowered

    with pytest.raises(UserError, match="does not write down what it makes"):
        optimised(Silent())
