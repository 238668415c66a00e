"""How a running job looks: a bar per stage on a terminal, a line per finished stage elsewhere.

Decides nothing; shows what the fold says, as often as it is told to.
"""

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from scripts.flights.job import JobState, StageStats


class Display(Protocol):
    """A context manager that shows a job while it runs."""

    def show(self, state: JobState) -> None:
        """The job as it stands now."""
        ...

    def say(self, line: str) -> None:
        """One thing that happened."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def display(console: Console) -> Display:
    """What suits the console."""
    return Bars(console) if console.is_terminal else Lines(console)


def volume(stats: StageStats) -> str:
    """Rows and bytes for people."""
    return f"{stats.rows:,} rows, {decimal(stats.size_bytes)}"


class Bars:
    """A bar per stage, all visible from the start."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("tasks  {task.fields[volume]}"),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}

    def show(self, state: JobState) -> None:
        """Move the bars."""
        for stats in state.stats():
            if stats.stage not in self._bars:
                self._bars[stats.stage] = self._progress.add_task(
                    stats.stage, total=stats.tasks, volume=""
                )
            self._progress.update(
                self._bars[stats.stage],
                completed=stats.records,
                volume=volume(stats) if stats.records else "",
            )

    def say(self, line: str) -> None:
        """Above the bars."""
        self._progress.console.print(line, highlight=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()


class Lines:
    """A line when a stage is complete, for files and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[str] = set()

    def show(self, state: JobState) -> None:
        """Tell of the stages that are complete now."""
        for stats in state.stats():
            if stats.records == stats.tasks and stats.stage not in self._told:
                self._told.add(stats.stage)
                self.say(f"{stats.stage}: {stats.tasks}/{stats.tasks} tasks, {volume(stats)}")

    def say(self, line: str) -> None:
        """One line."""
        self._console.print(line, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass
