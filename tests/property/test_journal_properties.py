"""Whatever is written, cut, flipped or failed: acknowledged items come back, in order, whole."""

import errno
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from xxhash import xxh3_64_intdigest

from bokilog.errors import CorruptJournal
from bokilog.io.journal_file import JournalFile
from bokilog.journal import Location, Written
from bokilog.record import Buffer
from bokilog.segment import (
    GROUP_HEADER_BYTES,
    NOWHERE,
    SEGMENT_HEADER_BYTES,
    GroupHeader,
    Place,
    checksum,
    encode_group_header,
    encode_word,
    find_groups,
    is_corruption,
    scan_segment,
)

SEGMENT_BYTES = 8 << 10
GENERATION = 9
FRAMING = GROUP_HEADER_BYTES + 8

items_strategy = st.lists(
    st.tuples(st.integers(0, 255), st.binary(max_size=60)), min_size=0, max_size=4
)
groups_strategy = st.lists(items_strategy, min_size=1, max_size=5)


def sealed(data: bytes) -> bytes:
    return struct.pack("<Q", xxh3_64_intdigest(data)) + data


def verify(_kind: int, view: memoryview) -> bool:
    expected: int = struct.unpack_from("<Q", view)[0] if len(view) >= 8 else -1
    return xxh3_64_intdigest(view[8:]) == expected


# --- the bytes of one segment ---


def encode(groups: list[list[tuple[int, bytes]]]) -> tuple[bytes, list[int]]:
    data = bytes(SEGMENT_HEADER_BYTES)
    ends = [len(data)]
    for number, items in enumerate(groups, 1):
        bodies = [(encode_word(kind, len(item) + 8), sealed(item)) for kind, item in items]
        body = b"".join(word + item for word, item in bodies)
        framing = checksum(b"".join(word for word, _ in bodies))
        here = Place(1, len(data))
        header = GroupHeader(GENERATION, len(data), number, here, len(items), len(body), framing)
        data += encode_group_header(header) + body
        ends.append(len(data))
    return data, ends


def decode(data: bytes) -> list[list[tuple[int, bytes]]]:
    found = scan_segment(
        data,
        start=SEGMENT_HEADER_BYTES,
        until=len(data),
        generation=GENERATION,
        number=1,
        verify=verify,
    )
    return [[(kind, data[a + 8 : b]) for kind, a, b in each.items] for each in found]


@given(groups_strategy, st.binary(max_size=200))
def test_groups_round_trip_whatever_follows_them(
    groups: list[list[tuple[int, bytes]]], rest: bytes
) -> None:
    data, _ = encode(groups)
    assert decode(data + rest) == groups


@given(groups_strategy, st.data())
def test_a_cut_keeps_exactly_the_groups_before_it(
    groups: list[list[tuple[int, bytes]]], draw: st.DataObject
) -> None:
    data, ends = encode(groups)
    cut = draw.draw(st.integers(SEGMENT_HEADER_BYTES, len(data)))
    assert decode(data[:cut]) == groups[: sum(end <= cut for end in ends[1:])]


@given(groups_strategy, st.data())
def test_a_flip_ends_the_scan_and_is_corruption_iff_a_later_group_knows(
    groups: list[list[tuple[int, bytes]]], draw: st.DataObject
) -> None:
    data, ends = encode(groups)
    bit = draw.draw(st.integers(SEGMENT_HEADER_BYTES * 8, len(data) * 8 - 1))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    hit = sum(end <= bit // 8 for end in ends[1:])
    flipped = bytes(changed)
    assert decode(flipped) == groups[:hit]
    later = find_groups(flipped, start=ends[hit], until=len(data), oldest=GENERATION)
    bad = Place(1, ends[hit])
    assert is_corruption(bad, [header.synced for header in later]) == (hit < len(groups) - 1)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_scan_fail(data: bytes) -> None:
    assert decode(bytes(SEGMENT_HEADER_BYTES) + data) == []
    assert not list(find_groups(data, start=0, until=len(data), oldest=0))


# --- a journal on a disk that fails ---


class Held(NamedTuple):
    kind: int
    data: bytes
    place: Location


class FailingDisk:
    """Syncs and writes fail when told to; remembers nothing else."""

    durable = True

    def __init__(self) -> None:
        self.failures = 0
        self.room: int | None = None

    def sync(self, fd: int) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, "sync failed")

    def write(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        data = b"".join(buffers)
        wipe = len(data) <= 80 and not any(data)
        if self.room is not None and not wipe:
            data = data[: self.room]
            self.room -= len(data)
            if not data:
                raise OSError(errno.ENOSPC, "No space left on device")
        return os.pwrite(fd, data, offset)


@contextmanager
def names_as_good_as_synced() -> Iterator[None]:
    with patch("bokilog.io.segment_files.sync_directory"):
        yield


class JournalMachine(RuleBasedStateMachine):
    """A journal against the list of what it acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(prefix="journal-"))
        self.patched = names_as_good_as_synced()
        self.patched.__enter__()
        self.disk = FailingDisk()
        # Items and their places: acknowledged; of the unsynced group; staged.
        self.durable: list[Held] = []
        self.pending: list[Held] = []
        self.staged: list[Held] = []

    def teardown(self) -> None:
        self.journal.close()
        self.patched.__exit__(None, None, None)
        shutil.rmtree(self.path)

    @initialize()
    def begin(self) -> None:
        assert self.open() == []

    def open(self) -> list[tuple[int, bytes]]:
        self.disk = FailingDisk()
        self.journal = JournalFile(
            self.path,
            sync=self.disk,
            verify=verify,
            write=self.disk.write,
            segment_bytes=SEGMENT_BYTES,
        )
        return [(kind, bytes(data[8:])) for kind, _, data in self.journal.recover()]

    @rule(kind=st.integers(0, 255), data=st.binary(max_size=50), times=st.sampled_from([1, 1, 60]))
    def stage(self, kind: int, data: bytes, times: int) -> None:
        item = data * times
        place = self.journal.append(kind, [sealed(item)[:8], item])
        self.staged.append(Held(kind, item, place))

    @precondition(lambda self: self.staged and not self.pending)
    @rule(room=st.none() | st.integers(0, 300))
    def commit(self, room: int | None) -> None:
        """Perhaps on a full disk: then everything stays staged."""
        self.disk.room = room
        outcome = self.journal.commit()
        self.disk.room = None
        if isinstance(outcome, Written):
            assert outcome.item_count == len(self.staged)
            self.pending, self.staged = self.staged, []
        else:
            assert outcome.definite

    @precondition(lambda self: self.pending)
    @rule(fails=st.booleans())
    def sync(self, fails: bool) -> None:
        self.disk.failures = int(fails)
        result = self.journal.sync_now()
        assert result.failed is None
        assert (result.moved is not None) == fails
        self.acknowledge()

    def acknowledge(self) -> None:
        """What is kept beyond this process is where an item stands once it is durable."""
        resolve = self.journal.resolve
        self.durable += [each._replace(place=resolve(each.place)) for each in self.pending]
        self.pending = []

    @rule()
    def stop_and_start(self) -> None:
        self.acknowledge()
        self.staged = []
        self.journal.close()
        assert self.open() == [(each.kind, each.data) for each in self.durable]

    @rule(torn=st.none() | st.integers(0, 10_000))
    def crash(self, torn: int | None) -> None:
        """The group that was written and not synced may be there, whole, or not at all."""
        self.journal.close(clean=False)
        if self.pending and torn is not None:
            self.tear(torn)
            self.pending = []
        self.acknowledge()
        self.staged = []
        assert self.open() == [(each.kind, each.data) for each in self.durable]

    def tear(self, at: int) -> None:
        """Flip a bit somewhere in the unsynced group."""
        first, last = self.pending[0].place, self.pending[-1].place
        size = last.offset + last.length - (first.offset - FRAMING)
        start = self.journal.resolve(first).offset - FRAMING
        number = self.journal.resolve(first).segment
        with (self.path / f"{number:08d}.seg").open("r+b") as file:
            file.seek(start + at % size)
            byte = file.read(1)[0] ^ 0x10
            file.seek(start + at % size)
            file.write(bytes([byte]))

    @precondition(lambda self: len(self.journal.segments()) > 1)
    @rule(choice=st.integers(0, 100))
    def release(self, choice: int) -> None:
        """A segment goes with its items, as whoever counts them by `resolve` sees it."""
        # One that continues another stays as long as that one: the unit tests tell.
        continued = {each.following for each in self.journal._segments.known.values()}
        infos = [each for each in self.journal.segments() if not each.open]
        infos = [each for each in infos if each.number not in continued]
        if not infos:
            return
        number = infos[choice % len(infos)].number
        kept = [
            each
            for each in self.durable
            if number not in (each.place.segment, self.journal.resolve(each.place).segment)
        ]
        if any(
            each.place.segment != self.journal.resolve(each.place).segment
            for each in self.durable
            if each not in kept
        ):
            return  # two segments share these items: released together, or not at all
        self.journal.release(number)
        self.durable = kept
        self.journal._files._background.stop()  # done before a crash may come

    @invariant()
    def every_acknowledged_item_reads_back(self) -> None:
        if not hasattr(self, "journal"):
            return
        for each in self.durable[-8:] + self.pending:
            assert self.journal.read(each.place, 8) == each.data

    @invariant()
    def groups_are_consecutive(self) -> None:
        if not hasattr(self, "journal"):
            return
        infos = self.journal.segments()
        assert [each.number for each in infos] == sorted(each.number for each in infos)
        assert all(each.first_group <= each.last_group + 1 for each in infos)


JournalMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestJournalMachine = pytest.mark.slow(JournalMachine.TestCase)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 3000), min_size=2, max_size=8),
    position=st.floats(0, 1, exclude_max=True),
)
def test_a_flip_in_a_synced_journal_is_reported_or_harmless(
    sizes: list[int], position: float
) -> None:
    """After a clean stop no flipped bit loses an item silently."""
    with tempfile.TemporaryDirectory() as name, names_as_good_as_synced():
        path = Path(name)
        disk = FailingDisk()
        journal = JournalFile(path, sync=disk, verify=verify, segment_bytes=SEGMENT_BYTES)
        list(journal.recover())
        for number, size in enumerate(sizes):
            item = bytes([number]) * size
            journal.append(1, [sealed(item)[:8], item])
            journal.commit()
            journal.sync_now()
        infos = journal.segments()
        journal.close()
        total = sum(each.until for each in infos)
        at = int(position * total)
        for info in infos:
            if at < info.until:
                break
            at -= info.until
        else:
            raise AssertionError(f"{at} lies outside of {infos}")
        file = path / f"{info.number:08d}.seg"
        data = bytearray(file.read_bytes())
        data[at] ^= 1
        file.write_bytes(data)
        again = JournalFile(path, sync=disk, verify=verify, segment_bytes=SEGMENT_BYTES)
        padding = 80 <= at < SEGMENT_HEADER_BYTES
        if padding:
            assert len(list(again.recover())) == len(sizes)
        else:
            with pytest.raises(CorruptJournal, match=file.name):
                again.recover()
        again.close()


def test_nowhere_is_before_every_place() -> None:
    assert NOWHERE < Place(1, 0) < Place(1, 1) < Place(2, 0)
