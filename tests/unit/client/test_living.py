"""Which LogBook of a name answers a question, and what is about its deletion only (P5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from bokilog.client.books import Route
from bokilog.client.living import Asker, ask_existing, ask_living, is_meant
from bokilog.client.logbook import ClientLogBook
from bokilog.errors import Trimmed, UnknownLogBook
from bokilog.record import Buffer
from tests.unit.client.fake_engine import FakeEngine
from tests.unit.client.opened import existing, opened

pytestmark = pytest.mark.asyncio

TIMEOUT_S = 5.0


class Question:
    """Put to one LogBook after the other; notes which."""

    def __init__(self, *says: str | Exception) -> None:
        self.says = list(says)
        self.asked: list[Route] = []
        self.used: list[Route] = []

    async def __call__(self, route: Route) -> str:
        self.asked.append(route)
        said = self.says.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    def asker(self, book: ClientLogBook[Buffer]) -> Asker:
        return book._asker()._replace(use=self.used.append)


async def put(
    question: Question,
    book: ClientLogBook[Buffer],
    *,
    how: Callable[..., Awaitable[tuple[Route, str] | None]] = ask_living,
    doubtful: str = "",
) -> tuple[Route, str] | None:
    asker = question.asker(book)
    return await how(
        asker,
        question,
        deadline_s=asker.client.now_s() + TIMEOUT_S,
        timeout_s=TIMEOUT_S,
        doubtful=lambda answer: answer == doubtful,
    )


async def replace(engine: FakeEngine, book: ClientLogBook[Buffer]) -> Route:
    """Another client deletes the LogBook and makes the next; returns the route of the old one."""
    route = book._route
    assert route is not None
    async with opened(engine) as (_, other):
        await other.delete_book("orders")
        await other.book("orders").append(b"new")
    engine.attach(book._client)
    return route


async def test_a_log_book_that_is_known_is_asked_at_once() -> None:
    async with existing() as (engine, book):
        question = Question("yes")
        assert await put(question, book) == (book._route, "yes")
        assert (question.asked, question.used) == ([book._route], [])
        assert engine.received == []


async def test_a_log_book_is_used_before_it_is_asked_for_the_first_time() -> None:
    async with opened() as (_, log):
        await log.book("orders").append(b"x")
        question = Question(ValueError())
        with pytest.raises(ValueError):  # noqa: PT011 - it is the question's own
            await put(question, log.book("orders"))
        assert question.used == question.asked


@pytest.mark.parametrize("says", [UnknownLogBook("orders"), Trimmed(9), "nothing"], ids=repr)
async def test_the_next_log_book_answers_when_the_one_asked_is_gone(says: str | Exception) -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        old = await replace(engine, book)
        question = Question(says, "yes")
        found = await put(question, book, doubtful="nothing")
        assert found is not None
        route, answer = found
        assert (question.asked, question.used, answer) == ([old, route], [route], "yes")
        assert route.number != old.number
        assert route.live and not old.live


async def test_what_a_living_log_book_says_counts_also_if_a_deleted_one_would_say_it() -> None:
    async with existing() as (_, book):
        question = Question("nothing")
        assert await put(question, book, doubtful="nothing") == (book._route, "nothing")
        question = Question(Trimmed(9))
        with pytest.raises(Trimmed):
            await put(question, book)
        assert book._route is not None and book._route.live


async def test_a_name_without_a_log_book_is_an_answer_or_an_error_as_the_question_is() -> None:
    async with opened() as (_, log):
        question = Question()
        assert await put(question, log.book("orders")) is None
        with pytest.raises(UnknownLogBook, match="orders"):
            await put(question, log.book("orders"), how=ask_existing)
        assert question.asked == []


async def test_a_log_book_that_is_unknown_to_its_log_space_is_used_no_more() -> None:
    async with existing() as (engine, book):
        client, name, session, route, _ = book._asker()
        assert route is not None
        meant = await is_meant(UnknownLogBook("orders"), client, name, route, session, TIMEOUT_S)
        assert not meant and not route.live
        assert engine.received == [], "its log space has said so: nobody else has to be asked"
