"""What a read's reply means to its caller: records, and trims that the caller must hear of.

Decides which positions a trim has overtaken. Invariant: a record's data is `bytes` of its own, so
it keeps no message in memory. Does not know: who asked, caches.
"""

from __future__ import annotations

from itertools import repeat

from bokilog.errors import Trimmed
from bokilog.messages import ReadReply
from bokilog.record import Record


def records_of(reply: ReadReply) -> list[Record]:
    """The records of a reply, in its order: about 0.3 us each, nearly all of it in C."""
    tags = [() if t is None else (t,) if type(t) is str else tuple(t) for t in reply.tags]
    datas = map(bytes, reply.payload)  # of bytes, the same object
    auxes = repeat(None) if reply.auxes is None else reply.auxes
    return list(map(Record, reply.seqnums, datas, tags, reply.timestamps_ms, auxes))


def looks_deleted(reply: ReadReply) -> bool:
    """Whether there is nothing up to the tail because of a trim: so it is of a deleted LogBook too.

    Only the system LogBook tells the two apart, so whoever sees this looks there.
    """
    return not reply.seqnums and reply.trim_until >= reply.tail > 0


def refuse_trimmed(trim_until: int, *positions: int | None) -> None:
    """An explicit position behind a trim is an error; 0 and None are not explicit.

    Raises:
        Trimmed: names the first kept seqnum.
    """
    for position in positions:
        if position and position < trim_until:
            raise Trimmed(trim_until)
