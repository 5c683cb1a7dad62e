"""A Hugging Face CLIP gives the original's numbers here, and goes back out."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import kdjax
from kdjax.errors import UserError

GOLDEN = Path(__file__).parents[1] / "golden" / "huggingface_clip"
CASES = ["quick_gelu_legacy_eos", "gelu_odd_sizes"]


def relative_error(ours, theirs) -> float:
    theirs = np.asarray(theirs, np.float64)
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@pytest.fixture(scope="module", params=CASES)
def case(request):
    directory = GOLDEN / request.param
    return kdjax.load_clip(str(directory)), dict(np.load(directory / "outputs.npz"))


def inputs(golden):
    names = ("images", "input_ids", "mask")
    return [jnp.asarray(golden[name]) for name in names]


def test_embeddings_and_logits_equal_the_original(case):
    clip, golden = case
    out = nnx.jit(lambda m, *x: m(*x))(clip, *inputs(golden))
    assert relative_error(out.image_embeds, golden["image_embeds"]) < 1e-5
    assert relative_error(out.text_embeds, golden["text_embeds"]) < 1e-5
    assert relative_error(out.logits_per_image, golden["logits"]) < 1e-4
    np.testing.assert_array_equal(out.logits_per_text, out.logits_per_image.T)


def test_no_mask_means_none(case):
    clip, golden = case
    out = nnx.jit(lambda m, *x: m(*x))(clip, *inputs(golden)[:2])
    assert relative_error(out.logits_per_image, golden["unmasked_logits"]) < 1e-4
    assert relative_error(out.logits_per_image, golden["logits"]) > 1e-3


def test_hidden_states_and_attention_maps_equal_the_original(case):
    clip, golden = case
    images, ids, mask = inputs(golden)
    embeddings = clip.embeddings(images, ids, mask, hidden=True, attention=True)
    assert relative_error(embeddings.image_hidden, golden["hidden"]) < 1e-5
    assert relative_error(embeddings.image_attention, golden["attention"]) < 1e-5


def test_gradients_equal_the_original(case):
    clip, golden = case
    graph, state = nnx.split(clip)

    def loss(params, images):
        logits = nnx.merge(graph, params)(images, *inputs(golden)[1:]).logits_per_image
        diagonal = [jnp.diag(jax.nn.log_softmax(x)).mean() for x in (logits, logits.T)]
        return -sum(diagonal) / 2

    params = nnx.to_pure_dict(state)
    value, (grads, pixels) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
        params, jnp.asarray(golden["images"])
    )
    vision = grads["vision"]
    patch = golden["grad_patch"].transpose(2, 3, 1, 0)
    query = vision["transformer"]["blocks"]["attention"]["query"]["kernel"][1]
    ours_and_theirs = [
        (value, golden["loss"]),
        (vision["patch_embedding"]["kernel"], patch.reshape(-1, patch.shape[-1])),
        (grads["text"]["token_embedding"]["embedding"], golden["grad_token"]),
        (query.T, golden["grad_query"]),
        (grads["logit_scale"], golden["grad_scale"]),
        (pixels, golden["grad_pixels"].transpose(0, 2, 3, 1)),
    ]
    for ours, theirs in ours_and_theirs:
        assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize("name", CASES)
def test_a_saved_model_has_the_same_tensors_bit_for_bit(name, tmp_path):
    kdjax.save_clip(kdjax.load_clip(str(GOLDEN / name)), tmp_path)
    before = load_file(GOLDEN / name / "model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        np.testing.assert_array_equal(tensor, after[key])
    old, new = (
        json.loads((d / "config.json").read_text()) for d in (GOLDEN / name, tmp_path)
    )
    # A model neither begins nor pads a text, its tokenizer does.
    unused = {"projection_dim", "bos_token_id", "pad_token_id"}
    for tower in ("vision_config", "text_config"):
        for key in (new[tower].keys() & old[tower].keys()) - unused:
            assert new[tower][key] == old[tower][key]
    assert new["projection_dim"] == old["projection_dim"]


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(GOLDEN / CASES[0], tmp_path / "copy"))


def test_every_tensor_that_does_not_fit_is_named(copy):
    file = copy / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("visual_projection.weight")
    tensors["stranger"] = np.zeros(3, np.float32)
    tensors["logit_scale"] = np.zeros(2, np.float32)
    save_file(tensors, file)
    with pytest.raises(UserError) as error:
        kdjax.load_clip(str(copy))
    message = str(error.value)
    assert "visual_projection.weight is missing" in message
    assert "stranger (3,) is unexpected" in message
    assert "logit_scale gives (2,) and not ()" in message


def test_a_cut_off_file_is_named(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged or cut off"):
        kdjax.load_clip(str(copy))


def test_a_missing_file_is_named(copy):
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        kdjax.load_clip(str(copy))


def test_a_name_that_is_nowhere_is_said(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="neither a directory here nor a model"):
        kdjax.load_clip("nobody/nothing-at-all")
