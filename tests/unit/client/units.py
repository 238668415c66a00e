"""Units and batches for tests of what becomes of them, and what their callers were told."""

from __future__ import annotations

from collections.abc import Sequence

from bokilog.client.batching import Batch
from bokilog.client.books import Route
from bokilog.client.session import Session
from bokilog.client.units import NEVER, Unit, unit_digest
from bokilog.columns import Tags
from bokilog.record import Conditions

SPACE = 1


class Told:
    """The waiter of an append, which keeps what it was told."""

    def __init__(self) -> None:
        self.what: object = None

    def done(self) -> bool:
        return self.what is not None

    def set_result(self, result: int, /) -> None:
        assert self.what is None, "told twice"
        self.what = result

    def set_exception(self, exception: BaseException, /) -> None:
        assert self.what is None, "told twice"
        self.what = exception


def route(name: str = "orders", number: int = 7) -> Route:
    return Route(name=name, number=number, space=SPACE, durability="sync")


class Author:
    """Makes units of one session and LogBook, and remembers what became of each."""

    def __init__(self) -> None:
        self.session = Session("h")
        self.route = route()
        self.told: list[Told] = []

    def unit(
        self,
        *datas: bytes,
        tags: Sequence[Tags] | None = None,
        key: str | None = None,
        conditions: Conditions = (),
        deadline_s: float = NEVER,
        sent_before: bool = False,
    ) -> Unit:
        column: list[Tags] = list(tags) if tags is not None else ["t"] * len(datas)
        told = Told()
        self.told.append(told)
        return Unit(
            datas=list(datas),
            tags=column,
            conditions=conditions,
            key=(key, unit_digest(list(datas), column)) if key is not None else None,
            session=self.session,
            waiter=told,
            deadline_s=deadline_s,
            sent_before=sent_before,
        )

    def batch(self, *units: Unit, deadline_s: float = 100.0) -> Batch:
        """A sealed batch of them."""
        batch = Batch(self.route, self.session)
        for unit in units:
            batch.add(unit, self.route)
        (sealed,) = batch.parts()
        sealed.deadline_s = deadline_s
        return sealed

    @property
    def outcomes(self) -> list[object]:
        """Of each unit in turn: a seqnum, the type of an error, or None."""
        return [
            type(told.what) if isinstance(told.what, BaseException) else told.what
            for told in self.told
        ]
