"""Each story in this folder still goes as it is told.

When one goes another way on purpose: `BOKILOG_REWRITE_STORIES=1 pytest tests/stories`, and the diff
is the review.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.stories.teller import Story

STORIES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("file", STORIES, ids=lambda file: file.stem)
def test_the_story_goes_as_it_is_told(file: Path) -> None:
    told = file.read_text()
    played = Story().play(told)
    if os.environ.get("BOKILOG_REWRITE_STORIES"):
        file.write_text(played)
    assert played == told


def test_a_story_that_goes_otherwise_is_noticed() -> None:
    told = "> cluster of 1 sequencer\n    sequencer-1, in term 1\n> ann appends coat\n    at 7\n"
    assert Story().play(told) != told


def test_a_command_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(AssertionError, match="nobody knows what to do about"):
        Story().play("> cluster of 1 sequencer\n> ann sings\n")
