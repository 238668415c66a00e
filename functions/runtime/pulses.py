"""Which workers of a host are asked whether their loops turn, and which have not answered.

A worker that runs many calls at once may stand still with all of them: one of them blocks its loop,
or the process is stopped. Decides who is asked (whoever runs calls and has answered the time
before), and when a silence has lasted too long; that is said once. Does not know what becomes of
such a worker, nor links.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

ASK_S: Final = 1.0
"""How often workers are asked."""


class Pulses:
    """What is known of the workers that run calls.

    Args:
        silent_s: after which a worker that was asked counts as silent.
    """

    __slots__ = ("_asked_s", "_silent_s")

    def __init__(self, silent_s: float) -> None:
        self._silent_s = silent_s
        self._asked_s: dict[int, float] = {}
        """Since when an answer is owed; infinite once that was said."""

    def look(self, workers: Sequence[int], now_s: float) -> tuple[list[int], list[int]]:
        """(whom to ask, who has become silent) of those that run calls now."""
        self._asked_s = {each: self._asked_s[each] for each in workers if each in self._asked_s}
        ask = [each for each in workers if each not in self._asked_s]
        silent = [each for each, at_s in self._asked_s.items() if now_s - at_s >= self._silent_s]
        self._asked_s |= dict.fromkeys(ask, now_s) | dict.fromkeys(silent, inf)
        return ask, silent

    def answered(self, worker: int) -> None:
        """Its loop turns."""
        self._asked_s.pop(worker, None)
