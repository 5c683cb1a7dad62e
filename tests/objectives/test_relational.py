from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import oracle, oracle_relational
from objectives.terms import embeddings, program

from kdjax.embeddings import Embeddings
from kdjax.objectives.relational import pkt_loss, rkd_loss, similarity_loss

# Three points of a right angle and two of a straight one, seen from the first.
CORNER = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])


def both(rows):
    """Embeddings whose images and texts are the same."""
    rows = jnp.asarray(rows, jnp.float32)
    return Embeddings(image=rows, text=rows, logit_scale=jnp.float32(1))


def on_circle(*degrees):
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_similarity_is_the_mean_square_over_pairs():
    # Cosines of 0, 0 and -1, three pairs each way, against 1/2, 1/2 and -1/2.
    student, teacher = both(on_circle(0, 90, -90)), both(on_circle(0, 60, -60))
    expected = (0.5**2 + 0.5**2 + 0.5**2) / 3
    assert float(similarity_loss(student, teacher).value()) == pytest.approx(
        expected, rel=1e-5
    )


def test_similarity_as_divergence_is_of_the_others_of_a_row():
    # Rows see two others; only the first row's odds differ: 1 to 1, not e to 1.
    student = both([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    teacher = both(on_circle(0, 0, 90))
    p = np.exp([1.0, 0.0]) / (1 + np.e)
    q = np.exp([0.0, -1.0]) / (1 + np.exp(-1))
    first = np.sum(p * np.log(p / 0.5))
    second = np.sum(p * np.log(p / q))
    third = np.sum(0.5 * np.log(0.5 / q))
    found = similarity_loss(student, teacher, form="kl", temperature=1.0)
    assert float(found.value()) == pytest.approx((first + second + third) / 3, rel=1e-5)


def test_pkt_of_opposites_has_a_limit():
    """A teacher's odds for what the student has at none: finite, and as float32 has."""
    student, teacher = both(on_circle(0, 180)), both(on_circle(0, 90))
    expected = 2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3 / 1e-6)
    assert float(pkt_loss(student, teacher)) == pytest.approx(expected, rel=1e-4)


def test_rkd_of_distances():
    # The student's pairs: root 2, root 2 and 2; the teacher's are all equal.
    distances = np.array([2**0.5, 2**0.5, 2])
    gaps = distances / distances.mean() - 1
    expected = 2 * (gaps**2 / 2).sum() / 9
    found = rkd_loss(
        both(CORNER), both(on_circle(0, 120, 240)), distance=1.0, angle=0.0
    )
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_rkd_of_angles():
    # Angles of 90, 45 and 45 degrees against three of 60, each seen from two sides.
    gaps = np.array([0.0, 0.5**0.5, 0.5**0.5]) - 0.5
    expected = 2 * (gaps**2 / 2).sum() / 27
    found = rkd_loss(
        both(CORNER), both(on_circle(0, 120, 240)), distance=0.0, angle=1.0
    )
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_huber_loss_is_linear_from_one():
    # A straight angle and its ends against angles of 60: cosines -1, 1, 1 of 1/2.
    line = both([[1.0, 0.0, 0.0], [1.0, 1e-2, 0.0], [1.0, -1e-2, 0.0]])
    expected = 2 * ((1.5 - 0.5) + 2 * 0.5**2 / 2) / 27
    found = rkd_loss(line, both(on_circle(0, 120, 240)), distance=0.0, angle=1.0)
    assert float(found) == pytest.approx(expected, rel=1e-3)


def test_two_rows_have_one_distance_and_no_angle():
    assert float(rkd_loss(both(on_circle(0, 10)), both(on_circle(0, 90)))) == (
        pytest.approx(0, abs=1e-5)
    )


def large(seed, rows=300, width=5):
    rng = np.random.default_rng(seed)
    x = {
        f"{side}_{modality}": rng.normal(size=(rows, width)).astype(np.float32)
        for side in ("student", "teacher")
        for modality in ("image", "text")
    }
    return x | {"student_scale": np.float32(1), "teacher_scale": np.float32(1)}


def test_a_sample_of_triples_stands_for_all_of_a_large_batch():
    x = large(0)
    run = program({"rkd": {"distance": 0.0}}, 5, 5)
    values, gradients = run(x)
    assert values["rkd"] == pytest.approx(oracle_relational.rkd(x, 0.0), rel=0.01)
    assert all(
        gradients["rkd"][f"student_{m}"].any(axis=1).all() for m in ("image", "text")
    )
    # The same in every step, and another by another seed.
    again, _ = run(x)
    assert again["rkd"] == values["rkd"]
    other, _ = program({"rkd": {"distance": 0.0, "seed": 1}}, 5, 5)(x)
    assert other["rkd"] != values["rkd"]
    assert other["rkd"] == pytest.approx(values["rkd"], rel=0.01)


def test_distances_of_a_large_batch_are_of_all_pairs():
    x = large(1)
    values, _ = program({"rkd": {"angle": 0.0}}, 5, 5)(x)
    assert values["rkd"] == pytest.approx(oracle_relational.rkd(x, angle=0.0), rel=1e-5)


@pytest.mark.parametrize("rows", [256, 512])
def test_no_batch_needs_memory_of_its_cube(rows):
    def loss(x):
        return rkd_loss(embeddings(x, "student"), embeddings(x, "teacher"))

    compiled = jax.jit(jax.value_and_grad(loss)).lower(large(0, rows)).compile()
    needed = compiled.memory_analysis().temp_size_in_bytes
    assert needed < 4 * rows**3
    assert needed < 80 * 2**20


def test_near_rows_of_a_collapsed_student_keep_their_relations():
    """Distances of a ten-thousandth, which inner products of unit rows would lose."""
    rng = np.random.default_rng(0)
    centre = rng.normal(size=8)
    x = large(2, 6, 8)
    for name in ("student_image", "student_text"):
        near = centre + 1e-3 * rng.normal(size=(6, 8))
        x[name] = near.astype(np.float32)
    values, _ = program({"rkd": {}}, 8, 8)(x)
    exact = {name: np.asarray(array, np.float64) for name, array in x.items()}
    assert values["rkd"] == pytest.approx(oracle_relational.rkd(exact), rel=1e-3)


def test_two_near_rows_keep_their_distance_and_their_angles():
    """Cosines of 0.9999995, which inner products take for one point."""
    x = large(5, 10, 6)
    for name in ("student_image", "student_text"):
        x[name][4] = x[name][3] + 1e-3 * x[name][5]
    exact = {name: np.asarray(array, np.float64) for name, array in x.items()}
    values, gradients = program({"rkd": {}}, 6, 6)(x)
    assert values["rkd"] == pytest.approx(oracle_relational.rkd(exact), rel=1e-5)
    slopes = oracle.gradient(oracle_relational.rkd, exact, "student_image", step=1e-7)
    far = np.linalg.norm(gradients["rkd"]["student_image"] - slopes)
    assert far < 1e-3 * np.linalg.norm(slopes)


def test_images_and_texts_count_alike():
    x = large(3, 7)
    student, teacher = (embeddings(x, side) for side in ("student", "teacher"))
    swapped = [replace(e, image=e.text, text=e.image) for e in (student, teacher)]
    for loss in (lambda *x: similarity_loss(*x).value(), pkt_loss, rkd_loss):
        there, back = loss(student, teacher), loss(*swapped)
        assert float(there) == pytest.approx(float(back), rel=1e-6)


def test_a_small_divergence_keeps_its_digits():
    """Wide embeddings that share a direction, as those of real models do."""
    x = large(4, 24, 128)
    x |= {name: rows + 3 * rows[0] for name, rows in x.items() if rows.ndim}
    exact = {name: np.asarray(array, np.float64) for name, array in x.items()}
    student, teacher = (embeddings(x, side) for side in ("student", "teacher"))
    expected = oracle_relational.pkt(exact)
    assert 0 < expected < 1e-3
    assert float(pkt_loss(student, teacher)) == pytest.approx(expected, rel=1e-5)
    expected = oracle_relational.similarity_kl(exact)
    found = similarity_loss(student, teacher, form="kl")
    assert float(found.value()) == pytest.approx(expected, rel=1e-5)
