"""From a source to batches, with Grain: shuffled for training, in order for scoring.

Row r of global batch k is global position k * batch_size + r of an endless shuffled
stream. All that is random about a row is a function of (seed, position), so hosts with
some of the rows each agree with every other number of hosts, and the iterator's whole
state is k.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8, UInt64

from kdjax.data.records import Question, Record, Source
from kdjax.data.tokenizer import Tokenizer
from kdjax.errors import UserError

Batch = dict[str, Any]

MID_GREY = 128
_CACHED_RECORDS = 65_536
# A second counter, that tells a row's bits in a step from those that choose a caption.
_STEP = np.zeros(1, np.uint64)


def contrastive_batches(
    source: Source,
    tokenizers: Mapping[str, tuple[Tokenizer, int]],
    *,
    batch_size: int,
    seed: int,
    rows: Int64[np.ndarray, " b"] | None = None,
    read_threads: int = 1,
    prefetch: int = 4,
) -> grain.IterDataset:
    """Return endless batches of images with one caption each, drawn at random.

    A batch holds all or some of batch_size rows: `image` [b, H, W, 3] uint8, `index`
    [b] int32 into the source, `caption` [b] int32 into the record's captions, `text`, a
    dict of [b, L] int32 ids by model name, and `bits` [b] uint32, from which comes all
    that is random about a row in a step.

    Args:
        source: of records that all have a caption.
        tokenizers: by model name, a tokenizer and its model's L.
        batch_size: rows over all hosts.
        seed: of the order, the captions and the bits.
        rows: of the batch, that this host has; None for all.
        read_threads: threads that make batches ahead.
        prefetch: batches made ahead.

    Raises:
        UserError: the source is smaller than a batch, or (from the iterator) a record
            cannot be read.
    """

    def build(
        indices: Int64[np.ndarray, " b"], positions: UInt64[np.ndarray, " b"]
    ) -> Batch:
        records = _read(source, indices)
        counts = np.array([len(record.captions) for record in records], np.uint64)
        if not counts.all():
            index = int(indices[np.argmin(counts)])
            raise UserError(f"{_where(source, index)} has no caption: give it one")
        chosen = (_random_bits(seed, positions) % counts).astype(np.int32)
        texts = [r.captions[c] for r, c in zip(records, chosen.tolist(), strict=True)]
        return {
            "image": _images(source, indices, records),
            "index": indices.astype(np.int32),
            "caption": chosen,
            "bits": _random_bits(seed, positions, _STEP).astype(np.uint32),
            "text": {
                model: tokenizer.encode(texts, length)
                for model, (tokenizer, length) in tokenizers.items()
            },
        }

    return _stream(source, build, batch_size, rows, seed, read_threads, prefetch)


def vqa_batches(
    source: Source,
    tokenizers: Mapping[str, tuple[Tokenizer, int]],
    answers: Sequence[str],
    *,
    batch_size: int,
    questions_per_image: int,
    seed: int,
    rows: Int64[np.ndarray, " b"] | None = None,
    blank: bool = False,
    read_threads: int = 1,
    prefetch: int = 4,
) -> grain.IterDataset:
    """Return endless batches of images with up to Q questions each and their targets.

    A batch holds all or some of batch_size images: `image` [b, H, W, 3] uint8,
    `index` [b] int32, `question`, a dict of [b, Q, L] int32 ids by model name, `target`
    [b, Q, A] float32 and `mask` [b, Q] bool, which is False where an image has fewer
    than Q questions. Of more than Q, Q are drawn without replacement.

    Args:
        source: of records with questions.
        tokenizers: by model name, a tokenizer and its model's L.
        answers: the A classes; other answers count for nothing.
        batch_size: images over all hosts.
        questions_per_image: Q.
        seed: of the order and the questions.
        rows: of the batch, that this host has; None for all.
        blank: replace every image by mid-grey, for the control that cannot see.
        read_threads: threads that make batches ahead.
        prefetch: batches made ahead.

    Raises:
        UserError: as `contrastive_batches`.
    """
    answer_ids = {answer: i for i, answer in enumerate(answers)}
    prepared = _prepared_questions(tokenizers, answer_ids)

    def build(
        indices: Int64[np.ndarray, " b"], positions: UInt64[np.ndarray, " b"]
    ) -> Batch:
        records = _read(source, indices)
        asked = [prepared(i, r) for i, r in zip(indices.tolist(), records, strict=True)]
        counts = np.array([a.count for a in asked])
        chosen, mask = _draw_questions(seed, positions, counts, questions_per_image)
        at = np.where(mask, (counts.cumsum() - counts)[:, None] + chosen, 0)

        def question(model: str, pad_id: int) -> Int32[np.ndarray, "b Q L"]:
            ids = np.concatenate([a.ids[model] for a in asked])
            return np.where(mask[..., None], ids[at], np.int32(pad_id))

        return {
            "image": _images(source, indices, records, blank=blank),
            "index": indices.astype(np.int32),
            "question": {
                model: question(model, tokenizer.pad_id)
                for model, (tokenizer, _) in tokenizers.items()
            },
            "target": _targets(asked, chosen, mask, len(answer_ids)),
            "mask": mask,
        }

    return _stream(source, build, batch_size, rows, seed, read_threads, prefetch)


def contrastive_evaluation_batches(
    source: Source, *, batch_size: int
) -> Iterator[Batch]:
    """Yield every record once, in order; the last batch is padded to full size.

    A batch holds `image` [b, H, W, 3] uint8, `label` and `index` [b] int32 (-1 in
    padding) and `mask` [b] bool.
    """
    for start in range(0, len(source), batch_size):
        indices = np.arange(start, min(start + batch_size, len(source)))
        records = _read(source, indices)
        labels = np.array([record.label for record in records], np.int32)
        yield {
            "image": _padded(_images(source, indices, records), batch_size, 0),
            "label": _padded(labels, batch_size, -1),
            "index": _padded(indices.astype(np.int32), batch_size, -1),
            "mask": np.arange(batch_size) < len(indices),
        }


def vqa_evaluation_batches(
    source: Source,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    questions_per_image: int,
    question_length: int,
    blank: bool = False,
) -> Iterator[Batch]:
    """Yield every question once, in order; the last batch is padded to full size.

    An image with more than Q questions takes several rows, one without takes none. A
    batch holds `image` [b, H, W, 3] uint8, `question` [b, Q, L] int32, `mask` [b, Q]
    bool, `question_id` [b, Q] int64 (-1 where masked) and `image_id` [b] int64 (-1 in
    padding).
    """
    rows: list[tuple[int, Record, Sequence[Question]]] = []

    def batch() -> Batch:
        indices, records, asked = zip(*rows, strict=True)
        shape = (batch_size, questions_per_image)
        question = np.full((*shape, question_length), tokenizer.pad_id, np.int32)
        question_id = np.full(shape, -1, np.int64)
        for row, some in enumerate(asked):
            texts = [q.question for q in some]
            question[row, : len(some)] = tokenizer.encode(texts, question_length)
            question_id[row, : len(some)] = [q.question_id for q in some]
        image = _images(source, np.array(indices), records, blank=blank)
        image_id = np.array([record.image_id for record in records], np.int64)
        return {
            "image": _padded(image, batch_size, 0),
            "question": question,
            "mask": question_id != -1,
            "question_id": question_id,
            "image_id": _padded(image_id, batch_size, -1),
        }

    for index in range(len(source)):
        (record,) = _read(source, np.array([index]))
        for start in range(0, len(record.questions), questions_per_image):
            some = record.questions[start : start + questions_per_image]
            rows.append((index, record, some))
            if len(rows) == batch_size:
                yield batch()
                rows.clear()
    if rows:
        yield batch()


def check_batch(source: Source, batch_size: int) -> None:
    """Check that a source has enough records for a batch.

    Raises:
        UserError: it has not.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; give a whole number from 1")
    if len(source) == 0:
        raise UserError(f"{source.name} {source.split!r} has no record: choose another")
    if batch_size > len(source):
        raise UserError(
            f"batch_size {batch_size} is more than the {len(source)} records of "
            f"{source.name} {source.split!r}: choose a smaller one"
        )


def _stream(
    source: Source,
    build: Callable[[Int64[np.ndarray, " b"], UInt64[np.ndarray, " b"]], Batch],
    batch_size: int,
    rows: Int64[np.ndarray, " b"] | None,
    seed: int,
    read_threads: int,
    prefetch: int,
) -> grain.IterDataset:
    """Return the endless stream of this host's batches."""
    check_batch(source, batch_size)
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed} is out of range: choose one from 0 to 2**32 - 1")
    shuffled = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    own = np.arange(batch_size) if rows is None else rows
    if not len(own) or not 0 <= own.min() <= own.max() < batch_size:
        raise UserError(f"a host's rows are {own}; give some of 0 to {batch_size - 1}")

    # Indices alone come from Grain, and a whole batch is made from them at once: a
    # Python call for every row and every stage would cost more than the work itself.
    def batch(k: int) -> Batch:
        positions = k * batch_size + own
        indices = np.array([shuffled[place] for place in positions.tolist()])
        return build(indices, positions.astype(np.uint64))

    return (
        grain.MapDataset.range(len(shuffled) // batch_size)
        .map(batch)
        .to_iter_dataset(
            grain.ReadOptions(num_threads=read_threads, prefetch_buffer_size=prefetch)
        )
    )


def _random_bits(
    seed: int, *counters: UInt64[np.ndarray, "..."]
) -> UInt64[np.ndarray, "..."]:
    """Return 64 random bits for every (seed, counters), broadcast: splitmix64.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    bits = np.array([seed], np.uint64)
    for counter in (np.zeros(1, np.uint64), *counters):
        bits = bits + (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits = bits ^ (bits >> np.uint64(31))
    return bits


def _draw_questions(
    seed: int,
    positions: UInt64[np.ndarray, " b"],
    counts: Int64[np.ndarray, " b"],
    most: int,
) -> tuple[Int64[np.ndarray, "b Q"], Bool[np.ndarray, "b Q"]]:
    """Return which questions each row takes, without replacement, and the mask."""
    width = max(most, int(counts.max()))
    slots = np.arange(width)
    keys = _random_bits(seed, positions[:, None], slots[None].astype(np.uint64))
    # Half of the bits are enough, and leave the top for what does not exist.
    keys = np.where(slots < counts[:, None], keys >> np.uint64(1), np.uint64(2**64 - 1))
    chosen = np.argsort(keys, axis=1, kind="stable")[:, :most]
    return chosen, np.arange(most) < counts[:, None]


@dataclass(frozen=True, slots=True)
class _Asked:
    """The questions of a record, ready to be copied into a batch.

    Attributes:
        count: of them.
        ids: of their tokens, by model name.
        named: (question, class) of every class that is an answer.
        scores: of these answers.
    """

    count: int
    ids: Mapping[str, Int32[np.ndarray, "n L"]]
    named: Int64[np.ndarray, "m 2"]
    scores: Float32[np.ndarray, " m"]


def _targets(
    asked: Sequence[_Asked],
    chosen: Int64[np.ndarray, "b Q"],
    mask: Bool[np.ndarray, "b Q"],
    classes: int,
) -> Float32[np.ndarray, "b Q A"]:
    """Return the soft targets of the chosen questions."""
    most = max(int(chosen.max()) + 1, max(a.count for a in asked))
    slot_of = np.full((len(asked), most), -1)
    np.put_along_axis(slot_of, chosen, np.where(mask, np.arange(mask.shape[1]), -1), 1)
    row = np.repeat(np.arange(len(asked)), [len(a.scores) for a in asked])
    question, answer = np.concatenate([a.named for a in asked]).T
    scores = np.concatenate([a.scores for a in asked])
    slot = slot_of[row, question]
    kept = slot >= 0
    target = np.zeros((*mask.shape, classes), np.float32)
    target[row[kept], slot[kept], answer[kept]] = scores[kept]
    return target


def _prepared_questions(
    tokenizers: Mapping[str, tuple[Tokenizer, int]], answer_ids: Mapping[str, int]
) -> Callable[[int, Record], _Asked]:
    """Return a function that prepares the questions of record i once and keeps them."""

    @functools.lru_cache(maxsize=_CACHED_RECORDS)
    def targets(said: tuple[str, ...]) -> list[tuple[int, float]]:
        classes, scores = soft_target(said, answer_ids)
        return list(zip(classes.tolist(), scores.tolist(), strict=True))

    kept: dict[int, _Asked] = {}

    def prepared(index: int, record: Record) -> _Asked:
        asked = kept.get(index)
        if asked is None:
            if len(kept) >= _CACHED_RECORDS:
                kept.clear()
            scored = [
                (slot, *one)
                for slot, question in enumerate(record.questions)
                for one in targets(question.answers)
            ]
            texts = [q.question for q in record.questions]
            asked = kept[index] = _Asked(
                len(texts),
                {
                    model: tokenizer.encode(texts, length)
                    for model, (tokenizer, length) in tokenizers.items()
                },
                np.array([named for *named, _ in scored], np.int64).reshape(-1, 2),
                np.array([score for *_, score in scored], np.float32),
            )
        return asked

    return prepared


def soft_target(
    said: Sequence[str], answer_ids: Mapping[str, int]
) -> tuple[Int64[np.ndarray, " some"], Float32[np.ndarray, " some"]]:
    """Return the classes that annotators named and their scores, min(1, 0.3 n).

    n annotators out of ten said the answer; answers that are no class are dropped. The
    score is the VQA accuracy of the answer, averaged over the ten ways to leave one
    annotator out, and is trained on as in Teney et al. (arXiv:1708.02711).
    """
    counts: dict[int, int] = {}
    for answer in said:
        if answer in answer_ids:
            counts[answer_ids[answer]] = counts.get(answer_ids[answer], 0) + 1
    scores = np.minimum(1.0, 0.3 * np.array(list(counts.values()), np.float64))
    return np.array(list(counts), np.int64), scores.astype(np.float32)


def _read(source: Source, indices: Int64[np.ndarray, " b"]) -> list[Record]:
    return [_read_one(source, index) for index in indices.tolist()]


def _read_one(source: Source, index: int) -> Record:
    try:
        return source[index]
    except (OSError, ValueError) as error:
        raise UserError(
            f"{_where(source, index)} cannot be read ({error}): repair or remove it"
        ) from error


def _where(source: Source, index: int) -> str:
    return f"record {index} of {source.name} {source.split!r}"


@dataclass(frozen=True)
class Images:
    """Images of a source, read when it is their turn: a slice of them is an array.

    Attributes:
        source: that they are of.
        rows: of it.
        blank: replace every image by mid-grey.
    """

    source: Source
    rows: Sequence[int]
    blank: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> UInt8[np.ndarray, "n H W 3"]:
        # With the first, for all are of one size.
        indices = np.array([self.rows[0], *self.rows[part]])
        records = _read(self.source, indices)
        return _images(self.source, indices, records, blank=self.blank)[1:]


def _images(
    source: Source,
    indices: Int64[np.ndarray, " b"],
    records: Sequence[Record],
    *,
    blank: bool = False,
) -> UInt8[np.ndarray, "b H W 3"]:
    shape = records[0].image.shape
    for index, record in zip(indices.tolist(), records, strict=True):
        if record.image.shape != shape:
            raise UserError(
                f"the image of {_where(source, index)} is {record.image.shape} and "
                f"another is {shape}: resize them to one size"
            )
    if blank:
        return np.full((len(records), *shape), MID_GREY, np.uint8)
    return np.stack([record.image for record in records])


def _padded(rows: np.ndarray, size: int, value: int) -> np.ndarray:
    padded = np.full((size, *rows.shape[1:]), value, rows.dtype)
    padded[: len(rows)] = rows
    return padded
