"""What a study found: the input of its table, its figures and its page."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; `low` and `high` are nan where unknown."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class RunRow:
    """A line of results.csv: one model, trained and scored.

    Attributes:
        kind: teacher, baseline, student or control.
        name: for people; of controls: majority, question_only or blanked.
        teacher: of students.
        student: architecture, of students and baselines.
        objectives: name of the set, of students and baselines.
        seed: None where nothing is drawn.
        zero_shot_accuracy: in percent; None where there is none.
        vqa_accuracy: in percent.
        steps: of both trainings.
        seconds: of both trainings.
        run: hash in the name of the scored run's folder; empty where there is no run.
    """

    kind: str
    name: str
    teacher: str | None
    student: str | None
    objectives: str | None
    seed: int | None
    zero_shot_accuracy: float | None
    vqa_accuracy: float
    steps: int
    seconds: float
    run: str


@dataclass(frozen=True)
class Cell:
    """One teacher, or one student over its seeds.

    Attributes:
        kind: teacher, baseline or student.
        name: for people.
        teacher: of students.
        student: architecture, of students and baselines.
        objectives: name of the set, of students and baselines.
        zero_shot: mean accuracy over the seeds, in percent.
        vqa: accuracy in percent, mean over the seeds.
        gain: of students, over the baseline of the same architecture, in points.
        verdict: better, worse or not resolvable; empty where there is no gain.
    """

    kind: str
    name: str
    teacher: str | None
    student: str | None
    objectives: str | None
    zero_shot: float | None
    vqa: Interval
    gain: Interval | None = None
    verdict: str = ""


@dataclass(frozen=True)
class RankAnswer:
    """Does a stronger teacher make a better student, under one set of objectives?

    Attributes:
        student: architecture.
        objectives: name of the set.
        rho: Spearman's, teachers' against students' VQA accuracy.
        p_value: exact, over all orders of the teachers; two-sided.
        verdict: "a stronger teacher makes a better student", "a stronger teacher makes
            a worse student" or "not resolvable".
        reason: why, in one sentence.
        strongest: the best teacher's name.
        weakest: the worst teacher's name.
        gap: VQA points of the strongest's student over the weakest's.
        gap_verdict: better, worse or not resolvable, of these two alone.
    """

    student: str
    objectives: str
    rho: Interval
    p_value: float
    verdict: str
    reason: str
    strongest: str
    weakest: str
    gap: Interval
    gap_verdict: str


@dataclass(frozen=True)
class Example:
    """A test image, a question about it, and what models said.

    Attributes:
        image: uint8 RGB.
        question: as asked.
        truth: the annotators' most frequent answer.
        said: (model's name, its answer, its VQA accuracy in [0, 1]).
    """

    image: UInt8[np.ndarray, "H W 3"]
    question: str
    truth: str
    said: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class StudyResult:
    """Everything that a report shows.

    Attributes:
        title: the question that the study asks.
        dataset: name of the data set.
        split: that was scored.
        images: of the split.
        questions: of the split.
        rows: all runs and controls.
        teachers: weakest first, by VQA accuracy.
        baselines: one for each architecture.
        students: as planned.
        ranks: one for each architecture and set of objectives; none with one teacher.
        examples: of the split.
        curves: by run label, (steps, losses) of its training from captions.
        objectives: by name, the objectives with their weights as one line.
        draws: of the bootstrap.
        seeds: of every cell.
        command: that makes it again.
        config_text: resolved, as JSON.
        environment: what the numbers depend on besides the config.
        seconds: of all its runs together.
        run: hash of the study's config.
    """

    title: str
    dataset: str
    split: str
    images: int
    questions: int
    rows: tuple[RunRow, ...]
    teachers: tuple[Cell, ...]
    baselines: tuple[Cell, ...]
    students: tuple[Cell, ...]
    ranks: tuple[RankAnswer, ...]
    examples: tuple[Example, ...]
    draws: int
    seeds: tuple[int, ...]
    command: str
    config_text: str
    environment: Mapping[str, str]
    seconds: float
    run: str
    objectives: Mapping[str, str] = field(default_factory=dict)
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @property
    def controls(self) -> tuple[RunRow, ...]:
        """The rows of what sees no image."""
        return tuple(row for row in self.rows if row.kind == "control")
