"""What is written is what was read, and other people's tools find what they expect."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.numpy import load_file
from weights.golden_models import GOLDEN, name_the_timm_tower

import kdjax
from kdjax.errors import UserError
from kdjax.models import CLIP, architecture

FORMATS = {
    "huggingface_clip/quick_gelu_legacy_eos": ("safetensors", "model.safetensors"),
    "huggingface_clip/gelu_odd_sizes": ("safetensors", "model.safetensors"),
    "siglip/fixed_resolution": ("safetensors", "model.safetensors"),
    "siglip/wide_projection": ("safetensors", "model.safetensors"),
    "flax_clip/small": ("msgpack", "flax_model.msgpack"),
    "open_clip/gelu": ("open_clip", "open_clip_model.safetensors"),
    "open_clip/quick_gelu_wide_heads": ("open_clip", "open_clip_model.safetensors"),
    "open_clip/clipa": ("open_clip", "open_clip_model.safetensors"),
    "open_clip/siglip_timm": ("open_clip", "open_clip_model.safetensors"),
}
ANY = "huggingface_clip/gelu_odd_sizes"


def read(path):
    if path.suffix == ".msgpack":
        return flatten_dict(msgpack_restore(path.read_bytes()), sep="/")
    return load_file(path)


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype
        np.testing.assert_array_equal(tensor, two[name], err_msg=name)


@pytest.mark.parametrize("case", FORMATS)
def test_a_round_trip_keeps_every_bit(case, tmp_path, monkeypatch):
    name_the_timm_tower(monkeypatch)
    format, file = FORMATS[case]
    kdjax.save_clip(kdjax.load_clip(str(GOLDEN / case)), tmp_path, format=format)
    assert_equal(read(GOLDEN / case / file), read(tmp_path / file))
    once, twice = (kdjax.load_clip(str(d)) for d in (GOLDEN / case, tmp_path))
    assert once.config == dataclasses.replace(
        twice.config,
        logit_scale_init=once.config.logit_scale_init,
        logit_bias_init=once.config.logit_bias_init,
    )


@pytest.mark.parametrize("format", ["safetensors", "msgpack", "open_clip"])
def test_a_model_of_ours_comes_back_from_every_format(format, tmp_path):
    clip = CLIP(architecture("nano-16"), rngs=nnx.Rngs(0))
    kdjax.save_clip(clip, tmp_path, format=format)
    again = kdjax.load_clip(str(tmp_path))
    assert again.config.text.pooling == "eos"
    same = jax.tree.map(np.array_equal, nnx.state(clip), nnx.state(again))
    assert all(jax.tree.leaves(same))


def test_the_config_says_what_the_originals_said(tmp_path):
    kdjax.save_clip(kdjax.load_clip(str(GOLDEN / ANY)), tmp_path)
    old, new = (
        json.loads((d / "config.json").read_text()) for d in (GOLDEN / ANY, tmp_path)
    )
    # A model neither begins nor pads a text, its tokenizer does.
    unused = {"projection_dim", "bos_token_id", "pad_token_id"}
    for tower in ("vision_config", "text_config"):
        for key in (new[tower].keys() & old[tower].keys()) - unused:
            assert new[tower][key] == old[tower][key]
    assert new["projection_dim"] == old["projection_dim"]


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path):
    clip = kdjax.load_clip(str(GOLDEN / ANY))
    with pytest.raises(UserError, match="no format 'bin'; give safetensors, msgpack"):
        kdjax.save_clip(clip, tmp_path / "out", format="bin")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("case", "format", "said"),
    [
        ("siglip/fixed_resolution", "msgpack", "Flax weights are of CLIP models only"),
        ("siglip/fixed_resolution", "open_clip", "timm has none of width"),
        ("open_clip/clipa", "safetensors", "vision.pooling 'mean'"),
    ],
)
def test_what_a_layout_has_no_words_for_is_refused(case, format, said, tmp_path):
    clip = kdjax.load_clip(str(GOLDEN / case))
    with pytest.raises(UserError, match=said):
        kdjax.save_clip(clip, tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()


def test_an_end_of_text_id_of_two_is_not_written_where_it_means_another():
    """Hugging Face's CLIP reads a two as "the largest id", whatever was meant."""
    tiny = architecture("nano-16")
    text = dataclasses.replace(tiny.text, eos_id=2)
    clip = CLIP(dataclasses.replace(tiny, text=text), rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r"text\.pooling 'eos'"):
        kdjax.save_clip(clip, "nowhere")


class Bucket(MemoryFileSystem):
    """What stands for a bucket here; paths go to it by the way of real ones."""

    protocol = ("gcs", "gs")

    def __init__(self, finalize_on_close: bool = True) -> None:
        super().__init__()

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("gs://"))


def test_a_directory_may_be_in_a_bucket(monkeypatch):
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "gcs", Bucket)
    clip = kdjax.load_clip(str(GOLDEN / ANY))
    kdjax.save_clip(clip, "gs://bucket/models/clip")
    again = kdjax.load_clip("gs://bucket/models/clip")
    same = jax.tree.map(np.array_equal, nnx.state(clip), nnx.state(again))
    assert all(jax.tree.leaves(same))
    with pytest.raises(UserError, match="gs://bucket/none"):
        kdjax.load_clip("gs://bucket/none")
