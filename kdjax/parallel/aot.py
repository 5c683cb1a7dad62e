"""Ahead of time: a program as its compiler has decided it, before it is machine code.

XLA writes down what it has optimised and scheduled, and which buffers that needs. On
TPUs machine code is made of that afterwards, which takes ten times as long and changes
neither, so it is not waited for.
"""

import tempfile
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdjax.errors import UserError

# Names, after the module's, of what XLA writes; the last one where a program fits.
PROGRAM, BUFFERS = (
    "after_optimizations.txt",
    "after_optimizations-buffer-assignment.txt",
)
FITS = "after_optimizations_after_buffer_assignment.txt"
TRIED = "install libtpu 0.0.52 and jaxlib 0.10.2, with which plans were tried"
LOOKS = 0.1  # seconds between looks


@dataclass(frozen=True)
class Optimised:
    """What XLA has written of a program.

    Attributes:
        program: its text.
        buffers: the text that lists its allocations.
    """

    program: str
    buffers: str


def optimised(lowered: Any) -> Optimised:
    """Return what a compiler has decided of a program.

    A compiler of TPUs is still at work then, and writes to a temporary folder: call it
    in a process that ends soon, such as one of `kdjax.commands.apart`.

    Args:
        lowered: the program, as `jax.jit(...).lower` gives it.

    Raises:
        JaxRuntimeError: the compiler refuses it, as where memory is short.
        UserError: the compiler writes nothing, as where JAX has it in its cache.
    """
    folder = Path(tempfile.mkdtemp())
    options = {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}
    compiler = ThreadPoolExecutor(1)
    compiled: Future[Any] = compiler.submit(lowered.compile, compiler_options=options)
    compiler.shutdown(wait=False)
    while not compiled.done() and not _written(folder, FITS):
        wait([compiled], LOOKS)
    if compiled.done():
        compiled.result()
    program, buffers = (_written(folder, name) for name in (PROGRAM, BUFFERS))
    if len(program) != 1 or len(buffers) != 1:
        raise UserError(
            "the compiler does not write down what it makes of a step as it was known "
            f"to; {TRIED}"
        )
    return Optimised(program[0].read_text(), buffers[0].read_text())


def _written(folder: Path, name: str) -> list[Path]:
    return list(folder.glob(f"*{name}"))
