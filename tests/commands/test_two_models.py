"""Teacher and student, unlike in all that they take, each get what is their own.

The silent mistake of CLIP distillation is a teacher that reads the student's token ids
or sees images that are normalised for the student: it trains, and teaches nonsense.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.sample import VISION, clip_config, drawn, images, normalised, texts
from objectives import oracle
from PIL import Image

from kdjax.data.loader import contrastive_batches
from kdjax.data.records import Record
from kdjax.data.tokenizer import train_tokenizer
from kdjax.models import CLIP
from kdjax.objectives import expand
from kdjax.training.tasks import ContrastiveTask

SHALLOW = {"layers": 1}
STUDENT = clip_config(vision=SHALLOW, text=SHALLOW)
LONGER = {**SHALLOW, "vocab_size": 33, "context_length": 9, "eos_id": 30}
NAMES = ("crd", "fd", "icl")
ORACLES = {"crd": oracle.crd, "fd": oracle.fd, "icl": oracle.icl}
OBJECTIVES = tuple((k, tuple(sorted(expand({k: {}})[k].items()))) for k in NAMES)
BATCH = 5
NEAR, FAR = 1e-4, 2e-3
START = jnp.float32(0)


def teacher_config(size):
    numbers = {"mean": (0.6, 0.3, 0.5), "std": (0.4, 0.15, 0.5)}
    vision = {**SHALLOW, **numbers, "image_size": size}
    return clip_config(vision=vision, text=LONGER, embed_dim=10)


# With one size for both, nothing but numbers tells whose normalisation it was.
@pytest.fixture(scope="module", params=[8, 12], ids=["equal sizes", "a larger teacher"])
def setting(request):
    """The task, what it trains, the teacher, and a batch of the teacher's size."""
    config = teacher_config(request.param)
    task = ContrastiveTask(STUDENT, config, OBJECTIVES)
    teacher = drawn(lambda: CLIP(config, rngs=nnx.Rngs(0)), seed=1)
    trained = drawn(lambda: task.init(nnx.Rngs(0)), seed=2)
    trained.objective.parts[0].scale[...] = jnp.float32(3.0)
    rng = np.random.default_rng(0)
    batch = {
        "image": images(rng, BATCH, request.param),
        "text": {
            "student": texts(rng, BATCH),
            "teacher": texts(rng, BATCH, config.text),
        },
    }
    return task, trained, teacher, batch


embed = nnx.jit(lambda clip, x, ids: (clip.encode_image(x), clip.encode_text(ids)))
lose = nnx.jit(lambda task, *given: task.loss(*given, START)[1], static_argnums=0)


def terms(task, trained, teacher, batch):
    frozen = nnx.to_pure_dict(nnx.state(teacher))
    found = lose(task, trained, frozen, jax.tree.map(jnp.asarray, batch))
    return {name: float(term) for name, term in found.items()}


@pytest.fixture(scope="module")
def said(setting):
    return terms(*setting)


def by_hand(trained, teacher, batch, teacher_vision):
    """The terms in float64 from both models, each given its own input here."""
    raw, ids = batch["image"], batch["text"]
    small = [Image.fromarray(x).resize((8, 8), Image.Resampling.BICUBIC) for x in raw]
    pixels = {
        "student": normalised(np.stack([np.asarray(x) for x in small]), VISION),
        "teacher": normalised(raw, teacher_vision),
    }
    x = {"learnt_scale": np.array(3.0)}
    for side, model in (("student", trained.model), ("teacher", teacher)):
        image, text = embed(model, pixels[side], jnp.asarray(ids[side]))
        x[f"{side}_image"], x[f"{side}_text"] = image, text
        x[f"{side}_scale"] = np.exp(float(model.logit_scale[...]))
    for modality in ("image", "text"):
        head = getattr(trained.objective.parts[0].projection, modality)
        x[f"{modality}_kernel"] = head.kernel[...]
        x[f"{modality}_bias"] = head.bias[...]
    x = {name: np.asarray(array, float) for name, array in x.items()}
    return {name: formula(x) for name, formula in ORACLES.items()}


def test_each_model_sees_and_reads_what_is_its_own(setting, said):
    task, *given = setting
    expected = by_hand(*given, teacher_vision=task.teacher.vision)
    assert said == pytest.approx(expected, rel=NEAR)


def test_the_students_words_would_teach_something_else(setting, said):
    task, trained, teacher, batch = setting
    ids = batch["text"]["student"]
    longer = np.pad(ids, ((0, 0), (0, 3)))
    swapped = {**batch, "text": {"student": ids, "teacher": longer}}
    wrong = terms(task, trained, teacher, swapped)
    assert all(wrong[name] != pytest.approx(said[name], rel=FAR) for name in NAMES)


def test_the_students_normalisation_would_teach_something_else(setting, said):
    wrong = by_hand(*setting[1:], teacher_vision=VISION)
    assert all(wrong[name] != pytest.approx(said[name], rel=FAR) for name in NAMES)


def test_outputs_that_a_batch_carries_stand_for_the_teacher(setting, said):
    task, trained, teacher, batch = setting
    pixels = normalised(batch["image"], task.teacher.vision)
    image, text = embed(teacher, pixels, jnp.asarray(batch["text"]["teacher"]))
    held = {
        "image": batch["image"],
        "text": {"student": batch["text"]["student"]},
        "teacher": {"image": image, "text": text},
    }
    assert terms(task, trained, teacher, held) == pytest.approx(said, rel=NEAR)


class Shapes:
    """A source of a few captions."""

    name, split, answers, class_prompts = "shapes", "train", (), ()
    captions = (
        "a red circle",
        "a small blue square",
        "two green triangles of one size",
    )

    def __len__(self):
        return len(self.captions)

    def __getitem__(self, index):
        image = np.full((8, 8, 3), 80 * index, np.uint8)
        return Record(index, image, (self.captions[index],))

    def texts(self, limit=2000):
        return iter(self.captions[:limit])


def test_the_loader_gives_each_model_ids_of_its_own_tokenizer():
    source = Shapes()
    ours = train_tokenizer(source.texts())
    theirs = train_tokenizer(iter(["squares triangle", "circles are red and green"]))
    tokenizers = {"student": (ours, 8), "teacher": (theirs, 24)}
    batch = next(iter(contrastive_batches(source, tokenizers, batch_size=3, seed=0)))
    captions = [source.captions[index] for index in batch["index"]]
    for model, (tokenizer, length) in tokenizers.items():
        found = batch["text"][model]
        np.testing.assert_array_equal(found, tokenizer.encode(captions, length))
        assert found.shape == (3, length)
    assert (batch["text"]["student"] != batch["text"]["teacher"][:, :8]).any()
