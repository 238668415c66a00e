"""Which shards of a log space are open in the term in which the fold stands, and how far each of
them is ordered.

Decides nothing of its own: entries open and close shards, cuts order their records, and a new term
has none of those before it, since a shard is named by its term (P1).

Invariants: a cut orders a shard's records one behind the other, from where the cut before it ended;
what is frozen is the state of one position (P19).

Does not know: frames, seqnums, and which shards an engine still writes to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bokilog.cut import CutSpan
from bokilog.metalog import OpenShard
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index_store import Batch, IndexStore
from bokilog.storage_nodes.keys import StoredShard


class OpenedShard:
    """A shard that is open in the current term."""

    __slots__ = ("engine", "ordered", "replicas")

    def __init__(self, engine: str, replicas: tuple[str, ...], ordered: int = 0) -> None:
        self.engine = engine
        self.replicas = replicas
        self.ordered = ordered
        """Its records below this count are ordered."""


class TermShards:
    """Shards of the position's term, by number."""

    __slots__ = ("_frozen_closed", "_frozen_opened", "closed", "opened")

    def __init__(self, store: IndexStore) -> None:
        self.opened = _stored_opened(store)
        self.closed = _stored_closed(store)
        """A frame of one of them that is not ordered never will be (P2)."""
        self._frozen_opened: dict[int, StoredShard] = {}
        self._frozen_closed: frozenset[int] = frozenset()

    # --- the fold ---

    def open(self, entry: OpenShard) -> None:
        """From here on records of it may be ordered."""
        opened = OpenedShard(entry.engine, entry.replicas)
        self.opened.setdefault(entry.number, opened)  # asked for twice: still one

    def close(self, number: int) -> None:
        """What of it is not ordered by now never will be."""
        self.opened.pop(number, None)
        self.closed.add(number)

    def advance(self, spans: Sequence[CutSpan]) -> None:
        """A cut orders these records."""
        for number, start, until in spans:
            shard = self.opened.get(number)
            assert shard is not None, f"a cut of shard {number}, which is not open (P1)"
            assert shard.ordered == start, (
                f"a cut of shard {number} from {start}, ordered are {shard.ordered}"
            )
            shard.ordered = until

    def end_term(self) -> None:
        """A term is over: its shards are named by it, and the next one's are others (P1)."""
        self.opened.clear()
        self.closed.clear()

    # --- checkpoints ---

    def freeze(self) -> None:
        self._frozen_opened = {
            number: StoredShard(shard.engine, shard.replicas, shard.ordered)
            for number, shard in self.opened.items()
        }
        self._frozen_closed = frozenset(self.closed)

    def put(self, batch: Batch) -> None:
        """Put what is frozen: a few hundred shards at most."""
        batch.put(keys.SHARDS, keys.encode_shards(self._frozen_opened))
        batch.put(keys.CLOSED, keys.encode_closed(self._frozen_closed))


def _stored_opened(store: IndexStore) -> dict[int, OpenedShard]:
    value = store.get(keys.SHARDS)
    stored: Mapping[int, StoredShard] = {} if value is None else keys.decode_shards(value)
    return {number: OpenedShard(*shard) for number, shard in stored.items()}


def _stored_closed(store: IndexStore) -> set[int]:
    value = store.get(keys.CLOSED)
    return set() if value is None else keys.decode_closed(value)
