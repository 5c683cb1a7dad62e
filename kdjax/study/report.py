"""A study's page, its table of runs, and the picture for a README."""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields

import jinja2
import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from kdjax.files import write_whole
from kdjax.study import figures
from kdjax.study.result import RunRow, StudyResult
from kdjax.study.summary import percent, signed, signed_interval, with_interval

SCATTER = "scatter.png"


def write_csv(rows: Sequence[RunRow], path: epath.Path) -> None:
    """Write a line for each run; percentages in full precision, empty where none."""
    buffer = io.StringIO()
    names = [field.name for field in fields(RunRow)]
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_whole(path, buffer.getvalue().encode())


def save_figures(result: StudyResult, directory: epath.Path) -> None:
    """Write scatter.png, for a README."""
    write_whole(directory / SCATTER, figures.to_png(figures.scatter, result))


def write_report(result: StudyResult, path: epath.Path) -> None:
    """Write the page."""
    write_whole(path, render_report(result).encode())


def render_report(result: StudyResult) -> str:
    """Return one self-contained HTML page: no script, nothing loaded."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kdjax.study", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": percent,
        "interval": with_interval,
        "signed": signed,
        "signed_interval": signed_interval,
        "png": _data_url,
    }
    drawn = {"scatter": figures.scatter, "contributions": figures.contributions}
    if any(cell.gain for cell in result.students):
        drawn["forest"] = figures.forest
    if result.curves:
        drawn["curves"] = figures.curves
    svgs = {name: figures.to_svg(draw, result) for name, draw in drawn.items()}
    return environment.get_template("report.html.j2").render(r=result, figures=svgs)


def _data_url(image: UInt8[np.ndarray, "H W 3"]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
