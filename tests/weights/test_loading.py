"""A published checkpoint of any family gives the original's numbers here."""

import json
import os
import re
import shutil
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from weights.golden_models import (
    CASES,
    GOLDEN,
    name_the_timm_tower,
    outputs,
    relative_error,
)

import kdjax
from kdjax.errors import UserError
from kdjax.parallel import make_mesh
from kdjax.weights.loading import resize_positions

SIGMOID = ("siglip/fixed_resolution", "siglip/wide_projection", "open_clip/siglip_timm")
WITH_GRADIENTS = tuple(case for case in CASES if case != "flax_clip/small")


@pytest.fixture(scope="module")
def models():
    with pytest.MonkeyPatch.context() as patch:
        name_the_timm_tower(patch)
        yield {case: kdjax.load_clip(str(GOLDEN / case)) for case in CASES}


def arguments(golden):
    names = ("images", "input_ids", "mask")
    return [jnp.asarray(golden[name]) for name in names if name in golden]


@pytest.mark.parametrize("case", CASES)
def test_embeddings_and_logits_equal_the_originals(models, case):
    golden = outputs(case)
    out = nnx.jit(lambda model, *x: model(*x))(models[case], *arguments(golden))
    assert relative_error(out.image_embeds, golden["image_embeds"]) < 1e-5
    assert relative_error(out.text_embeds, golden["text_embeds"]) < 1e-5
    assert relative_error(out.logits_per_image, golden["logits"]) < 1e-4
    np.testing.assert_array_equal(out.logits_per_text, out.logits_per_image.T)


@pytest.mark.parametrize("case", [c for c in CASES if "mask" in outputs(c)])
def test_no_mask_means_none(models, case):
    golden = outputs(case)
    out = nnx.jit(lambda model, *x: model(*x))(models[case], *arguments(golden)[:2])
    assert relative_error(out.logits_per_image, golden["unmasked_logits"]) < 1e-4
    assert relative_error(out.logits_per_image, golden["logits"]) > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_and_attention_maps_equal_the_originals(models, case):
    golden = outputs(case)
    embeddings = models[case].embeddings(
        *arguments(golden), hidden=True, attention=True, tokens=True
    )
    assert relative_error(embeddings.image_hidden, golden["hidden"]) < 1e-5
    if "attention" in golden:
        assert relative_error(embeddings.image_attention, golden["attention"]) < 1e-5
    if "vision_last" in golden:
        assert relative_error(embeddings.image_tokens, golden["vision_last"]) < 1e-5


@pytest.mark.parametrize("case", WITH_GRADIENTS)
def test_gradients_equal_the_originals(models, case):
    golden = outputs(case)
    images, *rest = arguments(golden)
    graph, state = nnx.split(models[case])

    def loss(params, images):
        logits = nnx.merge(graph, params)(images, *rest).logits_per_image
        if case in SIGMOID:
            signs = 2 * jnp.eye(len(logits)) - 1
            return -jax.nn.log_sigmoid(signs * logits).sum() / len(logits)
        diagonal = [jnp.diag(jax.nn.log_softmax(x)).mean() for x in (logits, logits.T)]
        return -sum(diagonal) / 2

    value, (grads, pixels) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
        nnx.to_pure_dict(state), images
    )
    vision, patch = grads["vision"], golden["grad_patch"].transpose(2, 3, 1, 0)
    query = vision["transformer"]["blocks"]["attention"]["query"]["kernel"][1]
    ours_and_theirs = {
        "loss": (value, golden["loss"]),
        "patch": (
            vision["patch_embedding"]["kernel"],
            patch.reshape(-1, patch.shape[-1]),
        ),
        "token": (
            grads["text"]["token_embedding"]["embedding"],
            golden["grad_token"],
        ),
        "query": (query, golden["grad_query"].T),
        "scale": (grads["logit_scale"], golden["grad_scale"].reshape(())),
        "pixels": (pixels, golden["grad_pixels"].transpose(0, 2, 3, 1)),
    }
    if case in SIGMOID:
        ours_and_theirs |= {
            "bias": (grads["logit_bias"], golden["grad_bias"].reshape(())),
            "probe": (vision["pool"]["query"], golden["grad_probe"][0, 0]),
        }
    for name, (ours, theirs) in ours_and_theirs.items():
        assert relative_error(ours, theirs) < 1e-4, name


CLIP = "huggingface_clip/gelu_odd_sizes"


def test_parameters_are_held_and_computed_with_as_asked(models):
    clip = kdjax.load_clip(str(GOLDEN / CLIP), dtype="bfloat16", param_dtype="bfloat16")
    golden = outputs(CLIP)
    assert {x.dtype for x in jax.tree.leaves(nnx.state(clip))} <= {
        jnp.dtype("bfloat16"),
        jnp.dtype("float32"),  # the logit scale
    }
    embeds = clip.encode_image(jnp.asarray(golden["images"]), normalize=True)
    assert embeds.dtype == jnp.bfloat16
    error = relative_error(embeds.astype(np.float32), golden["image_embeds"])
    assert 1e-4 < error < 0.1


def test_parameters_go_to_the_mesh(models):
    mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1})
    clip = kdjax.load_clip(str(GOLDEN / CLIP), mesh=mesh)
    for ours, theirs in zip(
        jax.tree.leaves(nnx.state(clip)),
        jax.tree.leaves(nnx.state(models[CLIP])),
        strict=True,
    ):
        assert ours.sharding.mesh == mesh
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("sizes", ["4_5", "7_12", "12_7", "16_24"])
def test_position_embeddings_are_resized_as_openclip_does(sizes):
    golden = np.load(GOLDEN / "position_embeddings.npz")
    before, after = (golden[f"grid_{sizes}_{end}"] for end in ("in", "out"))
    found = resize_positions(before, *map(int, sizes.split("_")))
    assert relative_error(found, after) < 1e-5


@pytest.mark.parametrize(
    "case", [CLIP, "siglip/fixed_resolution", "open_clip/clipa"], ids=lambda c: c[:9]
)
def test_a_model_sees_images_of_another_size(models, case):
    """A class token's position stays; a size with the same grid changes nothing."""
    small = models[case].config.vision
    size = small.image_size + 2 * small.patch_size
    clip = kdjax.load_clip(str(GOLDEN / case), image_size=size)
    assert clip.config.vision.image_size == size
    images = np.random.default_rng(0).normal(size=(2, size, size, 3))
    assert np.isfinite(clip.encode_image(jnp.asarray(images, jnp.float32))).all()
    kept = int(small.class_token)
    before, after = (m.vision.position_embedding[...] for m in (models[case], clip))
    assert len(after) == clip.config.vision.num_positions
    np.testing.assert_array_equal(before[:kept], after[:kept])


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(GOLDEN / CLIP, tmp_path / "copy"))


def test_every_tensor_that_does_not_fit_is_named_with_both_shapes(copy):
    tensors = load_file(copy / "model.safetensors")
    tensors.pop("visual_projection.weight")
    tensors["stranger"] = np.zeros(3, np.float32)
    tensors["logit_scale"] = np.zeros(2, np.float32)
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(UserError) as error:
        kdjax.load_clip(str(copy))
    said = str(error.value)
    assert "visual_projection.weight (28, 36) is missing" in said
    assert "stranger (3,) is unexpected" in said
    assert "logit_scale is (2,) and not ()" in said


def test_a_wrong_depth_is_a_line_for_each_kind_of_tensor(copy):
    config = json.loads((copy / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 5
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError) as error:
        kdjax.load_clip(str(copy))
    expected = "vision_model.encoder.layers.*.mlp.fc1.bias (108,) is missing (3 times)"
    assert expected in str(error.value)
    assert str(error.value).count("missing") == 16


def test_one_tensor_of_a_layer_is_named_with_its_layer(copy):
    tensors = load_file(copy / "model.safetensors")
    name = "text_model.encoder.layers.1.mlp.fc1.bias"
    del tensors[name]
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(UserError, match=rf"{re.escape(name)} \(.*\) is missing"):
        kdjax.load_clip(str(copy))


def test_a_tensor_of_whole_numbers_is_no_weight(copy):
    tensors = load_file(copy / "model.safetensors")
    name = "visual_projection.weight"
    tensors[name] = tensors[name].astype(np.int8)
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(UserError, match=rf"{re.escape(name)} of .* is of int8"):
        kdjax.load_clip(str(copy))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "fp16"}, "the dtype 'fp16' is none of float32"),
        ({"param_dtype": "int32"}, "the dtype 'int32' is none of"),
        ({"image_size": 5}, "an image of 5 pixels has no patch of 7"),
        ({"image_size": 0}, "image_size is 0: give a whole number"),
    ],
)
def test_what_no_model_can_be_asked_for_is_refused(copy, options, said):
    with pytest.raises(UserError, match=said):
        kdjax.load_clip(str(copy), **options)


@pytest.mark.parametrize(
    ("tower", "key", "value", "said"),
    [
        ("vision_config", "hidden_act", "relu", "hidden_act 'relu' is not one"),
        ("vision_config", "patch_size", 0, "patch_size is 0"),
        ("vision_config", "num_channels", 4, "4 channels are not seen"),
        ("text_config", "hidden_size", -24, "-24"),
    ],
)
def test_a_config_that_makes_no_model_is_named(copy, tower, key, value, said):
    config = json.loads((copy / "config.json").read_text())
    config[tower][key] = value
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"config\.json.*{said}"):
        kdjax.load_clip(str(copy))


def test_a_file_by_its_name_is_not_a_model(copy):
    (copy / "ViT-B-32.pt").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=r"is a file: give the directory .* a pickle"):
        kdjax.load_clip(str(copy / "ViT-B-32.pt"))


def test_of_two_shards_the_one_counts_that_the_index_names(copy):
    shard(copy)
    index = json.loads((copy / "model.safetensors.index.json").read_text())
    place = index["weight_map"]["logit_scale"]
    (other,) = sorted(set(index["weight_map"].values()) - {place})[-1:]
    tensors = load_file(copy / other)
    tensors["logit_scale"] = np.array(99.0, np.float32)
    save_file(tensors, copy / other)
    assert kdjax.load_clip(str(copy)).logit_scale[...] < 5


def test_a_run_is_loaded_by_its_workdir(copy, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/environment.json").write_text("{}")
    copy.rename(tmp_path / "run/model")
    assert kdjax.load_clip(str(tmp_path / "run")).config.embed_dim == 28


def test_buffers_of_old_checkpoints_say_nothing(copy):
    tensors = load_file(copy / "model.safetensors")
    tensors["vision_model.embeddings.position_ids"] = np.arange(26)[None]
    save_file(tensors, copy / "model.safetensors")
    kdjax.load_clip(str(copy))


def test_what_a_config_leaves_out_has_the_defaults_of_transformers(copy):
    config = json.loads((copy / "config.json").read_text())
    for tower in ("vision_config", "text_config"):
        del config[tower]["hidden_act"], config[tower]["layer_norm_eps"]
    (copy / "config.json").write_text(json.dumps(config))
    clip = kdjax.load_clip(str(copy))
    assert clip.config.vision.activation == "quick_gelu"
    assert clip.config.text.norm_epsilon == 1e-5


def test_a_tower_sees_images_as_the_preprocessor_says(copy):
    settings = {"size": {"height": 35, "width": 35}, "do_center_crop": False}
    file = copy / "preprocessor_config.json"
    file.write_text(
        json.dumps(settings | {"resample": 2, "image_mean": [0.1, 0.2, 0.3]})
    )
    vision = kdjax.load_clip(str(copy)).config.vision
    assert (vision.resize, vision.interpolation) == ("squash", "bilinear")
    assert vision.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    "settings",
    [
        {"image_processor_type": "ViTImageProcessor", "image_mean": [0.1, 0.2, 0.3]},
        {"resample": 1, "image_mean": [0.1, 0.2, 0.3]},
        {"size": {"longest_edge": 35}, "image_mean": [0.1, 0.2, 0.3]},
        {"image_std": [0, 0, 0], "image_mean": [0.1, 0.2, 0.3]},
    ],
)
def test_weights_are_loaded_whatever_the_preprocessor_is(copy, settings):
    (copy / "preprocessor_config.json").write_text(json.dumps(settings))
    vision = kdjax.load_clip(str(copy)).config.vision
    assert (vision.resize, vision.interpolation) == ("shortest", "bicubic")
    assert vision.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("case", "resize", "interpolation"),
    [
        ("siglip/fixed_resolution", "squash", "bicubic"),
        ("open_clip/gelu", "shortest", "bicubic"),
        ("open_clip/clipa", "squash", "bilinear"),
        ("open_clip/siglip_timm", "squash", "bicubic"),
    ],
)
def test_every_family_sees_images_in_its_own_way(models, case, resize, interpolation):
    vision = models[case].config.vision
    assert (vision.resize, vision.interpolation) == (resize, interpolation)


def test_openclip_weights_are_loaded_whatever_the_preprocessing_is(tmp_path):
    copy = Path(shutil.copytree(GOLDEN / "open_clip/clipa", tmp_path / "copy"))
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = "longest"
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    vision = kdjax.load_clip(str(copy)).config.vision
    assert vision.resize == "shortest"
    assert vision.mean == (0.485, 0.456, 0.406)


def test_half_precision_files_are_read(copy):
    tensors = load_file(copy / "model.safetensors")
    halved = {name: x.astype(ml_dtypes.bfloat16) for name, x in tensors.items()}
    save_file(halved, copy / "model.safetensors")
    clip = kdjax.load_clip(str(copy))
    scale = tensors["logit_scale"].astype(ml_dtypes.bfloat16)
    assert clip.logit_scale[...] == np.float32(scale)


def shard(folder, parts=3):
    """Split a model's file as Hugging Face does."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, places = sorted(tensors), {}
    for part in range(parts):
        file = f"model-{part + 1:05d}-of-{parts:05d}.safetensors"
        save_file({name: tensors[name] for name in names[part::parts]}, folder / file)
        places |= dict.fromkeys(names[part::parts], file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return places


def test_sharded_weights_are_the_same_weights(copy, models):
    shard(copy)
    same = jax.tree.map(
        np.array_equal, nnx.state(kdjax.load_clip(str(copy))), nnx.state(models[CLIP])
    )
    assert all(jax.tree.leaves(same))


def test_a_shard_that_is_missing_or_poorer_is_named(copy):
    places = shard(copy)
    first = copy / places["logit_scale"]
    rest = {k: v for k, v in load_file(first).items() if k != "logit_scale"}
    save_file(rest, first)
    with pytest.raises(UserError, match=f"lists logit_scale, which {first.name} does"):
        kdjax.load_clip(str(copy))
    first.unlink()
    with pytest.raises(UserError, match=f"{first.name} is missing"):
        kdjax.load_clip(str(copy))


@pytest.mark.parametrize("place", ["../model.safetensors", "/etc/passwd", 3])
def test_an_index_points_to_nothing_outside(copy, place):
    shard(copy)
    index = {"weight_map": {"logit_scale": place}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="no weight_map of tensors to files beside it"):
        kdjax.load_clip(str(copy))


def header(**tensors):
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def entry(start, end, shape=(2,)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}


HOSTILE = {
    "empty": b"",
    "a header longer than the file": struct.pack("<Q", 1 << 40) + b"{}",
    "a header that is no JSON": struct.pack("<Q", 4) + b"nope",
    "offsets beyond the end": header(a=entry(0, 8000)) + bytes(8),
    "overlapping tensors": header(a=entry(0, 8), b=entry(4, 12)) + bytes(12),
    "a shape that needs more": header(a=entry(0, 8, (1 << 40, 1 << 40))) + bytes(8),
    "negative offsets": header(a=entry(-8, 0)) + bytes(8),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_by_name(copy, content):
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged or cut off"):
        kdjax.load_clip(str(copy))


@pytest.mark.parametrize(
    ("case", "file"), [(CLIP, "model.safetensors"), ("flax_clip/small", None)]
)
def test_a_file_that_is_cut_off_is_named(tmp_path, case, file):
    copy = Path(shutil.copytree(GOLDEN / case, tmp_path / "copy"))
    path = copy / (file or "flax_model.msgpack")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{path.name} is damaged or cut off"):
        kdjax.load_clip(str(copy))


class Evil:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "open_clip.pt", "model.ckpt"])
def test_pickles_are_refused_and_never_opened(copy, name, monkeypatch):
    import pickle

    monkeypatch.chdir(copy)
    (copy / "model.safetensors").unlink()
    (copy / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match=rf"{name} is not opened, .* convert it"):
        kdjax.load_clip(str(copy))
    assert not (copy / "unpickled").exists()


def test_no_weights_at_all_is_said(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"needs model.safetensors or flax_model"):
        kdjax.load_clip(str(copy))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"config\.json is missing, and so is open_clip_config\.json"),
        ("{", r"config\.json is not JSON"),
        ("[1, 2]", "holds no JSON object"),
        ('{"model_type": "bert"}', "is of model_type 'bert'; models of type clip"),
        ('{"vision_config": {"hidden_size": "many"}}', "cannot be understood"),
    ],
)
def test_a_config_that_is_none_is_named(copy, content, said):
    (copy / "config.json").unlink()
    if content is not None:
        (copy / "config.json").write_text(content)
    with pytest.raises(UserError, match=said):
        kdjax.load_clip(str(copy))


@pytest.mark.parametrize(
    ("tower", "key", "value", "said"),
    [
        ("vision_cfg", "attentional_pool", True, "vision_cfg.attentional_pool True"),
        ("vision_cfg", "timm_model_name", "convnext_base", "'convnext_base' of timm"),
        ("vision_cfg", "layers", [3, 4, 6, 3], "no plain vision transformer"),
        ("text_cfg", "hf_model_name", "roberta-base", "text_cfg.hf_model_name"),
        ("text_cfg", "pool_type", "first", "pooled by 'first'"),
    ],
)
def test_an_openclip_model_of_another_kind_is_refused(
    tmp_path, tower, key, value, said
):
    copy = Path(shutil.copytree(GOLDEN / "open_clip/gelu", tmp_path / "copy"))
    config = json.loads((copy / "open_clip_config.json").read_text())
    config["model_cfg"][tower][key] = value
    (copy / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=said):
        kdjax.load_clip(str(copy))


def test_a_name_that_is_nowhere_is_said(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="neither a directory here nor a model"):
        kdjax.load_clip("nobody/nothing-at-all")
    with pytest.raises(UserError, match="at revision 'v2'"):
        kdjax.load_clip("nobody/nothing-at-all", revision="v2")
