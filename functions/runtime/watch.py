"""Which changes of files mean that an app is to be loaded again.

Decides by the files' times and sizes, looked at now and then: no dependency, and right on every
file system. A file that is gone counts once it is there again, since editors replace files; several
changes close together count once, when they have come to rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

Stamp = tuple[int, int] | None
"""Nanoseconds of its last change, and size; None: it is not there."""


class Watch:
    """Looks at the files of an app.

    Args:
        stamp: of a file, for tests.
    """

    __slots__ = ("_changed", "_seen", "_stamp")

    def __init__(self, stamp: Callable[[str], Stamp]) -> None:
        self._stamp = stamp
        self._seen: dict[str, Stamp] = {}
        self._changed = ""

    def watch(self, files: Iterable[str]) -> None:
        """These files are looked at from now on; what they were before does not matter."""
        seen = self._seen
        self._seen = {file: seen.get(file) or self._stamp(file) for file in files}

    def look(self) -> str:
        """The file whose change has come to rest since the last look; empty: none."""
        moved = ""
        for file, before in self._seen.items():
            now = self._stamp(file)
            if now is not None and now != before:
                self._seen[file] = now
                moved = file
        if moved:
            self._changed = moved
            return ""
        changed, self._changed = self._changed, ""
        return changed
