"""What recent calls wrote to stdout and stderr, and how they ended.

Decides how much of it is kept: the last `bytes_max` of each of the last `calls_max` calls. Does not
know links, nor who asks.
"""

from __future__ import annotations

from collections import OrderedDict, deque


class _Call:
    __slots__ = ("bytes", "dropped", "function", "outcome", "pieces")

    def __init__(self) -> None:
        self.function = ""
        self.outcome = "running"
        self.pieces: deque[tuple[int, str]] = deque()
        self.bytes = 0
        self.dropped = False


class CallOutputs:
    """Bounded memory of what calls wrote."""

    __slots__ = ("_bytes_max", "_calls", "_calls_max")

    def __init__(self, *, calls_max: int, bytes_max: int) -> None:
        self._calls_max = calls_max
        self._bytes_max = bytes_max
        self._calls: OrderedDict[str, _Call] = OrderedDict()

    def began(self, call_id: str, function: str) -> None:
        """A call runs now."""
        self._call(call_id).function = function

    def over(self, call_id: str, function: str, outcome: str) -> None:
        """A call ended, so or so."""
        call = self._call(call_id)
        call.function, call.outcome = function, outcome

    def wrote(self, call_id: str, stream: int, text: str) -> None:
        """A call wrote something; beyond the bound, what it wrote first is let go."""
        call = self._call(call_id)
        call.pieces.append((stream, text))
        call.bytes += len(text)
        while call.bytes > self._bytes_max and len(call.pieces) > 1:
            call.bytes -= len(call.pieces.popleft()[1])
            call.dropped = True
        if call.bytes > self._bytes_max:
            stream, text = call.pieces[0]
            call.pieces[0] = (stream, text[-self._bytes_max :])
            call.bytes, call.dropped = self._bytes_max, True

    def of(self, call_id: str) -> list[object]:
        """[stream, text] in order; empty if the call is not remembered."""
        call = self._calls.get(call_id)
        if call is None:
            return []
        head: list[object] = (
            [[2, "(what it wrote before this was let go)\n"]] if call.dropped else []
        )
        return [*head, *([stream, text] for stream, text in call.pieces)]

    def recent(self) -> list[object]:
        """[id, function, outcome] of the calls remembered, the newest last."""
        return [[call_id, call.function, call.outcome] for call_id, call in self._calls.items()]

    def _call(self, call_id: str) -> _Call:
        call = self._calls.get(call_id)
        if call is None:
            call = self._calls[call_id] = _Call()
            if len(self._calls) > self._calls_max:
                self._calls.popitem(last=False)
        return call
