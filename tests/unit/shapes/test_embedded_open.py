"""What `bokilog.open` refuses before it touches a disk."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from bokilog.errors import InvalidSettings
from bokilog.shapes.embedded import open as open_log


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (5, "directory=5 is neither a str nor a path"),
        (b"x", "directory=b'x' is neither a str nor a path"),
        ("a\0", "has a NUL"),
        ("", "is empty"),
        (Path(os.fsdecode(b"bad\xff")), "is not UTF-8"),
    ],
)
def test_what_is_no_path_is_not_opened(said: object, problem: str) -> None:
    with pytest.raises(InvalidSettings, match=problem):
        asyncio.run(_opened(said))


async def _opened(said: object) -> None:
    await open_log(said)  # type: ignore[arg-type]
