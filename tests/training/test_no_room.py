"""On a full disk a run stops, says so, and goes on when there is room."""

import resource
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest
from etils import epath
from training.little import LOOP, assert_equal, fit

import kdjax
from kdjax.errors import NoRoom
from kdjax.files import room_explained
from kdjax.process import quiet_libraries
from kdjax.training.checkpoints import steps_of
from kdjax.training.events import Events

SAVES = replace(LOOP, checkpoint_every=2, log_every=100, keep=1)


@pytest.fixture(autouse=True, scope="module")
def quiet():
    """As commands are, about what Orbax leaves behind where it cannot write."""
    quiet_libraries()


@contextmanager
def files_of_at_most(size):
    """Let writes fail as on a full disk, for this process and larger files."""
    kind = resource.RLIMIT_FSIZE
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


# What libraries leave behind in their threads.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(
    ("log_every", "size"), [(100, 1000), (1, 300)], ids=["checkpoint", "metrics"]
)
def test_a_run_stops_on_a_full_disk_and_goes_on_from_its_last_checkpoint(
    log_every, size, tmp_path
):
    workdir, loop = epath.Path(tmp_path / "run"), replace(SAVES, log_every=log_every)
    fit(workdir, replace(loop, steps=4))
    with (
        pytest.raises(NoRoom, match=rf"no room on the disk of the workdir {workdir}"),
        room_explained(workdir),
        files_of_at_most(size),
    ):
        fit(workdir, loop)
    assert steps_of(workdir) == [4]
    fit(tmp_path / "whole", replace(loop, steps=4))
    assert_equal(fit(workdir, loop), fit(tmp_path / "whole", loop))


def test_no_room_for_tensorboards_events_is_raised_and_nothing_waits(tmp_path):
    """Of more numbers than any queue holds."""
    workdir = epath.Path(tmp_path)
    with (
        pytest.raises(NoRoom, match=rf"no room on the disk of the workdir {workdir}"),
        room_explained(workdir),
        files_of_at_most(1000),
        closing(Events(workdir, 0)) as events,
    ):
        for step in range(1, 1000):
            events.write(step, {"loss": 0.5})
        events.flush()


def test_an_export_stops_on_a_full_disk_too(tmp_path):
    given = {"checkpoint": "tests/golden/huggingface_clip/gelu_odd_sizes"}
    with pytest.raises(NoRoom, match="goes on from what is"), files_of_at_most(1000):
        kdjax.run("export", given, str(tmp_path / "export"), quiet=True)


def test_another_error_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), room_explained(epath.Path(tmp_path)):
        (tmp_path / "nothing").read_text()
