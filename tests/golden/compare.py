"""Compare golden files with those that the originals make today.

python compare.py OLD NEW: every file of NEW is compared with that of the same name in
OLD; numbers may differ by rounding. Needs NumPy, safetensors and msgpack.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from safetensors.numpy import load_file

# Of the largest value of an array: what another machine's float32 may differ by.
TOLERANCE = 1e-5


def content(path: Path) -> Any:
    if path.suffix == ".npz":
        return dict(np.load(path))
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".msgpack":
        return msgpack.unpackb(path.read_bytes(), strict_map_key=False)
    return json.loads(path.read_text())


def differences(old: Any, new: Any, where: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}, key=str):
            yield from differences(old.get(key), new.get(key), f"{where} {key}")
    elif isinstance(old, np.ndarray) and isinstance(new, np.ndarray):
        if old.shape != new.shape:
            yield f"{where}: {old.shape} and now {new.shape}"
        elif old.size:
            error = np.abs(old.astype(float) - new).max()
            if error > TOLERANCE * max(np.abs(old).max(), 1e-30):
                yield f"{where}: differs by {error:.3g}"
    elif old != new:
        yield f"{where}: differs"


def main(old: Path, new: Path) -> int:
    files = sorted(path for path in new.rglob("*.*") if path.is_file())
    found = [
        difference
        for path in files
        for difference in differences(
            content(old / path.relative_to(new)), content(path), str(path)
        )
    ]
    print("\n".join(found) or f"{len(files)} files are as they were")
    return bool(found) or not files


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
