"""An invented study, for tests of what is made of one."""

import dataclasses
import math

import numpy as np

from kdjax.study.result import (
    Cell,
    Example,
    Interval,
    RankAnswer,
    RunRow,
    StudyResult,
)


def row(kind, name, vqa, **given):
    values = {
        "teacher": None,
        "student": None,
        "objectives": None,
        "seed": 0,
        "zero_shot_accuracy": 50.0,
        "steps": 10,
        "seconds": 1.5,
        "run": "abc",
    }
    return RunRow(kind=kind, name=name, vqa_accuracy=vqa, **{**values, **given})


def student_cell(teacher, objectives, vqa, gain):
    return Cell(
        "student",
        f"tiny from {teacher} by {objectives}",
        teacher,
        "tiny",
        objectives,
        61.0,
        Interval(vqa, vqa - 1, vqa + 1),
        Interval(gain, gain - 1, gain + 1),
        "better" if gain > 1 else "worse" if gain < -1 else "not resolvable",
    )


def sample(**changes):
    """Return a study of two teachers and two sets of objectives."""
    teachers = tuple(
        Cell("teacher", name, None, None, None, shot, Interval(vqa, vqa - 1, vqa + 1))
        for name, shot, vqa in (("weak", 40.0, 80.0), ("strong", 90.0, 97.0))
    )
    students = tuple(
        student_cell(teacher.name, objectives, 85 + gain, gain)
        for objectives in ("fd", "clip_kd")
        for teacher, gain in zip(teachers, (-1.5, 2.5), strict=True)
    )
    rows = [row("teacher", t.name, t.vqa.estimate) for t in teachers]
    rows.append(row("baseline", "tiny alone", 85.0, student="tiny", objectives="clip"))
    rows += [
        row(
            "student",
            s.name,
            s.vqa.estimate,
            teacher=s.teacher,
            student="tiny",
            objectives=s.objectives,
        )
        for s in students
    ]
    blind = {"seed": None, "zero_shot_accuracy": None, "run": ""}
    controls = {"majority": 37.3, "question_only": 67.0, "blanked": 66.5}
    rows += [row("control", name, vqa, **blind) for name, vqa in controls.items()]
    alone = Cell(
        "baseline", "tiny alone", None, "tiny", "clip", 55.0, Interval(85.0, 84.0, 86.0)
    )
    rank = RankAnswer(
        student="tiny",
        objectives="fd",
        rho=Interval(1.0, -1.0, 1.0),
        p_value=1.0,
        verdict="not resolvable",
        reason="with 2 teachers even a perfect order has p = 1.00",
        strongest="strong",
        weakest="weak",
        gap=Interval(4.0, 2.0, 6.0),
        gap_verdict="better",
    )
    example = Example(
        np.zeros((8, 8, 3), np.uint8),
        "what shape is <b>?",
        "circle",
        (("strong", "circle", 1.0), ("tiny alone", "triangle", 0.0)),
    )
    result = StudyResult(
        title="Does it?",
        dataset="easy_vqa",
        split="test",
        images=1000,
        questions=9673,
        rows=tuple(rows),
        teachers=teachers,
        baselines=(alone,),
        students=students,
        ranks=(rank,),
        examples=(example,),
        draws=200,
        seeds=(0,),
        command="kdjax study --config=a.py --workdir=b",
        config_text='{"seeds": [0]}',
        environment={"python": "3.11"},
        seconds=12.0,
        run="0123456789ab",
        objectives={"fd": "3.9 fd"},
        curves={"weak": (np.array([1, 2]), np.array([2.0, 1.0]))},
    )
    return dataclasses.replace(result, **changes)


def unknown(interval):
    """Return the estimate without what is known of its error."""
    return Interval(interval.estimate, math.nan, math.nan)
