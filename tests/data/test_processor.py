"""The pixels and ids of a model's own library, for files of every layout and age."""

import dataclasses
import html
import io
import json
import re
import string
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
from data.pictures import FILES, noise
from PIL import Image
from tokenizers import (
    AddedToken,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

import kdjax
from kdjax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from kdjax.errors import UserError

GOLDEN = np.load(Path(__file__).parents[1] / "golden/pixels.npz")
TEXTS = [
    "a photo of a Cat!",
    "  TWO  dogs\tand_one   bird... ",
    "it's \N{CYRILLIC CAPITAL LETTER KA}afé, (really) &amp; more?",
    "a very long text that goes on " * 4,
    "",
]
OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073)}
CLIP = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 24},
    "crop_size": {"height": 24, "width": 24},
}
SIGLIP2 = {
    "image_processor_type": "SiglipImageProcessor",
    "size": {"height": 24, "width": 24},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_convert_rgb": None,
}
SQUASHING_CLIP = {**CLIP, "size": {"height": 24, "width": 24}, "do_center_crop": False}


def write(folder, name, values):
    (folder / name).write_text(json.dumps(values))


def clip_tokenizer(folder):
    """Write a byte-level BPE as CLIP's own, with merges."""
    backend = tokenizers.Tokenizer(
        models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>")
    )
    pattern = (
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]"
        r"|[^\s\p{L}\p{N}]+"
    )
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(tokenizers.Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    ends = ["<|startoftext|>", "<|endoftext|>"]
    backend.add_special_tokens([AddedToken(token) for token in ends])
    start, end = ((token, backend.token_to_id(token)) for token in ends)
    backend.post_processor = processors.RobertaProcessing(end, start, False, False)
    backend.save(str(folder / "tokenizer.json"))
    names = {"bos_token": ends[0], "eos_token": ends[1], "pad_token": ends[1]}
    settings = {"tokenizer_class": "CLIPTokenizer", "unk_token": ends[1], **names}
    write(folder, "tokenizer_config.json", settings)


def siglip_tokenizer(folder, **settings):
    """Write a unigram tokenizer as SigLIP's, whose class cleans texts in Python."""
    pieces = [(letter, -5.0) for letter in string.printable.strip() + "éКк"]
    words = [(f"▁{word}", -3.0) for word in ("photo", "cat", "dogs", "and", "its")]
    specials = [("<unk>", 0.0), ("</s>", 0.0)]
    backend = tokenizers.Tokenizer(
        models.Unigram([*specials, ("▁", -4.0), *words, *pieces], unk_id=0)
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens(["<unk>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    backend.save(str(folder / "tokenizer.json"))
    named = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>"}
    named["tokenizer_class"] = "SiglipTokenizer"
    write(folder, "tokenizer_config.json", named | settings)


def gemma_tokenizer(folder, tokenizer_class):
    """Write a BPE of bytes and pieces as SigLIP 2's."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = ["▁", *string.ascii_letters, *[f"<0x{byte:02X}>" for byte in range(256)]]
    merges = [("c", "a"), ("ca", "t"), ("▁", "a")]
    vocab = [*specials, *letters, *["".join(pair) for pair in merges]]
    backend = tokenizers.Tokenizer(
        models.BPE(
            {token: i for i, token in enumerate(vocab)},
            merges,
            fuse_unk=True,
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.add_special_tokens(specials)
    backend.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    backend.save(str(folder / "tokenizer.json"))
    named = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
    settings = {"tokenizer_class": tokenizer_class, "padding_side": "right"}
    write(folder, "tokenizer_config.json", {**named, "unk_token": "<unk>", **settings})


def hugging_face(folder, preprocessor=CLIP, model_type="clip", image_size=24, **text):
    """Write all of a model but its weights."""
    towers = {"vision_config": {"image_size": image_size}, "text_config": text}
    write(folder, "config.json", {"model_type": model_type, **towers})
    if preprocessor is not None:
        write(folder, "preprocessor_config.json", preprocessor)
    if not (folder / "tokenizer.json").exists():
        clip_tokenizer(folder)
    return kdjax.load_processor(folder)


def open_clip(folder, preprocess=None, image_size=12, **text):
    """Write all of a model in OpenCLIP's layout but its weights."""
    model = {"vision_cfg": {"image_size": image_size}, "text_cfg": text}
    values = {"model_cfg": model, "preprocess_cfg": preprocess or {}}
    write(folder, "open_clip_config.json", values)
    if not (folder / "tokenizer.json").exists():
        clip_tokenizer(folder)
    return kdjax.load_processor(folder)


def theirs(folder, images):
    """Return the pixels of `transformers`' own image processor."""
    name = json.loads((folder / "preprocessor_config.json").read_text())
    kind = getattr(transformers, name["image_processor_type"] + "Pil")
    with warnings.catch_warnings():
        # Pillow advises against dropping the alpha of palettes.
        warnings.simplefilter("ignore")
        found = kind.from_pretrained(folder)(images, return_tensors="np").pixel_values
    return found.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("settings", [CLIP, SQUASHING_CLIP, SIGLIP2])
def test_a_file_gives_the_pixels_of_transformers(tmp_path, kind, settings):
    processor = hugging_face(tmp_path, settings)
    path = tmp_path / "image"
    path.write_bytes(FILES[kind])
    found = processor.images([path])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, theirs(tmp_path, [str(path)]))


@pytest.mark.parametrize("kind", FILES)
def test_a_pil_image_is_taken_as_transformers_takes_it(tmp_path, kind):
    """It is not turned, and what is transparent is white."""
    processor = hugging_face(tmp_path)
    image = Image.open(io.BytesIO(FILES[kind]))
    expected = theirs(tmp_path, [image])
    np.testing.assert_array_equal(processor.images([image]), expected)


@pytest.mark.parametrize("layout", ["transformers", "open_clip"])
def test_alpha_is_dropped_where_nothing_is_laid_on_white(tmp_path, layout):
    if layout == "open_clip":
        processor = open_clip(tmp_path, image_size=24)
    else:
        processor = hugging_face(tmp_path, CLIP | {"do_convert_rgb": None})
    values = noise(24, 24, channels=4)
    found = processor.images([values[..., :3].copy()])
    np.testing.assert_array_equal(processor.images([Image.fromarray(values)]), found)
    named = Image.fromarray(values[..., :3])
    named.info["transparency"] = tuple(values[0, 0, :3].tolist())
    np.testing.assert_array_equal(processor.images([named]), found)


def test_arrays_files_and_images_make_one_batch(tmp_path):
    processor = hugging_face(tmp_path)
    pixels = noise()
    rows = processor.images([pixels, Image.fromarray(pixels), FILES["grey"]])
    assert rows.shape == (3, 24, 24, 3)
    np.testing.assert_array_equal(rows[0], rows[1])
    batch = processor.images(np.stack([pixels, pixels]))
    np.testing.assert_array_equal(batch, rows[[0, 0]])
    assert processor.images([]).shape == (0, 24, 24, 3)
    np.testing.assert_array_equal(processor.images(FILES["grey"]), rows[2:])
    np.testing.assert_array_equal(processor.images(pixels), rows[:1])


@pytest.mark.parametrize(
    "array", [noise(channels=1), noise(channels=4), noise().astype(float)]
)
def test_an_array_that_is_no_image_is_refused(tmp_path, array):
    with pytest.raises(UserError, match=r"is no image: give uint8"):
        hugging_face(tmp_path).images([array])


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.png is missing"):
        hugging_face(tmp_path).images([tmp_path / "nothing.png"])


@pytest.mark.parametrize(
    ("settings", "family", "expected"),
    [
        (CLIP, "clip", ("bicubic", "shortest", OPENAI["mean"])),
        (
            {"size": 24, "crop_size": 24},
            "clip",
            ("bicubic", "shortest", OPENAI["mean"]),
        ),
        (
            {"feature_extractor_type": "CLIPFeatureExtractor", "size": 24}
            | {"crop_size": 24, "resample": 2, "processor_class": "CLIPProcessor"},
            "clip",
            ("bilinear", "shortest", OPENAI["mean"]),
        ),
        (SQUASHING_CLIP, "clip", ("bicubic", "squash", OPENAI["mean"])),
        ({"size": [24, 24]}, "siglip", ("bicubic", "squash", (0.5,) * 3)),
        (SIGLIP2, "siglip", ("bilinear", "squash", (0.5,) * 3)),
        (
            {**SIGLIP2, "size": {"shortest_edge": 24}}
            | {"do_center_crop": True, "crop_size": 24},
            "siglip",
            ("bilinear", "shortest", (0.5,) * 3),
        ),
        (
            {**CLIP, "image_mean": 0.5, "do_pad": None},
            "clip",
            (*2 * (None,), (0.5,) * 3),
        ),
        (None, "clip", ("bicubic", "shortest", OPENAI["mean"])),
        (None, "siglip", ("bicubic", "squash", (0.5,) * 3)),
    ],
)
def test_files_of_every_age_are_understood(tmp_path, settings, family, expected):
    found = hugging_face(tmp_path, settings, family)
    assert found.image_size == 24
    for value, wanted in zip(
        (found.interpolation, found.resize, found.mean), expected, strict=True
    ):
        assert wanted is None or value == wanted


def test_what_a_file_leaves_out_has_the_defaults_of_transformers(tmp_path):
    found = hugging_face(tmp_path, {}, image_size=224)
    assert (found.image_size, found.resize, found.context_length) == (
        224,
        "shortest",
        77,
    )


def test_settings_beside_those_of_the_tokenizer_go_first(tmp_path):
    """So `transformers` 5 saves a processor."""
    write(tmp_path, "processor_config.json", {"image_processor": SIGLIP2})
    assert hugging_face(tmp_path, CLIP).interpolation == "bilinear"
    write(tmp_path, "processor_config.json", {"processor_class": "CLIPProcessor"})
    assert kdjax.load_processor(tmp_path).interpolation == "bicubic"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"image_processor_type": "ViTImageProcessor"},
            "'ViTImageProcessor' is of anot",
        ),
        ({"do_resize": False}, "do_resize is False"),
        ({"do_rescale": False}, "do_rescale is False"),
        ({"do_normalize": False}, "do_normalize is False"),
        ({"do_pad": True}, "do_pad is True"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor is 0.0078"),
        ({"resample": 1}, "resample is 1"),
        (
            {"size": {"shortest_edge": 32}},
            r"size \{'shortest_edge': 32\} with do_center",
        ),
        ({"size": {"height": 24, "width": 32}}, "cannot be expressed"),
        ({"do_center_crop": False}, "do_center_crop False and crop_size"),
        ({"image_std": [1, 2]}, r"image_std is \[1, 2\] and not three numbers"),
    ],
)
def test_what_cannot_be_expressed_is_refused(tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        hugging_face(tmp_path, CLIP | change)


def test_a_processor_of_another_size_than_the_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="images of 24 pixels and the model sees 32"):
        hugging_face(tmp_path, image_size=32)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("preprocessor_config.json", "{", r"preprocessor_config\.json is not JSON"),
        ("preprocessor_config.json", "[]", r"preprocessor_config\.json holds no JSON"),
        ("preprocessor_config.json", '{"resample": [3]}', "cannot be understood"),
        ("config.json", '{"model_type": "bert"}', "model_type 'bert'"),
        ("tokenizer.json", "{}", r"tokenizer\.json or the files beside it"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, said):
    hugging_face(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said):
        kdjax.load_processor(tmp_path)


def test_a_model_without_a_tokenizer_is_refused(tmp_path):
    """Of its config alone `transformers` makes a tokenizer that knows no word."""
    hugging_face(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="there is no tokenizer at"):
        kdjax.load_processor(tmp_path)


def test_a_name_that_is_nowhere_is_said(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="at revision 'v2'"):
        kdjax.load_processor("nobody/nothing-at-all", revision="v2")


MODES = {"L": 1, "LA": 2, "RGBA": 4, "CMYK": 4, "P": 1}
CUT = [name for name in GOLDEN.files if name.count("_") == 3]


@pytest.mark.parametrize("name", CUT)
def test_pixels_are_those_of_openclip(tmp_path, name):
    picture, rule, interpolation = name.rsplit("_", 2)
    mode, size = picture.split("_")
    shape = tuple(map(int, size.split("x")))
    image = Image.frombytes(mode, shape, GOLDEN[picture].tobytes())
    if mode == "P":
        image.putpalette([(7 * i) % 256 for i in range(768)])
    settings = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    processor = open_clip(
        tmp_path, settings | {"interpolation": interpolation, "resize_mode": rule}
    )
    (found,) = processor.images([image])
    np.testing.assert_allclose(found, GOLDEN[name], atol=1e-6, rtol=0)


def test_openclip_takes_the_size_of_the_model_and_the_cubic_for_a_random_one(tmp_path):
    found = open_clip(tmp_path, {"size": 99, "interpolation": "random", "mean": None})
    assert (found.image_size, found.interpolation) == (12, "bicubic")
    assert (found.resize, found.mean) == ("shortest", OPENAI["mean"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"resize_mode": "longest"}, "preprocess_cfg.resize_mode is 'longest'"),
        ({"interpolation": "nearest"}, "preprocess_cfg.interpolation is 'nearest'"),
        ({"mode": "L"}, "preprocess_cfg.mode is 'L'; RGB can be expressed"),
        ({"mean": [1]}, r"mean is \[1\] and not three numbers"),
    ],
)
def test_what_openclip_does_and_cannot_be_expressed_is_refused(
    tmp_path, settings, said
):
    with pytest.raises(UserError, match=said):
        open_clip(tmp_path, settings)


def ids_of_transformers(folder, texts, length, **options):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    options |= {"padding": "max_length", "truncation": True, "max_length": length}
    return tokenizer(texts, **options).input_ids


@pytest.mark.parametrize("length", [None, 16])
def test_clip_pads_with_the_end_to_the_length_of_its_config(tmp_path, length):
    text = {} if length is None else {"max_position_embeddings": length}
    processor = hugging_face(tmp_path, **text)
    assert processor.context_length == (length or 77)
    found = processor.texts(TEXTS)
    expected = ids_of_transformers(tmp_path, TEXTS, length or 77)
    assert found.dtype == np.int32
    assert found.tolist() == expected
    assert (found[:, -1] == processor.tokenizer.eos_id).all()
    np.testing.assert_array_equal(processor.texts(TEXTS[0]), found[:1])


def canonical(text, lower=True):
    """Do as `SiglipTokenizer.canonicalize_text`."""
    text = text.lower() if lower else text
    text = text.translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", text).strip()


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_siglip_reads_texts_without_punctuation(tmp_path, lower, named):
    class_of = {} if named else {"tokenizer_class": None}
    siglip_tokenizer(tmp_path, do_lower_case=lower, **class_of)
    processor = hugging_face(tmp_path, SIGLIP2, "siglip")
    assert processor.context_length == 64
    # Without SentencePiece their class is the file alone, which cleans nothing.
    plain = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    expected = plain(
        [canonical(text, lower) for text in TEXTS],
        padding="max_length",
        max_length=64,
        truncation=True,
    ).input_ids
    assert processor.texts(TEXTS).tolist() == expected
    assert processor.texts([string.punctuation])[0].tolist() == [1] * 64


def test_a_saved_siglip_tokenizer_still_cleans_texts(tmp_path):
    siglip_tokenizer(tmp_path)
    processor = hugging_face(tmp_path, SIGLIP2, "siglip")
    processor.tokenizer.save(tmp_path / "copy", 64)
    again = load_tokenizer(tmp_path / "copy").encode(TEXTS, 64)
    np.testing.assert_array_equal(again, processor.texts(TEXTS))
    assert ids_of_transformers(tmp_path / "copy", TEXTS, 64) == again.tolist()


@pytest.mark.parametrize("kind", ["Siglip2Tokenizer", "GemmaTokenizer"])
def test_siglip_2_reads_texts_as_the_class_that_its_files_name(tmp_path, kind):
    gemma_tokenizer(tmp_path, kind)
    processor = hugging_face(tmp_path, SIGLIP2, "siglip")
    expected = ids_of_transformers(tmp_path, TEXTS, 64)
    assert processor.texts(TEXTS).tolist() == expected
    alike = processor.texts(["A CAT"]) == processor.texts(["a cat"])
    assert alike.all() == (kind == "Siglip2Tokenizer")


def whitespace(text):
    """Do as OpenCLIP's cleaning where ftfy finds nothing to mend."""
    return " ".join(html.unescape(html.unescape(text)).split())


def test_openclip_pads_with_zeros_and_reads_html(tmp_path):
    processor = open_clip(tmp_path, context_length=16)
    found = processor.texts(TEXTS)
    plain = processor.tokenizer.backend.encode(whitespace(TEXTS[2]).lower()).ids[:16]
    assert found[2, : len(plain) - 1].tolist() == plain[:-1]
    ends = processor.tokenizer.eos_id
    for row in found:
        end = row.tolist().index(ends)
        assert (row[end + 1 :] == 0).all()
    assert (
        found[4].tolist()
        == [processor.tokenizer.backend.encode("").ids[0], ends] + [0] * 14
    )
    assert open_clip(tmp_path).context_length == 77


def test_a_word_that_openclip_pads_with_stays_a_word_when_it_is_saved(tmp_path):
    open_clip(tmp_path)
    clip_tokenizer(tmp_path)
    tokenizer = kdjax.load_processor(tmp_path).tokenizer
    word = tokenizer.special_tokens["pad_token"]
    tokenizer.save(tmp_path / "copy", 20)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "copy")
    texts = [f"a cat{word}", f"{word} a {word}"]
    ids = [tokenizer.backend.encode(text).ids for text in texts]
    assert theirs(texts).input_ids == ids
    again = load_tokenizer(tmp_path / "copy")
    assert [again.backend.encode(text).ids for text in texts] == ids


def test_texts_that_are_padded_in_front_are_refused(tmp_path):
    gemma_tokenizer(tmp_path, "GemmaTokenizer")
    file = tmp_path / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    for side in ("left", None):
        settings.pop("padding_side", None)
        file.write_text(json.dumps(settings | ({"padding_side": side} if side else {})))
        with pytest.raises(UserError, match="pads texts on the left"):
            load_tokenizer(tmp_path)


def test_openclip_cleans_texts_for_siglip(tmp_path):
    siglip_tokenizer(tmp_path, tokenizer_class="T5Tokenizer")
    named = {
        "hf_tokenizer_name": "timm/some-siglip",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    }
    processor = open_clip(tmp_path, context_length=64, **named)
    plain = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    cleaned = [canonical(whitespace(text).replace("_", " ")) for text in TEXTS]
    options = {"padding": "max_length", "max_length": 64, "truncation": True}
    assert processor.texts(TEXTS).tolist() == plain(cleaned, **options).input_ids


def test_openclip_ends_texts_of_clipa_with_zeros(tmp_path):
    words = train_tokenizer(["a red circle", "a blue square"])
    named = {"sep_token": "[EOS]", "pad_token": "[PAD]", "cls_token": "[BOS]"}
    Tokenizer(words.backend, named).save(tmp_path, 77)
    settings = {
        "hf_tokenizer_name": "bert-base-uncased",
        "tokenizer_kwargs": {"strip_sep_token": True},
    }
    processor = open_clip(tmp_path, context_length=4, **settings)
    texts = ["a circle", "a red blue circle"]
    expected = words.encode(texts, 4)
    assert (
        processor.texts(texts).tolist() == np.where(expected == 3, 0, expected).tolist()
    )


@pytest.mark.parametrize(
    "text",
    [
        {"tokenizer_kwargs": {"clean": "thoroughly"}},
        {"tokenizer_kwargs": {"reduction_mask": "syntax"}},
        {"tokenizer_mode": "clips"},
    ],
)
def test_an_unknown_way_of_openclip_with_texts_is_refused(tmp_path, text):
    with pytest.raises(UserError, match="that kdjax does not know"):
        open_clip(tmp_path, **text)


@pytest.mark.parametrize("named", [None, "timm/ViT-B-16-SigLIP"])
def test_an_openclip_model_without_tokenizer_names_the_one_it_needs(
    tmp_path, monkeypatch, named
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    open_clip(tmp_path, hf_tokenizer_name=named)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=named or "'openai/clip-vit-base-patch32'"):
        kdjax.load_processor(tmp_path)


def test_a_processor_says_how_it_works_and_can_be_changed(tmp_path):
    processor = hugging_face(tmp_path)
    larger = dataclasses.replace(processor, image_size=32)
    assert larger.images([FILES["RGB"]]).shape == (1, 32, 32, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        processor.image_size = 32


def test_nothing_is_printed_and_no_setting_stays(tmp_path):
    processor = hugging_face(tmp_path)
    program = (
        "import os, kdjax; before = dict(os.environ);"
        f"p = kdjax.load_processor({str(tmp_path)!r});"
        "import numpy as np; p.images([np.zeros((9, 9, 3), np.uint8)]);"
        "assert dict(os.environ) == before; print(p.context_length)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert said.stdout == f"{processor.context_length}\n"
    assert said.stderr == ""
