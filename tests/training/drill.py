"""A drill: a run that is killed at random moments ends as one that never was.

    python tests/training/drill.py [KILLS [SEED]]

A small distillation with evaluations, a best step, an average of the parameters and
checkpoints is run by the command line, once undisturbed; then it is killed by SIGKILL
and started again until there were so many kills (20). Each time it comes to its end it
must have the undisturbed run's model, results and metrics bit for bit, but for times,
and the same sum of all bits of its last checkpoint: parameters, moments, average and
counters. A table says what each process was doing, as it told just before.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from flax import nnx

import kdjax
from kdjax.data.registry import build_source
from kdjax.data.tokenizer import train_tokenizer
from kdjax.models import CLIP, architecture
from kdjax.models.zoo import with_vocabulary

DATA = {"seed": 0, "size": 128, "eval_size": 256, "image_size": 32}
SETTINGS = {
    **{f"data.{key}": value for key, value in DATA.items()},
    "student": "nano-16",
    "steps": 24,
    "batch_size": 8,
    "teacher_scale": "own",
    "objectives": "{'clip': {}, 'fd': {'weight': 4.0}}",
    "optimizer.ema": 0.9,
    "log_every": 1,
    "eval.every_steps": 5,
    "checkpoint.every_steps": 4,
    "checkpoint.best": "validation/zero_shot_accuracy",
}
# `kdjax`, with a thread that tells what is being done, when asked. It looks at no
# frames: those of a thread that runs may be half made, and it would crash.
PROGRAM = """
import functools, socket, sys, threading
asked = socket.socket(fileno=int(sys.argv.pop(1)))
doing = []
def tell():
    while asked.recv(1):
        asked.sendall((" ".join(doing) + chr(10)).encode())
threading.Thread(target=tell, daemon=True).start()
from jax._src import compiler
from kdjax.training import loop
def told(place, name, phase):
    do = getattr(place, name)
    @functools.wraps(do)
    def inner(*given, **named):
        doing.append(phase)
        try:
            return do(*given, **named)
        finally:
            doing.pop()
    setattr(place, name, inner)
told(compiler, "compile_or_get_cached", "compile")
told(loop, "train", "step")
told(loop, "_scores", "evaluation")
told(loop.Checkpoints, "restore", "restore")
for name in ("save", "close", "state_after"):
    told(loop.Checkpoints, name, "checkpoint")
from kdjax.cli import main
sys.exit(main())
"""
# Of several phases that a process is in, it is in the first of these.
PHASES = ("evaluation", "checkpoint", "restore", "compile", "step")
LIMIT = 300.0


class Drill:
    """A run in a folder, and what it must end with."""

    def __init__(self, folder):
        self.folder = folder
        self.kills = []
        tokenizer = train_tokenizer(build_source("scenes", "train", **DATA).texts())
        size, end = tokenizer.vocab_size, tokenizer.eos_id
        config = with_vocabulary(architecture("nano-16"), size, end)
        clip = CLIP(config, rngs=nnx.Rngs(1))
        kdjax.save_clip(clip, folder / "teacher", tokenizer=tokenizer)

    @contextmanager
    def running(self, name, cache="cache"):
        """Start the run of that name, or go on with it; in the end nothing of it runs.

        Gives the process, and what tells of it.
        """
        settings = {**SETTINGS, "teacher": self.folder / "teacher"}
        asking, asked = socket.socketpair()
        asking.settimeout(5)
        with self.words(name).open("w") as words:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", PROGRAM, str(asked.fileno()), "distill"),
                    "--config=configs/distill/scenes.py",
                    f"--workdir={self.folder / name}",
                    *(f"--config.{key}={value}" for key, value in settings.items()),
                ],
                env={
                    **os.environ,
                    "JAX_COMPILATION_CACHE_DIR": str(self.folder / cache),
                },
                stdout=words,
                stderr=words,
                start_new_session=True,
                pass_fds=[asked.fileno()],
            )
        asked.close()
        try:
            with asking:
                yield process, Watcher(asking, self.folder / name / "checkpoints")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def words(self, name):
        return self.folder / f"{name}.txt"

    def check_end(self, name, process):
        """Check that a process ends well, and return what its run ended with."""
        assert process.wait(LIMIT) == 0, self.words(name).read_text()[-2000:]
        return ended(self.folder / name)

    def end(self, name):
        """Let the run come to its end, and return what it ended with."""
        with self.running(name) as (process, _):
            return self.check_end(name, process)

    def kill(self, name, phase, after=0.0, signum=signal.SIGKILL):
        """Start the run and kill it; return what it did then, or None if it ended.

        Args:
            name: of the run.
            phase: in which it is killed; "any" for whatever it is in.
            after: seconds from when it begins to train, or restores.
            signum: that kills it, or at which it must stop.
        """
        # What is compiled already takes no time to speak of.
        if cold := phase == "compile":
            shutil.rmtree(self.folder / "cold", ignore_errors=True)
        with self.running(name, "cold" if cold else "cache") as (process, watcher):
            began = None
            while process.poll() is None:
                time.sleep(0.01)
                doing = watcher.phase()
                if began is None and (phase == "any" or doing != "start"):
                    began = time.monotonic()
                late = began is not None and time.monotonic() - began >= after
                if late and phase in ("any", doing):
                    process.send_signal(signum)
                    assert process.wait(LIMIT) in (128 + signum, -signum)
                    self.kills.append(doing)
                    return doing
            self.check_end(name, process)
            return None


class Watcher:
    """Says what a process is doing."""

    def __init__(self, asking, checkpoints):
        self.asking = asking
        self.checkpoints = checkpoints
        self.started = time.time()

    def phase(self):
        """Return the phase in which the process is.

        A checkpoint is written by other threads, in a folder with another name.
        """
        told = b""
        with suppress(OSError):  # it has ended, or does not come to answer
            self.asking.sendall(b"?")
            while not told.endswith(b"\n") and (more := self.asking.recv(1 << 16)):
                told += more
        with suppress(FileNotFoundError):  # it was renamed in between
            unfinished = self.checkpoints.glob("*-tmp")
            if any(x.stat().st_mtime > self.started for x in unfinished):
                return "checkpoint"
        phases = told.decode().split()
        return next((phase for phase in PHASES if phase in phases), "start")


def ended(workdir):
    """Return all that a run ended with that does not depend on the time."""
    results = json.loads((workdir / "results.json").read_text())
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    steps = [int(x.name) for x in (workdir / "checkpoints").iterdir()]
    record = json.loads(
        (workdir / f"checkpoints/{max(steps)}/run/metadata").read_text()
    )
    return {
        "model": sha256((workdir / "model/model.safetensors").read_bytes()).hexdigest(),
        "results": timeless(results),
        "metrics": [timeless(json.loads(line)) for line in lines],
        "checkpoint": timeless(record),
        "checkpoints": sorted(steps),
    }


def timeless(numbers):
    return {
        key: x
        for key, x in numbers.items()
        if key not in ("seconds", "digest")
        and key.split("/")[0] not in ("time", "speed")
    }


def main(kills=20, seed=0):
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        drill = Drill(Path(folder))
        expected = drill.end("undisturbed")
        began = time.monotonic()
        drill.end("warm")
        whole = time.monotonic() - began
        ends, name = 0, "run-0"
        print(f"undisturbed: {whole:.1f} s a run, seed {seed}")
        while len(drill.kills) < kills:
            phase = rng.choice(["any", "compile", "step", "checkpoint", "evaluation"])
            share = whole if phase == "any" else whole / 3
            doing = drill.kill(name, phase, rng.uniform(0, share))
            if doing is None:
                assert ended(drill.folder / name) == expected, name
                ends, name = ends + 1, f"run-{ends + 1}"
                continue
            saved = drill.folder / name / "checkpoints"
            there = sorted(x.name for x in saved.iterdir()) if saved.exists() else []
            number = len(drill.kills)
            print(f"kill {number:2}: {doing:10} (asked: {phase:10}) {' '.join(there)}")
        assert drill.end(name) == expected
    print(f"{kills} kills, {ends + 1} runs ended, all with the same bits")
    for doing, count in Counter(drill.kills).most_common():
        print(f"  {doing:10} {count}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
