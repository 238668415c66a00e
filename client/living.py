"""Which LogBook of a name answers a question: the one that lives.

Decides where a question of one handle goes, and whether what comes back, an answer or an error, is
about the LogBook that was asked or about its deletion (P5). A deleted one answers like one of which
all is trimmed, and only the system LogBook tells the two apart: so it is asked, and if there is
another LogBook of that name by now, that one gets the question instead.

Invariants: where a deletion would answer alike, an answer is believed only of a LogBook that lives;
a route that was found dead is asked no more, here or by any other handle of this client.

Does not know: what is asked, what an answer means but that it is doubtful.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from bokilog.client.books import Route
from bokilog.client.core import Book
from bokilog.client.node import Client
from bokilog.client.session import Session
from bokilog.errors import Trimmed, UnknownLogBook
from bokilog.named import NamedTuple

R = TypeVar("R")


class Asker(NamedTuple):
    """Who asks: one handle of a LogBook, as it is when it asks."""

    client: Client
    book: Book
    session: Session
    route: Route | None
    """The LogBook that it asked last."""
    use: Callable[[Route], None]
    """Told of another one that it is about to ask."""


async def ask_living(
    asker: Asker,
    ask: Callable[[Route], Awaitable[R]],
    *,
    deadline_s: float,
    timeout_s: float,
    wait_until_s: float = 0.0,
    linearizable: bool = False,
    doubtful: Callable[[R], bool] | None = None,
) -> tuple[Route, R] | None:
    """Ask where the LogBook lives, and where the next one of its name does if it is gone.

    Args:
        asker: whose question it is.
        ask: puts the question.
        deadline_s: when it is over, by the loop's clock.
        timeout_s: what the caller asked for, to name it.
        wait_until_s: until when to wait for a LogBook, if there is none.
        linearizable: whether the latest LogBook of that name is looked for; not if one is known.
        doubtful: whether an answer may mean that the LogBook was deleted.

    Returns:
        None if there is no such LogBook, also after waiting for one.
    """
    client, book, session, route, use = asker
    while True:
        if route is None or not route.live:
            route = await client.find(
                book,
                session,
                deadline_s=deadline_s,
                timeout_s=timeout_s,
                wait_until_s=wait_until_s,
                linearizable=linearizable,
            )
            if route is None:
                return None
            use(route)
        try:
            answer = await ask(route)
            if (
                doubtful is None
                or not doubtful(answer)
                or await still_lives(client, book, route, session, timeout_s)
            ):
                return route, answer
        except (Trimmed, UnknownLogBook) as error:
            if await is_meant(error, client, book, route, session, timeout_s):
                raise
        linearizable = True  # so that the next look sees what ended this one


async def ask_existing(
    asker: Asker,
    ask: Callable[[Route], Awaitable[R]],
    *,
    deadline_s: float,
    timeout_s: float,
    doubtful: Callable[[R], bool] | None = None,
) -> tuple[Route, R]:
    """The same for questions that make no sense without a LogBook.

    Raises:
        UnknownLogBook: there is none of that name.
    """
    found = await ask_living(
        asker, ask, deadline_s=deadline_s, timeout_s=timeout_s, doubtful=doubtful
    )
    if found is None:
        raise UnknownLogBook(asker.book.name)
    return found


async def is_meant(
    error: Trimmed | UnknownLogBook,
    client: Client,
    book: Book,
    route: Route,
    session: Session,
    timeout_s: float,
) -> bool:
    """Whether the error is about the LogBook that was asked, and not about its deletion."""
    if isinstance(error, UnknownLogBook):
        client.core.gone(book, route)
        return False
    return await still_lives(client, book, route, session, timeout_s)


async def still_lives(
    client: Client, book: Book, route: Route, session: Session, timeout_s: float
) -> bool:
    """Whether the name still is this LogBook's; if not, nothing uses it any more."""
    deadline_s = client.now_s() + timeout_s
    return await client.lives(book, route, session, deadline_s=deadline_s, timeout_s=timeout_s)
