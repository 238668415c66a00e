"""What is folded before it is durable here is not forgotten with its shard."""

from __future__ import annotations

from bokilog.frame import ITEM_FRAME
from bokilog.ids import Shard, Term
from bokilog.io.journal_memory import MemoryJournal
from bokilog.storage_nodes.pending import Pending
from tests.unit.storage_nodes.folds import SHARD, SPACE, TERM, U, frame_of


def test_p19_frames_of_a_closed_shard_are_owed_until_they_are_durable() -> None:
    """1. A frame waits for room on a full disk. 2. It is folded, as the others hold it. 3. Its
    engine dies, and its shard is closed. 4. A checkpoint now would name a frame that a kill takes
    away. Found by the simulator."""
    journal = MemoryJournal()
    pending = Pending(journal, bytes_max=1 << 20)
    frame = frame_of([U()], first=0)
    shard = Shard(SPACE, Term(TERM), SHARD)
    held = pending.add(frame, journal.append(ITEM_FRAME, frame.buffers()), durable=False)
    owed = [bool(pending.folded_before_durable)]
    pending.folded(shard, held)
    owed.append(bool(pending.folded_before_durable))
    pending.close(shard)
    owed.append(bool(pending.folded_before_durable))
    assert owed == [False, True, True]
    assert pending.durable(shard, 0) is None
    assert not pending.folded_before_durable
