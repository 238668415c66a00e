"""What `open()` and `connect()` return, and who opens logs of this process.

Decides nothing but where a scheme's opener is found. Apart from `connect.py` because a log in this
process is opened without sockets: importing them would be a tenth of its first `open()`.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Final

from bokilog.client.admin import ClientLog

Opener = Callable[[str | None, float], Awaitable[ClientLog]]
"""(directory, or None for memory; default timeout in s) -> an open log."""

_OPENERS: Final[dict[str, Opener]] = {}
_OPENERS_HOME: Final = "bokilog.shapes.embedded"


def register_opener(scheme: str, opener: Opener) -> None:
    """Have URLs of `scheme` ("file", "memory") opened by `opener`; a shape calls it on import."""
    _OPENERS[scheme] = opener


class Opening:
    """A log about to be open: await it, or enter it as an async context manager."""

    __slots__ = ("_log", "_open")

    def __init__(self, open_log: Callable[[], Awaitable[ClientLog]]) -> None:
        self._open = open_log
        self._log: ClientLog | None = None

    if not TYPE_CHECKING:  # type checkers find by themselves what it has not

        def __getattr__(self, name: str) -> object:
            problem = f"a log that is not open has no {name!r}: `async with` or `await` opens it"
            raise AttributeError(problem, name=name, obj=self)

    def __await__(self) -> Generator[object, None, ClientLog]:
        return self._open().__await__()

    async def __aenter__(self) -> ClientLog:
        self._log = await self._open()
        return self._log

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._log is not None:
            await self._log.aclose()


def opener_of(scheme: str) -> Opener | None:
    """Who opens URLs of `scheme`; whoever that is may have to be imported for it."""
    if scheme not in _OPENERS:
        importlib.import_module(_OPENERS_HOME)
    return _OPENERS.get(scheme)
