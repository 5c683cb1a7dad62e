import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from kdjax.data.easy_vqa import EasyVQA
from kdjax.data.loader import (
    MID_GREY,
    Images,
    contrastive_batches,
    contrastive_evaluation_batches,
    soft_target,
    vqa_batches,
    vqa_evaluation_batches,
)
from kdjax.data.records import Question, Record
from kdjax.data.tokenizer import train_tokenizer
from kdjax.errors import UserError

SOURCE = EasyVQA("validation")
TOKENIZER = train_tokenizer(SOURCE.texts())


@dataclass(frozen=True)
class Listed:
    """A source of given records; an exception in the list is raised when read."""

    records: list[Record | Exception]
    name: str = "listed"
    split: str = "train"
    answers: tuple[str, ...] = ("no", "yes")
    class_prompts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        record = self.records[index]
        if isinstance(record, Exception):
            raise record
        return record

    def texts(self, limit: int = 2000) -> Iterator[str]:
        return iter(["a", "b", "c"][:limit])


def record(i: int, questions: int, size: int = 2) -> Record:
    asked = tuple(
        Question(100 * i + j, f"q {j}", "is", "yes/no", ("yes",) * 10)
        for j in range(questions)
    )
    image = np.full((size, size, 3), i, np.uint8)
    return Record(i, image, ("a", "b", "c"), asked, label=i)


def contrastive(source=SOURCE, **options) -> grain.IterDataset:
    options = {"batch_size": 16, "seed": 0} | options
    tokenizers = {"student": (TOKENIZER, 8), "teacher": (TOKENIZER, 12)}
    return contrastive_batches(source, tokenizers, **options)


def vqa(source=SOURCE, **options) -> grain.IterDataset:
    options = {
        "batch_size": 8,
        "questions_per_image": 6,
        "seed": 0,
        "tokenizers": {"student": (TOKENIZER, 10)},
        "answers": source.answers,
    } | options
    return vqa_batches(source, **options)


def take(dataset: grain.IterDataset, count: int) -> list:
    return list(itertools.islice(iter(dataset), count))


def assert_same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_contrastive_batch_holds_what_its_indices_name():
    (batch,) = take(contrastive(), 1)
    assert batch["image"].shape == (16, 64, 64, 3)
    assert batch["image"].dtype == np.uint8
    for row in range(16):
        own = SOURCE[int(batch["index"][row])]
        text = own.captions[int(batch["caption"][row])]
        np.testing.assert_array_equal(batch["image"][row], own.image)
        for model, length in (("student", 8), ("teacher", 12)):
            np.testing.assert_array_equal(
                batch["text"][model][row], TOKENIZER.encode([text], length)[0]
            )
    assert {x.dtype for x in jax.tree.leaves(batch["text"])} == {np.dtype(np.int32)}


def test_every_epoch_sees_every_record_once_in_another_order():
    batches = take(contrastive(batch_size=40), 20)
    seen = np.concatenate([batch["index"] for batch in batches]).reshape(2, 400)
    assert (np.sort(seen, axis=1) == np.arange(400)).all()
    assert (seen[0] != seen[1]).any()


def test_captions_are_drawn_evenly_and_anew_in_every_epoch():
    batches = take(contrastive(batch_size=40), 50)
    captions = np.concatenate([batch["caption"] for batch in batches])
    counts = np.bincount(captions)
    # 2,000 draws of 4 captions: the standard deviation of a count is 19.
    assert counts.shape == (4,)
    assert np.abs(counts - 500).max() < 80
    order = np.concatenate([batch["index"] for batch in batches]).reshape(5, 400)
    by_record = np.take_along_axis(captions.reshape(5, 400), order.argsort(1), axis=1)
    assert 0.65 < (by_record[0] != by_record[1]).mean() < 0.85


def test_a_row_has_bits_of_its_own_in_every_epoch():
    batches = take(contrastive(batch_size=40), 20)
    bits = np.concatenate([batch["bits"] for batch in batches])
    assert bits.dtype == np.uint32
    assert len(np.unique(bits)) == 800
    # 800 times 32 draws of 0 or 1: the standard deviation of the mean is 0.003.
    assert abs(np.unpackbits(bits.view(np.uint8)).mean() - 0.5) < 0.015
    captions = np.concatenate([batch["caption"] for batch in batches])
    assert abs(np.corrcoef(bits % 4, captions)[0, 1]) < 0.15


def test_seeds_give_different_orders_and_captions():
    (first,), (again,), (other,) = (take(contrastive(seed=s), 1) for s in (0, 0, 1))
    assert_same(first, again)
    assert (first["index"] != other["index"]).any()
    assert (first["caption"] != other["caption"]).any()
    assert (first["bits"] != other["bits"]).all()


@pytest.mark.parametrize("make", [contrastive, vqa])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_side_by_side_see_the_batches_of_one_host(make, hosts):
    # 60 batches of 8 go past the end of the 400 records.
    whole = take(make(batch_size=8), 60)
    parts = [
        take(make(batch_size=8, rows=rows), 60)
        for rows in np.split(np.arange(8), hosts)
    ]
    for k in range(60):
        together = jax.tree.map(
            lambda *rows: np.concatenate(rows), *(part[k] for part in parts)
        )
        assert_same(together, whole[k])


@pytest.mark.parametrize("make", [contrastive, vqa])
def test_a_host_may_have_rows_that_lie_apart(make):
    rows = np.array([0, 1, 4, 5])
    (whole,), (some,) = (
        take(make(batch_size=8), 1),
        take(make(batch_size=8, rows=rows), 1),
    )
    assert_same(some, jax.tree.map(lambda x: x[rows], whole))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"batch_size": 8, "rows": np.array([7, 8])},
            r"are \[7 8\]; give some of 0 to 7",
        ),
        ({"rows": np.array([], int)}, r"rows are \[\]"),
        ({"batch_size": 0}, "batch_size is 0; give a whole number from 1"),
        ({"batch_size": 1001}, "1001 is more than the 400 records"),
        ({"seed": -1}, "seed -1 is out of range"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        contrastive(**options)


@pytest.mark.parametrize("make", [contrastive, vqa])
def test_a_set_state_gives_the_next_batch_exactly(make):
    iterator = iter(make())
    for _ in range(5):
        next(iterator)
    state = iterator.get_state()
    expected = [next(iterator), next(iterator)]
    fresh = iter(make())
    fresh.set_state(state)
    assert_same([next(fresh), next(fresh)], expected)


def test_the_state_means_the_same_for_another_number_of_hosts():
    iterator = iter(vqa())
    for _ in range(5):
        next(iterator)
    size = len(next(iter(vqa()))["index"])
    halves = [iter(vqa(rows=rows)) for rows in np.split(np.arange(size), 2)]
    for half in halves:
        half.set_state(iterator.get_state())
    rows = [next(half)["question"]["student"] for half in halves]
    whole = next(iterator)["question"]["student"]
    np.testing.assert_array_equal(np.concatenate(rows), whole)


def test_the_state_goes_through_an_orbax_checkpoint(tmp_path):
    iterator = iter(vqa())
    for _ in range(3):
        next(iterator)
    with ocp.CheckpointManager(tmp_path) as manager:
        saved = ocp.args.JsonSave(iterator.get_state())
        manager.save(3, args=ocp.args.Composite(data=saved))
        manager.wait_until_finished()
        expected = next(iterator)
        fresh = iter(vqa())
        wanted = ocp.args.Composite(data=ocp.args.JsonRestore())
        fresh.set_state(manager.restore(3, args=wanted)["data"])
    assert_same(next(fresh), expected)


def test_a_host_may_have_one_row():
    assert take(contrastive(batch_size=1), 1)[0]["image"].shape == (1, 64, 64, 3)


@pytest.mark.parametrize("read_threads", [0, 1, 3])
def test_threads_do_not_change_the_batches(read_threads):
    assert_same(take(vqa(read_threads=read_threads), 12), take(vqa(), 12))


def test_a_vqa_batch_holds_questions_of_its_images_and_their_answers():
    (batch,) = take(vqa(), 1)
    asked = batch["question"]["student"]
    assert asked.shape == (8, 6, 10)
    assert batch["target"].shape == (8, 6, 13)
    by_image = {own.image.tobytes(): own for own in SOURCE}
    for row in range(8):
        own = by_image[batch["image"][row].tobytes()]
        count = min(6, len(own.questions))
        assert batch["mask"][row].tolist() == [True] * count + [False] * (6 - count)
        known = [
            (*TOKENIZER.encode([q.question], 10)[0], SOURCE.answers.index(q.answers[0]))
            for q in own.questions
        ]
        for slot in range(count):
            answer = int(batch["target"][row, slot].argmax())
            assert batch["target"][row, slot].tolist() == np.eye(13)[answer].tolist()
            known.remove((*asked[row, slot], answer))
        assert (asked[row, count:] == TOKENIZER.pad_id).all()
        assert (batch["target"][row, count:] == 0).all()


def test_each_model_reads_the_same_questions_by_its_own_tokenizer():
    other = train_tokenizer(["what shape", "is the colour not blue"])
    readers = {"student": (TOKENIZER, 10), "teacher": (other, 7)}
    (both,) = take(vqa(tokenizers=readers), 1)
    for model, reader in readers.items():
        (alone,) = take(vqa(tokenizers={model: reader}), 1)
        assert_same({**both, "question": alone["question"]}, alone)
        assert_same(both["question"][model], alone["question"][model])
    assert both["question"]["teacher"].shape == (8, 6, 7)


def test_questions_are_drawn_without_replacement_and_all_come_up():
    source = Listed([replace(record(0, 5), questions=numbered(5))] * 50)
    batches = take(vqa(source, questions_per_image=2, batch_size=50), 4)
    asked = np.concatenate([batch["question"]["student"] for batch in batches])
    words = asked[:, :, 1]
    assert (words[:, 0] != words[:, 1]).all()
    counts = np.unique(words, return_counts=True)[1]
    # 400 draws of 5 questions: the standard deviation of a count is about 8.
    assert len(counts) == 5
    assert np.abs(counts - 80).max() < 30


def numbered(count: int) -> tuple[Question, ...]:
    words = ("red", "blue", "green", "teal", "black")[:count]
    return tuple(
        Question(i, word, "is", "yes/no", ("yes",) * 10) for i, word in enumerate(words)
    )


def test_a_record_without_questions_is_masked_out():
    source = Listed([record(0, 0), record(1, 1)] * 2)
    (batch,) = take(vqa(source, batch_size=4, questions_per_image=2), 1)
    assert sorted(batch["mask"].sum(1).tolist()) == [0, 0, 1, 1]
    assert (batch["target"].sum((1, 2)) == batch["mask"].sum(1)).all()


def test_blank_replaces_images_alone():
    (seen,), (blanked,) = take(vqa(), 1), take(vqa(blank=True), 1)
    assert (blanked.pop("image") == 128).all()
    seen.pop("image")
    assert_same(blanked, seen)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("yes", "no"), [(yes, no) for yes in range(11) for no in range(11 - yes)]
)
def test_soft_target_is_the_leave_one_out_accuracy(yes, no, known):
    said = ["yes"] * yes + ["no"] * no + ["maybe"] * (10 - yes - no)
    classes = {"no": 0, "yes": 1} if known else {"no": 0}
    ids, scores = soft_target(said, classes)
    for answer, class_id in classes.items():
        left_out = [
            min(1.0, (said[:i] + said[i + 1 :]).count(answer) / 3) for i in range(10)
        ]
        score = dict(zip(ids.tolist(), scores.tolist(), strict=True)).get(class_id, 0)
        assert score == pytest.approx(np.mean(left_out), abs=1e-6)
    assert len(ids) <= len(classes)


def test_soft_target_values():
    for count, score in ((1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)):
        ids, scores = soft_target(["yes"] * count, {"no": 0, "yes": 1})
        assert ids.tolist() == [1]
        assert scores.tolist() == [np.float32(score)]


def test_contrastive_evaluation_sees_every_record_once_in_order():
    batches = list(contrastive_evaluation_batches(SOURCE, batch_size=64))
    assert len(batches) == 7
    assert {batch["image"].shape for batch in batches} == {(64, 64, 64, 3)}
    mask = np.concatenate([batch["mask"] for batch in batches])
    index = np.concatenate([batch["index"] for batch in batches])
    label = np.concatenate([batch["label"] for batch in batches])
    assert index[mask].tolist() == list(range(400))
    assert label[mask].tolist() == [own.label for own in SOURCE]
    assert mask.sum() == 400
    assert (index[~mask] == -1).all()


def test_vqa_evaluation_asks_every_question_once_in_order():
    options = {"batch_size": 32, "questions_per_image": 4, "question_length": 10}
    batches = list(vqa_evaluation_batches(SOURCE, TOKENIZER, **options))
    assert {batch["question"].shape for batch in batches} == {(32, 4, 10)}
    mask = np.concatenate([batch["mask"] for batch in batches])
    ids = np.concatenate([batch["question_id"] for batch in batches])
    asked = [q for own in SOURCE for q in own.questions]
    assert ids[mask].tolist() == [q.question_id for q in asked]
    assert (ids[~mask] == -1).all()
    question = np.concatenate([batch["question"] for batch in batches])
    expected = TOKENIZER.encode([q.question for q in asked], 10)
    np.testing.assert_array_equal(question[mask], expected)


def test_vqa_evaluation_splits_long_records_and_skips_empty_ones():
    source = Listed([record(0, 3), record(1, 0), record(2, 5)])
    (batch,) = vqa_evaluation_batches(
        source, TOKENIZER, batch_size=6, questions_per_image=2, question_length=4
    )
    assert batch["image_id"].tolist() == [0, 0, 2, 2, 2, -1]
    assert batch["image"][:, 0, 0, 0].tolist() == [0, 0, 2, 2, 2, 0]
    assert batch["question_id"].tolist() == [
        [0, 1],
        [2, -1],
        [200, 201],
        [202, 203],
        [204, -1],
        [-1, -1],
    ]
    assert (batch["mask"] == (batch["question_id"] >= 0)).all()


def test_vqa_evaluation_can_be_blank():
    source = Listed([record(0, 1)])
    (batch,) = vqa_evaluation_batches(
        source,
        TOKENIZER,
        batch_size=1,
        questions_per_image=1,
        question_length=4,
        blank=True,
    )
    assert (batch["image"] == 128).all()


@pytest.mark.parametrize("error", [OSError("truncated"), ValueError("no such mode")])
def test_a_broken_record_is_named(error):
    source = Listed([record(0, 1), error])
    message = rf"record 1 of listed 'train' cannot be read \({error}\)"
    with pytest.raises(UserError, match=message):
        take(contrastive(source, batch_size=2), 1)
    with pytest.raises(UserError, match=message):
        list(contrastive_evaluation_batches(source, batch_size=1))


def test_images_of_two_sizes_are_refused():
    source = Listed([record(0, 1, size=2), record(1, 1, size=4)])
    with pytest.raises(UserError, match="resize them to one size"):
        take(contrastive(source, batch_size=2), 1)


def test_images_are_read_by_slices_and_are_all_of_one_size():
    source = Listed([record(i, 0) for i in range(4)])
    images = Images(source, range(3, -1, -1))
    assert len(images) == 4
    np.testing.assert_array_equal(images[1:9][:, 0, 0, 0], [2, 1, 0])
    assert (Images(source, [1, 2], blank=True)[:] == MID_GREY).all()
    source.records[0] = record(0, 0, size=3)
    assert images[:3].shape == (3, 2, 2, 3)
    with pytest.raises(UserError, match=r"record 0 .* resize them to one size"):
        images[3:]


def test_a_record_without_captions_is_named():
    source = Listed([replace(record(0, 1), captions=())])
    with pytest.raises(UserError, match="record 0 of listed 'train' has no caption"):
        take(contrastive(source, batch_size=1), 1)


def test_an_empty_source_is_refused():
    with pytest.raises(UserError, match="listed 'train' has no record"):
        contrastive(Listed([]))
