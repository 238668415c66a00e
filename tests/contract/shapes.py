"""The implementations that have to keep the contract: one line each.

A shape opens a log on an empty directory and closes it; tests of one shape may share a store, since
each uses LogBooks of its own. A shape that cannot be opened fails its tests: none is skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TypeAlias

import bokilog
from bokilog.logbook import Log
from tests.contract.reference_log import AsyncReferenceLog

Open: TypeAlias = Callable[[Path], AbstractAsyncContextManager[Log]]

SHAPES: dict[str, Open] = {
    "reference": lambda directory: AsyncReferenceLog(),
    "lagging reference": lambda directory: AsyncReferenceLog(lagging=True),
    "embedded in memory": lambda directory: bokilog.open(),
    "embedded": lambda directory: bokilog.open(directory / "log"),
}
