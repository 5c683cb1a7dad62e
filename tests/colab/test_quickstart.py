"""The first notebook runs, can be stopped, and lies in git as it was written."""

import ast
import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import kdjax

NOTEBOOK = Path(__file__).parents[2] / "colab/quickstart.ipynb"
FIGURES = ("look", "similarity", "curves", "ask", "own")
PROGRESS = re.compile(r"(pretrain|distil|vqa): step \d+ of \d+, loss [\d.]+, .*")


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A kernel in a folder of its own that has run all cells, with little training."""
    folder = tmp_path_factory.mktemp("notebook")
    client = NotebookClient(
        read(), timeout=300, resources={"metadata": {"path": str(folder)}}
    )
    with client.setup_kernel(env={**os.environ, "KDJAX_NOTEBOOK": "tiny"}):
        for index, cell in enumerate(client.nb.cells):
            client.execute_cell(cell, index)
        yield client, folder / "runs/first"


def code(notebook):
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def printed(cell, name):
    streams = [o for o in cell.outputs if o.output_type == "stream"]
    return "".join(stream.text for stream in streams if stream.name == name)


def execute(client, source):
    """Execute a cell that the notebook does not have."""
    client.nb.cells.append(nbformat.v4.new_code_cell(source))
    return client.execute_cell(client.nb.cells[-1], len(client.nb.cells) - 1)


def lines(run):
    """How many lines of metrics are written whole by now."""
    file = run / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def steps(run):
    rows = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["step"] for row in rows]


def test_it_trains_draws_and_answers(session):
    client, runs = session
    cells = code(client.nb)
    for name in FIGURES:
        (figure,) = (o for o in cells[name].outputs if "image/png" in o.get("data", {}))
        assert len(figure.data["image/png"]) > 200
    assert "Zero-shot accuracy" in printed(cells["pretrain"], "stdout")
    results = json.loads((runs / "answers/results.json").read_text())
    said = f"VQA accuracy {results['vqa_accuracy']:.1f} %"
    assert said in printed(cells["answer"], "stdout")
    answers = json.loads((runs / "answers/model/vqa.json").read_text())["answers"]
    asked = printed(cells["own"], "stdout").splitlines()
    assert len(asked) == 4
    assert all(line.rpartition("? ")[2] in answers for line in asked)


def test_it_says_how_far_it_is_and_nothing_else(session):
    client, _ = session
    said = [printed(cell, "stderr") for cell in code(client.nb).values()]
    assert all(PROGRESS.fullmatch(x) for x in "".join(said).splitlines())
    assert sum(x != "" for x in said) == 3


def test_what_has_ended_is_not_trained_again(session):
    client, runs = session
    made = (runs / "student/metrics.jsonl").stat().st_mtime_ns
    again = execute(client, code(client.nb)["distill"].source)
    assert printed(again, "stderr").count("is finished already") == 2
    assert (runs / "student/metrics.jsonl").stat().st_mtime_ns == made


def test_the_stop_button_saves_and_the_same_cell_goes_on(session):
    client, runs = session
    run = runs / "stopped"
    training = code(client.nb)["pretrain"].source.replace("/teacher", "/stopped")

    def stopped(after):
        """Return the steps of a long run that is stopped when it has made more."""

        def press():
            deadline = time.monotonic() + 240
            while lines(run) <= after and time.monotonic() < deadline:
                time.sleep(0.02)
            os.kill(client.km.provisioner.pid, signal.SIGINT)

        button = threading.Thread(target=press)
        button.start()
        with pytest.raises(CellExecutionError) as stop:
            execute(client, f"SHARE = 1000\n{training}")
        button.join()
        assert stop.value.ename == "Interrupted"
        assert "goes on" in stop.value.evalue
        saved = [int(x.name) for x in (run / "checkpoints").iterdir()]
        assert max(saved) >= steps(run)[-1]
        return steps(run)

    first = stopped(after=0)
    second = stopped(after=len(first))
    assert second[: len(first)] == first
    assert second == sorted(set(second))


def test_nothing_but_what_is_public_is_used():
    cells = code(read()).values()
    source = "\n".join(cell.source for cell in cells)
    python = (x for x in source.splitlines() if not x.lstrip().startswith("%"))
    used = set()
    for node in ast.walk(ast.parse("\n".join(python))):
        if isinstance(node, ast.Import):
            assert not any(x.name.startswith("kdjax.") for x in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.module.startswith("kdjax")
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "kdjax":
            used.add(node.attr)
    assert used <= set(kdjax.__all__)
    assert {"run", "load_clip", "load_processor", "load_vqa"} <= used


def test_it_lies_in_git_as_it_was_written():
    notebook = read()
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
