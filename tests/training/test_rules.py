"""Every rule against its paper in float64, with frozen, slowed and decayed parameters.

The tree has the names of a model's parameters and is small.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from training import oracle

from kdjax.training.optimizer import OptimizerConfig, make_optimizer
from kdjax.training.rules import RULES

CONFIG = OptimizerConfig(
    learning_rate=1.0,
    weight_decay=0.1,
    warmup=0.0,
    b1=0.9,
    b2=0.5,
    clip_norm=20.0,
    layer_decay=0.5,
    rates=(("*/bias", 0.5), ("text", 0.0)),
)
BLOCKS = "vision/transformer/blocks"
SHAPES = {
    f"{BLOCKS}/mlp/up/kernel": (2, 130, 128),
    f"{BLOCKS}/attention/query/kernel": (2, 8, 8),
    f"{BLOCKS}/attention/query/bias": (2, 8),
    f"{BLOCKS}/mlp_norm/scale": (2, 8),
    "vision/patch_embedding/kernel": (12, 8),
    "vision/position_embedding": (128, 128),
    "vision/post_norm/bias": (8,),
    "visual_projection/kernel": (8, 3),
    "text/token_embedding/embedding": (9, 4),
    "text_projection/kernel": (4, 3),
    "logit_scale": (),
    "objective/parts/0/projection/text/kernel": (3, 5),
}
STOPPED = ("text/token_embedding/embedding", "text_projection/kernel")
LEARNING = {name: shape for name, shape in SHAPES.items() if name not in STOPPED}
# Of one layer, the last, and of the one before it.
LAYERS = np.array([0.25, 0.5])
RATES = {
    f"{BLOCKS}/mlp/up/kernel": LAYERS[:, None, None],
    f"{BLOCKS}/attention/query/kernel": LAYERS[:, None, None],
    f"{BLOCKS}/attention/query/bias": LAYERS[:, None] / 2,
    f"{BLOCKS}/mlp_norm/scale": LAYERS[:, None],
    "vision/patch_embedding/kernel": 0.125,
    "vision/position_embedding": 0.125,
    "vision/post_norm/bias": 0.5,
    "visual_projection/kernel": 1.0,
    "logit_scale": 1.0,
    "objective/parts/0/projection/text/kernel": 1.0,
}
ORACLES = {
    "adamw": oracle.AdamW,
    "adafactor": oracle.Adafactor,
    "lion": oracle.Lion,
    "muon": oracle.Muon,
}


def nested(flat):
    """A task's parameters: the model's apart from the objective's."""
    named = {
        k if k.startswith("objective") else f"model/{k}": x for k, x in flat.items()
    }
    return traverse_util.unflatten_dict(named, sep="/")


def flat(params):
    named = traverse_util.flatten_dict(jax.device_get(params), sep="/")
    return {name.removeprefix("model/"): x for name, x in named.items()}


def drawn(seed):
    rng = np.random.default_rng(seed)
    return {k: rng.normal(size=shape).astype("float32") for k, shape in SHAPES.items()}


@pytest.mark.parametrize("name", RULES)
def test_updates_are_those_of_the_paper(name):
    config = OptimizerConfig(**{**vars(CONFIG), "name": name})
    optimizer = make_optimizer(config)
    quick = {"xla_backend_optimization_level": 0}
    update = jax.jit(optimizer.update, compiler_options=quick)
    start = drawn(0)
    params = nested(jax.tree.map(jnp.asarray, start))
    state = optimizer.init(params)
    expected = ORACLES[name](
        {k: start[k] for k in LEARNING},
        decay=0.1,
        b1=0.9,
        b2=0.5,
        clip=20.0,
        decayed=[k for k in LEARNING if k.endswith("/kernel")],
    )
    if name == "muon":
        expected.matrices = tuple(
            k for k in LEARNING if "blocks" in k and "kernel" in k
        )
    # One gradient is within the norm and the others are not.
    for seed, size in enumerate((1.0, 0.01, 2.0, 1.0), start=1):
        given = {k: np.float32(size) * x for k, x in drawn(seed).items()}
        # What is frozen has none (`stop_frozen`).
        given = {k: x if k in LEARNING else 0 * x for k, x in given.items()}
        updates, state = update(nested(given), state, params)
        params = optax.apply_updates(params, updates)
        expected.step({k: given[k] for k in LEARNING}, RATES)
        found = flat(params)
        for key, x in expected.params.items():
            np.testing.assert_allclose(found[key], x, rtol=1e-4, atol=1e-4, err_msg=key)
        for key in STOPPED:
            np.testing.assert_array_equal(found[key], start[key])


def moments(name, **changes):
    """How many numbers the state holds beside a parameter's."""
    config = OptimizerConfig(**{**vars(CONFIG), "name": name, **changes})
    state = jax.eval_shape(make_optimizer(config).init, nested(drawn(0)))
    return sum(x.size for x in jax.tree.leaves(state) if x.ndim)


def size(*names):
    return sum(int(np.prod(SHAPES[name])) for name in names)


def test_no_moments_are_kept_of_what_is_frozen():
    assert moments("adamw", rates=()) == 2 * (size(*SHAPES) - 1)
    assert moments("adamw") == 2 * (size(*LEARNING) - 1)
    assert moments("lion") == size(*LEARNING) - 1
    assert moments("adamw", rates=(("*", 0.0),)) == 0


def test_muon_has_one_moment_of_matrices():
    matrices = [k for k in LEARNING if "blocks" in k and "kernel" in k]
    others = [k for k in LEARNING if k not in matrices]
    coefficients = 3
    expected = size(*matrices) + 2 * (size(*others) - 1) + coefficients
    assert moments("muon") == expected


def test_adafactors_second_moment_of_large_matrices_is_a_row_and_a_column():
    less = moments("adafactor", b1=0.0)
    assert moments("adafactor") == less + size(*LEARNING) - 1
    large = (f"{BLOCKS}/mlp/up/kernel", "vision/position_embedding")
    rest = size(*(k for k in LEARNING if k not in large)) - 1
    assert less < rest + 2 * (130 + 128) + 2 * 128 + 3 * len(SHAPES)
