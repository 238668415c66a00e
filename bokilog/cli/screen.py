"""What `bokilog dev` and `bokilog serve` show of calls while they run.

Decides one line per call, its output beside it, and how much of that a person can read: beyond
`LINES_PER_S_MAX` lines in a second, calls that went well are only counted. What an app says is
shown without what steers a terminal. Does not know who runs them.
"""

from __future__ import annotations

import time
from typing import Final

from rich.console import Console
from rich.markup import escape as without_markup

from bokilog.call_errors import FunctionFailed
from bokilog.cli.output import printable_lines
from bokilog.errors import from_wire
from bokilog.functions.runtime.effects import (
    AppLoaded,
    AppNotLoaded,
    CallBegan,
    CallOver,
    WorkerEnded,
)

LINES_PER_S_MAX: Final = 50


class Screen:
    """Shows what a host does; a `Watcher`.

    Args:
        calls: whether calls and their output are shown, or only what becomes of the app.
    """

    def __init__(self, console: Console, *, calls: bool) -> None:
        self.has_loaded = False
        """Whether there has been a version of the app that serves."""
        self._console = console
        self._calls = calls
        self._functions: dict[str, str] = {}
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def loaded(self, loaded: AppLoaded) -> None:
        """The app serves, for the first time or anew."""
        self.has_loaded = True
        names = [str(row[0]) for row in loaded.functions if not str(row[0]).startswith("$")]
        parts = [(str(part), took) for part, took in loaded.parts if isinstance(took, int)]
        took_ms = sum(took for _, took in parts) / 1e3
        shown = ", ".join(f"{part} {took / 1e3:.0f} ms" for part, took in parts if took >= 1_000)
        again = "" if loaded.version == 1 else f", version {loaded.version}"
        self._say(f"[green]loaded[/] in {took_ms:.0f} ms{again} [dim]({escape(shown)})[/]")
        self._say(f"[dim]functions:[/] {escape(', '.join(names)) or 'none'}")

    def not_loaded(self, failed: AppNotLoaded) -> None:
        """It does not; the version before may go on."""
        kept = "the version before goes on" if failed.serving else "nothing is served"
        self._say(f"[red]cannot be loaded[/]: {kept}")
        self._say(escape(failed.trace.rstrip()))

    def began(self, began: CallBegan) -> None:
        """A worker has it; its output is to come."""
        if self._calls:
            self._functions[began.call_id] = began.function

    def over(self, over: CallOver) -> None:
        """It was answered."""
        self._functions.pop(over.call_id, None)
        if not self._calls:
            return
        cold = " [dim]cold[/]" if over.cold else ""
        took = f"{over.took_s * 1e3:.1f} ms"
        line = f"{escape(over.function)} [dim]{over.call_id}[/] {took}{cold}"
        if not over.error:
            if self._has_room():
                self._say(f"[green]ok[/]     {line}")
            return
        error = from_wire(over.error)
        self._say(f"[red]failed[/] {line} {escape(f'{type(error).__name__}: {error}')}")
        if isinstance(error, FunctionFailed) and error.trace:
            self._say(f"[dim]{escape(error.trace.rstrip())}[/]")

    def wrote(self, call_id: str, stream: int, text: str) -> None:
        """A call printed something."""
        if not self._calls:
            return
        name = self._functions.get(call_id, "")
        colour = "yellow" if stream == 2 else "cyan"
        for line in text.rstrip("\n").split("\n"):
            if self._has_room():
                self._say(f"[{colour}]{escape(name)} {call_id}[/] [dim]|[/] {escape(line)}")

    def worker_ended(self, ended: WorkerEnded) -> None:
        """A worker is gone that nobody had told to end."""
        who = f"{ended.worker} of {escape(ended.function)}"
        self._say(f"[red]worker[/] {who}: {escape(ended.reason)}")

    def warned(self, problem: str) -> None:
        """Something may not be as it was meant."""
        self._say(f"[yellow]warning[/] {escape(problem)}")

    def said(self, news: str) -> None:
        """What was warned of is over."""
        self.say(news)

    def stopping(self, calls_count: int) -> None:
        """It was told to end; so many calls are not over, and get some seconds."""
        if not calls_count:
            self._say("stopping")
            return
        calls = "a call that is" if calls_count == 1 else f"{calls_count} calls that are"
        self._say(f"stopping: waiting some seconds for {calls} not over; Ctrl-C again ends at once")

    def say(self, line: str) -> None:
        """One line, without markup."""
        self._say(escape(line))

    def _has_room(self) -> bool:
        """Whether one more line can be read in this second."""
        second = int(time.monotonic())
        if second != self._second:
            if self._left_out:
                self._say(f"[dim]... and {self._left_out:,} more lines[/]")
            self._second, self._lines, self._left_out = second, 0, 0
        self._lines += 1
        if self._lines > LINES_PER_S_MAX:
            self._left_out += 1
            return False
        return True

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


def escape(text: str) -> str:
    """What an app said, without markup and without what steers a terminal."""
    return without_markup(printable_lines(text))
