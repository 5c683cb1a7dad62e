"""Programs that were really compiled, read: by the compiler of CPUs, and of TPUs."""

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from kdjax.parallel import hlo
from kdjax.parallel.costs import (
    collectives,
    first_group,
    memory_traffic,
    product_flops,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "tpu_step.json.gz"
ROWS, WIDTH, LAYERS = 256, 128, 6


def stack(x, weights):
    def step(x, weight):
        return jnp.tanh(x @ weight), None

    return jax.lax.scan(step, x, weights)[0].sum()


@pytest.fixture(scope="module")
def looped():
    """A stack of layers with its gradient, traced and compiled."""
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32)
    weights = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32)
    traced = jax.jit(jax.value_and_grad(stack, argnums=1)).trace(x, weights)
    return traced, traced.lower().compile()


def test_a_loop_counts_as_often_as_it_runs(looped):
    module = hlo.read(looped[1].as_text())
    loops = [x for some in module.computations.values() for x in some]
    turns = [module.trips(x) for x in loops if x.opcode == "while"]
    assert set(turns) == {LAYERS} and module.unknown_loops == 0
    assert max(module.runs.values()) == LAYERS and module.runs[module.entry] == 1


def test_products_are_those_of_a_hand_count(looped):
    traced, compiled = looped
    # One product forward, and two backward.
    by_hand = 3 * LAYERS * 2 * ROWS * WIDTH**2
    assert product_flops(traced.jaxpr) == by_hand
    # XLA counts the loop's body once, or has unrolled it; what is not a product too.
    assert compiled.cost_analysis()["flops"] >= by_hand / LAYERS


def test_traffic_is_what_xla_counts_but_for_loops(looped):
    """As XLA does, every loop once: then the two must agree."""
    module = hlo.read(looped[1].as_text())
    often = memory_traffic(module)
    once = hlo.Module(module.computations, module.entry)
    once.__dict__["runs"] = dict.fromkeys(module.runs, 1)
    expected = looped[1].cost_analysis()["bytes accessed"]
    assert memory_traffic(once) == pytest.approx(expected, rel=0.01)
    assert often > 2 * memory_traffic(once)


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("x, replica_groups={{0,2},{1,3}}, dimensions={0}", (0, 2)),
        ("x, replica_groups=[2,4]<=[8], use_global_device_ids=true", (0, 1, 2, 3)),
        ("x, replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add", (0, 4)),
        ("x, replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add", (0, 1, 2, 3)),
        ("x, replica_groups=mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("x, replica_groups=mesh['a'=8] {'a':(2)2}, to_apply=%add", (0, 2)),
        ("x, source_target_pairs={{1,0},{0,1}}, metadata={}", (1, 0)),
        ("x, replica_groups={}, to_apply=%add", tuple(range(8))),
    ],
)
def test_who_takes_part_is_read_in_every_form(text, group):
    assert first_group(text, 8) == group


AXES = {"data": 4, "fsdp": 1, "tensor": 1}


@pytest.fixture(scope="module")
def on_tpu():
    """A student's step as the compiler of TPUs wrote it; see make_tpu_step.py."""
    told = json.loads(gzip.decompress(GOLDEN.read_bytes()))
    return hlo.read(told["text"]), told


def test_a_gather_that_goes_on_beside_other_work_counts_once(on_tpu):
    module, told = on_tpu
    found = collectives(module, AXES, (0,) * 4)
    # Of 4,096 pairs, 64 wide: the student's texts, the teacher's and its images.
    gathered = [x for x in found if x.kind == "all-gather" and x.size > 2**19]
    assert [x.size for x in gathered] == [4 * 4096 * 64] * 3
    assert told["text"].count(" all-gather(") > 2 * len(gathered)
    assert all(x.over == ("data",) and x.near == x.size * 3 / 4 for x in gathered)


def test_a_step_on_tpus_says_its_gradient_and_one_gather(on_tpu):
    module, told = on_tpu
    found = collectives(module, AXES, (0,) * 4)
    features, column = 4 * 4096 * 64, 4 * 4096
    # Gradients are reduced in the precision of what they are taken through.
    gradient = 2 * sum(told["models"].values())
    expected = 4 * features + 8 * column + gradient
    assert sum(x.size for x in found) == pytest.approx(expected, rel=0.1)


def test_over_slices_the_parts_cross(on_tpu):
    module, _ = on_tpu
    for near, far in zip(
        collectives(module, AXES, (0,) * 4),
        collectives(module, AXES, (0, 0, 1, 1)),
        strict=True,
    ):
        times = 2 if near.kind == "all-reduce" else 1
        assert near.far == 0 and far.near == times * near.size / 2
        assert far.far == times * near.size / 4


def test_what_is_held_beside_the_cores_costs_no_traffic(on_tpu):
    module, told = on_tpu
    assert 0 < memory_traffic(module) < told["bytes"]
