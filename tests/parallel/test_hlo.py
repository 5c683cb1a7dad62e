"""Programs that were really compiled, read: by the compiler of CPUs, and of TPUs."""

import gzip
import json
import re
from dataclasses import replace
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
        (
            "x, replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}"
            ", dimensions={0}",
            (0, 1, 2, 3),
        ),
        (
            "x, replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}",
            (0, 4),
        ),
        (
            "x, replica_groups=mesh['a'=2,'b'=2], device_ids=(0,3,1,2) {'b'}",
            (0, 3),
        ),
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
    # In float32, though the models compute in bfloat16.
    gradient = 4 * sum(told["models"].values())
    # Both towers' embeddings of student and teacher: of the student's images, which are
    # not gathered, the same is said by what comes back to its texts.
    expected = 4 * features + gradient
    assert sum(x.size for x in found) == pytest.approx(expected, rel=0.1)
    assert sum(x.size for x in found) == pytest.approx(expected + 8 * column, rel=0.02)
    assert not re.search(r"bf16\S+( |, .*\) )all-reduce\(", told["text"])


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
    module, _ = on_tpu
    away = {
        name: tuple(
            replace(x, shapes=tuple(replace(y, on_chip=False) for y in x.shapes))
            for x in lines
        )
        for name, lines in module.computations.items()
    }
    moved = memory_traffic(module)
    assert 0 < moved < memory_traffic(hlo.Module(away, module.entry))


# Out of the step of clip_kd_vitl14_vitt16.py on two slices of v5e:8x16: what
# hosts pass on between them.
FAR = """
ENTRY %main (own: f32[128,512], sums: bf16[147,8,128]) -> token[] {
  %own = f32[128,512]{1,0:T(8,128)} parameter(0)
  %sums = bf16[147,8,128]{2,1,0:T(8,128)(2,1)} parameter(1)
  %after-all.7 = token[] after-all()
  %send.7 = (f32[128,512]{1,0:T(8,128)}, u32[]{:S(2)}, token[]) send(%own, %after-all.7), channel_id=19, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="all-gather.61_0",_xla_megascale_target="{1,2}x{0:127}",_xla_megascale_transfer_type="ALL_GATHER"}
  %send-done.7 = token[] send-done(%send.7), channel_id=19, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_GATHER"}
  %send.40 = (bf16[147,8,128]{2,1,0:T(8,128)(2,1)}, u32[]{:S(2)}, token[]) send(%sums, %send-done.7), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:127}",_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %send-done.40 = token[] send-done(%send.40), channel_id=3, is_host_transfer=true
}
"""  # noqa: E501


def test_what_hosts_pass_on_between_slices_is_far():
    slices = (0,) * 128 + (1,) * 128
    found = collectives(hlo.read(FAR), {"data": 256, "fsdp": 1}, slices)
    own, sums = 4 * 128 * 512, 2 * 147 * 8 * 128
    # To the one other slice a device sends what it has.
    assert [(x.kind, x.size, x.near, x.far) for x in found] == [
        ("all-gather", 2 * own, 0, own),
        ("all-reduce", sums, 0, sums),
    ]
    assert all(x.over == ("data",) for x in found)


# Out of the step of clip_kd_vitl14_vitt16.py on v6e:16x16: a copy that goes on beside
# other work, four rows at a time.
BESIDE = """
%cut (whole: bf16[128,257,1024], i.1: s32[], j.1: s32[]) -> bf16[4,257,1024] {
  %whole = bf16[128,257,1024]{1,2,0:T(8,128)(2,1)} parameter(0)
  %i.1 = s32[] parameter(1)
  %j.1 = s32[] parameter(2)
  ROOT %part.1 = bf16[4,257,1024]{1,2,0:T(8,128)(2,1)S(1)} dynamic-slice(%whole, %i.1, %j.1, %j.1), dynamic_slice_sizes={4,257,1024}
}

%fill (old: bf16[128,257,1024], new: bf16[4,257,1024], i.2: s32[], j.2: s32[]) -> bf16[128,257,1024] {
  %old = bf16[128,257,1024]{1,2,0:T(8,128)(2,1)} parameter(0)
  %new = bf16[4,257,1024]{1,2,0:T(8,128)(2,1)S(1)} parameter(1)
  %i.2 = s32[] parameter(2)
  %j.2 = s32[] parameter(3)
  ROOT %full = bf16[128,257,1024]{1,2,0:T(8,128)(2,1)} dynamic-update-slice(%old, %new, %i.2, %j.2, %j.2)
}

ENTRY %main (from: bf16[128,257,1024], i: s32[], j: s32[]) -> bf16[128,257,1024] {
  %from = bf16[128,257,1024]{1,2,0:T(8,128)(2,1)} parameter(0)
  %i = s32[] parameter(1)
  %j = s32[] parameter(2)
  %call-start = ((bf16[128,257,1024]{1,2,0:T(8,128)(2,1)}, s32[], s32[], s32[]), bf16[4,257,1024]{1,2,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) async-start(%from, %i, %j, %j), calls=%cut
  %call-update = ((bf16[128,257,1024]{1,2,0:T(8,128)(2,1)}, s32[], s32[], s32[]), bf16[4,257,1024]{1,2,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) async-update(%call-start)
  %part = bf16[4,257,1024]{1,2,0:T(8,128)(2,1)S(1)} async-done(%call-update)
  %to = bf16[128,257,1024]{1,2,0:T(8,128)(2,1)} custom-call(), custom_call_target="AllocateBuffer"
  %fill-start = ((bf16[128,257,1024]{1,2,0:T(8,128)(2,1)}, bf16[4,257,1024]{1,2,0:T(8,128)(2,1)S(1)}, s32[], s32[], s32[]), bf16[128,257,1024]{1,2,0:T(8,128)(2,1)}, s32[]{:S(2)}) async-start(%to, %part, %i, %j, /*index=4*/%j), output_to_operand_aliasing={{1}: (0, {})}, calls=%fill
  ROOT %done = bf16[128,257,1024]{1,2,0:T(8,128)(2,1)} async-done(%fill-start)
}
"""  # noqa: E501


def test_a_copy_that_goes_on_beside_other_work_costs_its_part():
    # Of 257 minor elements 384 lie in memory, which fill up tiles of 128.
    assert memory_traffic(hlo.read(BESIDE)) == 2 * (2 * 4 * 384 * 1024)


# Out of the same on v5e:16x16: a gather begins, goes on beside a product, and ends.
GATHER = """
%begin (own.1: f32[128,768]) -> (f32[128,768], f32[32768,768], u32[]) {
  %own.1 = f32[128,768]{1,0:T(8,128)} parameter(0)
  %all-gather.1 = f32[32768,768]{1,0:T(8,128)} all-gather(%own.1), channel_id=1, replica_groups=[1,256]<=[256], dimensions={0}
  ROOT %start = (f32[128,768]{1,0:T(8,128)}, f32[32768,768]{1,0:T(8,128)}, u32[]{:S(2)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.1 (own.2: f32[128,768], all.2: f32[32768,768], flag.2: u32[], x.2: f32[256,512], w.2: f32[512,128]) -> (f32[256,128], f32[128,768], f32[32768,768], f32[32768,768], u32[]) {
  %x.2 = f32[256,512]{1,0:T(8,128)} parameter(3)
  %w.2 = f32[512,128]{1,0:T(8,128)} parameter(4)
  %product = f32[256,128]{1,0:T(8,128)} convolution(%x.2, %w.2), dim_labels=bf_io->bf
  %own.2 = f32[128,768]{1,0:T(8,128)} parameter(0)
  %all.2 = f32[32768,768]{1,0:T(8,128)} parameter(1)
  %all-gather.2 = f32[32768,768]{1,0:T(8,128)} all-gather(%own.2), channel_id=1, replica_groups=[1,256]<=[256], dimensions={0}
  %flag.2 = u32[]{:S(2)} parameter(2)
  ROOT %tuple = (f32[256,128]{1,0:T(8,128)}, f32[128,768]{1,0:T(8,128)}, f32[32768,768]{1,0:T(8,128)}, f32[32768,768]{1,0:T(8,128)}, u32[]{:S(2)}) tuple(%product, %own.2, %all.2, %all-gather.2, %flag.2)
}

%end (own.3: f32[128,768], all.3: f32[32768,768], flag.3: u32[]) -> f32[32768,768] {
  %own.3 = f32[128,768]{1,0:T(8,128)} parameter(0)
  %all.3 = f32[32768,768]{1,0:T(8,128)} parameter(1)
  %all-gather.3 = f32[32768,768]{1,0:T(8,128)} all-gather(%own.3), channel_id=1, replica_groups=[1,256]<=[256], dimensions={0}
  %flag.3 = u32[]{:S(2)} parameter(2)
  ROOT %done = f32[32768,768]{1,0:T(8,128)} custom-call(%own.3, %all.3, %all-gather.3, %flag.3), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (own: f32[128,768], x: f32[256,512], w: f32[512,128]) -> (f32[32768,768], f32[256,128]) {
  %own = f32[128,768]{1,0:T(8,128)} parameter(0)
  %x = f32[256,512]{1,0:T(8,128)} parameter(1)
  %w = f32[512,128]{1,0:T(8,128)} parameter(2)
  %begun = (f32[128,768]{1,0:T(8,128)}, f32[32768,768]{1,0:T(8,128)}, u32[]{:S(2)}) fusion(%own), kind=kCustom, calls=%begin
  %one = f32[128,768]{1,0:T(8,128)} get-tuple-element(%begun), index=0
  %all = f32[32768,768]{1,0:T(8,128)} get-tuple-element(%begun), index=1
  %flag = u32[]{:S(2)} get-tuple-element(%begun), index=2
  %beside = (f32[256,128]{1,0:T(8,128)}, f32[128,768]{1,0:T(8,128)}, f32[32768,768]{1,0:T(8,128)}, f32[32768,768]{1,0:T(8,128)}, u32[]{:S(2)}) fusion(%one, %all, %flag, %x, %w), kind=kOutput, calls=%async_collective_fusion.1
  %y = f32[256,128]{1,0:T(8,128)} get-tuple-element(%beside), index=0
  %still = f32[32768,768]{1,0:T(8,128)} get-tuple-element(%beside), index=3
  %whole = f32[32768,768]{1,0:T(8,128)} fusion(%one, %still, %flag), kind=kCustom, calls=%end
  ROOT %out = (f32[32768,768]{1,0:T(8,128)}, f32[256,128]{1,0:T(8,128)}) tuple(%whole, %y)
}
"""  # noqa: E501


def test_a_gather_beside_other_work_is_written_once():
    gather = 4 * 768 * (128 + 32768)
    product = 4 * (256 * 512 + 512 * 128 + 256 * 128)
    assert memory_traffic(hlo.read(GATHER)) == gather + product


# As a layer of it reads its weights: a fusion in a fusion cuts them out of the stack.
LAYER = """
%cut (stack: bf16[24,1024,4096], i.1: s32[]) -> bf16[1024,4096,1] {
  %stack = bf16[24,1024,4096]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i.1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %part = bf16[1,1024,4096]{2,1,0:T(8,128)(2,1)} dynamic-slice(%stack, %i.1, %zero, %zero), dynamic_slice_sizes={1,1024,4096}
  ROOT %bitcast = bf16[1024,4096,1]{1,0,2:T(8,128)(2,1)} bitcast(%part)
}

%layer (x: bf16[4,257,1024], w: bf16[24,1024,4096], i.2: s32[]) -> bf16[4,257,4096] {
  %w = bf16[24,1024,4096]{2,1,0:T(8,128)(2,1)} parameter(1)
  %i.2 = s32[]{:T(128)} parameter(2)
  %x = bf16[4,257,1024]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %own = bf16[1024,4096,1]{1,0,2:T(8,128)(2,1)} fusion(%w, %i.2), kind=kLoop, calls=%cut
  ROOT %product = bf16[4,257,4096]{2,1,0:T(8,128)(2,1)} convolution(%x, %own), window={size=1}, dim_labels=0bf_io0->0bf
}

ENTRY %main (x.1: bf16[4,257,1024], w.1: bf16[24,1024,4096], i: s32[]) -> bf16[4,257,4096] {
  %x.1 = bf16[4,257,1024]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %w.1 = bf16[24,1024,4096]{2,1,0:T(8,128)(2,1)} parameter(1)
  %i = s32[]{:T(128)S(6)} parameter(2)
  ROOT %out = bf16[4,257,4096]{2,1,0:T(8,128)(2,1)} fusion(%x.1, %w.1, %i), kind=kOutput, calls=%layer
}
"""  # noqa: E501


def test_a_layer_reads_its_own_weights_of_the_stack():
    own, out, index = 2 * 1024 * 4096, 2 * 4 * 264 * 4096, 4
    assert memory_traffic(hlo.read(LAYER)) == own + out + index
