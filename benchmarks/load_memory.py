"""How much memory it takes to load a big checkpoint, beside what the model takes.

Usage: python benchmarks/load_memory.py [DEVICES]. Makes a random ViT-H/14 of 986 M
parameters in shards, in a temporary folder (4 GB), and loads it in a process with so
many CPU devices, each holding its share. Needs the checkout, for the tensors' names.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parents[1] / "tests/golden/manifests"
NAME = "laion--CLIP-ViT-H-14-laion2B-s32B-b79K.json"
SHARD_BYTES = 0.95e9
LOAD = """
import re, sys
from pathlib import Path
import jax
from flax import nnx
import kdjax, transformers
from kdjax.parallel import make_mesh

def peak():
    # What getrusage says may be of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status)[1])

mesh = make_mesh({"data": 1, "fsdp": -1, "tensor": 1})
before = peak()
clip = kdjax.load_clip(sys.argv[1], mesh=mesh)
held = sum(x.nbytes for x in jax.tree.leaves(nnx.state(clip)))
over = peak() - before - held
sizes = f"model {held / 1e9:.2f} GB, beside it {over / 1e9:.2f} GB"
print(f"{jax.device_count()} devices: {sizes}")
"""


def make_checkpoint(directory: Path) -> float:
    """Write a random model in shards; return the bytes of the largest."""
    manifest = json.loads((GOLDEN / NAME).read_text())
    (directory / "config.json").write_text(json.dumps(manifest["config"]))
    rng, weight_map, shard, largest = np.random.default_rng(0), {}, {}, 0

    def flush() -> int:
        name = f"model-{len(set(weight_map.values())):05d}.safetensors"
        save_file(shard, directory / name)
        weight_map.update(dict.fromkeys(shard, name))
        shard.clear()
        return (directory / name).stat().st_size

    for entry, shape in manifest["tensors"].items():
        layers = re.search(r"\{(\d+)\.\.(\d+)\}", entry)
        numbers = range(int(layers[1]), int(layers[2]) + 1) if layers else [None]
        for number in numbers:
            name = entry.replace(layers[0], str(number)) if layers else entry
            shard[name] = np.asarray(rng.standard_normal(shape, dtype=np.float32))
            if sum(x.nbytes for x in shard.values()) > SHARD_BYTES:
                largest = max(largest, flush())
    largest = max(largest, flush())
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return largest


def main(devices: int) -> None:
    """Make, load, and say how much memory it took."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    with tempfile.TemporaryDirectory() as folder:
        largest = make_checkpoint(Path(folder))
        print(f"the largest shard has {largest / 1e9:.2f} GB")
        command = [sys.executable, "-c", LOAD, folder]
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
