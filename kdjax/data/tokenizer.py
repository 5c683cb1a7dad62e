"""Text to token ids: Hugging Face tokenizers, and a small one trained on the spot."""

import functools
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tokenizers
from etils import epath
from jaxtyping import Int32
from tokenizers import models, normalizers, pre_tokenizers, processors

from kdjax.data.tokenizer_files import read_tokenizer
from kdjax.errors import UserError
from kdjax.files import make_folder, write_whole

PAD, UNKNOWN, BOS, EOS = "[PAD]", "[UNK]", "[BOS]", "[EOS]"
_SPECIALS = (PAD, UNKNOWN, BOS, EOS)
_CACHED_TEXTS = 65_536


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Token ids of fixed length from a `tokenizers.Tokenizer`.

    Attributes:
        backend: splits a text and adds the special tokens; neither pads nor truncates.
        special_tokens: "pad_token", "eos_token" and any others, as `transformers`
            names them.
    """

    backend: tokenizers.Tokenizer
    special_tokens: Mapping[str, str]

    def encode(
        self, texts: Sequence[str], length: int
    ) -> Int32[np.ndarray, "n length"]:
        """Return [n, length] ids: cut so that the end token stays last, then padded.

        The latest texts are remembered, since captions and questions come again.
        """
        ids = np.empty((len(texts), length), np.int32)
        for row, text in enumerate(texts):
            ids[row] = self._encode_one(text, length)
        return ids

    @functools.cached_property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @functools.cached_property
    def pad_id(self) -> int:
        """Id that fills a row after its text."""
        return self._id_of("pad_token")

    @functools.cached_property
    def eos_id(self) -> int:
        """Id that ends a text."""
        return self._id_of("eos_token")

    @functools.cached_property
    def ends_texts(self) -> bool:
        """Whether a text's ids hold the token that ends it, as poolers expect."""
        return self.eos_id in self.backend.encode("a").ids

    def save(self, directory: str | os.PathLike[str], length: int) -> None:
        """Write files from which `transformers.AutoTokenizer` opens the directory.

        Args:
            directory: local or in a bucket.
            length: to which a text is cut or filled up by default.
        """
        folder = epath.Path(directory)
        make_folder(folder)
        special = dict(self.special_tokens)
        added = self.backend.get_added_tokens_decoder().values()
        if special["pad_token"] not in {token.content for token in added}:
            # OpenCLIP pads with a word; named as special it would be cut out of texts.
            special["pad_token"] = special["eos_token"]
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": length,
            **special,
        }
        for name, text in (
            ("tokenizer.json", self.backend.to_str(pretty=True)),
            ("tokenizer_config.json", json.dumps(config, indent=2)),
            ("special_tokens_map.json", json.dumps(special, indent=2)),
        ):
            write_whole(folder / name, text.encode())

    def _id_of(self, key: str) -> int:
        token_id = self.backend.token_to_id(self.special_tokens[key])
        if token_id is None:
            raise UserError(
                f"the {key} {self.special_tokens[key]!r} is not in the tokenizer's "
                "vocabulary: correct its tokenizer_config.json"
            )
        return token_id

    @functools.cached_property
    def _encode_one(self) -> Any:
        # A cache of the instance's own: it goes when the tokenizer goes.
        return functools.lru_cache(maxsize=_CACHED_TEXTS)(self._encode_uncached)

    def _encode_uncached(self, text: str, length: int) -> Int32[np.ndarray, " length"]:
        ids = self.backend.encode(text).ids
        if len(ids) > length:
            ended = ids[-1] == self.eos_id
            ids = [*ids[: length - 1], self.eos_id] if ended else ids[:length]
        row = np.full(length, self.pad_id, np.int32)
        row[: len(ids)] = ids
        return row


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> Tokenizer:
    """Return a lower-case word tokenizer with the most frequent words of `texts`.

    A text becomes `[BOS] words [EOS]`; ids 0 to 3 are pad, unknown, bos and eos. Words
    of equal count are ordered alphabetically, so the same texts in any order give the
    same ids.

    Raises:
        UserError: there is no word, or no room for one.
    """
    normalizer = normalizers.Lowercase()
    splitter = pre_tokenizers.Whitespace()
    counts: Counter[str] = Counter()
    for text in texts:
        words = splitter.pre_tokenize_str(normalizer.normalize_str(text))
        counts.update(word for word, _ in words)
    room = vocab_size - len(_SPECIALS)
    if room < 1 or not counts:
        raise UserError(
            f"a tokenizer of {vocab_size} ids over {len(counts)} distinct words has no "
            f"word: give texts and a vocab_size above {len(_SPECIALS)}"
        )
    # A word that spells a special token must not take its id.
    for token in _SPECIALS:
        counts.pop(token.lower(), None)
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:room]
    vocab = {word: i for i, word in enumerate((*_SPECIALS, *frequent))}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    backend.normalizer = normalizer
    backend.pre_tokenizer = splitter
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}",
        special_tokens=[(BOS, vocab[BOS]), (EOS, vocab[EOS])],
    )
    backend.add_special_tokens(list(_SPECIALS))
    special = {"pad_token": PAD, "unk_token": UNKNOWN, "bos_token": BOS}
    return Tokenizer(backend, {**special, "eos_token": EOS})


def load_tokenizer(name_or_directory: str | os.PathLike[str]) -> Tokenizer:
    """Return the tokenizer of a directory or of a name on the Hugging Face hub.

    A directory with `tokenizer.json` is read directly; anything else goes through
    `transformers.AutoTokenizer`. What a model's own tokenizer class does to texts in
    Python (SigLIP, SigLIP 2, OpenCLIP) is done by the one that is returned.

    Raises:
        UserError: there is no such tokenizer, or it has no end token.
    """
    name = os.fspath(name_or_directory)
    backend, special = read_tokenizer(name)
    backend.no_padding()
    backend.no_truncation()
    if "eos_token" not in special:
        raise UserError(
            f"the tokenizer of {name!r} names no eos_token: add it to its "
            "tokenizer_config.json"
        )
    # CLIP's own tokenizer pads with the end token.
    tokenizer = Tokenizer(backend, {"pad_token": special["eos_token"], **special})
    for key in ("pad_token", "eos_token"):
        tokenizer._id_of(key)
    return tokenizer
