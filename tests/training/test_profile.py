"""A trace of some steps."""

from dataclasses import replace

from training.little import LOOP, fit


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
