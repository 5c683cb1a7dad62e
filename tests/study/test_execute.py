"""Which runs of a study are made, and which of those that are there are its own."""

import pytest
from etils import epath

from kdjax.commands.reporter import Reporter
from kdjax.commands.run import workdir_of
from kdjax.config import load_config
from kdjax.errors import UserError
from kdjax.study.execute import make_runs, run_study
from kdjax.study.grid import plan

QUIET = Reporter(quiet=True)


def finish(command, config, path, **results):
    """Leave what every finished run leaves beside its model."""
    workdir = workdir_of(command, config, path)
    results = {"run": workdir.run, "steps": config.steps, **results}
    with workdir.begun():
        workdir.write_json("results.json", results)


def test_a_run_made_from_another_than_is_there_now_is_no_run_of_the_study(tmp_path):
    whole = load_config("configs/pretrain/easy_vqa.py")
    finish("pretrain", whole, tmp_path / "whole")
    config = load_config("configs/study/smoke.py")
    config.distill.inherit, config.distill.inherit_from = "index", "../whole"
    entries, cells = plan(config), epath.Path(tmp_path / "cells")
    for entry in entries:
        for run in filter(None, (entry.clip, entry.vqa)):
            finish(run.command, run.config, cells / run.name)
    make_runs(entries, cells, QUIET)
    whole.seed = 7
    (tmp_path / "whole/results.json").unlink()
    (tmp_path / "whole/config.json").unlink()
    finish("pretrain", whole, tmp_path / "whole")
    said = r"cells/distill-\w+ holds .* \(made_from.inherit_from.run was '\w+' and is"
    with pytest.raises(UserError, match=said):
        run_study(config, tmp_path / "study", QUIET, "")
    assert not (tmp_path / "study").exists()
    with pytest.raises(UserError, match=said):
        make_runs(entries, cells, QUIET)
