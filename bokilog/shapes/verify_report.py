"""What a verification has checked so far, part by part.

Decides nothing: it keeps the parts in the order in which they were checked, and tells whoever waits
of each part, and of the bytes that were read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bokilog.verify import Part


@dataclass(slots=True)
class Report:
    """What was checked."""

    directory: Path
    kind: str
    """`embedded`, `node` or `cluster`."""
    part_done: Callable[[Part], None]
    """Told each part as it is through."""
    progress: Callable[[int], None]
    """Told how many bytes were read since it was told last."""
    parts: list[Part] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return not any(part.findings for part in self.parts)

    def add(self, part: Part) -> None:
        """One more part is through."""
        self.parts.append(part)
        self.part_done(part)
