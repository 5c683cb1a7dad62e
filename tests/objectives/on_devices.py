"""What objectives say of one batch on the devices of one process or of several.

This file is the program that the processes run, and what starts them.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from objectives import answers, oracle, oracle_classes, oracle_tokens
from objectives.forms import Spec

from kdjax.parallel import (
    host_rows,
    make_mesh,
    parameter_shardings,
    replicated,
    to_global,
)

TESTS = Path(__file__).parents[1]
BATCH, STUDENT, TEACHER, CLASSES = 48, 8, 12, 5
# Divides the rows of no device.
BLOCK_ROWS = 5
ALONE = (1, 1, 1)

# Of every objective, the value and the gradients by the names of arrays.
Answers = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Case:
    """What is asked.

    Attributes:
        spec: objectives with their options.
        mesh: sizes of data, fsdp and tensor.
        block_rows: of a block; None for all pairs at once.
        batch: rows in all.
    """

    spec: Spec
    mesh: Sequence[int] = ALONE
    block_rows: int | None = None
    batch: int = BATCH


def ask(
    cases: Sequence[Case], folder: Path, processes: int, devices: int, limit: float
) -> list[Answers]:
    """Return the answers of processes that have so many devices each.

    Args:
        cases: what is asked, one after another.
        folder: an empty one, for files.
        processes: how many; of several, each has its share of the rows.
        devices: of each process.
        limit: seconds after which they are killed.
    """
    asked = json.dumps([asdict(case) for case in cases])
    (folder / "cases.json").write_text(asked)
    environment = with_devices(devices)
    if processes > 1:
        # Programs of several processes do not come back from the cache.
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "0"
    port, started = free_port(), []
    with (folder / "errors.txt").open("w+") as errors:
        for place in range(processes):
            arguments = [str(folder), str(processes), str(place), str(port)]
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "objectives.on_devices", *arguments],
                    cwd=TESTS,
                    env=environment,
                    stdout=errors,
                    stderr=errors,
                )
            )
        ended = together(started, limit)
        errors.seek(0)
        assert ended == [0] * processes, errors.read()
    return [read(folder / f"{place}.npz") for place in range(len(cases))]


def with_devices(count: int) -> dict[str, str]:
    """Return the environment of a process that has so many devices."""
    flag = f"--xla_force_host_platform_device_count={count}"
    return {**os.environ, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {flag}"}


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def together(started: Sequence[subprocess.Popen], limit: float) -> list[int | None]:
    """Wait for processes; once one has failed, or all take too long, kill the rest."""
    end = time.monotonic() + limit
    try:
        while any(process.poll() is None for process in started):
            if any(process.poll() for process in started) or time.monotonic() > end:
                break
            time.sleep(0.05)
        return [process.poll() for process in started]
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()


def read(file: Path) -> Answers:
    found: Answers = {}
    with np.load(file) as arrays:
        for key in arrays:
            name, leaf = key.split("/")
            found.setdefault(name, {})[leaf] = arrays[key]
    return found


def distances(found: Answers, expected: Answers) -> dict[str, dict[str, float]]:
    """Return how far answers are from others, relative to the length of these."""

    def far(ours: np.ndarray, theirs: np.ndarray) -> float:
        return float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-9))

    return {
        name: {leaf: far(ours, expected[name][leaf]) for leaf, ours in leaves.items()}
        for name, leaves in found.items()
    }


def wrong(found: Answers, expected: Answers) -> Iterator[str]:
    """Say which values are further than 1e-5 and which gradients than 1e-4."""
    for name, leaves in distances(found, expected).items():
        gradients = [found[name][leaf] for leaf in leaves if leaf != "value"]
        if not any(gradient.any() for gradient in gradients):
            yield f"{name} has no gradient"
        for leaf, far in leaves.items():
            if not far < (1e-5 if leaf == "value" else 1e-4):
                yield f"{name} {leaf}: {far:.1e}"


def inputs(batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = oracle.inputs(rng, batch, STUDENT, TEACHER)
    x |= oracle_tokens.towers(rng, batch) | oracle_classes.inputs(rng, batch, CLASSES)
    x |= {"student_bias": np.array(-3.0), "teacher_bias": np.array(-2.0)}
    x["student_text_id"] = rng.integers(batch // 3, size=(batch, 1))
    sides = {name: x[name] for name in x if name.startswith(("student", "teacher"))}
    return {name: array.astype(np.float32) for name, array in sides.items()}


def on_mesh(x: Mapping[str, np.ndarray], mesh: Any) -> dict[str, Any]:
    """Return what both sides say, each process giving its own rows."""
    arrays = {name: array for name, array in x.items() if array.ndim}
    own = {name: x[host_rows(len(x), mesh)] for name, x in arrays.items()}
    rows = to_global(own, mesh)
    whole = {name: x[name] for name in x if not x[name].ndim}
    return rows | jax.device_put(whole, replicated(mesh))


def learnt_on_mesh(graph: Any, learnt: Mapping[str, Any], mesh: Any) -> dict[str, Any]:
    """Return what is learnt where a run has it."""
    places = parameter_shardings(nnx.state(answers.merged(graph, learnt)), mesh)
    flat = nnx.traversals.flatten_mapping(places)
    shardings = {answers.LEARNT[path]: place for path, place in flat.items()}
    return jax.device_put(jax.tree.map(np.asarray, learnt), shardings)


def answer(case: Case) -> dict[str, np.ndarray]:
    """Return the answers to a case by the names of objective and array."""
    mesh = make_mesh(dict(zip(("data", "fsdp", "tensor"), case.mesh, strict=True)))
    x = inputs(case.batch)
    graph, learnt = answers.built(case.spec, x, block_rows=case.block_rows)
    x = on_mesh(x, mesh)
    fixed = {name: x.pop(name) for name in list(x) if name.startswith("teacher")}
    moving = x | learnt_on_mesh(graph, learnt, mesh)

    def chosen(moving: Any, fixed: Any, weights: Any) -> Any:
        x = moving | fixed
        sides = (answers.embeddings(x, side) for side in ("student", "teacher"))
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            objective = answers.merged(graph, {name: x[name] for name in learnt})
            found = objective(*sides)[1]
        return sum(weights[name] * found[name] for name in found), found

    # One program, asked for each objective: a Jacobian takes twice as long to compile.
    one = jax.jit(jax.value_and_grad(chosen, has_aux=True))
    found = {}
    for name in case.spec:
        weights = {other: np.float32(other == name) for other in case.spec}
        (_, values), gradients = one(moving, fixed, weights)
        found |= {f"{name}/{leaf}": slopes for leaf, slopes in gradients.items()}
        found[f"{name}/value"] = values[name]
    whole = jax.jit(lambda x: x, out_shardings=replicated(mesh))(found)
    return jax.tree.map(np.asarray, whole)


def main(folder: str, processes: str, place: str, port: str) -> None:
    if int(processes) > 1:
        address = f"127.0.0.1:{port}"
        jax.distributed.initialize(address, int(processes), int(place))
    cases = json.loads((Path(folder) / "cases.json").read_text())
    for index, case in enumerate(cases):
        found = answer(Case(**case))
        if jax.process_index() == 0:
            np.savez(Path(folder) / f"{index}.npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
