"""Every term of a combination of objectives, with its gradients, as a program."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kdjax.embeddings import Embeddings
from kdjax.objectives import build_objective


def embeddings(x, side):
    image, text, scale = (
        jnp.asarray(x[f"{side}_{name}"]) for name in ("image", "text", "scale")
    )
    return Embeddings(image=image, text=text, logit_scale=scale)


def program(spec, student, teacher):
    """Arrays by `oracle.inputs`' names -> values, and gradients by the same names."""
    graph, state = nnx.split(
        build_objective(
            spec, student_width=student, teacher_width=teacher, rngs=nnx.Rngs(0)
        )
    )

    def terms(x):
        objective = nnx.merge(graph, state, copy=True)
        heads = objective.parts[0].projection
        if heads is not None and "image_kernel" in x:
            for modality in ("image", "text"):
                head = getattr(heads, modality)
                head.kernel[...] = x[f"{modality}_kernel"]
                head.bias[...] = x[f"{modality}_bias"]
        found = objective(embeddings(x, "student"), embeddings(x, "teacher"))[1]
        return found, found

    function = jax.jit(jax.jacrev(terms, has_aux=True))

    def run(x, dtype=jnp.float32):
        arrays = {name: jnp.asarray(array, dtype) for name, array in x.items()}
        gradients, values = function(arrays)
        return jax.tree.map(np.asarray, (values, gradients))

    return run
