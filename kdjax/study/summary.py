"""A study's numbers as text: how they are written, and the table of the terminal."""

import math

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kdjax.study.result import Cell, Interval, StudyResult

UNKNOWN = "n/a"


def percent(value: float | None) -> str:
    """Return a number with one decimal, or what stands for none."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.1f}"


def with_interval(interval: Interval | None) -> str:
    """Return an estimate with its interval: 91.2 (90.1 to 92.3)."""
    if interval is None:
        return UNKNOWN
    if math.isnan(interval.low):
        return percent(interval.estimate)
    low, high = percent(interval.low), percent(interval.high)
    return f"{percent(interval.estimate)} ({low} to {high})"


def signed(value: float, digits: int = 1) -> str:
    """Return a number with its sign, a real minus."""
    if math.isnan(value):
        return UNKNOWN
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"


def signed_interval(interval: Interval | None, digits: int = 1) -> str:
    """Return a difference with its interval: +2.1 (−0.3 to +4.4)."""
    if interval is None:
        return UNKNOWN
    middle = signed(interval.estimate, digits)
    if math.isnan(interval.low) or math.isnan(interval.estimate):
        return middle
    low, high = signed(interval.low, digits), signed(interval.high, digits)
    return f"{middle} ({low} to {high})"


def summary_table(result: StudyResult) -> Group:
    """Return what a terminal shows when a study is done."""
    title = Text(result.title, style="bold")
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("zero-shot %", "VQA %", "gain over no teacher"):
        table.add_column(name, justify="right")
    for row in result.controls:
        table.add_row(row.name, "", percent(row.vqa_accuracy), "", style="dim")
    table.add_section()
    for cell in result.teachers:
        table.add_row(Text(f"teacher {cell.name}"), *_numbers(cell))
    table.add_section()
    for cell in (*result.baselines, *result.students):
        table.add_row(Text(cell.name), *_numbers(cell))
    lines = [
        Text(
            f"{rank.student} by {rank.objectives}: {rank.verdict} (rank correlation "
            f"{signed_interval(rank.rho, 2)}; {rank.reason})"
        )
        for rank in result.ranks
    ]
    return Group(table, *lines)


def _numbers(cell: Cell) -> tuple[str, str, str]:
    gain = f"{signed_interval(cell.gain)} {cell.verdict}" if cell.gain else ""
    return percent(cell.zero_shot), with_interval(cell.vqa), gain
