"""What a person sees of a run: lines in a file, a bar on a terminal."""

import io
import sys

from kdjax.commands.reporter import Reporter, clock


def numbers(loss):
    return {"loss": loss, "speed/samples_per_second": 1234.5}


def run(reporter, steps=4):
    with reporter.steps("distil", steps) as watch:
        watch(1, {})
        watch(2, numbers(2.0))
        reporter.say("half-way [of it]")
        watch(3, {})
        watch(4, numbers(1.0))


def test_lines_are_plain_and_have_the_time_left(capsys):
    run(Reporter(every=0.0, prefix="[1 of 2] weak: "))
    assert capsys.readouterr().err.splitlines() == [
        "[1 of 2] weak: distil: step 2 of 4, loss 2, 1234 samples/s, 0 s left",
        "[1 of 2] weak: half-way [of it]",
        "[1 of 2] weak: distil: step 4 of 4, loss 1, 1234 samples/s",
    ]


def test_lines_come_seldom_but_the_last_one_always(capsys):
    with Reporter(every=1e9).steps("vqa", 5) as watch:
        for step in range(1, 6):
            watch(step, numbers(1.0))
    assert [x[:16] for x in capsys.readouterr().err.splitlines()] == [
        "vqa: step 5 of 5"
    ]


def test_quiet_is_quiet(capsys):
    run(Reporter(quiet=True))
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    """What is written to it stays."""

    def isatty(self):
        return True


def test_a_terminal_has_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    run(Reporter(prefix="[1 of 2] weak: "))
    shown = screen.getvalue()
    for part in ("[1 of 2] weak: distil", "━", "4/4", "loss 1, 1234 samples/s"):
        assert part in shown
    assert "[1 of 2] weak: half-way [of it]\n" in shown


def test_a_bar_is_gone_after_a_failure(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    reporter = Reporter()
    try:
        with reporter.steps("distil", 4):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        reporter.say("stopped")
    assert sys.stderr.getvalue().endswith("stopped\n")


def test_durations_are_for_people():
    assert (clock(45.2), clock(200.0)) == ("45 s", "3 min 20 s")
