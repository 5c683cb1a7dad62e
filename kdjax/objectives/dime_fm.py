"""A student's images among the teacher's images and texts, as DIME-FM places them."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.embeddings import Embeddings
from kdjax.objectives.contrastive import pair_logits
from kdjax.objectives.divergence import row_divergences
from kdjax.objectives.schedules import Scalar

# Of the released code: all similarities are so many times the cosine.
SCALE = 100.0


def dime_fm_loss(
    student: Embeddings,
    teacher: Embeddings,
    *,
    image_text: float = 0.7,
    image_image: float = 0.3,
    image_text_temperature: Scalar = 1.0,
    image_image_temperature: Scalar = 3.0,
) -> Float[Array, ""]:
    """Return a (KL of images to texts + KL of texts to images) + 2 b KL of images.

    DIME-FM (Sun 2023, arXiv:2303.18232): the student's images are to have the places of
    the teacher's among the teacher's own texts and images. With S = 100 cos / t, the
    softmax of S(PI, T') is compared with that of S(I', T') along rows and along
    columns, and that of S(PI, I') with that of S(I', I') along rows. No pair counts as
    a match, so images and texts need not belong together; the student's texts take no
    part. The released code's third term, whose weight is 0, is left out.

    Args:
        student: image [B, D], projected to the teacher's width.
        teacher: image and text [B, D].
        image_text: a.
        image_image: b.
        image_text_temperature: t of the first two.
        image_image_temperature: t of the last.
    """
    # Both are used twice, and their gradients are to meet in float32.
    images = [side.image.astype(jnp.float32) for side in (teacher, student)]

    def logits(columns: Array, temperature: Scalar) -> list[Array]:
        return [pair_logits(rows, columns, SCALE / temperature) for rows in images]

    theirs, ours = logits(teacher.text, image_text_temperature)
    among_texts = row_divergences(theirs, ours) + row_divergences(theirs.T, ours.T)
    among_images = row_divergences(*logits(images[0], image_image_temperature))
    return jnp.mean(image_text * among_texts + 2 * image_image * among_images)
