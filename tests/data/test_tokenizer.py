import random
import time

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from kdjax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from kdjax.errors import UserError

TEXTS = ["a red circle", "a blue circle", "is there not a Red shape?"]
SMALL = train_tokenizer(TEXTS)


def clip_style_backend() -> tokenizers.Tokenizer:
    """A byte-level BPE with end-of-word marks and start and end of text."""
    backend = tokenizers.Tokenizer(
        models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>")
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Whitespace(),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.train_from_iterator(
        TEXTS * 4,
        trainers.BpeTrainer(
            vocab_size=600,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
    )
    backend.add_special_tokens(
        [AddedToken("<|startoftext|>"), AddedToken("<|endoftext|>")]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[
            (token, backend.token_to_id(token))
            for token in ("<|startoftext|>", "<|endoftext|>")
        ],
    )
    return backend


@pytest.fixture
def clip_directory(tmp_path):
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    Tokenizer(clip_style_backend(), special).save(tmp_path, 77)
    return tmp_path


def test_the_small_one_gives_bos_words_eos_and_pads():
    # By count and then alphabet: a, circle, red come first, with ids 4, 5, 6.
    ids = SMALL.encode(["a red CIRCLE", "zebra a"], 7)
    assert ids.tolist() == [[2, 4, 6, 5, 3, 0, 0], [2, 1, 4, 3, 0, 0, 0]]
    assert ids.dtype == np.int32
    assert (SMALL.pad_id, SMALL.eos_id) == (0, 3)


def test_truncation_keeps_the_end_token_last():
    assert SMALL.encode(["a red circle a red circle"], 4).tolist() == [[2, 4, 6, 3]]


def test_no_text_gives_no_row():
    assert SMALL.encode([], 5).shape == (0, 5)


@given(st.text(), st.integers(2, 12))
def test_any_text_ends_once_and_stays_in_the_vocabulary(text, length):
    (ids,) = SMALL.encode([text], length)
    assert ids[0] == 2
    assert (ids == SMALL.eos_id).sum() == 1
    assert ids.max() < SMALL.vocab_size
    end = int(np.argmax(ids == SMALL.eos_id))
    assert (ids[end + 1 :] == SMALL.pad_id).all()
    assert (ids[:end] != SMALL.pad_id).all()


def test_training_ignores_the_order_of_texts():
    shuffled = random.Random(0).sample(TEXTS * 3, 9)
    other = train_tokenizer(shuffled)
    assert other.backend.get_vocab() == SMALL.backend.get_vocab()


def test_training_keeps_the_most_frequent_words():
    small = train_tokenizer(TEXTS, vocab_size=6)
    assert small.vocab_size == 6
    assert small.encode(["a blue circle"], 5).tolist() == [[2, 4, 1, 5, 3]]


def test_a_vocabulary_without_words_is_refused():
    with pytest.raises(UserError, match="0 distinct words"):
        train_tokenizer([])
    with pytest.raises(UserError, match="vocab_size above 4"):
        train_tokenizer(TEXTS, vocab_size=4)


def test_a_saved_tokenizer_loads_as_itself(tmp_path):
    SMALL.save(tmp_path / "new" / "folder", 8)
    loaded = load_tokenizer(tmp_path / "new" / "folder")
    assert (loaded.encode(TEXTS, 9) == SMALL.encode(TEXTS, 9)).all()
    assert loaded.special_tokens == SMALL.special_tokens
    assert loaded.vocab_size == SMALL.vocab_size


def test_transformers_opens_a_saved_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    SMALL.save(tmp_path, 8)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ids = theirs(TEXTS, padding="max_length", max_length=9, truncation=True).input_ids
    assert ids == SMALL.encode(TEXTS, 9).tolist()


@pytest.mark.parametrize("length", [4, 16])
def test_a_clip_tokenizer_agrees_with_transformers(clip_directory, length):
    from transformers import AutoTokenizer

    ours = load_tokenizer(clip_directory)
    theirs = AutoTokenizer.from_pretrained(clip_directory)
    ids = theirs(TEXTS, padding="max_length", max_length=length, truncation=True)
    assert ours.encode(TEXTS, length).tolist() == ids.input_ids
    assert ours.pad_id == ours.eos_id == theirs.eos_token_id
    assert ours.vocab_size == len(theirs)


def test_a_directory_without_a_pad_token_pads_with_the_end_token(clip_directory):
    (clip_directory / "special_tokens_map.json").unlink()
    (clip_directory / "tokenizer_config.json").write_text(
        '{"eos_token": {"content": "<|endoftext|>", "lstrip": false}}'
    )
    loaded = load_tokenizer(clip_directory)
    assert loaded.pad_id == loaded.eos_id
    assert loaded.encode(["a"], 6)[0, -1] == loaded.eos_id


def test_padding_and_truncation_of_the_file_are_ignored(clip_directory):
    expected = load_tokenizer(clip_directory).encode(TEXTS, 16)
    path = str(clip_directory / "tokenizer.json")
    backend = tokenizers.Tokenizer.from_file(path)
    backend.enable_truncation(3)
    backend.enable_padding(length=3)
    backend.save(path)
    assert (load_tokenizer(clip_directory).encode(TEXTS, 16) == expected).all()


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="there is no tokenizer at"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(UserError, match="there is no tokenizer at"):
        load_tokenizer(tmp_path)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json or the files beside it"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{}", "names no eos_token"),
        ('{"eos_token": "</s>"}', "'</s>' is not in the tokenizer's vocabulary"),
    ],
)
def test_a_tokenizer_without_an_end_is_refused(clip_directory, config, message):
    (clip_directory / "special_tokens_map.json").unlink()
    (clip_directory / "tokenizer_config.json").write_text(config)
    with pytest.raises(UserError, match=message):
        load_tokenizer(clip_directory)


def test_known_texts_are_encoded_from_memory():
    texts = [f"a red circle {i}" for i in range(64)]
    SMALL.encode(texts, 77)
    seconds = []
    for _ in range(20):
        started = time.perf_counter()
        SMALL.encode(texts, 77)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1e-3
