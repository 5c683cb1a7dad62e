"""Small models of every family with what the original implementations say of them."""

from pathlib import Path

import numpy as np

from kdjax.weights import open_clip

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = (
    "huggingface_clip/quick_gelu_legacy_eos",
    "huggingface_clip/gelu_odd_sizes",
    "flax_clip/small",
    "siglip/fixed_resolution",
    "siglip/wide_projection",
    "open_clip/gelu",
    "open_clip/quick_gelu_wide_heads",
    "open_clip/clipa",
    "open_clip/siglip_timm",
)
# No tower of timm is as small as the golden one, so it is named here.
TIMM = "vit_test", (28, 2, 4, 104)


def outputs(case: str) -> dict[str, np.ndarray]:
    """Return inputs and outputs of a case."""
    return dict(np.load(GOLDEN / case / "outputs.npz"))


def name_the_timm_tower(monkeypatch) -> None:
    """Let the golden tower of timm be loaded."""
    monkeypatch.setitem(open_clip.TIMM_TOWERS, *TIMM)
    monkeypatch.setitem(open_clip.TIMM_SIZES, (TIMM[0], 6), (24,))


def relative_error(ours, theirs) -> float:
    """Return the largest difference over the largest value."""
    theirs = np.asarray(theirs, np.float64)
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())
