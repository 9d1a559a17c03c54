"""What a person sees while a run works: a live line in a terminal, plain lines when piped."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

_PLAIN_EVERY = 15.0  # seconds between lines when nobody's terminal is there


class Display:
    """Shows the phase, step, loss, throughput and time left; writes to standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._live: Live | None = None
        self._last_line = 0.0
        self._smooth: dict[str, float] = {}

    def __enter__(self) -> Display:
        # a notebook's cell calls itself a terminal, and keeps every line that a live one redraws:
        # TERM=dumb says so
        live = self._console.is_terminal and not self._console.is_dumb_terminal
        if live and not self._quiet:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._console.print(text, markup=False, soft_wrap=True)

    def step(self, phase: str, step: int, steps: int, facts: dict[str, Any]) -> None:
        """Progress after step `step` of `steps`."""
        if self._quiet:
            return
        seconds = self._average("seconds", facts["seconds"])
        loss = self._average("loss", facts["loss"])
        left = _duration((steps - step) * seconds)
        samples, tokens = facts["examples"] / seconds, facts["tokens"] / seconds
        if self._live is not None:
            table = Table.grid(padding=(0, 2))
            done = int(24 * step / steps)
            bar = "━" * done + "╺" * (24 - done)
            table.add_row(
                f"[bold]{phase}[/bold]", f"[green]{bar}[/green]", f"{step}/{steps}",
                f"loss {loss:.3f}", f"{samples:.1f} samples/s", f"{tokens:,.0f} tokens/s",
                f"{left} left",
            )  # fmt: skip
            self._live.update(table)
        elif time.monotonic() - self._last_line >= _PLAIN_EVERY or step == steps:
            self._last_line = time.monotonic()
            self.say(
                f"{phase} {step}/{steps} loss {loss:.4f} rate {facts['rate']:.2e} "
                f"{samples:.1f} samples/s {tokens:,.0f} tokens/s {left} left"
            )

    def _average(self, name: str, value: float) -> float:
        before = self._smooth.get(name, value)
        self._smooth[name] = 0.9 * before + 0.1 * value
        return self._smooth[name]

    def new_phase(self) -> None:
        """Forget the averages of the phase before."""
        self._smooth.clear()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def piped() -> bool:
    """Whether standard error goes to a file or program instead of a terminal."""
    return not sys.stderr.isatty()
