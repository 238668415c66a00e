"""Which errors are told in a line instead of with a traceback, in the demo and in its workers.

Decides that from their types alone: what somebody using the demonstration can meet is expected,
anything else is a bug and keeps its traceback.
"""

from collections.abc import Iterator
from typing import Final

from bokilog import BokilogError
from scripts.flights.exchange import OutputGone
from scripts.flights.fetch import FetchError
from scripts.flights.records import InvalidControl


class DemoError(Exception):
    """The demonstration cannot go on; the message says why."""


EXPECTED: Final = (BokilogError, DemoError, FetchError, InvalidControl, OSError, OutputGone)
CAUGHT: Final = (*EXPECTED, ExceptionGroup)


def explain(error: Exception) -> str:
    """One line per different error. Raises the error itself when any part of it is a bug."""
    parts = list(_leaves(error))
    if not all(isinstance(part, EXPECTED) for part in parts):
        raise error
    return "\n".join(dict.fromkeys(f"{part}" or type(part).__name__ for part in parts))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors themselves, out of the groups that task groups put them in."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
