"""One question to one process: dialled, asked, and hung up.

Decides what a connection that ends and a process that is silent mean to whoever asks. Does not know
messages: of what comes back, whoever asks says which is the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

from bokilog.errors import NotReady
from bokilog.framing import WireMessage
from bokilog.io.link import Link, LinkCallbacks
from bokilog.io.transport import dial
from bokilog.record import Buffer

A = TypeVar("A")
Said: TypeAlias = tuple[int, bytes, Sequence[Buffer]]
"""A message as it is encoded."""


async def ask(
    address: str,
    said: Sequence[Said],
    answer: Callable[[WireMessage], A | None],
    *,
    timeout_s: float,
) -> A:
    """What the process at `address` answers.

    Args:
        said: the greeting and the question.
        answer: what a message answers; None: something else.
        timeout_s: for the connection, and again for the answer.

    Raises:
        NodeUnreachable: nobody answered there.
        NotReady: it accepted the connection and did not answer.
    """
    answered: asyncio.Future[A] = asyncio.get_running_loop().create_future()

    def on_messages(link: Link, wires: list[WireMessage]) -> None:
        for wire in wires:
            found = None if answered.done() else answer(wire)
            if found is not None:
                answered.set_result(found)

    def on_lost(link: Link, error: Exception | None) -> None:
        if not answered.done():
            why = f": {error}" if error is not None else ""
            answered.set_exception(NotReady(f"{address} closed the connection{why}"))

    callbacks = LinkCallbacks(on_messages=on_messages, on_lost=on_lost)
    link = await dial(address, callbacks, timeout_s=timeout_s)
    try:
        for message in said:
            link.send(*message)
        async with asyncio.timeout(timeout_s):
            return await answered
    except TimeoutError:
        raise NotReady(f"{address} did not answer within {timeout_s} s") from None
    finally:
        answered.cancel()
        await link.aclose()
