"""Payloads too large for a message: records by reference.

Decides from which size on a payload is kept in the log, where (the LogBook `functions/APP/data`,
in memory, for an hour), and what stands for it in the message: its LogBook, its seqnum, how it is
encoded, and the host on whose node it was written, whose engine has it in its cache.

Does not know: calls. Without a log every payload travels in its message.
"""

from __future__ import annotations

from typing import Final, Protocol

from bokilog.client.admin import ClientLog
from bokilog.client.session import Session
from bokilog.codec import listed, natural, pack, row, text, unpack
from bokilog.errors import DataLost, RecordTooLarge
from bokilog.functions.books import data_book, ensure_data_book
from bokilog.functions.runtime.messages import Encoding
from bokilog.limits import KIB, RECORD_BYTES_MAX
from bokilog.record import Buffer

BY_REFERENCE_BYTES: Final = 256 * KIB
"""A larger payload is kept in the log; below it a message costs less than an append and a read."""
READ_TIMEOUT_S: Final = 30.0


class Carrier(Protocol):
    """Whose payloads travel: a call, or a connection of the app."""

    @property
    def host(self) -> str:
        """Of the node that it is on; empty: none."""
        ...

    def session_for(self, log: ClientLog) -> Session:
        """What its records are written and read in."""
        ...

    async def connected_log(self) -> ClientLog | None:
        """The log; None where there is none."""
        ...


async def carried(by: Carrier, app: str, *, encoding: int, payload: bytes) -> tuple[int, bytes]:
    """(encoding, payload) as they go into a message: a large payload is kept, if there is a log.

    Raises:
        RecordTooLarge: it is more than a record holds.
    """
    if len(payload) <= BY_REFERENCE_BYTES:
        return encoding, payload
    log = await by.connected_log()
    if log is None:
        return encoding, payload
    session = by.session_for(log)
    return await keep(log, app, encoding=encoding, payload=payload, host=by.host, session=session)


async def keep(
    log: ClientLog, app: str, *, encoding: int, payload: Buffer, host: str, session: Session
) -> tuple[int, bytes]:
    """A large payload as (encoding, what stands for it).

    Raises:
        RecordTooLarge: it is more than a record holds.
    """
    if len(payload) > RECORD_BYTES_MAX:
        raise RecordTooLarge(len(payload), RECORD_BYTES_MAX)
    await ensure_data_book(log, app)
    name = data_book(app)
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
