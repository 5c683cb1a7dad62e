"""Commands: `kdjax <command> --config=FILE --workdir=DIR --config.a.b=value`."""

import argparse
import json
import os
import select
import shlex
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdjax import hosts
from kdjax.arguments import parser
from kdjax.errors import NoRoom, Transient, UserError
from kdjax.process import listening, prepare, quiet_libraries

if TYPE_CHECKING:
    from etils import epath
    from ml_collections import ConfigDict

    from kdjax.commands.reporter import Reporter

# The compiler of TPUs neither asks for a TPU nor tells of its start.
QUIET_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
STOPPED = "kdjax: stopped"
GOES_ON = f"{STOPPED}; the same command goes on from here"
AT_ONCE = f"{STOPPED} at once; the same command goes on from the last checkpoint"


def typed() -> int:
    """Do what was typed; when it is done no signal makes another end of it."""
    status = main()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        try:
            return _status(argv)
        finally:
            print(end="", flush=True)  # which says it now if nobody reads what there is
    except BrokenPipeError:
        if not (unread := _unread()):
            raise
        for place in unread:  # what is still to be written at the end goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), place)
        return hosts.leave(128 + signal.SIGPIPE)


def _unread() -> list[int]:
    """Return which of standard output and error nobody reads any more."""
    poll = select.poll()
    for place in (1, 2):
        poll.register(place, 0)  # of what is wrong it tells in any case
    return [place for place, event in poll.poll(0) if event & select.POLLERR]


def _status(argv: Sequence[str] | None) -> int:
    """Do what was typed, say in a line why not, and return the exit status."""
    arguments, overrides = parser().parse_known_args(argv)
    stopped = GOES_ON if "workdir" in arguments else STOPPED
    try:
        with listening(stopped):
            _do(arguments, overrides)
    except UserError as error:
        print(f"kdjax: {' '.join(str(error).split())}", file=sys.stderr)
        # What starts a run again does so unless the input is wrong, which is 2.
        status = 1 if isinstance(error, Transient) else 2
        # Where a disk is full, libraries would have more to say at a proper end.
        return hosts.leave(status, at_once=isinstance(error, NoRoom))
    except KeyboardInterrupt as stop:  # the loop's Interrupted
        if hosts.is_first():
            saved = getattr(stop, "saved", True)
            print(f"\n{stopped if saved else AT_ONCE}", file=sys.stderr)
        return 128 + getattr(stop, "signum", signal.SIGINT)
    except Exception as error:
        if isinstance(error, BrokenPipeError) or not hosts.met():
            raise
        gone = hosts.gone(error)
        sys.stderr.write(gone or traceback.format_exc())
        return hosts.leave(1, at_once=bool(gone))
    return hosts.leave(0)


def _do(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Do what was typed and print what came of it."""
    if overrides and arguments.command in ("info", "export"):
        raise UserError(
            f"{overrides[0]!r} is not an option of kdjax {arguments.command}"
        )
    if arguments.command == "info":
        from kdjax.commands.info import info

        print(info())
        return
    quiet_libraries()
    if arguments.command == "plan":
        _plan(arguments, overrides)
        return
    prepare()
    command, workdir, told = arguments.command, arguments.workdir, ""
    if command == "export":
        config: Any = {"checkpoint": arguments.checkpoint, "format": arguments.format}
    else:
        config, told = _opened(command, arguments.config, workdir, overrides)
        hosts.start(
            arguments.coordinator_address,
            arguments.num_processes,
            arguments.process_id,
            arguments.heartbeat_timeout_seconds,
        )
    from kdjax.commands.run import describe

    results = _run(command, config, workdir, told, quiet=False)
    if command != "study" and hosts.is_first():
        print(f"{describe(results)}\n{workdir}")


def _opened(
    command: str, file: str, workdir: str, overrides: Sequence[str]
) -> tuple["ConfigDict", str]:
    """Return the config of a file, whose words are checked, and what names it here.

    What is wrong with them is so before any other process is met.
    """
    from kdjax.commands.schema import check_words
    from kdjax.config import load_config

    config = load_config(file, overrides)
    check_words(command, config)
    words = [command, f"--config={file}", f"--workdir={workdir}", *overrides]
    return config, shlex.join(["kdjax", *words])


def _plan(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Print a plan; this process computes nothing, so it wants no accelerator."""
    if arguments.json == "":
        raise UserError("--json is empty; give the file to write")
    # JAX reads these when it starts; what it finds in a cache no compiler writes down.
    uncached = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    os.environ.update({**uncached, **QUIET_LIBTPU})
    from kdjax.parallel.topology import simulated

    flag = f"--xla_force_host_platform_device_count={simulated(arguments.topology)}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".lstrip()
    from etils import epath

    from kdjax.commands.apart import apart
    from kdjax.commands.plan import plan
    from kdjax.commands.plan_lines import as_json, lines
    from kdjax.commands.reporter import Reporter
    from kdjax.commands.smallest import smallest
    from kdjax.config import load_config
    from kdjax.files import make_folder

    config, name = load_config(arguments.config, overrides), arguments.topology
    if arguments.slices != 1 and arguments.fit:
        raise UserError(
            f"--slices={arguments.slices} joins TPU slices of one shape; leave it out "
            "with --fit"
        )
    path = epath.Path(arguments.json) if arguments.json else None
    if path is not None:
        if path.is_dir():
            raise UserError(f"--json={path} is a folder; give the file to write")
        make_folder(path.parent)
    if arguments.fit:
        found = smallest(config, name, Reporter())
    else:
        found = apart(plan, config, name, arguments.slices, Reporter())
    print("\n".join(lines(found)), flush=True)
    if path is not None:
        _write_json(path, as_json(found))


def _write_json(path: "epath.Path", told: Mapping[str, Any]) -> None:
    """Write what is told to a file, or after the lines where that is where they go.

    Raises:
        UserError: it cannot be written.
    """
    from kdjax.files import write_whole

    text, there = f"{json.dumps(told, indent=2)}\n", Path(path)
    try:
        if there.exists() and os.path.samestat(there.stat(), os.fstat(1)):
            print(text, end="", flush=True)
        else:
            write_whole(path, text.encode())
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"--json={path} cannot be written: {error}") from error


def run(
    command: str,
    config: Any,
    workdir: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run any command of the command line; return its results and its workdir.

    What is compiled is kept in the user's cache folder, unless JAX's settings name
    another, and what is freed on a CPU stays with the process. On many hosts the caller
    has called `jax.distributed.initialize` before.

    Args:
        command: pretrain, distill, chain, vqa, eval, calibrate, study or export.
        config: a `ConfigDict`, or FILE[:argument] as on the command line; for export a
            mapping with the `checkpoint` and the `format`.
        workdir: where the run lives.
        overrides: such as "--config.seed=1", for a config that is a file.
        quiet: show no progress.

    Raises:
        UserError: the input is wrong, in one sentence.
    """
    from kdjax.commands import COMMANDS

    prepare()
    known = (*COMMANDS, "chain", "study", "export")
    if command not in known:
        raise UserError(f"{command!r} is no command; there are {', '.join(known)}")
    config, workdir = _checked(command, config, workdir, overrides)
    told = f"kdjax.run({command!r}, config, {workdir!r})"
    if isinstance(config, str):
        config, told = _opened(command, config, workdir, overrides)
    return _run(command, config, workdir, told, quiet)


def _checked(
    command: str, config: Any, workdir: Any, overrides: Any
) -> tuple[Any, str]:
    """Return a config and a workdir that are what they have to be, paths as text."""
    from ml_collections import ConfigDict

    if isinstance(config, os.PathLike):
        config = os.fspath(config)
    file = isinstance(config, str) and command != "export"
    kinds = (ConfigDict, Mapping) if command == "export" else ConfigDict
    if not file and not isinstance(config, kinds):
        raise UserError(
            f"the config is {config!r}; give "
            + (
                "a mapping with the checkpoint and the format"
                if command == "export"
                else "a ConfigDict, or FILE[:argument] as on the command line"
            )
        )
    path = os.fspath(workdir) if isinstance(workdir, str | os.PathLike) else None
    if not isinstance(path, str) or not path:
        raise UserError(f"the workdir is {workdir!r}; give the path of a folder")
    words = isinstance(overrides, list | tuple) and all(
        isinstance(word, str) for word in overrides
    )
    if not words or (overrides and not file):
        raise UserError(
            f"the overrides are {overrides!r}; give a list such as "
            '["--config.seed=1"], with a config that is a file'
        )
    return config, path


def _run(
    command: str, config: Any, workdir: str, told: str, quiet: bool
) -> dict[str, Any]:
    """Do a command; `told` is what makes the same again."""
    from kdjax.commands.reporter import Reporter
    from kdjax.files import room_explained

    reporter = Reporter(quiet=quiet or not hosts.is_first())
    with room_explained(workdir):
        results = _results(command, config, workdir, reporter, told)
    return {**results, "workdir": workdir}


def _results(
    command: str, config: Any, workdir: str, reporter: "Reporter", told: str
) -> dict[str, Any]:
    if command == "export":
        return _export(config, workdir, reporter)
    if command == "chain":
        from kdjax.commands.chain import run_chain

        return run_chain(config, workdir, reporter)
    if command == "study":
        from kdjax.study.execute import run_study

        return run_study(config, workdir, reporter, told)
    from kdjax.commands import run_command

    return run_command(command, config, workdir, reporter)


def _export(config: Any, workdir: str, reporter: "Reporter") -> dict[str, Any]:
    from ml_collections import ConfigDict

    from kdjax.commands.export import export
    from kdjax.commands.schema import check_config

    asked = {"format": "safetensors", **config}
    if isinstance(asked.get("checkpoint"), os.PathLike):
        asked["checkpoint"] = os.fspath(asked["checkpoint"])
    wanted = ConfigDict(asked)
    check_config("export", wanted)
    return export(wanted, workdir, reporter)
