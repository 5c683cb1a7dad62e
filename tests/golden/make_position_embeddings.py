"""Make tests/golden/position_embeddings.npz: grids resized for another image size.

Usage: python make_position_embeddings.py DIRECTORY. Needs torch, open_clip_torch and
timm. The test that reads the file needs none of them.

grid_7_12_in is [49, width] and grid_7_12_out [144, width]. OpenCLIP's resizing keeps
a class token, which is left out here; timm's, for the SigLIPs, is given none. Both are
bicubic and antialiased.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torchvision_stub import open_clip, timm

WITH_CLASS = ((7, 12, 5), (12, 7, 6), (4, 5, 7), (16, 24, 8))
WITHOUT = ((14, 16, 5), (24, 16, 6), (5, 4, 7), (9, 27, 8))
KEY = "visual.positional_embedding"


def by_open_clip(grid: torch.Tensor, size: int) -> torch.Tensor:
    model = SimpleNamespace(visual=SimpleNamespace(grid_size=(size, size)))
    state = {KEY: torch.cat([torch.ones(1, grid.shape[1]), grid])}
    open_clip.factory.resize_pos_embed(state, model)
    assert (state[KEY][0] == 1).all()
    return state[KEY][1:]


def by_timm(grid: torch.Tensor, size: int) -> torch.Tensor:
    resize = timm.layers.resample_abs_pos_embed
    return resize(grid[None], [size, size], num_prefix_tokens=0)[0]


def main(directory: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for resize, cases in (by_open_clip, WITH_CLASS), (by_timm, WITHOUT):
        for old, new, width in cases:
            grid = rng.normal(size=(old * old, width)).astype(np.float32)
            arrays[f"grid_{old}_{new}_in"] = grid
            arrays[f"grid_{old}_{new}_out"] = resize(torch.tensor(grid), new).numpy()
    np.savez_compressed(directory / "position_embeddings.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
