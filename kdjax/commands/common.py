"""What the training commands share."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int64
from ml_collections import ConfigDict

from kdjax.commands.reporter import Reporter
from kdjax.commands.workdir import Workdir
from kdjax.config import to_plain
from kdjax.data.records import Source
from kdjax.data.registry import build_source, source_names
from kdjax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from kdjax.errors import UserError
from kdjax.evaluation.registry import evaluate
from kdjax.evaluation.subject import Scores, Subject
from kdjax.models import Params
from kdjax.objectives import expand
from kdjax.parallel import host_rows, make_mesh, placed
from kdjax.training.choosing import Choice
from kdjax.training.loop import LoopConfig, Trained, train
from kdjax.training.metrics import wandb_run
from kdjax.training.optimizer import OptimizerConfig
from kdjax.training.steps import Program, TrainState, build_program
from kdjax.training.tasks import Frozen, Options, Task


def source_of(config: ConfigDict, split: str) -> Source:
    """Return a split of the config's data set."""
    options = {**to_plain(config.data)}
    options.pop("blank", None)
    name = options.pop("name", None)
    if name is None:
        raise UserError(
            f"data has no name; give one of {', '.join(source_names())} as data.name"
        )
    # As text, for a list among them could be no key of the cache.
    return _source(name, split, json.dumps(options, sort_keys=True))


@functools.lru_cache(maxsize=8)
def _source(name: str, split: str, options: str) -> Source:
    """Return a source; the runs of a study share it, for it never changes."""
    return build_source(name, split, **json.loads(options))


def tokenizer_of(name: str, source: Source) -> Tokenizer:
    """Return the tokenizer of that name; "trained" is made from the data's texts."""
    return (
        train_tokenizer(source.texts()) if name == "trained" else load_tokenizer(name)
    )


def objectives_of(config: ConfigDict) -> tuple[tuple[str, Options], ...]:
    """Return the config's objectives with all of their options, as a task has them."""
    objectives = expand(to_plain(config.objectives))
    return tuple((k, tuple(sorted(v.items()))) for k, v in sorted(objectives.items()))


def own_rows(config: ConfigDict) -> Int64[np.ndarray, " b"]:
    """Return which rows of every batch this host loads."""
    return host_rows(config.batch_size, make_mesh(dict(config.mesh)))


def optimizer_of(config: ConfigDict) -> OptimizerConfig:
    """Return the config's optimiser, its rates as a value has them."""
    given = to_plain(config.optimizer)
    rates = tuple(sorted((k, float(v)) for k, v in given.pop("rates").items()))
    return OptimizerConfig(**given, rates=rates)


def program_of(config: ConfigDict, task: Task, frozen: Frozen = None) -> Program:
    """Return a task's compiled functions on the config's mesh.

    Args:
        config: of the run.
        task: what is trained.
        frozen: what the step takes as it is, where it lies on the mesh.
    """
    places = jax.tree.map(lambda x: x.sharding, frozen)
    return build_program(
        task, optimizer_of(config), make_mesh(dict(config.mesh)), places
    )


def say_unsplit(reporter: Reporter, whose: str, unsplit: Sequence[str]) -> None:
    """Say in one line what was to be split and is whole on every device, if any is."""
    if unsplit:
        reporter.say(
            f"{whose}: whole on every device, for it does not divide: "
            f"{', '.join(unsplit)}"
        )


class Evaluation:
    """A run's evaluators, between steps and in the end alike."""

    def __init__(self, names: Sequence[str], subject: Subject) -> None:
        """Evaluate by these names; nothing is scored yet."""
        self._names = tuple(names)
        self._subject = subject
        self._last: tuple[int, Scores] | None = None

    def scores(self, state: TrainState) -> Scores:
        """Return what is said of a state; of the last one it is known."""
        step = int(state.step)
        if self._last is None or self._last[0] != step:
            found = evaluate(self._names, state.evaluated["model"], self._subject)
            self._last = step, found
        return self._last[1]

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Return the numbers of a state by split and name, such as test/accuracy."""
        results, split = self.scores(state).results, self._subject.source.split
        numbers = {k: x for k, x in results.items() if isinstance(x, float)}
        return {f"{split}/{name}": value for name, value in numbers.items()}


def fit(
    config: ConfigDict,
    workdir: Workdir,
    task: Task,
    batches: Any,
    reporter: Reporter,
    label: str,
    evaluation: Evaluation,
    frozen: Frozen = None,
    warm_start: Callable[[Params], Params] = lambda params: params,
) -> Trained:
    """Train a task as the config says; return what is to be saved as the model."""
    mesh = make_mesh(dict(config.mesh))
    frozen = placed(frozen, mesh)
    program = program_of(config, task, frozen)
    say_unsplit(reporter, label, program.unsplit)
    saves = config.checkpoint
    loop = LoopConfig(
        seed=config.seed,
        steps=config.steps,
        log_every=config.log_every,
        checkpoint_every=saves.every_steps,
        checkpoint_minutes=saves.every_minutes,
        keep=saves.keep,
        best=Choice(saves.best, saves.best_mode) if saves.best else None,
        evaluate_every=config.eval.every_steps,
        max_nonfinite=config.max_nonfinite,
        profile=tuple(config.profile),
    )
    with (
        wandb_run(config.wandb, workdir.path, workdir.run, to_plain(config)) as told,
        reporter.steps(label, config.steps) as progress,
    ):
        return train(
            program,
            loop,
            batches=batches,
            workdir=workdir.path,
            frozen=frozen,
            warm_start=warm_start,
            evaluate=evaluation,
            watch=(progress, told),
            say=reporter.say,
        )


def put_into(params: Mapping[Any, Any], given: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return `params` with the given subtree in place of its own leaves."""
    merged = dict(params)
    for key, value in given.items():
        inner = isinstance(value, Mapping)
        merged[key] = put_into(params[key], value) if inner else value
    return merged
