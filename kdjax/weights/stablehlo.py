"""A model's image tower as one program that JAX runs without this package."""

import jax
import jax.export
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kdjax.errors import UserError
from kdjax.models import CLIP, TOWERS, graph_of

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# What a file of this kind can address.
MOST_BYTES = 2**31 - 2**20


def image_tower_program(clip: CLIP) -> bytes:
    """Return the image tower, weights and all, as `jax.export` serialises it.

    What `jax.export.deserialize(...).call` takes are normalised images [B, S, S, 3],
    and what it returns are embeddings [B, D], not normalised, in float32; B is any.
    Inside is portable StableHLO, for CPUs, GPUs and TPUs. Making it takes several times
    the tower's memory, for the weights are constants of the program.

    Raises:
        UserError: the tower is too big for one file.
    """
    params = nnx.to_pure_dict(nnx.state(clip))
    tower = [params.get(part) for part in TOWERS["vision"]]
    size = sum(x.nbytes for x in jax.tree.leaves(tower))
    if size > MOST_BYTES:
        raise UserError(
            f"the image tower has {size / 1e9:.1f} GB and one StableHLO file holds "
            f"{MOST_BYTES / 1e9:.1f}: export another format"
        )
    graph = graph_of(CLIP, clip.config)

    def encode(images: Float[Array, "B S S 3"]) -> Float[Array, "B D"]:
        embeddings = nnx.merge(graph, params).encode_image(images)
        return embeddings.astype(jnp.float32)

    (batch,) = jax.export.symbolic_shape("batch")
    side = clip.config.vision.image_size
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
    program = jax.export.export(jax.jit(encode), platforms=PLATFORMS)(images)
    return bytes(program.serialize())
