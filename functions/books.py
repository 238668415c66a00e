"""The LogBooks that every app has.

Decides their names, their class, and for how long they keep records: `functions/APP` has its hosts
and durable calls, `functions/APP/data` what is too large for a message. A LogBook that somebody has
made with other properties stays as it is. Does not know what its records say.
"""

from __future__ import annotations

from typing import Final

from bokilog.client.admin import ClientLog
from bokilog.errors import LogBookConflict
from bokilog.record import Durability

APP_RETENTION_S: Final = 7 * 24 * 3_600.0
"""Keys of durable calls are known for so long."""
DATA_RETENTION_S: Final = 3_600.0
"""Payloads are read once, soon."""
_APPS: Final = "functions/"


def app_book(app: str) -> str:
    """The LogBook of an app's hosts and durable calls."""
    return f"{_APPS}{app}"


def data_book(app: str) -> str:
    """The LogBook that keeps an app's large payloads."""
    return f"{app_book(app)}/data"


def app_of(book: str) -> str | None:
    """The app whose hosts and durable calls a LogBook has; None: it is none of those.

    >>> app_of(app_book("shop")), app_of(data_book("shop")), app_of("shop")
    ('shop', None, None)
    """
    app = book.removeprefix(_APPS)
    return app if app != book and "/" not in app else None


async def ensure_app_book(log: ClientLog, app: str) -> None:
    """Have the LogBook of an app's hosts and durable calls; asks once per connection."""
    await _ensure(log, app_book(app), durability="sync", retention_s=APP_RETENTION_S)


async def ensure_data_book(log: ClientLog, app: str) -> None:
    """Have the LogBook of an app's large payloads; asks once per connection."""
    await _ensure(log, data_book(app), durability="memory", retention_s=DATA_RETENTION_S)


async def _ensure(log: ClientLog, name: str, *, durability: Durability, retention_s: float) -> None:
    if log.client.core.book(name).route is not None:
        return
    try:
        await log.create_book(name, durability=durability, retention_s=retention_s)
    except LogBookConflict:
        pass  # somebody made it with other properties, on purpose
