"""A student's images among the teacher's images and texts, as DIME-FM places them."""

from dataclasses import replace

from jaxtyping import Array

from kdjax.embeddings import Embeddings
from kdjax.objectives.pairs import Logits, PairSum, Softmax
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
) -> PairSum:
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

    def of(columns: Array, temperature: Scalar) -> tuple[Logits, tuple[Logits]]:
        theirs, ours = (
            Logits(side.image, columns, SCALE / temperature)
            for side in (teacher, student)
        )
        return ours, (theirs,)

    among_texts = Softmax(*of(teacher.text, image_text_temperature), divergence=True)
    among_images = Softmax(*of(teacher.image, image_image_temperature), divergence=True)
    return PairSum(
        (
            (image_text, among_texts),
            (image_text, replace(among_texts, way="columns")),
            (2 * image_image, among_images),
        )
    )
