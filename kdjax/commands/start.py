"""Where a student starts: at weights of its own, or at some of its teacher's."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx

from kdjax.commands.models import NamedModel
from kdjax.commands.teacher import Teacher
from kdjax.errors import UserError
from kdjax.models import CLIP, TOWERS, CLIPConfig, Params, graph_of
from kdjax.models.zoo import ARCHITECTURES, architecture
from kdjax.weights import check_heir, inherit, with_structure_of


def check_inherit(by: str, student: str) -> None:
    """Check that a student of that name has no weights where it is to inherit some.

    Raises:
        UserError: it has.
    """
    if by != "none" and student not in ARCHITECTURES:
        raise UserError(
            f"inherit is {by!r} and the student {student!r} is no architecture: name "
            f"one ({', '.join(ARCHITECTURES)}), or set inherit to none"
        )


def check_sizes(by: str, student: str, teacher: str) -> None:
    """Check that one architecture can inherit from another, if it is to.

    Raises:
        UserError: it cannot.
    """
    if by != "none" and student in ARCHITECTURES and teacher in ARCHITECTURES:
        whole = architecture(teacher)
        check_heir(with_structure_of(architecture(student), whole), whole)


def start(
    student: NamedModel, teacher: Teacher, *, by: str, text_tower: str
) -> NamedModel:
    """Return the student with what it takes from its teacher before it is trained.

    Args:
        student: that the config names.
        teacher: that it is to learn from.
        by: how it inherits weights: "none", "index" or "magnitude".
        text_tower: "own", or "teacher" for a copy of the teacher's, with its
            projection and its tokenizer.

    Raises:
        UserError: a student that inherits is larger than its teacher or built
            otherwise; or the joint space of one with weights is another.
    """
    if by == "none":
        return student if text_tower == "own" else _with_text(student, teacher)
    config = with_structure_of(student.config, teacher.config)
    if text_tower == "teacher":
        config = _text_of(config, teacher.config)
    whole = nnx.merge(graph_of(CLIP, teacher.config), teacher.params)
    params = nnx.to_pure_dict(nnx.state(inherit(whole, config, by=by)))
    return NamedModel(config, params, teacher.tokenizer)


def _with_text(student: NamedModel, teacher: Teacher) -> NamedModel:
    """Return the student with the teacher's text tower, projection and tokenizer."""
    own, joint = student.config.embed_dim, teacher.config.embed_dim
    if student.params is not None and own != joint:
        raise UserError(
            f"text_tower is 'teacher', whose texts are embedded in {joint} dimensions, "
            f"and the student's images in {own}: name another student, or an "
            "architecture, whose projection is made to fit"
        )
    # Copies: a step gives the student's arrays away, and the teacher is still needed.
    text: Params = jax.tree.map(
        jnp.copy, {key: teacher.params[key] for key in TOWERS["text"]}
    )
    return NamedModel(
        _text_of(student.config, teacher.config),
        {**(student.params or {}), **text},
        teacher.tokenizer,
    )


def _text_of(config: CLIPConfig, teacher: CLIPConfig) -> CLIPConfig:
    """Return the config with the teacher's texts, and a projection if it needs one."""
    joint = teacher.embed_dim
    return replace(
        config,
        text=teacher.text,
        text_projection_bias=teacher.text_projection_bias,
        embed_dim=joint,
        visual_projection=config.visual_projection or config.vision.width != joint,
    )
