"""What is written is what was read, and other people's tools find what they expect."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from safetensors.numpy import load_file
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil
from weights.golden_models import GOLDEN, name_the_timm_tower

import kdjax
from kdjax.errors import UserError
from kdjax.models import CLIP, architecture
from kdjax.models.clip import preprocess

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


PICTURES = [
    np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    for shape in ((90, 70), (64, 129), (31, 40))
]


@pytest.mark.parametrize("resize", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_transformers_makes_the_pixels_of_the_model_from_what_is_written(
    resize, interpolation, sigmoid, tmp_path
):
    clip = kdjax.load_clip(str(GOLDEN / ("siglip/wide_projection" if sigmoid else ANY)))
    means = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}
    vision = dataclasses.replace(
        clip.config.vision, resize=resize, interpolation=interpolation, **means
    )
    clip.config = dataclasses.replace(clip.config, vision=vision)
    kdjax.save_clip(clip, tmp_path)
    assert kdjax.load_clip(str(tmp_path)).config.vision == vision
    kind = SiglipImageProcessorPil if sigmoid else CLIPImageProcessorPil
    theirs = kind.from_pretrained(tmp_path)
    for picture in PICTURES:
        expected = theirs(Image.fromarray(picture))["pixel_values"][0]
        (found,) = preprocess(jnp.asarray(picture[None]), vision)
        apart = np.abs(np.asarray(found).transpose(2, 0, 1) - expected)
        assert apart.max() < 1.01 / 255 / min(vision.std)


def test_openclip_reads_the_preprocessing_that_is_written(tmp_path):
    """Its squash and bilinear of the golden model come back."""
    kdjax.save_clip(
        kdjax.load_clip(str(GOLDEN / "open_clip/clipa")), tmp_path, format="open_clip"
    )
    old, new = (
        json.loads((d / "open_clip_config.json").read_text())["preprocess_cfg"]
        for d in (GOLDEN / "open_clip/clipa", tmp_path)
    )
    assert (new["resize_mode"], new["interpolation"]) == ("squash", "bilinear")
    assert new.items() >= old.items()


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


@pytest.mark.parametrize("there", ["safetensors", "msgpack", "open_clip"])
@pytest.mark.parametrize("format", ["safetensors", "msgpack", "open_clip"])
def test_a_model_is_not_written_beside_one_in_another_format(there, format, tmp_path):
    clip = CLIP(architecture("nano-16"), rngs=nnx.Rngs(0))
    kdjax.save_clip(clip, tmp_path, format=there)
    if there == format:
        kdjax.save_clip(clip, tmp_path, format=format)
        return
    with pytest.raises(UserError, match="of another format, which would be read"):
        kdjax.save_clip(clip, tmp_path, format=format)


def test_a_logit_bias_goes_with_a_class_token_in_openclips_layout(tmp_path):
    tiny = dataclasses.replace(architecture("nano-16"), logit_bias_init=-10.0)
    clip = CLIP(tiny, rngs=nnx.Rngs(0))
    kdjax.save_clip(clip, tmp_path, format="open_clip")
    assert kdjax.load_clip(str(tmp_path)).logit_bias[...] == -10


@pytest.mark.parametrize("name", ["", "file/inside"])
def test_a_place_where_nothing_can_be_written_is_refused(name, tmp_path):
    (tmp_path / "file").write_text("mine")
    clip = CLIP(architecture("nano-16"), rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match=r"directory is empty|cannot be made"):
        kdjax.save_clip(clip, str(tmp_path / name) if name else "")


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
