"""What storage nodes bring to the end of a term: entries that no sequencer holds any more (P11).

The metalog of a `flush` or `memory` log space is written without a sync, so a power loss takes its
last seconds from a sequencer's machine, and perhaps from every one's. Storage nodes on other
machines were told these entries, and keep the last runs in memory. So a sequencer that starts asks
them for what follows its own journal, before it says where its metalog ends: to a seal, or, if it
is the only one, to the next view.

It asks once. A node that has something runs and answers; the others have lost it, too, or are cut
off, and the class allows the loss. What was brought is appended to the journal, as if it had never
been lost: only published entries are ever told to storage nodes.

Does not know: seals, views beyond where terms ended. Class `sync` asks nobody: its entries are
synced on a majority.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from bokilog.errors import BokilogError, ReadOnly
from bokilog.framing import WireMessage
from bokilog.ids import LogSpaceId, NodeId
from bokilog.io.journal_file import JournalFile
from bokilog.io.link import Link, LinkCallbacks
from bokilog.io.transport import dial
from bokilog.journal import Refused
from bokilog.messages import FetchRuns, Hello, Runs
from bokilog.metalog import ITEM_METALOG, Run, encode_run
from bokilog.sequencer.held import Held, Recovered
from bokilog.sequencer.recovery import Ended, following
from bokilog.view import LogSpace, View
from bokilog.wire import decode, encode

logger = logging.getLogger(__name__)
ASK_TIMEOUT_S: Final = 1.0
"""A storage node that does not answer within it brings nothing."""
REQUESTS_MAX: Final = 64
"""Times `RUNS_KEPT` of a storage node is never more than so many answers."""


async def bring(
    recovered: Mapping[LogSpaceId, Recovered],
    journals: Mapping[LogSpaceId, JournalFile],
    *,
    view: View,
    ended: Mapping[LogSpaceId, Ended],
) -> dict[LogSpaceId, Recovered]:
    """What this sequencer holds, with what storage nodes have beyond it, journalled here.

    Args:
        recovered: of each log space, by its own journal.
        journals: the same ones, open for appending.
        view: the last one stored.
        ended: where terms ended, by log space.
    """
    found = dict(recovered)
    spaces = [space for space in view.spaces if space.id in found and space.durability != "sync"]
    asked = [(space, node) for space in spaces for node in space.replicas]
    answers = await asyncio.gather(
        *(
            _ask(view.node(node).address, space, first=found[space.id].end.position.count)
            for space, node in asked
        )
    )
    for (space, node), runs in zip(asked, answers, strict=True):
        known = found[space.id]
        more = following(known, runs, last=view.term, ended=ended[space.id])
        if more:
            found[space.id] = _journalled(known, more, journals[space.id], source=node)
    return found


def _journalled(
    known: Recovered, runs: Iterable[Run], journal: JournalFile, *, source: NodeId
) -> Recovered:
    """With these runs, appended and written to the class's standard.

    Raises:
        ReadOnly: the disk does not take them.
    """
    runs, held = list(runs), Held(known)
    places = [journal.append(ITEM_METALOG, [encode_run(run)]) for run in runs]
    written = journal.commit(use_headroom=True)
    failed = written.reason if isinstance(written, Refused) else journal.sync_now().failed
    if failed is not None:
        raise ReadOnly(f"entries that {source} brings to log space {held.space}: {failed}")
    for run, place in zip(runs, places, strict=True):
        held.take(run, journal.resolve(place))
    logger.warning(
        "log space %d: entries %d to %d were lost here; %s brings them (P11)",
        *(held.space, runs[0].first + 1, runs[-1].until, source),
    )
    brought = held.recovered()
    tail = max(brought.end.tail, known.end.tail)  # a ceiling that was synced here stays above all
    return brought._replace(end=replace(brought.end, tail=tail))


async def _ask(address: str, space: LogSpace, *, first: int) -> list[Run]:
    """What the storage node at `address` holds from there on; nothing if it does not answer."""
    found: list[Run] = []
    answers: asyncio.Queue[Runs | None] = asyncio.Queue()

    def on_messages(link: Link, messages: list[WireMessage]) -> None:
        for kind, head, attachments in messages:
            message = decode(kind, head, attachments)
            if isinstance(message, Runs):
                answers.put_nowait(message)

    def on_lost(link: Link, error: Exception | None) -> None:
        answers.put_nowait(None)

    callbacks = LinkCallbacks(on_messages=on_messages, on_lost=on_lost)
    try:
        link = await dial(address, callbacks, timeout_s=ASK_TIMEOUT_S)
    except BokilogError:
        return found
    try:
        link.send(*encode(Hello("control", "sequencer", 0, "", 0, False)))
        async with asyncio.timeout(ASK_TIMEOUT_S):
            for _ in range(REQUESTS_MAX):
                link.send(*encode(FetchRuns(space.id, 0, first, 2**62)))
                message = await answers.get()
                if message is None or not message.runs:
                    break
                found += message.runs
                first = message.runs[-1].until
    except TimeoutError:
        pass  # what came until then counts
    finally:
        await link.aclose(0)
    return found
