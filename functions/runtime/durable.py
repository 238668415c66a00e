"""Durable calls, as functions need them: what `spawn` hands its caller, and what records a call.

Decides nothing: `functions/calls/` does, which stands upon this folder. So these are shapes, and
the one place that says by which name its door is found.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Final, Protocol, TypeVar, cast

from bokilog.client.admin import ClientLog
from bokilog.client.session import Session
from bokilog.record import Buffer

R_co = TypeVar("R_co", covariant=True)

_SPAWNING: Final = "bokilog.functions.calls.spawning"


class CallStatus(Protocol):
    """How a durable call stands; `functions/calls/call.py` has more of it."""

    @property
    def state(self) -> str:
        """waiting, running, finished, failed or cancelled."""
        ...

    @property
    def attempt(self) -> int:
        """How often it was started again."""
        ...


class SpawnedCall(Protocol[R_co]):
    """A durable call, as `spawn` gives it: a `bokilog.Call` whose result has a type."""

    @property
    def id(self) -> str:
        """What people and records call it by."""
        ...

    async def result(self, timeout_s: float | None = None) -> R_co:
        """Wait for it."""
        ...

    async def cancel(self, reason: str = "") -> bool:
        """It is not wanted any more; False: it was over already."""
        ...

    async def status(self) -> CallStatus:
        """How it stands now."""
        ...


class Spawn(Protocol):
    """How a durable call is recorded; `functions/calls/spawning.py` has it."""

    async def __call__(
        self,
        log: ClientLog,
        app: str,
        function: str,
        *,
        encoding: int,
        payload: bytes,
        key: str | None,
        timeout_s: float,
        retries: int,
        retry_delay_s: float,
        session: Session,
        decode: Callable[[int, Buffer], object],
        trace: str,
        stream: bool,
        depth: int,
    ) -> object:
        """Append it and return its handle."""
        ...


@cache
def recorder() -> Spawn:
    """What records durable calls; found once: to look a module up takes as long as to encode a
    call."""
    return cast("Spawn", import_module(_SPAWNING).spawn)
