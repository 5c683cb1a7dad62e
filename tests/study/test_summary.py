"""How numbers are written, and what the terminal shows of a study."""

import io
import math

import pytest
from rich.console import Console
from study.sample import sample, unknown

from kdjax.study.result import Interval
from kdjax.study.summary import (
    percent,
    signed,
    signed_interval,
    summary_table,
    with_interval,
)

WIDE = Interval(91.24, 90.06, 92.3)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"),
        (math.nan, "n/a"),
        (0.0, "0.0"),
        (97.25001, "97.3"),
        (100.0, "100.0"),
    ],
)
def test_a_percentage_has_one_decimal(value, text):
    assert percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.14, "+2.1"), (-2.14, "−2.1"), (0.04, "0.0"), (-0.04, "0.0"), (math.nan, "n/a")],
)
def test_a_difference_has_a_sign_unless_it_is_zero(value, text):
    assert signed(value) == text


def test_more_digits_may_be_asked_for():
    assert signed(-0.876, 2) == "−0.88"
    assert signed(0.004, 2) == "0.00"


def test_an_interval_stands_behind_its_estimate_where_it_is_known():
    assert with_interval(WIDE) == "91.2 (90.1 to 92.3)"
    assert with_interval(unknown(WIDE)) == "91.2"
    assert signed_interval(Interval(2.1, -0.3, 4.4)) == "+2.1 (−0.3 to +4.4)"
    assert signed_interval(unknown(WIDE)) == "+91.2"
    assert with_interval(None) == signed_interval(None) == "n/a"


@pytest.fixture(scope="module")
def lines():
    console = Console(file=io.StringIO(), width=200)
    console.print(summary_table(sample()))
    return console.file.getvalue().splitlines()


def test_the_table_has_a_line_for_every_control_and_cell(lines):
    study = sample()
    rows = [line.strip("│ ") for line in lines]
    names = [row.name for row in study.controls]
    names += [f"teacher {cell.name}" for cell in study.teachers]
    names += [cell.name for cell in (*study.baselines, *study.students)]
    places = [
        next(i for i, line in enumerate(rows) if line.startswith(f"{name} "))
        for name in names
    ]
    assert places == sorted(places)
    assert len(set(places)) == len(names)


def test_a_line_has_the_numbers_of_its_cell(lines):
    (line,) = [line for line in lines if "tiny from strong by clip_kd" in line]
    for number in ("61.0", "87.5 (86.5 to 88.5)", "+2.5 (+1.5 to +3.5) better"):
        assert number in line


def test_the_answer_stands_below(lines):
    text = "tiny by fd: not resolvable (rank correlation +1.00 (−1.00 to +1.00); with 2"
    assert any(line.startswith(text) for line in lines)
