from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from objectives import oracle, oracle_tokens

from kdjax.embeddings import Embeddings
from kdjax.errors import UserError
from kdjax.models.config import TransformerConfig
from kdjax.objectives import build_objective
from kdjax.objectives.adaptors import Adaptor
from kdjax.objectives.standardize import phi_s
from kdjax.objectives.tokens import hidden_loss, tokens_loss

STUDENT, TEACHER, BATCH = 3, 4, 2


def adaptor(seed):
    """An adaptor as it is after some training, its statistics estimated."""
    made = Adaptor(STUDENT, TEACHER, standard=True, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(seed)
    graph, state = nnx.split(made)
    state = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), state
    )
    return nnx.merge(graph, state)


def arrays_of(made, prefix):
    flat = nnx.to_flat_state(nnx.state(made))
    return {
        prefix + "_".join(p for p in path if p != "standard"): np.float64(leaf[...])
        for path, leaf in flat
    }


def side(**fields):
    arrays = {name: jnp.asarray(x, jnp.float32) for name, x in fields.items()}
    nothing = jnp.zeros((BATCH, 1))
    return Embeddings(image=nothing, text=nothing, logit_scale=jnp.float32(1), **arrays)


def check(loss, expected, x, name):
    """Check a value and the gradients of the student's array and of the adaptors."""
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(x[name], jnp.float32))
    assert float(value) == pytest.approx(expected(x), rel=1e-5)
    slopes = oracle.gradient(expected, x, name)
    np.testing.assert_allclose(gradient, slopes, atol=1e-4 * np.abs(slopes).max())


@pytest.mark.parametrize("form", ["radio", "phi_s"])
@pytest.mark.parametrize(("ours", "theirs"), [(4, 9), (9, 4), (4, 4), (1, 4)])
def test_tokens_are_resampled_adapted_and_compared_as_the_oracle_does(
    ours, theirs, form
):
    rng = np.random.default_rng(0)
    made = adaptor(1)
    x = {
        "student_tokens": rng.normal(size=(BATCH, ours, STUDENT)),
        "teacher_tokens": 2 * rng.normal(size=(BATCH, theirs, TEACHER)),
    } | arrays_of(made, "tokens_")
    teacher = side(image_tokens=x["teacher_tokens"])

    def loss(tokens):
        student = side(image_tokens=tokens)
        return tokens_loss(student, teacher, adaptor=made, form=form)

    expected = oracle_tokens.tokens if form == "radio" else oracle_tokens.tokens_phi_s
    check(loss, expected, x, "student_tokens")


@pytest.mark.parametrize("class_tokens", [(0, 0), (1, 1), (1, 0), (0, 1)])
def test_hidden_is_the_mean_over_pairs_of_layers_without_class_tokens(class_tokens):
    rng = np.random.default_rng(2)
    made = [adaptor(seed) for seed in (3, 4)]
    ours, theirs = class_tokens
    x = {
        "student_hidden": rng.normal(size=(2, BATCH, 4 + ours, STUDENT)),
        "teacher_hidden": 2 * rng.normal(size=(2, BATCH, 9 + theirs, TEACHER)),
    }
    for place, one in enumerate(made):
        x |= arrays_of(one, f"hidden_{place}_")
    teacher = side(image_hidden=x["teacher_hidden"])

    def loss(hidden):
        return hidden_loss(side(image_hidden=hidden), teacher, adaptors=made)

    def expected(x):
        return oracle_tokens.hidden(x, [(0, 0), (1, 1)])

    check(loss, expected, x, "student_hidden")


@pytest.mark.parametrize("form", ["radio", "phi_s"])
def test_the_adaptor_learns_and_its_statistics_do_not(form):
    rng = np.random.default_rng(5)
    graph, state = nnx.split(adaptor(6))
    x = {
        "student_tokens": rng.normal(size=(BATCH, 9, STUDENT)),
        "teacher_tokens": rng.normal(size=(BATCH, 4, TEACHER)),
    } | arrays_of(nnx.merge(graph, state), "tokens_")
    sides = [side(image_tokens=x[f"{s}_tokens"]) for s in ("student", "teacher")]

    def loss(state):
        return tokens_loss(*sides, adaptor=nnx.merge(graph, state), form=form)

    gradients = arrays_of(nnx.merge(graph, jax.grad(loss)(state)), "tokens_")
    expected = oracle_tokens.tokens if form == "radio" else oracle_tokens.tokens_phi_s
    for name, gradient in gradients.items():
        if name in ("tokens_mean", "tokens_matrix"):
            assert not gradient.any()
        else:
            slopes = oracle.gradient(expected, x, name)
            np.testing.assert_allclose(
                gradient, slopes, atol=1e-4 * max(np.abs(slopes).max(), 0.1)
            )


def test_targets_standardised_by_their_own_statistics_are_of_variance_one():
    tokens = np.random.default_rng(7).normal(size=(BATCH, 9, TEACHER)) ** 3 + 5
    made = adaptor(8)
    mean, matrix = phi_s(tokens.reshape(-1, TEACHER))
    made.standard.mean[...] = jnp.asarray(mean, jnp.float32)
    made.standard.matrix[...] = jnp.asarray(matrix, jnp.float32)
    targets = np.asarray(made.standard(jnp.asarray(tokens, jnp.float32)))
    flat = targets.reshape(-1, TEACHER)
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(flat.var(0), 1, rtol=1e-5)


@pytest.mark.parametrize("form", ["radio", "phi_s"])
def test_tokens_of_zeros_give_numbers(form):
    nothing = [side(image_tokens=np.zeros((BATCH, 4, w))) for w in (STUDENT, TEACHER)]
    made = adaptor(9)

    def loss(student):
        return tokens_loss(student, nothing[1], adaptor=made, form=form)

    value, gradient = jax.value_and_grad(loss)(nothing[0])
    assert np.isfinite(value)
    assert np.isfinite(gradient.image_tokens).all()


NAMES = ["tokens", "hidden", "attention"]


def seen(seed, width, patches, layers):
    """What a tower of that many layers and of two heads shows."""
    rng = np.random.default_rng(seed)
    return side(
        image_tokens=rng.normal(size=(BATCH, patches, width)),
        image_hidden=rng.normal(size=(layers, BATCH, patches, width)),
        image_attention=oracle_tokens.maps(rng, layers, BATCH, 2, patches, patches),
    )


def only(side, wanted):
    """What a tower shows, of the wanted layers alone."""
    layers = {field: np.array(each) for field, each in wanted if each}
    return replace(side, **{k: getattr(side, k)[v] for k, v in layers.items()})


def tower(width, layers):
    return TransformerConfig(width=width, layers=layers, num_heads=2, mlp_width=1)


def test_of_several_teachers_each_has_adaptors_and_layers_of_its_own():
    objective = build_objective(
        {"tokens": {}, "hidden": {"layers": "even"}, "attention": {"layers": "1:-1"}},
        student_width=1,
        teacher_width=(1, 1),
        student_vision=tower(4, 2),
        teacher_vision=(tower(6, 3), tower(2, 1)),
        rngs=nnx.Rngs(0),
    )
    assert [len(patches.hidden) for patches in objective.patches] == [2, 1]
    assert dict(objective.wanted(0)) == {
        "image_tokens": (),
        "image_hidden": (1, 2),
        "image_attention": (2,),
    }
    assert dict(objective.wanted()) == {
        "image_tokens": (),
        "image_hidden": (0, 1),
        "image_attention": (0,),
    }
    student = only(seen(0, 4, 9, 2), objective.wanted())
    teachers = [seen(1, 6, 4, 3), seen(2, 2, 9, 1)]
    teachers = tuple(only(x, objective.wanted(k)) for k, x in enumerate(teachers))
    together = objective(student, teachers)[1]
    one, other = objective.patches
    for place, patches in enumerate((one, other)):
        objective.patches = nnx.List([patches])
        objective.parts = nnx.List([objective.parts[0]])
        ours = only(seen(0, 4, 9, 2), objective.wanted())
        alone = objective(ours, teachers[place])[1]
        together = {name: together[name] - alone[name] / 2 for name in NAMES}
    assert [float(x) for x in together.values()] == pytest.approx([0] * 3, abs=1e-5)


def test_towers_that_are_not_known_are_refused():
    with pytest.raises(UserError, match="hidden compares vision towers: give student_"):
        build_objective(
            {"clip": {}, "hidden": {}},
            student_width=1,
            teacher_width=1,
            rngs=nnx.Rngs(0),
        )
    with pytest.raises(UserError, match="there is none here of 6: choose form 'radio'"):
        build_objective(
            {"tokens": {"form": "phi_s"}},
            student_width=1,
            teacher_width=1,
            student_vision=tower(4, 1),
            teacher_vision=tower(6, 1),
            rngs=nnx.Rngs(0),
        )
