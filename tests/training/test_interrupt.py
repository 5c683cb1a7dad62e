"""The first signal asks, the second one stops, and handlers come back."""

import signal
import threading

import pytest
from training.little import assert_equal, fit

from kdjax.training.checkpoints import Checkpoints
from kdjax.training.interrupt import Interrupted, stop_flag

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def handlers():
    return [signal.getsignal(signum) for signum in SIGNALS]


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_first_signal_is_remembered_and_stops_nothing_before_the_end(signum):
    before, done = handlers(), []
    with pytest.raises(Interrupted) as stopped, stop_flag() as flag:
        assert flag.asked() is None
        signal.raise_signal(signum)
        done.append(flag.asked())
    assert done == [signum] == [stopped.value.signum]
    assert handlers() == before


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_ctrl_c_stops_at_once_with_nothing_saved(first):
    with pytest.raises(Interrupted) as stopped, stop_flag() as flag:
        signal.raise_signal(first)
        assert flag.asked() == first
        signal.raise_signal(signal.SIGINT)
        raise AssertionError
    assert (stopped.value.signum, stopped.value.saved) == (signal.SIGINT, False)


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_sigterm_does_not_keep_from_saving(first):
    done = []
    with pytest.raises(Interrupted) as stopped, stop_flag():
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGTERM)
        done.append("saved")
    assert done == ["saved"]
    assert (stopped.value.signum, stopped.value.saved) == (first, True)


def test_an_interruption_is_a_ctrl_c_to_whoever_does_not_know_it():
    assert issubclass(Interrupted, KeyboardInterrupt)


def test_handlers_come_back_however_it_ends():
    before = handlers()
    with stop_flag():
        assert all(now != old for now, old in zip(handlers(), before, strict=True))
    assert handlers() == before
    with pytest.raises(RuntimeError), stop_flag():
        raise RuntimeError
    assert handlers() == before


def test_every_run_begins_without_a_signal():
    with pytest.raises(Interrupted), stop_flag():
        signal.raise_signal(signal.SIGTERM)
    with stop_flag() as flag:
        assert flag.asked() is None


def test_an_error_goes_before_a_signal():
    with pytest.raises(RuntimeError), stop_flag():
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError


def test_a_signal_while_the_last_checkpoint_is_written_is_heard_after_it(
    tmp_path, monkeypatch
):
    """The same command then has nothing left to train."""
    close, told = Checkpoints.close, []

    def disturbed(self):
        signal.raise_signal(signal.SIGTERM)
        close(self)

    expected = fit(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "close", disturbed)
        with pytest.raises(Interrupted) as stopped:
            fit(tmp_path / "run")
    assert stopped.value.signum == signal.SIGTERM
    found = fit(tmp_path / "run", watch=[lambda step, numbers: told.append(step)])
    assert_equal(found, expected)
    assert told == []


def test_outside_of_the_main_thread_signals_are_left_alone():
    before, seen = handlers(), []

    def run():
        with stop_flag() as flag:
            seen.append((flag.signum, handlers()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(None, before)]
