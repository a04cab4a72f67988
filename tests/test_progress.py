"""Progress of a run, on terminals and in logs."""

import os
import pty
import re
import sys
import termios

import pytest

from train.progress import ProgressLines, progress


def test_a_log_gets_a_plain_line_only_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines(total=80, initial=0, unit="img", interval=3600.0)
    for _ in range(10):
        lines.set_postfix_str("l1 0.5")
        lines.update(8)
    assert capsys.readouterr().err == "", "the interval has not passed"
    lines.close()
    assert re.fullmatch(r"100 % 80/80 \[00:00<00:00, .*img/s, l1 0\.5\]\n", capsys.readouterr().err)


def test_lines_say_what_is_done_and_left(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ProgressLines(total=100, initial=40, unit="img", interval=0.0)
    lines.update(10)
    lines.update(50)
    lines.close()
    printed = capsys.readouterr().err
    assert "\r" not in printed
    first, last = printed.splitlines()
    assert first.startswith(" 50 % 50/100 [")
    assert last.startswith("100 % 100/100 ["), "and told once, though it was closed then"


def test_text_goes_between_the_lines_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    lines = progress(10, 0)
    lines.update(5)
    lines.write("step 5: psnr 20")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("step 5: psnr 20\n", "")
    lines.close()
    assert capsys.readouterr().err.startswith(" 50 % 5/10 [")


def test_a_process_that_is_not_to_show_anything_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    hidden = progress(10, 0, shown=False)
    hidden.update(10)
    hidden.close()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        bar = progress(10, 0)
        bar.update(10)
        bar.close()
    drawn = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "\r" in drawn
    assert "10/10" in drawn
