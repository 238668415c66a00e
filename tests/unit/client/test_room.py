"""What may be in flight on one connection."""

from __future__ import annotations

import pytest

from bokilog.client import room
from bokilog.client.room import Room
from tests.unit.client.units import Author


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "INFLIGHT_RECORDS_MAX", 3)
    monkeypatch.setattr(room, "INFLIGHT_BYTES_MAX", 1_000)


def test_with_nothing_in_flight_even_what_is_beyond_the_bounds_may_be_sent() -> None:
    author, empty = Author(), Room()
    assert empty.fits(author.batch(author.unit(*[b"x"] * 4)))
    assert empty.fits(author.batch(author.unit(bytes(2_000))))


def test_records_and_bytes_are_bounded_together() -> None:
    author, used = Author(), Room()
    used.take(author.batch(author.unit(b"x"), author.unit(b"x")))
    assert used.fits(author.batch(author.unit(b"x")))
    assert not used.fits(author.batch(author.unit(b"x", b"x")))
    assert not used.fits(author.batch(author.unit(bytes(1_000))))


def test_what_is_given_back_makes_room_again() -> None:
    author, used = Author(), Room()
    large, small = author.batch(author.unit(*[b"x"] * 3)), author.batch(author.unit(b"x"))
    used.take(large)
    assert not used.fits(small)
    used.give_back(large)
    assert used.fits(small) and (used.records, used.bytes) == (0, 0)
