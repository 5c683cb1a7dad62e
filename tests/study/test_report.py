"""What people see of a study."""

import csv
import dataclasses
import html
import io
import re

import pytest
from etils import epath
from PIL import Image
from rich.console import Console
from study.sample import sample, unknown

from kdjax.study.report import render_report, save_figures, write_csv, write_report
from kdjax.study.summary import signed, signed_interval, summary_table, with_interval

COLUMNS = (
    "kind,name,teacher,student,objectives,seed,zero_shot_accuracy,vqa_accuracy,"
    "steps,seconds,run"
)


def test_csv_has_a_line_for_each_run(tmp_path):
    result = sample()
    write_csv(result.rows, epath.Path(tmp_path / "results.csv"))
    text = (tmp_path / "results.csv").read_text()
    assert text.splitlines()[0] == COLUMNS
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(result.rows)
    assert rows[0]["teacher"] == ""
    assert [float(r["vqa_accuracy"]) for r in rows] == [
        r.vqa_accuracy for r in result.rows
    ]


def test_numbers_are_written_as_people_read_them():
    teacher = sample().teachers[0]
    assert with_interval(teacher.vqa) == "80.0 (79.0 to 81.0)"
    assert with_interval(unknown(teacher.vqa)) == "80.0"
    assert with_interval(None) == "n/a"
    assert signed(-1.25) == "−1.2"
    assert signed(0.04) == "0.0"
    assert signed(float("nan")) == "n/a"
    gain = sample().students[0].gain
    assert signed_interval(gain) == "−1.5 (−2.5 to −0.5)"


def test_the_page_answers_first():
    page = render_report(sample())
    text = re.sub(r"<[^>]+>", " ", page[page.index("<main>") :])
    for said in (
        "Not resolvable.",
        "with 2 teachers even a perfect order has p = 1.00",
        "+4.0 (+2.0 to +6.0)",
        "▼ worse",
        "question only",
        "✗ triangle",
    ):
        assert said in text
    assert "nan" not in text.lower().replace("resonance", "")
    assert "None" not in text


def test_the_page_stands_alone():
    page = render_report(sample())
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert page.count("<svg") == 4


def test_names_are_text_and_never_markup():
    page = render_report(sample(title="<i>&"))
    assert "<i>" not in page
    assert "&lt;i&gt;&amp;" in page
    assert "what shape is &lt;b&gt;?" in page


def test_the_same_result_gives_the_same_page():
    assert render_report(sample()) == render_report(sample())


def test_studies_of_every_size_have_a_page():
    result = sample()
    one = dataclasses.replace(
        result,
        teachers=result.teachers[:1],
        students=(),
        ranks=(),
        examples=(),
        curves={},
    )
    assert "a ranking needs at least two" in render_report(one)
    blind = tuple(dataclasses.replace(t, zero_shot=None) for t in result.teachers)
    assert "n/a" in render_report(dataclasses.replace(result, teachers=blind))
    bare = tuple(
        dataclasses.replace(s, vqa=unknown(s.vqa), gain=s.gain and unknown(s.gain))
        for s in result.students
    )
    assert "<svg" in render_report(dataclasses.replace(result, students=bare))


def test_page_and_picture_are_files(tmp_path):
    result = sample()
    write_report(result, epath.Path(tmp_path / "report.html"))
    assert (tmp_path / "report.html").read_text() == render_report(result)
    save_figures(result, epath.Path(tmp_path))
    with Image.open(tmp_path / "scatter.png") as picture:
        assert picture.width == 1600
    assert not list(tmp_path.glob("*.partial"))


def test_the_terminal_gets_a_table():
    console = Console(width=120, file=io.StringIO())
    console.print(summary_table(sample()))
    text = console.file.getvalue()
    assert "97.0 (96.0 to 98.0)" in text
    assert "+2.5 (+1.5 to +3.5) better" in text
    assert "tiny by fd: not resolvable" in text


@pytest.mark.parametrize(
    "name", [r"$\frac$", "$x_1$", "[red]r [/]", "<b>", "教师", "very long " * 8]
)
def test_a_name_is_what_it_says_and_nothing_else(name, tmp_path):
    """No mathematics, no markup, no tags: it is shown as it was given."""
    plain = sample()
    teachers = tuple(dataclasses.replace(t, name=name) for t in plain.teachers[:1])
    students = tuple(
        dataclasses.replace(s, teacher=name, name=f"tiny from {name}", objectives=name)
        for s in plain.students
        if s.teacher == plain.teachers[0].name
    )
    result = dataclasses.replace(
        plain, title=name, teachers=teachers, students=students, ranks=()
    )
    save_figures(result, epath.Path(tmp_path))
    assert html.escape(name.strip(), quote=False) in render_report(result)
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(summary_table(result))
    assert f"teacher {name.strip()}" in console.export_text()
