"""What objectives of patch tokens and of principal directions keep in the state.

Adaptors are learnt. Statistics of the teacher are estimated before the first step and
stay as they are: they get no gradient, and are no matrix that is decayed.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Statistic(nnx.Variable):
    """An array that is estimated and not learnt."""


class Adaptor(nnx.Module):
    """LayerNorm, linear, GELU, linear: the student's tokens in the teacher's width.

    Attributes:
        standard: what standardises the teacher's tokens; None where nothing does.
    """

    def __init__(
        self, in_width: int, out_width: int, *, standard: bool, rngs: nnx.Rngs
    ) -> None:
        def linear(width: int, axes: tuple[str, str]) -> nnx.Linear:
            kernel = nnx.initializers.normal(width**-0.5)
            return nnx.Linear(
                width,
                out_width,
                kernel_init=nnx.with_partitioning(kernel, axes, eager_sharding=False),
                precision=jax.lax.Precision.HIGHEST,
                rngs=rngs,
            )

        self.norm = nnx.LayerNorm(in_width, use_fast_variance=False, rngs=rngs)
        self.up = linear(in_width, ("embed", "mlp"))
        self.down = linear(out_width, ("mlp", "embed"))
        self.standard = nnx.data(Rotation(out_width) if standard else None)

    def __call__(self, tokens: Float[Array, "B N W"]) -> Float[Array, "B N W2"]:
        """Return the tokens in the teacher's width."""
        return self.down(jax.nn.gelu(self.up(self.norm(tokens)), approximate=False))


class Rotation(nnx.Module):
    """A shift and a matrix, both estimated; until then rows stay as they are."""

    def __init__(self, width: int) -> None:
        self.mean = Statistic(jnp.zeros(width))
        self.matrix = Statistic(
            jnp.eye(width), out_sharding=("embed", "joint"), eager_sharding=False
        )

    def __call__(self, x: Float[Array, "... W"]) -> Float[Array, "... W"]:
        """Return (x - mean) matrix."""
        mean, matrix = map(jax.lax.stop_gradient, (self.mean[...], self.matrix[...]))
        return jnp.matmul(x - mean, matrix, precision=jax.lax.Precision.HIGHEST)


class Basis(nnx.Module):
    """Principal directions of a teacher's images and of its texts."""

    def __init__(self, width: int) -> None:
        self.image = Rotation(width)
        self.text = Rotation(width)
