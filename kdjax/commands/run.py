"""One run of one command, from its config to its results."""

from collections.abc import Callable
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from kdjax import hosts
from kdjax.commands.calibrate import calibrate
from kdjax.commands.contrastive import distill, pretrain
from kdjax.commands.evaluate import evaluate
from kdjax.commands.names import named_runs
from kdjax.commands.reporter import Reporter, clock
from kdjax.commands.schema import check_config
from kdjax.commands.vqa import vqa
from kdjax.commands.workdir import Workdir, folder_of

Command = Callable[[ConfigDict, Workdir, Reporter], dict[str, Any]]

COMMANDS: dict[str, Command] = {
    "pretrain": pretrain,
    "distill": distill,
    "vqa": vqa,
    "eval": evaluate,
    "calibrate": calibrate,
}
# What it makes lies elsewhere, where something else may have come since; so it may be
# made again of a model that has learnt on.
REPEATED = ("calibrate",)


def run_command(
    command: str, config: ConfigDict, path: epath.PathLike, reporter: Reporter
) -> dict[str, Any]:
    """Do what a config says, or what is left of it, and return its results.

    The results are also in results.json of the workdir; a finished run is not repeated.
    """
    check_config(command, config, path)
    workdir = workdir_of(command, config, path)
    steps = config.get("steps", 0)
    done = workdir.finished(steps)
    if done is not None and command not in REPEATED:
        reporter.say(f"{workdir.path} is finished already")
        return done
    with workdir.begun():
        results = COMMANDS[command](config, workdir, reporter)
        results = {"command": command, "run": workdir.run, "steps": steps, **results}
        workdir.write_json("results.json", results)
        hosts.wait("a run has ended")
    return results


def workdir_of(command: str, config: ConfigDict, path: epath.PathLike) -> Workdir:
    """Return the folder of a run, which is looked at and not changed.

    Raises:
        UserError: it holds another run, or this one made from others than those now.
    """
    made_from = None if command in REPEATED else named_runs(config, folder_of(path))
    return Workdir(path, command, config, made_from)


def describe(results: dict[str, Any]) -> str:
    """Return a run's numbers as one line."""
    parts = [
        f"{key.replace('_', ' ')} {value:.1f} %"
        for key, value in results.items()
        if key.endswith("_accuracy") and value is not None
    ]
    parts += [
        f"{stage['student']} {stage['zero_shot_accuracy']:.1f} %"
        for stage in results.get("stages", {}).values()
        if stage["zero_shot_accuracy"] is not None
    ]
    for kind in ("own", "calibrated"):
        if f"{kind}_entropy" in results:
            scale, entropy = results[f"{kind}_scale"], results[f"{kind}_entropy"]
            parts.append(f"{kind} scale {scale:.2f} with {entropy:.3f} nats")
    if "seconds" in results:
        parts.append(f"{results['steps']} steps in {clock(results['seconds'])}")
    parts += results.get("files", [])
    return ", ".join(parts)
