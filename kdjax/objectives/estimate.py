"""What is estimated of a teacher's outputs once, before anything is learnt."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from kdjax.embeddings import Wanted
from kdjax.objectives.adaptors import Adaptor
from kdjax.objectives.combine import Objective
from kdjax.objectives.cosines import unit_rows
from kdjax.objectives.grids import patch_tokens
from kdjax.objectives.layers import asked
from kdjax.objectives.patches import LAYERED, TOKENS, Patches
from kdjax.objectives.standardize import phi_s, principal_directions

MODALITIES = ("image", "text")
HIDDEN = LAYERED["hidden"]


def estimated(objective: Objective, place: int = 0) -> Wanted:
    """Return which outputs of one of its teachers `estimate` needs; () for none."""
    basis = objective.parts[place].basis is not None
    wanted: Wanted = tuple((field, ()) for field in MODALITIES) if basis else ()
    if not objective.patches:
        return wanted
    patches = objective.patches[place]
    if _standardises(patches.tokens):
        wanted += ((TOKENS, ()),)
    if any(map(_standardises, patches.hidden)):
        wanted += ((HIDDEN, dict(patches.wanted())[HIDDEN]),)
    return wanted


def estimate(
    objective: Objective, outputs: Mapping[str, np.ndarray], place: int = 0
) -> dict[str, Any]:
    """Return one teacher's statistics, as a subtree of the objective's parameters.

    Args:
        objective: or the shapes of one.
        outputs: the fields that `estimated` names, images before layers; of each field
            there may be another number of rows.
        place: of the teacher, among several.
    """
    found: dict[str, Any] = {}
    if objective.parts[place].basis is not None:
        rows = {name: unit_rows(outputs[name]) for name in MODALITIES}
        basis = {k: _leaves(*principal_directions(x)) for k, x in rows.items()}
        found["parts"] = {place: {"basis": basis}}
    if objective.patches:
        of_patches = _of_patches(objective.patches[place], outputs)
        found |= {"patches": {place: of_patches}} if of_patches else {}
    return found


def _of_patches(patches: Patches, outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if _standardises(patches.tokens):
        found["tokens"] = _standard(outputs[TOKENS])
    layers = [teacher for _, teacher in dict(patches.layers).get(HIDDEN, ())]
    hidden = {
        pair: _standard(outputs[HIDDEN][:, asked(layers).index(layer)])
        for pair, layer in enumerate(layers)
        if _standardises(patches.hidden[pair])
    }
    return found | ({"hidden": hidden} if hidden else {})


def _standardises(adaptor: Adaptor | None) -> bool:
    return adaptor is not None and adaptor.standard is not None


def _standard(tokens: Float[np.ndarray, "N M W"]) -> dict[str, Any]:
    patches = patch_tokens(tokens)
    return {"standard": _leaves(*phi_s(patches.reshape(-1, patches.shape[-1])))}


def _leaves(mean: np.ndarray, matrix: np.ndarray) -> dict[str, np.ndarray]:
    return {"mean": mean.astype(np.float32), "matrix": matrix.astype(np.float32)}
