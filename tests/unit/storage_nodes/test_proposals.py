"""Which proposals make no sense, whatever the fold holds (P34)."""

from __future__ import annotations

import pytest

from bokilog.errors import InvalidRange, InvalidTag
from bokilog.limits import HOLD_NAME_BYTES_MAX, TAG_BYTES_MAX
from bokilog.metalog import (
    DeleteBook,
    EndTags,
    Entry,
    ForgetKeys,
    Hold,
    OpenShard,
    Proposer,
    Release,
    Retain,
    Trim,
)
from bokilog.storage_nodes.proposals import problem_of

ME = Proposer(7, 1)
BOOK = 5


@pytest.mark.parametrize(
    "entry",
    [
        Trim(1, BOOK, None, -5, ME),
        Trim(1, 2**64 - 1, "x" * TAG_BYTES_MAX, 2**53, ME),
        Hold(1, BOOK, "h" * HOLD_NAME_BYTES_MAX, 0, -1, ME),
        Release(1, BOOK, "", ME),
        DeleteBook(1, BOOK, ME),
        EndTags(1, BOOK, "$w/", ME),
        Retain(1, BOOK, 0, 0, ME),
        ForgetKeys(1),
        OpenShard(1, 8, "engine-8", ("s-1",)),
    ],
)
def test_what_clients_send_is_applied(entry: Entry) -> None:
    assert problem_of(entry) is None


@pytest.mark.parametrize(
    "entry",
    [
        Trim(1, -1, None, 5, ME),
        Release(1, 2**64, "h", ME),
        Release(1, "5", "h", ME),  # type: ignore[arg-type]
        Trim(1, BOOK, None, "5", ME),  # type: ignore[arg-type]
        Hold(1, BOOK, "", 5, 1000, ME),
        Hold(1, BOOK, "é" * (HOLD_NAME_BYTES_MAX // 2 + 1), 5, 1000, ME),
        Hold(1, BOOK, "h", None, 1000, ME),  # type: ignore[arg-type]
        Hold(1, BOOK, "h", 5, 0.5, ME),  # type: ignore[arg-type]
        DeleteBook(1, 0, ME),
        Retain(1, BOOK, None, 0, ME),  # type: ignore[arg-type]
        Retain(1, BOOK, 0, True, ME),
    ],
)
def test_p34_numbers_and_names_that_are_none_are_refused(entry: Entry) -> None:
    assert isinstance(problem_of(entry), InvalidRange)


@pytest.mark.parametrize(
    "entry",
    [
        Trim(1, BOOK, "", 5, ME),
        Trim(1, BOOK, "x" * (TAG_BYTES_MAX + 1), 5, ME),
        Trim(1, BOOK, 7, 5, ME),  # type: ignore[arg-type]
        EndTags(1, BOOK, "", ME),
        EndTags(1, BOOK, "w/", ME),
        EndTags(1, BOOK, b"$w/", ME),  # type: ignore[arg-type]
    ],
)
def test_p34_tags_that_are_none_are_refused(entry: Entry) -> None:
    assert isinstance(problem_of(entry), InvalidTag)
