"""Which state of the fold is in the store, which is on its way there, and which is in RAM only.

What was folded since the last checkpoint is the *active* generation. A checkpoint sets it aside as
the *frozen* one, as of one position, and writes that while the fold goes on. Every part of the
index keeps its own two and its own rows; here is decided of which parts a state consists, in which
order they are loaded and written, when a generation is large, and when a state counts as stored.

Invariants:
- A checkpoint is one atomic batch with everything of the frozen position and nothing later, and a
  crash between two costs only RAM: the journal is folded again from `stored_position` (P19).
- What is frozen is read from RAM until its batch is flushed: only then is it the store's.
- A store without a position holds nothing.

Does not know what the parts mean, when a checkpoint may begin (`storing.py`), nor in which thread
it is written (`checkpoints.py`). Differs from Boki, whose index lives in memory and is rebuilt from
the whole metalog.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from bokilog.errors import InvalidSettings
from bokilog.ids import START, Position
from bokilog.named import NamedTuple
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.aux_data import AuxData
from bokilog.storage_nodes.books import Books
from bokilog.storage_nodes.index_store import Batch, IndexStore, prefix_end
from bokilog.storage_nodes.key_uses import KeyUses
from bokilog.storage_nodes.keys import Meta
from bokilog.storage_nodes.local_ids import LocalIds
from bokilog.storage_nodes.locations import Locations
from bokilog.storage_nodes.postings import Postings
from bokilog.storage_nodes.retention import SegmentBooks
from bokilog.storage_nodes.term_shards import TermShards

FIRST_SEQNUM: Final = 1
POSTINGS_MAX: Final = 200_000
"""Postings of a generation that asks for a checkpoint before its time."""
GENERATION_BYTES_MAX: Final = 64 << 20
"""Size of a generation that asks for a checkpoint before its time (P19)."""
ROW_POSTINGS: Final = 4
"""A row of a frame takes about as much as so many postings."""


class Parts(NamedTuple):
    """What a fold consists of, beside where it stands."""

    postings: Postings
    locations: Locations
    local_ids: LocalIds
    key_uses: KeyUses
    books: Books
    aux: AuxData
    shards: TermShards
    segments: SegmentBooks
    """Of this journal: it outlives the fold that it came from."""


class Generations:
    """The generations of one log space's fold.

    Args:
        space: number of the log space; a store of another one is refused.
        store: where checkpoints go; its state is loaded.
        postings_max: size of a generation that asks for a checkpoint (`full`).

    Raises:
        InvalidSettings: the store belongs to another log space.
        FormatTooNew: a later version wrote it.
    """

    __slots__ = (
        "_batch",
        "_frozen",
        "_postings_max",
        "_space",
        "_store",
        "checkpoint_count",
        "is_new",
        "loaded",
        "parts",
        "replay_hint",
        "stored_position",
    )

    def __init__(self, space: int, store: IndexStore, *, postings_max: int) -> None:
        self._space = space
        self._store = store
        self._postings_max = postings_max
        self.checkpoint_count = 0
        self._load(_stored_segments(store))

    def _load(self, segments: SegmentBooks) -> None:
        store = self._store
        found = store.get(keys.META)
        if found is None:
            _discard_rows(store)
        meta = Meta(self._space, START, FIRST_SEQNUM, 0, 0, 0, b"")
        if found is not None:
            meta = keys.decode_meta(found)
        if meta.space != self._space:
            problem = f"does not fit: the index store holds log space {meta.space}"
            raise InvalidSettings("space", str(self._space), problem)
        self.is_new = found is None
        """The store held nothing when it was loaded."""
        self.loaded = meta
        """Where the fold stood that was loaded."""
        self.stored_position = meta.position
        self.replay_hint = meta.replay_hint
        """What `freeze` was given for the stored position."""
        stored_tail = 0 if self.is_new else meta.tail
        self.parts = Parts(
            postings=Postings(store, stored_tail),
            locations=Locations(store, stored_tail),
            local_ids=LocalIds(store),
            key_uses=KeyUses(store, meta.forgotten_ms),
            books=Books(store),
            aux=AuxData(store),
            shards=TermShards(store),
            segments=segments,
        )
        self._frozen: Meta | None = None
        """Where the checkpoint under way stands."""
        self._batch: Batch | None = None

    def store_segments(self, batch: Batch) -> None:
        """Put what is known of this journal's segments, which outlives the fold it came from."""
        segments = self.parts.segments
        segments.freeze()
        for _ in segments.steps(batch):
            pass

    def reload(self) -> None:
        """Another fold has been written to the store: go on with that one.

        It may not be flushed yet, so it counts as stored only once a checkpoint is through (P19).
        """
        segments = self.parts.segments
        segments.done()
        self._load(segments)
        self.stored_position = START

    # --- checkpoints ---

    @property
    def full(self) -> bool:
        """Whether the active generation is large enough for a checkpoint before its time."""
        postings, locations, _, key_uses, _, aux, *_ = self.parts
        size = postings.count + ROW_POSTINGS * locations.count
        in_bytes = key_uses.size_bytes + aux.size_bytes
        return size >= self._postings_max or in_bytes >= GENERATION_BYTES_MAX

    @property
    def frozen(self) -> bool:
        """Whether a checkpoint is under way: frozen, and not yet done."""
        return self._frozen is not None

    @property
    def frozen_count(self) -> int:
        """Entries folded into what is frozen."""
        assert self._frozen is not None, "nothing is frozen"
        return self._frozen.position.count

    def freeze(self, meta: Meta) -> bool:
        """Set the state of this position aside for a checkpoint, and start a new generation.

        False if there is nothing to store, or a checkpoint is under way.
        """
        if self.frozen or not self._changed(meta):
            return False
        self._frozen = meta
        parts = self.parts
        parts.postings.freeze(parts.books.freeze())
        parts.locations.freeze()
        parts.local_ids.freeze()
        parts.key_uses.freeze()
        parts.aux.freeze()
        parts.shards.freeze()
        parts.segments.freeze()
        return True

    def steps(self) -> Iterator[None]:
        """Build the frozen generation's batch, about 1 ms of work between two yields.

        May be started again when a write failed. The fold goes on between steps.
        """
        frozen, parts = self._frozen, self.parts
        assert frozen is not None, "nothing is frozen"
        batch = self._store.batch()
        self._batch = None
        yield from parts.books.steps(batch)
        yield from parts.postings.steps(batch, ended=parts.books.frozen_ended)
        yield from parts.locations.steps(batch, known=parts.segments.__contains__)
        forgotten_below = parts.locations.forgotten_below
        yield from parts.local_ids.steps(batch, forgotten_below=forgotten_below)
        yield from parts.key_uses.steps(batch, count=frozen.position.count)
        yield from parts.aux.steps(batch, forgotten_below=forgotten_below)
        yield from parts.segments.steps(batch)
        parts.shards.put(batch)
        batch.put(keys.META, keys.encode_meta(frozen))
        self._batch = batch

    def write(self) -> None:
        """Write what `steps` built, and flush; may run in a thread.

        After an exception start again with `steps`; nothing is lost but time.
        """
        batch, self._batch = self._batch, None
        assert batch is not None, "the checkpoint's steps are not through"
        self._store.write(batch)
        self._store.flush()

    def done(self) -> None:
        """The flush is over: the frozen generation is read from the store from here on."""
        frozen, parts = self._frozen, self.parts
        assert frozen is not None, "nothing is frozen"
        parts.postings.done(frozen.tail)
        parts.locations.done(frozen.tail)
        parts.local_ids.done()
        parts.key_uses.done()
        parts.books.done()
        parts.aux.done()
        parts.segments.done()
        self.stored_position = frozen.position
        self.replay_hint = frozen.replay_hint
        self._frozen = None
        self.checkpoint_count += 1

    def _changed(self, meta: Meta) -> bool:
        """Whether the store would say anything else after a checkpoint."""
        parts = self.parts
        return (
            meta.position != self.stored_position
            or meta.replay_hint != self.replay_hint
            or len(parts.aux) > 0
            or parts.locations.dirty
            or parts.segments.dirty
        )

    # --- self-inspection ---

    def check(self, position: Position) -> None:
        """What is stored, what is frozen and the fold's `position` follow each other."""
        assert self.stored_position <= position
        assert self._frozen is None or (self.stored_position <= self._frozen.position <= position)


def _discard_rows(store: IndexStore) -> None:
    """A store without a position holds nothing: what a load left that never ended is removed."""
    if next(iter(store.keys(b"", b"\xff")), None) is not None:
        batch = store.batch()
        batch.delete_range(b"", b"\xff")
        store.write(batch)


def _stored_segments(store: IndexStore) -> SegmentBooks:
    def load(segment: int) -> Mapping[int, int]:
        value = store.get(keys.numbered(keys.SEGMENTS, segment))
        return {} if value is None else keys.decode_segment(value)

    def load_spans(segment: int) -> Mapping[int, tuple[int, int]]:
        value = store.get(keys.numbered(keys.SPANS, segment))
        return {} if value is None else keys.decode_spans(value)

    stored = store.keys(keys.SEGMENTS, prefix_end(keys.SEGMENTS))
    return SegmentBooks(load, map(keys.number_of, stored), load_spans)
