"""Seqnum ceilings of the log spaces whose metalog is not synced (P11), in one synced file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from bokilog.ids import LogSpaceId
from bokilog.io.directory import write_synced

CEILINGS: Final = "ceilings.json"


class Ceilings:
    """Of one sequencer."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._values: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}

    def of(self, space: LogSpaceId) -> int:
        """No seqnum at or past it was given out."""
        return self._values.get(str(space), 1)

    def raise_to(self, space: int, seqnum: int) -> None:
        """Synced when this returns."""
        self._values[str(space)] = max(seqnum, self._values.get(str(space), 1))
        write_synced(self._file, json.dumps(self._values).encode())
