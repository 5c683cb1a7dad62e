"""The first signal asks, the second one stops, and handlers come back."""

import signal
import threading

import pytest

from kdjax.training.interrupt import Interrupted, stop_flag

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def handlers():
    return [signal.getsignal(signum) for signum in SIGNALS]


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_first_signal_is_remembered_and_stops_nothing(signum):
    with stop_flag() as flag:
        assert flag.stops_at(1) is None
        signal.raise_signal(signum)
        assert flag.stops_at(2) == signum


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
def test_the_second_signal_stops_at_once(first, second):
    with pytest.raises(Interrupted) as stopped, stop_flag() as flag:
        signal.raise_signal(first)
        signal.raise_signal(second)
    assert stopped.value.signum == second
    assert flag.signum == first


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
    with stop_flag():
        signal.raise_signal(signal.SIGTERM)
    with stop_flag() as flag:
        assert flag.stops_at(1) is None


def test_outside_of_the_main_thread_signals_are_left_alone():
    before, seen = handlers(), []

    def run():
        with stop_flag() as flag:
            seen.append((flag.signum, handlers()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(None, before)]
