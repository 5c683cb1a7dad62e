"""Where a student starts: at weights of its own, or at some of a larger model's."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx

from kdjax.commands.models import NamedModel
from kdjax.commands.names import TEACHER
from kdjax.commands.teacher import Teacher
from kdjax.errors import UserError
from kdjax.models import CLIP, TOWERS, CLIPConfig, Params, graph_of
from kdjax.models.zoo import ARCHITECTURES, architecture
from kdjax.weights import check_heir, inherit, with_structure_of


def check_inherit(by: str, student: str, whose: str) -> None:
    """Check that a student of that name has no weights where it is to inherit some.

    Raises:
        UserError: it has; or what it inherits from has none, or it inherits nothing.
    """
    if by == "none" and whose != TEACHER:
        raise UserError(
            f"inherit_from is {whose!r} and inherit is 'none', so nothing would be "
            f"taken: set inherit to index or magnitude, or inherit_from to {TEACHER!r}"
        )
    if whose in ARCHITECTURES:
        raise UserError(
            f"inherit_from is {whose!r}, an architecture without weights: name a run, "
            "a directory or a hub name"
        )
    if by != "none" and student not in ARCHITECTURES:
        raise UserError(
            f"inherit is {by!r} and the student {student!r} is no architecture: name "
            f"one ({', '.join(ARCHITECTURES)}), or set inherit to none"
        )


def check_sizes(by: str, student: str, whole: str) -> None:
    """Check that one architecture can inherit from another, if it is to.

    Raises:
        UserError: it cannot.
    """
    if by != "none" and student in ARCHITECTURES and whole in ARCHITECTURES:
        larger = architecture(whole)
        check_heir(with_structure_of(architecture(student), larger), larger)


def start(
    student: NamedModel,
    teacher: Teacher,
    *,
    by: str,
    text_tower: str,
    ancestor: Teacher | None = None,
) -> NamedModel:
    """Return the student with what it takes from others before it is trained.

    Args:
        student: that the config names.
        teacher: that it is to learn from.
        by: how it inherits weights: "none", "index" or "magnitude".
        text_tower: "own", or "teacher" for a copy of the teacher's, with its
            projection and its tokenizer.
        ancestor: whose weights it inherits; None for the teacher's.

    Raises:
        UserError: a student that inherits is larger than what it inherits from or
            built otherwise; or the joint space of one with weights is another.
    """
    if by == "none":
        return student if text_tower == "own" else _with_text(student, teacher)
    if ancestor is None:
        return _heir(student.config, teacher, by, text_tower)
    try:
        heir = _heir(student.config, ancestor, by, text_tower)
    except UserError as error:
        raise UserError(f"inherit_from is {ancestor.name!r}: {error}") from error
    return heir if text_tower == "own" else _with_text(heir, teacher)


def config_of_start(
    student: CLIPConfig, teacher: CLIPConfig, ancestor: CLIPConfig, by: str, text: str
) -> CLIPConfig:
    """Return the config that `start` gives a student.

    Args:
        student: that the run's config names.
        teacher: that it is to learn from.
        ancestor: whose weights it inherits, if it does.
        by: how it inherits weights: "none", "index" or "magnitude".
        text: "own", or "teacher" for a copy of the teacher's tower.
    """
    if by != "none":
        student = with_structure_of(student, ancestor)
        check_heir(student, ancestor)
    return student if text == "own" else _text_of(student, teacher)


def _heir(config: CLIPConfig, larger: Teacher, by: str, text_tower: str) -> NamedModel:
    """Return a model with some of a larger one's weights, and its tokenizer."""
    config = with_structure_of(config, larger.config)
    if text_tower == "teacher":
        config = _text_of(config, larger.config)
    whole = nnx.merge(graph_of(CLIP, larger.config), larger.params)
    params = nnx.to_pure_dict(nnx.state(inherit(whole, config, by=by)))
    return NamedModel(config, params, larger.tokenizer)


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
