"""Make tpu_step.json.gz: a student's step as the compiler of TPUs writes it.

It needs libtpu, and no TPU: pip install -e '.[plan]', then from the repository's root

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python tests/golden/make_tpu_step.py [folder]
"""

import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

from kdjax.commands.apart import apart
from kdjax.commands.planned import planned
from kdjax.commands.reporter import Reporter
from kdjax.config import load_config
from kdjax.parallel import make_mesh
from kdjax.parallel.aot import optimised
from kdjax.parallel.topology import topology

OVERRIDES = (
    "--config.student=nano-16",
    "--config.teacher=nano-16",
    "--config.batch_size=4096",
    "--config.objectives={'clip':{},'crd':{},'icl':{}}",
    "--config.teacher_scale=own",
)


def main(folder: Path) -> None:
    """Write the program, and the models' numbers of parameters."""
    told = json.dumps(apart(step))
    (folder / "tpu_step.json.gz").write_bytes(gzip.compress(told.encode(), mtime=0))


def step() -> dict[str, Any]:
    """Return what is written."""
    config = load_config("configs/distill/scenes.py", OVERRIDES)
    mesh = make_mesh(dict(config.mesh), topology("v5e:2x2").devices)
    found = planned("distill", config, mesh, "tpu", Reporter(quiet=True))
    program = optimised(found.program.step.lower(*found.inputs)).program
    # What the compiler notes for itself is most of the text, and read by nobody.
    text = re.sub(r", (metadata|backend_config)=\{.*", _noted, program)
    return {"text": text[text.index("\n%") :], "models": found.parameters}


def _noted(noted: re.Match[str]) -> str:
    scope = re.search(r'metadata=\{op_name="[^"]*"', noted[0])
    return f", {scope[0]}}}" if scope else ""


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
