"""What comparing patches and layers with one teacher's needs beside their values."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from flax import nnx

from kdjax.embeddings import Embeddings, Wanted
from kdjax.errors import UserError
from kdjax.models.config import TransformerConfig
from kdjax.objectives.adaptors import Adaptor
from kdjax.objectives.layers import asked, layer_pairs, of_layers
from kdjax.objectives.standardize import orthonormal_hadamard

# What a vision tower gives when it is asked, and which objective compares layers of it.
TOKENS = "image_tokens"
LAYERED = {"hidden": "image_hidden", "attention": "image_attention"}


class Patches(nnx.Module):
    """Adaptors of tokens and of pairs of layers, and which layers these are.

    Attributes:
        tokens: the adaptor of the last tokens, or None.
        hidden: those of the pairs of layers.
        layers: fields of embeddings with the pairs of layers that are compared.
        depths: layers of the student's tower and of the teacher's.
    """

    def __init__(
        self,
        chosen: Mapping[str, Mapping[str, Any]],
        student: TransformerConfig,
        teacher: TransformerConfig,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        def adaptor(form: str) -> Adaptor:
            standard = form == "phi_s"
            if standard:
                orthonormal_hadamard(teacher.width)
            return Adaptor(student.width, teacher.width, standard=standard, rngs=rngs)

        if chosen.get("attention", {}).get("heads") == "matched":
            _check_heads(student.num_heads, teacher.num_heads)
        self.depths = student.layers, teacher.layers
        self.layers = tuple(
            (field, layer_pairs(name, chosen[name]["layers"], *self.depths))
            for name, field in LAYERED.items()
            if name in chosen
        )
        self.tokens = nnx.data(
            adaptor(chosen["tokens"]["form"]) if "tokens" in chosen else None
        )
        pairs = dict(self.layers).get(LAYERED["hidden"], ())
        self.hidden = nnx.List([adaptor(chosen["hidden"]["form"]) for _ in pairs])

    def compared(
        self,
        student: Embeddings,
        teacher: Embeddings,
        fields: Collection[str],
        present: Mapping[str, Sequence[int]],
    ) -> tuple[Embeddings, Embeddings]:
        """Return both sides with the layers of fields that are compared, by pairs.

        Args:
            student: with the layers that are compared with any teacher, or all.
            teacher: with those that are wanted of it, or all.
            fields: that are compared.
            present: the student's layers by field.
        """
        theirs_wanted = dict(self.wanted())
        for field, pairs in self.layers:
            if field in fields:
                ours, theirs = zip(*pairs, strict=True)
                wanted, depths = theirs_wanted[field], self.depths
                student = of_layers(student, field, ours, present[field], depths[0])
                teacher = of_layers(teacher, field, theirs, wanted, depths[1])
        return student, teacher

    def wanted(self) -> Wanted:
        """Return what is needed of the teacher beside its embeddings."""
        tokens: Wanted = () if self.tokens is None else ((TOKENS, ()),)
        return tokens + tuple(
            (field, asked([teacher for _, teacher in pairs]))
            for field, pairs in self.layers
        )


def layers_of_student(teachers: Iterable[Patches]) -> dict[str, tuple[int, ...]]:
    """Return the student's layers, by field, that are compared with any teacher's."""
    layers: dict[str, list[int]] = {}
    for patches in teachers:
        for field, pairs in patches.layers:
            layers.setdefault(field, []).extend(ours for ours, _ in pairs)
    return {field: asked(each) for field, each in layers.items()}


def build_patches(
    chosen: Mapping[str, Mapping[str, Any]],
    student: TransformerConfig | None,
    teacher: TransformerConfig | tuple[TransformerConfig, ...] | None,
    *,
    rngs: nnx.Rngs,
) -> list[Patches]:
    """Return what each teacher's patches need; nothing where none are compared.

    Raises:
        UserError: a tower is not known, or cannot be compared as the options say.
    """
    names = [name for name in chosen if name in ("tokens", *LAYERED)]
    if not names:
        return []
    if student is None or teacher is None:
        raise UserError(
            f"objective {names[0]} compares vision towers: give student_vision and "
            "teacher_vision, their configs"
        )
    towers = teacher if isinstance(teacher, tuple) else (teacher,)
    return [Patches(chosen, student, tower, rngs=rngs) for tower in towers]


def _check_heads(student: int, teacher: int) -> None:
    if student != teacher:
        raise UserError(
            f"heads of objective attention are 'matched' and the student has "
            f"{student}, the teacher {teacher}: set heads to 'mean'"
        )
