"""How fast kdjax is against PyTorch on this machine, in one run and in turns.

    python -m benchmarks.speed                    # what `make bench` runs
    python -m benchmarks.speed --tiny --alone     # small models, kdjax only

Each side has a process of its own, which waits while the other works. A round is some
steps of one side and then as many of the other; a ratio is that of one round, so what
comes and goes over minutes is in both. What else runs at the time is not: it may slow
one side more than the other. The losses of the first step are printed: where the
widths of both models are equal so are they, for both sides begin with the same weights.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

from benchmarks.speed.cases import KINDS, PAIRS, Case

RESULTS = Path(__file__).parents[1] / "results"
TINY = {"nano-16": "tiny-16"}
# On accelerators.
LARGE = {"vit-b-16": "vit-l-14"}
# What the peer's side imports, instruction sets that tell apart what CPUs can do, and
# the load of a core up to which a machine has nothing else to do.
PEER, SETS, IDLE = ("torch", "transformers"), ("avx2", "avx512f", "amx_bf16"), 0.5
COMPILED = Case("distill", "vit-t-16", "vit-l-14", 256, "float32", "none", "")


class Side:
    """A process that makes steps when it is told to."""

    def __init__(self, module: str, how: str, case: Case) -> None:
        command = [sys.executable, "-m", f"benchmarks.speed.{module}", how]
        self._process = subprocess.Popen(
            [*command, case.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said = self._read()

    def seconds(self, steps: int) -> float:
        """Return how long so many steps take."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._read()["seconds"]

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"a side ended with status {self._process.wait()}")

    def end(self) -> None:
        """Hang up."""
        self._process.communicate()


@contextmanager
def side(module: str, how: str, case: Case) -> Iterator[Side]:
    """Give a side of a case, until it is not needed any more."""
    started = Side(module, how, case)
    try:
        yield started
    finally:
        started.end()


def compare(
    case: Case, peers: Sequence[str], rounds: int, steps: int
) -> dict[str, Any]:
    """Return the seconds of a step of every side, round by round."""
    with ExitStack() as stack:
        sides = {"kdjax": stack.enter_context(side("kdjax_side", "run", case))}
        for peer in peers:
            sides[peer] = stack.enter_context(side("torch_side", peer, case))
        found: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(rounds + 1):
            for name, each in sides.items():
                seconds = each.seconds(steps) / steps
                if turn:  # the first warms up
                    found[name].append(seconds)
        said = {name: each.said for name, each in sides.items()}
    return {"case": case.name, "batch": case.batch, "dtype": case.dtype,
            "said": said, "seconds": found}  # fmt: skip


def spread(numbers: Sequence[float]) -> str:
    """Return the median and the range of numbers as text."""
    return f"{median(numbers):.2f} ({min(numbers):.2f} to {max(numbers):.2f})"


def lines_of(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is printed of a case."""
    seconds, said = result["seconds"], result["said"]
    flops, peak = said["kdjax"]["flops"], said["kdjax"]["peak"]
    for name, values in seconds.items():
        rate = flops / median(values)
        text = f"  {name}: {spread([1e3 * x for x in values])} ms a step, "
        text += f"first {said[name]['loss']:.6g}, {rate / 1e12:.3g} model TFLOP/s"
        if peak:
            text += f", {rate / peak:.1%} of the peak"
        yield text
        if name != "kdjax":
            matmul = said[name]["matmul"]
            ratios = [a / b for a, b in zip(values, seconds["kdjax"], strict=True)]
            yield (
                f"    kdjax is {spread(ratios)} times as fast; at the "
                f"{matmul / 1e12:.3g} TFLOP/s of a large matrix product, with nothing "
                f"else to do, it would be {matmul / rate:.2f} times"
            )


def start_up() -> dict[str, float]:
    """Return the seconds of `kdjax --help`, a median, and of a compilation."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "kdjax", "--help"], check=True, capture_output=True
        )
        times.append(time.perf_counter() - started)
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.kdjax_side", "compile",
         COMPILED.to_json()],
        check=True, capture_output=True, text=True,
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"},
    )  # fmt: skip
    return {
        "kdjax --help": median(times),
        "compile distill vit-l-14 to vit-t-16": json.loads(found.stdout)["seconds"],
    }


def machine() -> dict[str, Any]:
    """Return what the numbers are of."""
    told = cpu_told()
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {
        "cpu": told.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [x for x in SETS if x in told.get("flags", "").split()],
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "load": os.getloadavg(),
        "commit": commit.stdout.strip() or None,
    }


def cpu_told() -> dict[str, str]:
    """Return what Linux tells of the first core."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().partition("\n\n")[0].splitlines() if path.exists() else []
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def busy(load: float, cores: int) -> str:
    """Return what to say where other work keeps a machine busy, or nothing."""
    if load <= IDLE * cores:
        return ""
    return (
        f"the machine is busy (load {load:.1f} on {cores} cores), which may slow one "
        "side more than the other: these ratios are not those of an idle one"
    )


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Exit with one line."""
        self.exit(2, f"{self.prog}: {message}\n")


def positive(text: str) -> int:
    """Return a number that is given as text."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what is asked for and can be done."""
    parser = Parser(
        prog="python -m benchmarks.speed", description=__doc__.splitlines()[0]
    )
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--tiny", action="store_true", help="small models")
    models.add_argument(
        "--large", action="store_true",
        help="ViT-L/14 to ViT-B/16 in bfloat16, for accelerators",
    )  # fmt: skip
    peers = parser.add_mutually_exclusive_group()
    peers.add_argument("--alone", action="store_true", help="without PyTorch")
    peers.add_argument("--compiled", action="store_true", help="torch.compile too")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--batch", type=positive, default=8)
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--steps", type=positive, default=2, help="of a round")
    # Both sides can do these.
    parser.add_argument("--remat", default="none", choices=("none", "full"))
    parser.add_argument("--out", type=Path, help="a file; by default beside the code")
    asked = parser.parse_args(argv)
    missing = [x for x in PEER if not asked.alone and not importlib.util.find_spec(x)]
    if missing:
        parser.error(
            f"PyTorch's side needs {' and '.join(missing)}: make bench, or --alone"
        )
    try:
        check_written(asked.out)
    except OSError as error:
        parser.error(f"the results cannot be written ({error}): give another --out")
    return asked


def check_written(file: Path | None) -> None:
    """Find out whether results can be written, before there are any.

    Raises:
        OSError: they cannot.
    """
    folder = RESULTS if file is None else file.parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    if file is not None and file.exists():
        with file.open("a"):
            pass


def main(argv: Sequence[str] | None = None) -> None:
    """Time what the command line asks for, print it and write it down."""
    asked = parse(argv)
    pairs = TINY if asked.tiny else LARGE if asked.large else PAIRS
    dtype = "bfloat16" if asked.large else "float32"
    peers = [] if asked.alone else ["eager", *(["compiled"] if asked.compiled else [])]
    found: dict[str, Any] = {"machine": machine(), "results": []}
    if said := busy(found["machine"]["load"][0], found["machine"]["cores"]):
        print(said, file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        for student, teacher in pairs.items():
            plain = Case("forward", student, teacher, asked.batch, dtype, asked.remat,
                         f"{folder}/{student}")  # fmt: skip
            for kind in asked.kinds:
                case = replace(plain, kind=kind)
                print(f"{case.name}, batch {case.batch}, {dtype}", flush=True)
                result = compare(case, peers, asked.rounds, asked.steps)
                print("\n".join(lines_of(result)), flush=True)
                found["results"].append(result)
    if not asked.tiny:
        found["start_up"] = start_up()
        for name, seconds in found["start_up"].items():
            print(f"{name}: {seconds:.2f} s")
    device = found["results"][0]["said"]["kdjax"]["device"].lower().replace(" ", "-")
    path = asked.out or RESULTS / f"speed-{device}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    main()
