import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kdjax.models.config import TransformerConfig
from kdjax.objectives import build_objective, estimate, estimated

WIDTH, LAYERS, IMAGES = 4, 3, 30
TOWER = TransformerConfig(width=WIDTH, layers=LAYERS, num_heads=2, mlp_width=1)
PHI_S = {"form": "phi_s"}


def build(spec):
    return build_objective(
        spec,
        student_width=3,
        teacher_width=5,
        student_vision=TOWER,
        teacher_vision=TOWER,
        rngs=nnx.Rngs(0),
    )


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"fd": {}, "tokens": {}, "hidden": {}, "attention": {}}, ()),
        ({"principal": {}}, (("image", ()), ("text", ()))),
        ({"tokens": PHI_S, "attention": {}}, (("image_tokens", ()),)),
        ({"hidden": {**PHI_S, "layers": "1:3,2:1"}}, (("image_hidden", (0, 2)),)),
    ],
)
def test_only_what_is_standardised_or_projected_is_wanted(spec, wanted):
    assert estimated(build(spec)) == wanted
    shapes = nnx.eval_shape(lambda: build(spec))
    assert estimated(shapes) == wanted


def spread(seed, *shape):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * rng.uniform(1, 9, shape[-1]) + 2).astype("float32")


def set_to(objective, found):
    """The objective with estimated leaves in their places."""
    graph, state = nnx.split(objective)
    flat = dict(nnx.to_flat_state(state))
    for path, leaf in nnx.traversals.flatten_mapping(found).items():
        assert flat[path].shape == leaf.shape
        flat[path] = leaf
    return nnx.merge(graph, nnx.State(nnx.traversals.unflatten_mapping(flat)))


def variances(standard, tokens):
    after = np.asarray(standard(jnp.asarray(tokens))).reshape(-1, WIDTH)
    np.testing.assert_allclose(after.mean(0), 0, atol=1e-5)
    return after.var(0)


def test_tokens_and_each_layer_are_standardised_by_their_own_statistics():
    objective = build({"tokens": PHI_S, "hidden": {**PHI_S, "layers": "1:3,2:1"}})
    outputs = {
        "image_tokens": spread(0, IMAGES, 9, WIDTH),
        "image_hidden": spread(1, IMAGES, 2, 10, WIDTH),
    }
    outputs["image_hidden"][:, :, 0] += 100  # class tokens, which are left out
    found = set_to(objective, estimate(objective, outputs)).patches[0]
    one = variances(found.tokens.standard, outputs["image_tokens"])
    np.testing.assert_allclose(one, 1, rtol=1e-4)
    for pair, held in enumerate((1, 0)):
        layer = outputs["image_hidden"][:, held, 1:]
        one = variances(found.hidden[pair].standard, layer)
        np.testing.assert_allclose(one, 1, rtol=1e-4)


def test_directions_are_of_normalised_embeddings_of_each_modality():
    objective = build({"principal": {}})
    outputs = {"image": spread(2, IMAGES, 5), "text": spread(3, IMAGES + 7, 5)}
    basis = set_to(objective, estimate(objective, outputs)).parts[0].basis
    for modality, rows in outputs.items():
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        along = np.asarray(getattr(basis, modality)(jnp.asarray(units))).var(0)
        values = np.linalg.eigvalsh(np.cov(units.T, bias=True))[::-1]
        np.testing.assert_allclose(along, values, rtol=1e-3, atol=1e-6)


def test_until_it_is_estimated_nothing_is_moved():
    objective = build({"principal": {}, "tokens": PHI_S})
    rows = jnp.asarray(spread(4, IMAGES, 5))
    np.testing.assert_allclose(objective.parts[0].basis.text(rows), rows, rtol=1e-6)
    tokens = jnp.asarray(spread(5, 2, 4, WIDTH))
    standard = objective.patches[0].tokens.standard
    np.testing.assert_allclose(jax.jit(standard)(tokens), tokens, rtol=1e-6)
