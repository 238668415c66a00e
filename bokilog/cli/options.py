"""What values of options are, where click's own types take too much.

Decides that a duration is a number, and that an empty text names no directory. Does not know
commands.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import click


class Duration(click.FloatRange):
    """A number, of what the option names; `nan` is none, though it is neither below nor above any
    limit."""

    unit: ClassVar = "seconds"

    def convert(
        self, value: float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """As click does, and refused if it is no number."""
        found: float = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value} is not a number of {self.unit}.", param, ctx)
        return found


class Milliseconds(Duration):
    """A duration in those."""

    unit: ClassVar = "milliseconds"


class Directory(click.Path):
    """A directory; an empty text, as of a variable that is not set, would be the current one."""

    def __init__(self, *, exists: bool = False) -> None:
        super().__init__(path_type=Path, file_okay=False, exists=exists)

    def convert(  # type: ignore[override]  # of all that click may give, this gives a `Path`
        self,
        value: str,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """As click does, and refused if it is empty."""
        if value == "":
            self.fail("it is empty: the current directory is '.'.", param, ctx)
        found = super().convert(value, param, ctx)
        assert isinstance(found, Path)
        return found
