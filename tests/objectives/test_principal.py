import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from objectives import oracle, oracle_tokens
from objectives.terms import embeddings

from kdjax.errors import UserError
from kdjax.objectives import build_objective
from kdjax.objectives.adaptors import Basis
from kdjax.objectives.clip_kd import fd_loss
from kdjax.objectives.principal import principal_loss
from kdjax.objectives.standardize import principal_directions

WIDTH = 5


def inputs():
    """Both sides at one width, and the directions of other rows of the teacher."""
    rng = np.random.default_rng(3)
    x = oracle.inputs(rng, 4, WIDTH, WIDTH)
    for modality in ("image", "text"):
        rows = oracle.unit(rng.normal(size=(40, WIDTH)) * np.arange(1, 6) + 0.3)
        mean, matrix = principal_directions(rows)
        x |= {f"basis_{modality}_mean": mean, f"basis_{modality}_matrix": matrix}
    return x


def basis_of(x):
    basis = Basis(WIDTH)
    for modality in ("image", "text"):
        rotation = getattr(basis, modality)
        rotation.mean[...] = jnp.asarray(x[f"basis_{modality}_mean"], jnp.float32)
        rotation.matrix[...] = jnp.asarray(x[f"basis_{modality}_matrix"], jnp.float32)
    return basis


def sides(x):
    x = {name: np.asarray(array, np.float32) for name, array in x.items()}
    return embeddings(x, "student"), embeddings(x, "teacher")


@pytest.mark.parametrize(("share", "taken"), [(0.01, 1), (0.4, 2), (0.6, 3), (1.0, 5)])
def test_values_and_gradients_are_the_oracles(share, taken):
    x = inputs()
    basis = basis_of(x)

    def loss(student, teacher):
        return principal_loss(student, teacher, basis=basis, components=share)

    value, gradient = jax.value_and_grad(loss)(*sides(x))
    assert float(value) == pytest.approx(oracle_tokens.principal(x, taken), rel=1e-5)
    for modality in ("image", "text"):
        expected = oracle.gradient(
            lambda x: oracle_tokens.principal(x, taken), x, f"student_{modality}"
        )
        np.testing.assert_allclose(getattr(gradient, modality), expected, atol=1e-4)


def test_about_zero_and_with_all_directions_it_is_fd():
    student, teacher = sides(inputs())
    turned = basis_of(inputs())
    for rotation in (turned.image, turned.text):
        rotation.mean[...] = jnp.zeros(WIDTH)
    expected = float(fd_loss(student, teacher))
    for basis in (Basis(WIDTH), turned):
        found = principal_loss(student, teacher, basis=basis)
        assert float(found) == pytest.approx(expected, rel=1e-6)


def test_how_many_directions_are_taken_may_change_within_one_program():
    x = inputs()
    student, teacher = sides(x)
    basis = basis_of(x)
    shares = jnp.array([0.2, 0.6, 1.0])

    @jax.jit
    def loss(share):
        return principal_loss(student, teacher, basis=basis, components=share)

    found = [float(loss(share)) for share in shares]
    expected = [oracle_tokens.principal(x, taken) for taken in (1, 3, 5)]
    assert found == pytest.approx(expected, rel=1e-5)
    assert loss._cache_size() == 1


def test_what_was_estimated_gets_no_gradient():
    student, teacher = sides(inputs())

    def loss(mean):
        basis = Basis(WIDTH)
        basis.image.mean[...] = mean
        return principal_loss(student, teacher, basis=basis)

    assert not jax.grad(loss)(jnp.ones(WIDTH)).any()


def test_a_schedule_takes_more_directions_step_by_step():
    def term(components, progress):
        objective = build_objective(
            {"principal": {"components": components}},
            student_width=WIDTH,
            teacher_width=WIDTH,
            rngs=nnx.Rngs(0),
        )
        objective.parts[0].basis = basis_of(inputs())
        return float(objective(*sides(inputs()), progress)[1]["principal"])

    growing = {"start": 0.2, "end": 1.0, "until": 0.5}
    for progress, share in ((0.0, 0.2), (0.25, 0.6), (0.5, 1.0), (1.0, 1.0)):
        assert term(growing, progress) == pytest.approx(term(share, 0.0), rel=1e-6)
    assert term(0.2, 0.0) != pytest.approx(term(1.0, 0.0), rel=1e-2)
    with pytest.raises(UserError, match=r"the end of components .* is 2\.0; give a"):
        term({"start": 0.2, "end": 2.0}, 0.0)
