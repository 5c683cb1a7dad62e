"""A trace of some steps."""

from dataclasses import replace

import pytest
from etils import epath
from training.little import LOOP, fit

from kdjax.errors import UserError
from kdjax.training.profile import Trace


def traces(workdir):
    return list(workdir.glob("profile/plugins/profile/*/*.xplane.pb"))


def test_a_trace_has_what_was_asked_for_and_changes_nothing(tmp_path):
    """Of steps that are over when the run goes on there is none."""
    loop = replace(LOOP, steps=4, profile=(2, 3))
    fit(tmp_path, loop)
    (trace,) = traces(tmp_path)
    assert b"jit_step" in trace.read_bytes()
    fit(tmp_path, replace(loop, steps=6))
    assert traces(tmp_path) == [trace]


def test_a_bucket_gets_no_trace():
    Trace(epath.Path("gs://bucket/run/profile"), ())
    with pytest.raises(UserError, match="gs://bucket/run/profile: give a --workdir"):
        Trace(epath.Path("gs://bucket/run/profile"), (1, 2))
