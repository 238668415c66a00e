"""Payloads too large for a message: records by reference.

Decides from which size on a payload is kept in the log, where (the LogBook `functions/APP/data`,
in memory, for an hour), and what stands for it in the message: its LogBook, its seqnum, how it is
encoded, and the host on whose node it was written, whose engine has it in its cache.

Does not know: calls. Without a log every payload travels in its message.
"""

from __future__ import annotations

from typing import Final

from bokilog.client.admin import ClientLog
from bokilog.client.session import Session
from bokilog.codec import listed, natural, pack, row, text, unpack
from bokilog.errors import DataLost, LogBookConflict, RecordTooLarge
from bokilog.framing import Buffer
from bokilog.functions.runtime.messages import Encoding
from bokilog.limits import KIB, RECORD_BYTES_MAX

BY_REFERENCE_BYTES: Final = 256 * KIB
"""A larger payload is kept in the log; below it a message costs less than an append and a read."""
RETENTION_S: Final = 3_600.0
READ_TIMEOUT_S: Final = 30.0


def data_book(app: str) -> str:
    """The LogBook that keeps an app's large payloads."""
    return f"functions/{app}/data"


async def keep(
    log: ClientLog, app: str, *, encoding: int, payload: Buffer, host: str, session: Session
) -> tuple[int, bytes]:
    """A large payload as (encoding, what stands for it).

    Raises:
        RecordTooLarge: it is more than a record holds.
    """
    if len(payload) > RECORD_BYTES_MAX:
        raise RecordTooLarge(len(payload), RECORD_BYTES_MAX)
    name = data_book(app)
    if log.client.core.book(name).route is None:
        try:
            await log.create_book(name, durability="memory", retention_s=RETENTION_S)
        except LogBookConflict:
            pass  # somebody made it with other properties, on purpose
    seqnum = await log.book(name, session=session).append(payload)
    return Encoding.REFERENCE, pack([name, seqnum, encoding, host])


async def fetch(log: ClientLog, reference: Buffer, session: Session) -> tuple[int, bytes]:
    """The (encoding, payload) that a reference stands for.

    Raises:
        Trimmed: it was kept for longer than its LogBook keeps records.
        DataLost: it was in the memory of nodes that are gone.
        RemoteProtocolError: it is no reference.
    """
    name, seqnum, encoding, _ = row(listed(unpack(reference)), 4)
    record = await log.book(text(name), session=session).read(
        natural(seqnum), wait_s=READ_TIMEOUT_S, timeout_s=READ_TIMEOUT_S
    )
    if record is None:
        raise DataLost(seqnum)
    return natural(encoding), bytes(record.data)


def host_of(reference: Buffer) -> str:
    """On whose node the payload was written: calls with it are best placed there."""
    return text(row(listed(unpack(reference)), 4)[3])
