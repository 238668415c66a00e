"""Calls that this host may claim now, and whose turn it is.

Decides the order: a host's own calls before those that other hosts left lying, functions in turn,
and within a function first come, first served. So one function with ten thousand calls does not
keep another one's only call waiting. Pure; each operation costs the number of functions at most.
"""

from __future__ import annotations

from collections.abc import Callable


class Ready:
    """A queue per function, twice: own calls and others'."""

    __slots__ = ("_function_of", "_others", "_own")

    def __init__(self) -> None:
        self._own: dict[str, dict[str, None]] = {}
        self._others: dict[str, dict[str, None]] = {}
        self._function_of: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._function_of)

    def add(self, call_id: str, function: str, *, own: bool) -> None:
        """It may be claimed; it keeps its place if it is there already."""
        if call_id not in self._function_of:
            queues = self._own if own else self._others
            queues.setdefault(function, {})[call_id] = None
            self._function_of[call_id] = function

    def discard(self, call_id: str) -> None:
        """It may not, or not any more."""
        function = self._function_of.pop(call_id, None)
        if function is None:
            return
        for queues in (self._own, self._others):
            calls = queues.get(function)
            if calls is not None and call_id in calls:
                del calls[call_id]
                if not calls:
                    del queues[function]

    def pop(self, has_room: Callable[[str], bool]) -> str | None:
        """The next call of a function that has room; its function goes to the end of the line."""
        for queues in (self._own, self._others):
            for function, calls in queues.items():
                if has_room(function):
                    call_id = next(iter(calls))
                    self.discard(call_id)
                    if function in queues:
                        queues[function] = queues.pop(function)
                    return call_id
        return None

    def clear(self) -> None:
        """Forget all."""
        self._own.clear()
        self._others.clear()
        self._function_of.clear()
