"""What changes a LogBook beside appends: trims, holds, and aux data.

Decides which entry each call proposes to the log space's metalog, what the fold's answer means, and
what this process must not answer from memory any more afterwards. Invariants: each may be asked
twice and ends in the same state, so a lost answer costs only time; none of them creates a LogBook;
what a trim or aux data has changed is forgotten here before the caller goes on.

Does not know: arguments and their checks, how the fold decides (`bokilog/metalog.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from bokilog.client.books import Route
from bokilog.client.living import Asker, ask_existing
from bokilog.client.routing import NOBODY
from bokilog.errors import RemoteProtocolError
from bokilog.limits import SEQNUM_MAX
from bokilog.messages import Propose, SetAux
from bokilog.metalog import Hold, Proposal, Release, Trim as TrimEntry
from bokilog.record import Trim


async def trim(asker: Asker, until: int, tag: str | None, *, timeout_s: float | None) -> Trim:
    """Let go of what lies below `until`, as far as no hold keeps it.

    A deleted LogBook answers like one that is trimmed further than was asked for.
    """
    until = min(until, SEQNUM_MAX)
    route, values = await _propose(
        asker,
        lambda book: TrimEntry(0, book, tag, until, NOBODY),
        timeout_s=timeout_s,
        doubtful=lambda values: bool(values) and values[0] != until,
    )
    if len(values) != 2 or type(values[0]) is not int:
        raise RemoteProtocolError(f"a trim was answered by {values!r:.80}")
    done = Trim(values[0], values[1] if isinstance(values[1], str) else None)
    if tag is None:
        asker.session.saw_trim(route.number, done.until)
    asker.client.core.cache.trimmed(route.number, tag, done.until)
    return done


async def hold(
    asker: Asker, name: str, seqnum: int, ttl_s: float, *, timeout_s: float | None
) -> None:
    """Keep trims from passing `seqnum` for `ttl_s` seconds, in whole milliseconds and no less."""
    ttl_ms = math.ceil(ttl_s * 1_000)
    await _propose(
        asker, lambda book: Hold(0, book, name, seqnum, ttl_ms, NOBODY), timeout_s=timeout_s
    )


async def release(asker: Asker, name: str, *, timeout_s: float | None) -> None:
    """End a hold; one that does not exist is no error."""
    await _propose(asker, lambda book: Release(0, book, name, NOBODY), timeout_s=timeout_s)


async def set_aux(asker: Asker, seqnum: int, aux: bytes, *, timeout_s: float | None) -> None:
    """Keep derived bytes beside a record, best effort."""
    client = asker.client
    deadline_s, timeout_s = client.deadline(timeout_s)

    async def ask(route: Route) -> None:
        await client.values(
            SetAux(client.new_number(), route.space, route.number, seqnum, aux),
            asker.session,
            deadline_s=deadline_s,
            timeout_s=timeout_s,
        )

    route, _ = await ask_existing(asker, ask, deadline_s=deadline_s, timeout_s=timeout_s)
    client.core.cache.forget(route.number, seqnum)


async def _propose(
    asker: Asker,
    entry: Callable[[int], Proposal],
    *,
    timeout_s: float | None,
    doubtful: Callable[[list[object]], bool] | None = None,
) -> tuple[Route, list[object]]:
    """Have an entry put into the LogBook's metalog; the fold's answer."""
    client = asker.client
    deadline_s, timeout_s = client.deadline(timeout_s)

    async def ask(route: Route) -> list[object]:
        return await client.values(
            Propose(client.new_number(), route.space, entry(route.number)),
            asker.session,
            deadline_s=deadline_s,
            timeout_s=timeout_s,
        )

    return await ask_existing(
        asker, ask, deadline_s=deadline_s, timeout_s=timeout_s, doubtful=doubtful
    )
