"""What a person sees while a run works."""

from __future__ import annotations

from typing import Any

import pytest

from stentor.train.display import Display

FACTS: dict[str, Any] = {"seconds": 0.5, "loss": 4.0, "examples": 8, "tokens": 400, "rate": 3e-5}


def test_piped_progress_is_plain_lines_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Display() as display:
        display.say("run runs/card [bold]on[/bold] this machine")  # no markup is read
        for step in range(1, 4):
            display.step("main", step, 3, FACTS)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "run runs/card [bold]on[/bold] this machine",
        "main 1/3 loss 4.0000 rate 3.00e-05 16.0 samples/s 800 tokens/s 1s left",
        "main 3/3 loss 4.0000 rate 3.00e-05 16.0 samples/s 800 tokens/s 0s left",
    ]


def test_a_dumb_terminal_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a notebook's cell is, which keeps what a live line redraws."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, whatever pytest makes of it
    for kind, live in (("xterm-256color", True), ("dumb", False)):
        monkeypatch.setenv("TERM", kind)
        with Display() as display:
            display.step("main", 1, 4, FACTS)
        assert ("━" in capsys.readouterr().err) is live


def test_a_quiet_display_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(quiet=True) as display:
        display.say("hello")
        display.step("main", 3, 3, FACTS)
    assert capsys.readouterr() == ("", "")


def test_the_time_left_is_in_hours_minutes_or_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for steps, left in ((2, "30s"), (5, "2m00s"), (1201, "10h00m")):
        with Display() as display:
            display.step("main", 1, steps, FACTS | {"seconds": 30.0})
        assert capsys.readouterr().err.rstrip().endswith(f" {left} left")


def test_a_new_phase_forgets_the_losses_of_the_one_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Display() as display:
        display.step("one", 1, 1, FACTS | {"loss": 9.0})
        display.new_phase()
        display.step("two", 1, 1, FACTS | {"loss": 1.0})
    assert "two 1/1 loss 1.0000" in capsys.readouterr().err
