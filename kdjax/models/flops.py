"""Floating-point operations of a forward pass, from a model's config alone.

Two for every multiply-add of a matrix product: those of linear layers and of attention,
also of what a causal mask leaves out, for it is computed. What is done element by
element, such as norms, activations and softmax, is not counted.
"""

from kdjax.models.config import CLIPConfig, TextConfig, VisionConfig, VQAConfig


def attention_flops(width: int, queries: int, context: int) -> int:
    """Return the operations of one attention layer with its four projections."""
    projections = 2 * (2 * queries + 2 * context) * width**2
    return projections + 2 * 2 * queries * context * width


def block_flops(
    width: int, mlp_width: int, queries: int, context: int | None = None
) -> int:
    """Return the operations of a transformer block.

    Args:
        width: of the residual stream.
        mlp_width: hidden width of the MLP.
        queries: tokens of the residual stream.
        context: tokens that are attended to; None for the queries themselves.
    """
    attention = attention_flops(width, queries, context or queries)
    return attention + 2 * 2 * queries * width * mlp_width


def vision_flops(config: VisionConfig, patches: int | None = None) -> int:
    """Return the operations of an image tower for one image.

    Args:
        config: of the tower.
        patches: that go through the blocks; None for all. All are embedded.
    """
    width = config.width
    patches = config.num_patches if patches is None else patches
    tokens = patches + config.class_token
    embedding = 2 * config.num_patches * 3 * config.patch_size**2 * width
    blocks = config.layers * block_flops(width, config.mlp_width, tokens)
    pool = 0
    if config.pooling == "attention":
        pool = block_flops(width, config.mlp_width, 1, tokens)
    return embedding + blocks + pool


def text_flops(config: TextConfig, length: int) -> int:
    """Return the operations of a text tower for one text of so many tokens."""
    return config.layers * block_flops(config.width, config.mlp_width, length)


def image_flops(config: CLIPConfig, patches: int | None = None) -> int:
    """Return the operations of embedding one image; see `vision_flops`."""
    projection = 2 * config.vision.width * config.embed_dim
    return vision_flops(config.vision, patches) + (
        projection if config.visual_projection else 0
    )


def caption_flops(config: CLIPConfig, length: int) -> int:
    """Return the operations of embedding one text of so many tokens."""
    projection = 2 * config.text.width * config.embed_dim
    return text_flops(config.text, length) + projection


def answering_flops(config: VQAConfig, questions: int) -> int:
    """Return the operations of a VQA model beyond its tower, for one image.

    Args:
        config: of the model.
        questions: that are asked about the image, padding included.
    """
    width, length = config.width, config.question_length
    tokens = config.vision.num_patches + 1
    adaptor = 2 * tokens * config.vision.width * width
    encoder = config.question_layers * block_flops(width, 4 * width, length)
    encoder += 2 * length * width  # the mean over the words
    fusion = config.layers * block_flops(width, 4 * width, questions, tokens)
    head = 2 * questions * width * config.num_answers
    return adaptor + questions * encoder + fusion + head
