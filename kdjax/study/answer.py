"""From finished runs to what a study found."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float
from ml_collections import ConfigDict

from kdjax.commands.common import source_of
from kdjax.commands.workdir import Workdir
from kdjax.config import to_plain
from kdjax.data.records import Question, Source
from kdjax.errors import UserError
from kdjax.evaluation.priors import majority_answers, question_only_answers
from kdjax.evaluation.vqa import annotations_of, vqa_accuracy
from kdjax.objectives import expand
from kdjax.study.examples import choose_examples
from kdjax.study.grid import Entry
from kdjax.study.result import Cell, RankAnswer, RunRow, StudyResult
from kdjax.study.statistics import (
    Bootstrap,
    Scores,
    bootstrap,
    difference,
    interval,
    rank_correlation,
)
from kdjax.training.metrics import read_metrics

Accuracies = dict[int, float]
CellKey = tuple[str, str | None, str | None, str | None]


@dataclass(frozen=True)
class Scored:
    """An entry of the plan with what its runs gave.

    Attributes:
        entry: of the plan.
        row: its line in results.csv.
        said: answers by question id.
        right: VQA accuracy in [0, 1] by question id.
    """

    entry: Entry
    row: RunRow
    said: Mapping[int, str]
    right: Accuracies


def answer(
    config: ConfigDict,
    entries: Sequence[Entry],
    cells: epath.Path,
    workdir: Workdir,
    command: str,
) -> StudyResult:
    """Return what a study whose runs are all there has found.

    Args:
        config: of the study.
        entries: its plan.
        cells: the folder of the runs.
        workdir: of the study.
        command: that started it, for the page.
    """
    split = config.vqa.eval.split
    source = source_of(config.vqa, split)
    asked = [source[index].questions for index in range(len(source))]
    questions = [question for some in asked for question in some]
    annotations = annotations_of(questions)
    scored = _by_strength([_scored(entry, cells, annotations) for entry in entries])
    controls = _controls(source_of(config.vqa, "train"), questions, annotations)
    found, keys = _statistics(scored, asked, config)
    teachers = [s for s in scored if _is_teacher(s)]
    described = [_cell(key, keys, found, scored) for key in keys]
    return StudyResult(
        title=config.title,
        dataset=config.vqa.data.name,
        split=split,
        images=len(source),
        questions=len(questions),
        rows=(*(s.row for s in scored), *controls),
        teachers=_teacher_cells(teachers, found),
        baselines=tuple(cell for cell in described if cell.kind == "baseline"),
        students=tuple(cell for cell in described if cell.kind == "student"),
        ranks=_ranks(config, keys, found, teachers),
        examples=choose_examples(source, [(s.row, s.said, s.right) for s in scored]),
        draws=config.bootstrap_draws,
        seeds=tuple(config.seeds),
        command=command,
        config_text=json.dumps(to_plain(config), indent=2),
        environment=_told(workdir.read_json("environment.json") or {}),
        seconds=_seconds(entries, cells),
        run=workdir.run,
        objectives=_objective_lines(config),
        curves=_curves(entries, cells),
    )


def _scored(
    entry: Entry, cells: epath.Path, annotations: Sequence[Mapping[str, Any]]
) -> Scored:
    vqa = _read(cells / entry.vqa.name / "results.json")
    clip = _read(cells / entry.clip.name / "results.json") if entry.clip else None
    said = {
        answered["question_id"]: answered["answer"]
        for answered in _read(cells / entry.vqa.name / "predictions.json")
    }
    accuracy = vqa_accuracy(said, annotations)
    row = RunRow(
        kind=entry.kind,
        name=entry.name,
        teacher=entry.teacher,
        student=entry.student,
        objectives=entry.objectives,
        seed=entry.seed,
        zero_shot_accuracy=clip["zero_shot_accuracy"] if clip else None,
        vqa_accuracy=accuracy.overall,
        steps=vqa["steps"] + (clip["steps"] if clip else 0),
        seconds=vqa["seconds"] + (clip["seconds"] if clip else 0.0),
        run=entry.vqa.hash,
    )
    right = {key: value / 100 for key, value in accuracy.per_question.items()}
    return Scored(entry, row, said, right)


def _by_strength(scored: Sequence[Scored]) -> list[Scored]:
    """Return entries as planned, but each set of them from the weakest teacher on."""
    strength = {s.entry.name: s.row.vqa_accuracy for s in scored if _is_teacher(s)}
    sets = list(dict.fromkeys(_key(s.entry)[:3] for s in scored))
    return sorted(
        scored,
        key=lambda s: (
            sets.index(_key(s.entry)[:3]),
            strength.get(s.entry.teacher or s.entry.name, 0.0),
        ),
    )


def _is_teacher(scored: Scored) -> bool:
    return scored.entry.kind == "teacher"


def _read(path: epath.Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): remove the folder {path.parent} and "
            "start the study again"
        ) from error


def _controls(
    train: Source,
    questions: Sequence[Question],
    annotations: Sequence[Mapping[str, Any]],
) -> list[RunRow]:
    """Return the rows of the two rules that need no model."""
    learnt = [q for i in range(len(train)) for q in train[i].questions]
    rules = {"majority": majority_answers, "question_only": question_only_answers}
    return [
        RunRow(
            kind="control",
            name=name,
            teacher=None,
            student=None,
            objectives=None,
            seed=None,
            zero_shot_accuracy=None,
            vqa_accuracy=vqa_accuracy(rule(learnt, questions), annotations).overall,
            steps=0,
            seconds=0.0,
            run="",
        )
        for name, rule in rules.items()
    ]


def _key(entry: Entry) -> CellKey:
    return entry.kind, entry.student, entry.objectives, entry.teacher


def _statistics(
    scored: Sequence[Scored], asked: Sequence[Sequence[Question]], config: ConfigDict
) -> tuple[Bootstrap, list[CellKey]]:
    """Return the bootstrap of all teachers and cells, and the cells in its order."""

    def by_image(right: Accuracies) -> Float[np.ndarray, " images"]:
        return np.array([sum(right[q.question_id] for q in some) for some in asked])

    cells: dict[CellKey, list[np.ndarray]] = {}
    for s in scored:
        if s.entry.kind in ("baseline", "student"):
            cells.setdefault(_key(s.entry), []).append(by_image(s.right))
    scores = Scores(
        np.array([by_image(s.right) for s in scored if _is_teacher(s)]),
        np.array(list(cells.values())),
        np.array([float(len(some)) for some in asked]),
    )
    return bootstrap(scores, draws=config.bootstrap_draws), list(cells)


def _teacher_cells(teachers: Sequence[Scored], found: Bootstrap) -> tuple[Cell, ...]:
    return tuple(
        Cell(
            kind="teacher",
            name=s.entry.name,
            teacher=None,
            student=None,
            objectives=None,
            zero_shot=s.row.zero_shot_accuracy,
            vqa=interval(found.teachers[i], found.teacher_draws[:, i]),
        )
        for i, s in enumerate(teachers)
    )


def _cell(
    key: CellKey, keys: list[CellKey], found: Bootstrap, scored: Sequence[Scored]
) -> Cell:
    kind, student, objectives, teacher = key
    index = keys.index(key)
    rows = [s.row for s in scored if _key(s.entry) == key]
    shots = [r.zero_shot_accuracy for r in rows if r.zero_shot_accuracy is not None]
    gain, verdict = None, ""
    if kind == "student":
        alone = next(i for i, k in enumerate(keys) if k[:2] == ("baseline", student))
        gain, verdict = difference(found, index, alone)
    return Cell(
        kind=kind,
        name=rows[0].name,
        teacher=teacher,
        student=student,
        objectives=objectives,
        zero_shot=float(np.mean(shots)) if shots else None,
        vqa=interval(found.cells[index], found.cell_draws[:, index]),
        gain=gain,
        verdict=verdict,
    )


def _ranks(
    config: ConfigDict,
    keys: list[CellKey],
    found: Bootstrap,
    teachers: Sequence[Scored],
) -> tuple[RankAnswer, ...]:
    if len(teachers) < 2:
        return ()
    names = [s.entry.name for s in teachers]
    best, worst = int(np.argmax(found.teachers)), int(np.argmin(found.teachers))
    ranks = []
    for student in config.students:
        for objectives in config.objectives:
            cells = [
                keys.index(("student", student, objectives, name)) for name in names
            ]
            rank = rank_correlation(found, cells)
            gap, verdict = difference(found, cells[best], cells[worst])
            ranks.append(
                RankAnswer(
                    student=student,
                    objectives=objectives,
                    rho=rank.rho,
                    p_value=rank.p_value,
                    verdict=rank.verdict,
                    reason=rank.reason,
                    strongest=names[best],
                    weakest=names[worst],
                    gap=gap,
                    gap_verdict=verdict,
                )
            )
    return tuple(ranks)


def _objective_lines(config: ConfigDict) -> dict[str, str]:
    def line(spec: Any) -> str:
        chosen = expand(to_plain(spec))
        return ", ".join(f"{o['weight']:g} {name}" for name, o in chosen.items())

    return {name: line(spec) for name, spec in config.objectives.items()}


def _runs(entries: Sequence[Entry]) -> set[str]:
    return {run.name for e in entries for run in (e.clip, e.vqa) if run is not None}


def _seconds(entries: Sequence[Entry], cells: epath.Path) -> float:
    results = [_read(cells / name / "results.json") for name in sorted(_runs(entries))]
    return sum(result["seconds"] for result in results)


def _curves(
    entries: Sequence[Entry], cells: epath.Path
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the loss of every training from captions, one seed of each cell."""
    curves = {}
    for entry in entries:
        if entry.clip is None or entry.name in curves:
            continue
        rows = read_metrics(cells / entry.clip.name)
        steps = np.array([row["step"] for row in rows])
        # The loss of a step that was skipped is null.
        losses = np.array([row["loss"] for row in rows], float)
        curves[entry.name] = steps, losses
    return curves


def _told(environment: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment as one line of text for each key."""

    def text(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{k} {v}" for k, v in value.items())
        return ", ".join(value) if isinstance(value, list) else str(value)

    return {key.replace("_", " "): text(value) for key, value in environment.items()}
