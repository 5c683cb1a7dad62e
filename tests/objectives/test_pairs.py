import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from objectives import answers, oracle

from kdjax.embeddings import Embeddings
from kdjax.errors import UserError
from kdjax.objectives import build_objective
from kdjax.objectives.contrastive import clip_loss, student_logits
from kdjax.objectives.pairs import Logits, PairSum, Softmax
from kdjax.objectives.sigmoid import siglip_loss

BATCH = 6
# Rows 0 and 3 have one caption, rows 1, 2 and 5 another.
TEXTS = np.array([[7, 1], [7, 2], [7, 2], [7, 1], [8, 1], [7, 2]], np.uint32)


def drawn(seed=0):
    x = oracle.inputs(np.random.default_rng(seed), BATCH, 4, 5)
    return x | {"student_bias": np.array(-3.0)}


def student_of(x, texts=TEXTS):
    side = answers.embeddings(answers.as_float32(x), "student")
    return Embeddings(
        image=side.image,
        text=side.text,
        logit_scale=side.logit_scale,
        logit_bias=side.logit_bias,
        text_id=None if texts is None else jnp.asarray(texts),
    )


def equal(i, j):
    return bool((TEXTS[i] == TEXTS[j]).all())


def clip_with(x, duplicates):
    """The mean cross-entropy, pair by pair."""
    logits = oracle.student_logits(x)
    rows = []
    for way in (logits, logits.T):
        for i in range(BATCH):
            group = [j for j in range(BATCH) if equal(i, j)]
            kept = [
                j
                for j in range(BATCH)
                if duplicates != "mask" or j == i or j not in group
            ]
            norm = np.log(np.exp(way[i, kept]).sum())
            right = group if duplicates == "spread" else [i]
            rows.append(norm - way[i, right].mean())
    return float(np.mean(rows))


def siglip_with(x, duplicates):
    logits = oracle.student_logits(x) + x["student_bias"]
    total = 0.0
    for i in range(BATCH):
        for j in range(BATCH):
            if duplicates == "mask" and i != j and equal(i, j):
                continue
            match = equal(i, j) if duplicates == "spread" else i == j
            total += np.log1p(np.exp(-logits[i, j] if match else logits[i, j]))
    return total / BATCH


EXPECTED = {clip_loss: clip_with, siglip_loss: siglip_with}


@pytest.mark.parametrize("duplicates", ["negative", "mask", "spread"])
@pytest.mark.parametrize("loss", EXPECTED)
def test_what_becomes_of_equal_captions(loss, duplicates):
    x = drawn()
    student = student_of(x)

    def value(image):
        changed = Embeddings(**{**vars(student), "image": image})
        return loss(changed, duplicates=duplicates).value()

    found, gradient = jax.value_and_grad(value)(student.image)
    expected = EXPECTED[loss]
    assert float(found) == pytest.approx(expected(x, duplicates), rel=1e-5)
    slopes = oracle.gradient(lambda y: expected(y, duplicates), x, "student_image")
    assert answers.far(np.asarray(gradient), slopes) < 1e-4


@pytest.mark.parametrize("duplicates", ["mask", "spread"])
def test_where_no_captions_are_equal_nothing_changes(duplicates):
    student = student_of(drawn(), np.arange(2 * BATCH, dtype=np.uint32).reshape(-1, 2))
    for loss in EXPECTED:
        plain, asked = loss(student), loss(student, duplicates=duplicates)
        assert float(asked.value()) == pytest.approx(float(plain.value()), rel=1e-6)


def test_equal_captions_must_be_known():
    student = student_of(drawn(), None)
    with pytest.raises(UserError, match="nothing says which texts are equal"):
        clip_loss(student, duplicates="mask")


def test_terms_that_ask_for_one_matrix_share_it():
    student = student_of(drawn())
    teacher = student_of(drawn(1))

    def products(spec):
        graph, state = nnx.split(
            build_objective(
                spec, student_width=4, teacher_width=4, block_rows=2, rngs=nnx.Rngs(0)
            )
        )

        def loss(state):
            return nnx.merge(graph, state)(student, teacher)[0]

        text = jax.jit(loss).lower(state).compile().as_text()
        return len(re.findall(r" dot\(", text))

    # L and L' for their normalisers, then L, L' and the two of icl.
    assert products({"clip": {}, "crd": {}, "icl": {}}) == 2 + 4
    assert products({"clip": {}}) == 1 + 1


def test_sums_add_up_and_take_weights():
    logits = student_logits(student_of(drawn()))
    rows, columns = Softmax(logits), Softmax(logits, way="columns")
    one, other = (float(PairSum(((1.0, term),)).value()) for term in (rows, columns))
    both = (PairSum(((2.0, rows),)) + 3.0 * PairSum(((1.0, columns),))) / 2
    assert float(both.value()) == pytest.approx((2 * one + 3 * other) / 2, rel=1e-6)


def test_the_pairs_of_a_large_batch_need_little_memory():
    """clip, crd and icl of 32768 pairs, value and gradient; dense needs over 30 GiB."""
    rows = jax.ShapeDtypeStruct((32768, 512), jnp.float32)
    scale = jax.ShapeDtypeStruct((), jnp.float32)
    graph, state = nnx.split(
        build_objective(
            {"clip": {}, "crd": {}, "icl": {}},
            student_width=512,
            teacher_width=512,
            rngs=nnx.Rngs(0),
        )
    )

    def loss(student, state, teacher):
        sides = (
            Embeddings(image=x, text=y, logit_scale=s) for x, y, s in (student, teacher)
        )
        return nnx.merge(graph, state)(*sides)

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    side = (rows, rows, scale)
    compiled = gradient.lower(side, state, side).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 1.5 * 2**30


def test_logits_with_a_bias_are_shifted():
    x = drawn()
    student = student_of(x)
    biased = Logits(student.image, student.text, student.logit_scale, jnp.float32(2))
    plain = Logits(student.image, student.text, student.logit_scale)
    values = [PairSum(((1.0, Softmax(y)),)).value() for y in (biased, plain)]
    # A shift of all logits drops out of a softmax.
    assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-5)
