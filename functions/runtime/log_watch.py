"""Whether the log of a host answers, as people are told of it.

Decides that a short silence is not worth a word (another seed answers, an engine is started again),
and that each longer one is told once when it lasts and once when it is over. Does not know
connections: it is told of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

QUIET_S: Final = 1.0
"""So long a log may be away without a word."""


class Later(Protocol):
    """What a loop gives for something that is to be called later."""

    def cancel(self) -> None:
        """It is not to be called any more."""
        ...


class LogWatch:
    """Of one host.

    Args:
        later: calls something after so many seconds.
        now_s: of the same clock.
        warn: told that the log is away.
        back: told that it answers again.
    """

    __slots__ = ("_away_s", "_back", "_later", "_now_s", "_timer", "_told", "_warn")

    def __init__(
        self,
        *,
        later: Callable[[float, Callable[[], None]], Later],
        now_s: Callable[[], float],
        warn: Callable[[str], None],
        back: Callable[[str], None],
    ) -> None:
        self._later = later
        self._now_s = now_s
        self._warn = warn
        self._back = back
        self._away_s = 0.0
        """When it went away."""
        self._timer: Later | None = None
        self._told = False

    def waits(self, url: str, most_s: float) -> None:
        """It is dialled for the first time."""
        self._expect(f"waiting up to {most_s:g} s for the log at {url}")

    def changed(self, reason: str) -> None:
        """Its engine is gone, and why; or, if `reason` is empty, one answers."""
        if reason:
            self._expect(f"the log does not answer: {reason}; what needs it waits")
            return
        told = self._told
        self.close()
        if told:
            self._back(f"the log answers after {self._now_s() - self._away_s:.0f} s")

    def close(self) -> None:
        """Nothing more is told."""
        self._told = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expect(self, problem: str) -> None:
        self.close()
        self._away_s = self._now_s()
        self._timer = self._later(QUIET_S, lambda: self._tell(problem))

    def _tell(self, problem: str) -> None:
        self._timer = None
        self._told = True
        self._warn(problem)
