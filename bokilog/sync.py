"""The log for code without an event loop: `bokilog.sync.connect()` and `bokilog.sync.open()`.

Decides nothing: these are the blocking faces of the asynchronous objects, by the same names. See
`bokilog/client/sync.py` for how they wait, and `bokilog/logbook.py` for what the calls promise.
"""

from bokilog.client.sync import Log, LogBook, Session, connect, open

__all__ = ["Log", "LogBook", "Session", "connect", "open"]
