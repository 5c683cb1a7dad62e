"""A study: make the runs of the grid that are not there yet, and answer."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from kdjax.commands.calibration import check_stored
from kdjax.commands.names import TEACHER, check_name, named_models
from kdjax.commands.reporter import Reporter, clock
from kdjax.commands.run import run_command, workdir_of
from kdjax.commands.schema import check_config
from kdjax.commands.start import check_sizes
from kdjax.commands.workdir import Workdir
from kdjax.study.answer import answer
from kdjax.study.grid import Entry, PlannedRun, plan
from kdjax.study.report import save_figures, write_csv, write_report
from kdjax.study.summary import summary_table

# Runs lie beside the studies, so that studies share them.
CELLS = "cells"


def run_study(
    config: ConfigDict, path: epath.PathLike, reporter: Reporter, command: str
) -> dict[str, Any]:
    """Make a study's runs, write results.csv and report.html, and print a table.

    Args:
        config: of the study, see `plan`.
        path: the study's workdir; its runs lie in the folder `cells` beside it.
        reporter: tells how far it is.
        command: that makes the study again, for the report.
    """
    started = time.monotonic()
    check_config("study", config)
    entries = plan(config)
    cells = epath.Path(path).parent / CELLS
    _check_runs(entries, cells)
    workdir = Workdir(path, "study", config)
    with workdir.begun():
        make_runs(entries, cells, reporter)
        result = answer(config, entries, cells, workdir, command)
        write_csv(result.rows, workdir.path / "results.csv")
        save_figures(result, workdir.path)
        write_report(result, workdir.path / "report.html")
    if not reporter.quiet:
        import rich

        rich.print(summary_table(result))
        print(f"{clock(time.monotonic() - started)}; {workdir.path / 'report.html'}")
    verdicts = {f"{r.student} by {r.objectives}": r.verdict for r in result.ranks}
    return {"command": "study", "run": workdir.run, "verdicts": verdicts}


def make_runs(entries: Sequence[Entry], cells: epath.Path, reporter: Reporter) -> None:
    """Make every run that is not finished; the time left is told before each.

    Raises:
        UserError: one that is there was made from others than are there now.
    """
    runs = _runs(entries)
    todo = {run.name: run.config.steps for run in _ahead(entries, cells)}
    total = sum(todo.values())
    if len(todo) < len(runs):
        reporter.say(f"{len(runs) - len(todo)} of {len(runs)} runs are there already")
    # The median, because the first runs compile and the others hardly do.
    seconds_per_step: list[float] = []
    for label, run in runs:
        if run.name not in todo:
            # What it is made from may have been made again just now.
            workdir_of(run.command, run.config, cells / run.name)
            continue
        started, left = time.monotonic(), ""
        if seconds_per_step:
            left = f", {clock(median(seconds_per_step) * total)} left"
        place = f"[{len(seconds_per_step) + 1} of {len(todo)}{left}] {label}: "
        inner = Reporter(reporter.every, place, reporter.quiet)
        run_command(run.command, run.config, cells / run.name, inner)
        seconds = time.monotonic() - started
        seconds_per_step.append(seconds / max(run.config.steps, 1))
        total -= run.config.steps


def _ahead(entries: Sequence[Entry], cells: epath.Path) -> list[PlannedRun]:
    """Return the runs that are not finished."""
    runs = [run for _, run in _runs(entries)]
    return [run for run in runs if not (cells / run.name / "results.json").exists()]


def _check_runs(entries: Sequence[Entry], cells: epath.Path) -> None:
    """Find now what is wrong with a run, and not when it is its turn."""
    runs = [run for _, run in _runs(entries)]
    trained = {run.name: run.config.model for run in runs if run.command == "pretrain"}
    ahead = [run.name for run in _ahead(entries, cells)]
    for run in runs:
        check_config(run.command, run.config, cells / run.name)
        if run.command == "distill" and run.config.teacher in trained:
            whole = run.config.inherit_from
            if whole == TEACHER:
                whole = trained[run.config.teacher]
            check_sizes(run.config.inherit, run.config.student, whole)
            check_stored((run.config.teacher,), run.config.teacher_scale, ahead)
        # What it names is there: what it is made from can be known, and must be what it
        # was; and its teacher may be calibrated, and must be if it is asked.
        if set(named_models(run.config).values()).isdisjoint(ahead):
            workdir_of(run.command, run.config, cells / run.name)
        for key in ("model", "student"):
            if key in run.config:
                check_name(run.config[key], cells / run.name)


def _runs(entries: Sequence[Entry]) -> list[tuple[str, PlannedRun]]:
    """Return the runs of the entries in an order in which each finds its teacher."""
    seen: set[str] = set()
    runs = []
    for entry in entries:
        label = entry.name if entry.kind in ("teacher", "control") else ""
        label = label or f"{entry.name}, seed {entry.seed}"
        for run in (entry.clip, entry.vqa):
            if run is not None and run.name not in seen:
                seen.add(run.name)
                runs.append((label, run))
    return runs
