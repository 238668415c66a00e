"""Reads a log back in every way, and holds what it finds to what writers said."""

from __future__ import annotations

import random
from collections import defaultdict

from bokilog.logbook import Log, LogBook
from bokilog.record import Record
from tests.integration.history import History
from tests.integration.writer import BOOKS, TAGS

READ_ONE_BY_ONE = 30


async def verify(log: Log, history: History, rng: random.Random) -> dict[str, list[Record]]:
    """Everything that stands, after a check of all of it; read linearizably. No writer may live."""
    found = await everything(log)
    for name, records in found.items():
        history.check(name, records)
        await _check_tags(log.book(name), records, rng)
        await _check_places(log.book(name), records, rng)
    return found


async def everything(log: Log) -> dict[str, list[Record]]:
    """All that stands, by LogBook."""
    scans = {name: log.book(name).scan(consistency="linearizable") for name in BOOKS}
    return {name: [record async for record in scan] for name, scan in scans.items()}


async def _check_tags(book: LogBook, found: list[Record], rng: random.Random) -> None:
    """Each tag's index says what the records say."""
    tagged = defaultdict(list)
    for record in found:
        for tag in record.tags:
            tagged[tag].append(record.seqnum)
    rare = sorted(set(tagged) - set(TAGS))
    for tag in (*TAGS, *rng.sample(rare, min(5, len(rare)))):
        here = [record.seqnum async for record in book.scan(tag=tag, consistency="linearizable")]
        assert here == tagged[tag], f"{book.name} {tag!r}: {set(here) ^ set(tagged[tag])}"


async def _check_places(book: LogBook, found: list[Record], rng: random.Random) -> None:
    """Records by their seqnum: the newest ones, and some of the others."""
    sample = rng.sample(found, min(READ_ONE_BY_ONE, len(found)))
    for record in (*sample, *found[-READ_ONE_BY_ONE:]):
        again = await book.read(record.seqnum)
        assert again is not None and _plain(again) == _plain(record)
    newest = await book.read_prev(consistency="linearizable")
    assert (newest and newest.seqnum) == (found[-1].seqnum if found else None)
    assert await book.tail() > (found[-1].seqnum if found else 0)


def _plain(record: Record) -> tuple[object, ...]:
    return record.seqnum, record.data, record.tags, record.timestamp_ms


async def trim_some(log: Log, history: History, rng: random.Random) -> None:
    """Lets go of the older records of every LogBook, so that segments fall free and are reused."""
    for name in BOOKS:
        book = log.book(name)
        stands = sorted(each.first for each in history.books[name].attempts.values() if each.first)
        if stands:
            until = stands[int(len(stands) * rng.uniform(0.5, 0.9))]
            done = await book.trim(until)
            assert done.until == max(until, history.books[name].trimmed_until)
            history.trimmed(name, done.until)
