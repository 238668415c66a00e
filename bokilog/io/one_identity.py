"""Several processes with one node's name: which of them counts, and who is refused (P3).

A data directory has one live owner (`directory.py`), but its lock ends at the machine, a copy of it
has another one, and an engine has no directory. So:

- before a start registers its incarnation, which makes every earlier one stop counting, it looks
  whether it can serve: its addresses are free, and if the view has another address for the node,
  nobody answers there in its name. The process that the others know stays then; a copy is refused.
- whoever registered last counts. A node refuses links of earlier starts than the last one it heard
  of (`Starts`), and a process that finds a later one in the view store stops (`view_loader.py`).

Does not know which of two directories is the copy: the one that the view's address leads to stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from bokilog.errors import BokilogError, NotReady
from bokilog.framing import WireMessage
from bokilog.ids import NodeId
from bokilog.io.link import Link, LinkCallbacks
from bokilog.io.transport import dial, listen
from bokilog.messages import Hello, Welcome
from bokilog.view import View
from bokilog.wire import decode, encode

ASK_TIMEOUT_S: Final = 1.0
"""How long a start waits for another process of its name; one that does not answer in that time
learns from the view store that it does not count any more."""


class Starts:
    """The last start of each node that a process has heard of."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def refusal(self, node: str, incarnation: int) -> str:
        """Why a process of that start does not count; empty if it does."""
        last = self._last.get(node, 0)
        if incarnation >= last:
            return ""
        return superseded(node, incarnation, last)

    def note(self, node: str, incarnation: int) -> bool:
        """Whether this is a later start than the last one."""
        if incarnation <= self._last.get(node, 0):
            return False
        self._last[node] = incarnation
        return True


def superseded(node: str, incarnation: int, latest: int) -> str:
    """The sentence for a process that does not count any more."""
    return (
        f"another process has started as {node} (start {latest}, this one is {incarnation}), and "
        "only the latest counts: a node runs once, and a copy of its data directory is no node"
    )


async def check_alone(node: NodeId, view: View, *, addresses: Iterable[str]) -> None:
    """Before a start counts: it can listen, and the view's address leads to no other process.

    Raises:
        OSError: an address is in use.
        NotReady: a process of that name answers where the view has it.
    """
    wanted = [address for address in addresses if address]
    for address in wanted:
        listener = await listen(address, LinkCallbacks(on_messages=_ignore))
        await listener.aclose(0)
    known = next((each.address for each in view.nodes if each.id == node), "")
    if not known or known in wanted:
        return
    if await _who_answers(known) == node:
        raise NotReady(
            f"{node} runs already, at {known}, where the view of term {view.term} has it; this one "
            f"is to listen at {wanted[0]}: a node runs once, and a copy of its data directory is "
            "no node"
        )


async def _who_answers(address: str) -> str:
    """The name of the node that a connection to this address reaches; empty if there is none."""
    answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_messages(link: Link, messages: list[WireMessage]) -> None:
        message = decode(*messages[0])
        if isinstance(message, Welcome) and not answered.done():
            answered.set_result(message.node)

    def on_lost(link: Link, error: Exception | None) -> None:
        if not answered.done():
            answered.set_result("")

    try:
        callbacks = LinkCallbacks(on_messages=on_messages, on_lost=on_lost)
        link = await dial(address, callbacks, timeout_s=ASK_TIMEOUT_S)
    except BokilogError:
        return ""
    try:
        link.send(*encode(Hello("control", "start", 0, "", 0, False)))
        async with asyncio.timeout(ASK_TIMEOUT_S):
            return await answered
    except TimeoutError:
        return ""
    finally:
        await link.aclose(0)


def _ignore(link: Link, messages: list[WireMessage]) -> None:
    """Whoever dials while the address is only tried is sent away, and dials again."""
