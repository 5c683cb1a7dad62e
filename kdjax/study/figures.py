"""The figures of a study's page, as SVG that takes its colours from the page."""

import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdjax.study.result import Cell, Interval, StudyResult

# `to_svg` replaces them, so that one figure reads on light and on dark pages.
INK, LINE = "#1d2430", "#d9d6cd"
PAGE_COLORS = {INK: "currentColor", LINE: "var(--line)"}
# Okabe and Ito's colours: distinct also to those who see few; markers differ too.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = ("o", "s", "D", "^", "v", "P")
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "kdjax",
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,
    "legend.frameon": False,
}


def short(name: str | None, most: int = 28) -> str:
    """Return a name cut to what a figure has room for."""
    name = str(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


@contextmanager
def _drawing() -> Iterator[None]:
    """Set the style; a letter that the font lacks is a box and no warning."""
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def to_svg(draw: Callable[[StudyResult], Figure], result: StudyResult) -> str:
    """Return a figure as SVG for a page; the same result gives the same text."""
    buffer = io.StringIO()
    with _drawing():
        draw(result).savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None}
        )
    svg = buffer.getvalue()
    for stand_in, color in PAGE_COLORS.items():
        svg = svg.replace(stand_in, color)
    return svg[svg.index("<svg") :].replace("<svg ", '<svg aria-hidden="true" ', 1)


def to_png(draw: Callable[[StudyResult], Figure], result: StudyResult) -> bytes:
    """Return a figure as a PNG 1600 pixels wide on white."""
    buffer = io.BytesIO()
    with _drawing():
        figure = draw(result)
        figure.savefig(buffer, format="png", dpi=1600 / figure.get_figwidth())
    return buffer.getvalue()


def scatter(result: StudyResult) -> Figure:
    """Draw teachers' strength against their students' VQA accuracy."""
    shots = [teacher.zero_shot for teacher in result.teachers]
    panels = 2 if result.teachers and None not in shots else 1
    figure = Figure(figsize=(8.6, 4.1), layout="constrained")
    axes = figure.subplots(1, panels, sharey=True, width_ratios=[1.5, 1][:panels])
    left, *right = np.atleast_1d(axes)
    _against(left, result, lambda teacher: teacher.vqa, "teacher's VQA accuracy, %")
    left.set_ylabel("student's VQA accuracy, %")
    for ax in right:
        _against(ax, result, _zero_shot, "teacher's zero-shot accuracy, %")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4)
    return figure


def _zero_shot(teacher: Cell) -> Interval:
    shot = math.nan if teacher.zero_shot is None else teacher.zero_shot
    return Interval(shot, shot, shot)


def _against(
    ax: Axes,
    result: StudyResult,
    strength: Callable[[Cell], Interval],
    label: str,
) -> None:
    """Draw one panel: strength on x, students on y, baselines as bands."""
    x = {teacher.name: strength(teacher) for teacher in result.teachers}
    values = [interval.estimate for interval in x.values()]
    span = max(values, default=1.0) - min(values, default=0.0) or 1.0
    for cell in result.baselines:
        low, high = _bounds(cell.vqa)
        ax.axhspan(low, high, color=LINE, alpha=0.5, lw=0)
        alone = len(result.baselines) == 1
        name = "no teacher" if alone else f"{short(cell.student)} alone"
        ax.axhline(cell.vqa.estimate, color=INK, lw=1, ls=(0, (4, 3)), label=name)
    sets = _sets(result)
    for number, key in enumerate(sets):
        color, marker = COLORS[number % 6], MARKERS[number % 6]
        shift = span * 0.022 * (number - (len(sets) - 1) / 2)
        cells = [cell for cell in result.students if _key(cell) == key]
        cells.sort(key=lambda cell: x[cell.teacher or ""].estimate)
        at = [x[cell.teacher or ""].estimate + shift for cell in cells]
        for place, cell in zip(at, cells, strict=True):
            seeds = [
                row.vqa_accuracy
                for row in result.rows
                if row.kind == "student" and row.name == cell.name
            ]
            ax.scatter([place] * len(seeds), seeds, s=14, color=color, alpha=0.35, lw=0)
        ax.errorbar(
            at,
            [cell.vqa.estimate for cell in cells],
            yerr=_errors([cell.vqa for cell in cells]),
            xerr=_errors([x[cell.teacher or ""] for cell in cells]),
            color=color,
            marker=marker,
            ms=6,
            lw=1.2,
            elinewidth=1,
            label=_set_label(result, key),
        )
    for name, interval in x.items():
        ax.annotate(
            short(name, 16),
            (interval.estimate, 0.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            fontstyle="italic",
        )
    if x:
        lows, highs = zip(*map(_bounds, x.values()), strict=True)
        ax.set_xlim(min(lows) - 0.1 * span, max(highs) + 0.1 * span)
    ax.margins(y=0.14)
    ax.set_xlabel(label)


def forest(result: StudyResult) -> Figure:
    """Draw every student's gain over the baseline with its interval."""
    cells = [cell for cell in result.students if cell.gain is not None][::-1]
    sets = _sets(result)
    figure = Figure(figsize=(8.6, 0.7 + 0.32 * len(cells)), layout="constrained")
    ax = figure.subplots()
    ax.axvline(0, color=INK, lw=1)
    for row, cell in enumerate(cells):
        assert cell.gain is not None
        number = sets.index(_key(cell))
        ax.errorbar(
            [cell.gain.estimate],
            [row],
            xerr=_errors([cell.gain]),
            color=COLORS[number % 6],
            marker=MARKERS[number % 6],
            ms=6,
            elinewidth=1.6,
        )
    several = len({cell.student for cell in cells}) > 1
    ax.set_yticks(
        range(len(cells)),
        [
            f"{f'{short(cell.student, 16)} ' if several else ''}"
            f"{short(cell.objectives, 16)} from {short(cell.teacher, 16)}"
            for cell in cells
        ],
    )
    ax.set_ylim(-0.6, len(cells) - 0.4)
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("VQA points over the same student without a teacher")
    return figure


def contributions(result: StudyResult) -> Figure:
    """Draw what can be scored without seeing, beside the best that sees."""
    bars = [(row.name.replace("_", " "), row.vqa_accuracy) for row in result.controls]
    bars += [
        (f"{short(c.student)} without a teacher", c.vqa.estimate)
        for c in result.baselines
    ]
    if result.teachers:
        best = result.teachers[-1]
        bars.append((f"teacher {short(best.name)}", best.vqa.estimate))
    bars.sort(key=lambda bar: bar[1])
    figure = Figure(figsize=(8.6, 0.6 + 0.36 * len(bars)), layout="constrained")
    ax = figure.subplots()
    blind = {row.name.replace("_", " ") for row in result.controls}
    drawn = ax.barh(
        [name for name, _ in bars],
        [value for _, value in bars],
        color=[LINE if name in blind else COLORS[0] for name, _ in bars],
        height=0.62,
    )
    ax.bar_label(drawn, fmt="%.1f", padding=4)
    ax.set_xlim(0, 108)
    ax.grid(visible=False)
    ax.set_xlabel("VQA accuracy, %")
    return figure


def curves(result: StudyResult) -> Figure:
    """Draw the training losses: what learns alone, then each set of objectives."""
    alone = [cell.name for cell in (*result.teachers, *result.baselines)]
    panels = [("from captions alone", [n for n in alone if n in result.curves])]
    for key in _sets(result):
        names = [cell.name for cell in result.students if _key(cell) == key]
        panels.append(
            (_set_label(result, key), [n for n in names if n in result.curves])
        )
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(8.6, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    labels = {cell.name: f"from {cell.teacher}" for cell in result.students}
    for ax, (title, names) in zip(grid, panels, strict=False):
        for number, name in enumerate(names):
            steps, losses = result.curves[name]
            label = short(labels.get(name, name), 16)
            color, marker = COLORS[number % 6], "o" if len(steps) == 1 else None
            ax.plot(steps, losses, color=color, lw=1.4, marker=marker, label=label)
        ax.set_title(title)
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if names:
            ax.legend(fontsize=8)
    for ax in grid[len(panels) :]:
        ax.set_axis_off()
    grid[0].set_ylabel("loss")
    return figure


def _key(cell: Cell) -> tuple[str | None, str | None]:
    return cell.student, cell.objectives


def _sets(result: StudyResult) -> list[tuple[str | None, str | None]]:
    """Return (student, objectives) in the order in which they were planned."""
    return list(dict.fromkeys(_key(cell) for cell in result.students))


def _set_label(result: StudyResult, key: tuple[str | None, str | None]) -> str:
    several = len({cell.student for cell in result.students}) > 1
    objectives = f"by {short(key[1])}"
    return f"{short(key[0])} {objectives}" if several else objectives


def _bounds(interval: Interval) -> tuple[float, float]:
    known = not math.isnan(interval.low)
    return (interval.low, interval.high) if known else (interval.estimate,) * 2


def _errors(intervals: Sequence[Interval]) -> np.ndarray:
    """Return the distances from estimates to bounds, as matplotlib wants them."""
    bounds = [_bounds(i) for i in intervals]
    pairs = zip(intervals, bounds, strict=True)
    below_above = [(i.estimate - low, high - i.estimate) for i, (low, high) in pairs]
    # A percentile interval may leave its own estimate out by a hair.
    return np.maximum(np.array(below_above, float).T.reshape(2, -1), 0.0)
