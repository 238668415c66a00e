"""Views reach a node in order, and a slow store never holds its loop up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from bokilog.errors import BokilogError, CorruptJournal, NodeUnreachable
from bokilog.ids import NodeId, Term
from bokilog.io.view_loader import ViewLoader
from bokilog.io.view_store import ViewStore
from bokilog.view import View

FIRST = View(cluster_id="c", history_id="h", term=Term(0), nodes=(), spaces=(), ends=())
POLL_S = 0.001


class Store:
    """Views in a list; `gate` holds every question up, `problem` answers it."""

    where = "a store"

    def __init__(self, *, remote: bool) -> None:
        self.remote = remote
        self.views = {0: FIRST}
        self.latest: int | None = 0
        self.problem: BokilogError | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()
        self.closed = False
        self.started = 1

    def add(self, *terms: int) -> None:
        for term in terms:
            self.views[term] = replace(FIRST, term=Term(term))
        self.latest = max(self.views)

    def latest_term(self) -> int | None:
        self.asked.set()
        assert self.gate.wait(10)
        if self.problem is not None:
            raise self.problem
        return self.latest

    def latest_incarnation(self, node: str) -> int:
        return self.started

    def load(self, term: int) -> View | None:
        return self.views.get(term)

    def wait_changed(self, term: int, timeout_s: float) -> None:
        self.gate.wait(timeout_s)

    def close(self) -> None:
        self.closed = True
        self.gate.set()


class Node:
    """Has a view, and a loader of more."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.installed: list[int] = [0]
        self.failures: list[BaseException] = []
        self.on_loop = threading.get_ident()
        typed: ViewStore = store  # type: ignore[assignment]
        self.loader = ViewLoader(
            typed,
            installed=lambda: Term(self.installed[-1]),
            install=self.install,
            failed=self.failures.append,
            node=(NodeId("storage-1"), 1),
        )

    def install(self, view: View) -> None:
        assert threading.get_ident() == self.on_loop
        self.installed.append(view.term)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  what a thread does sets no event of this loop
            await asyncio.sleep(0.001)


def test_p15_a_store_on_this_machine_is_asked_at_once_and_in_order() -> None:
    node = Node(Store(remote=False))
    node.store.add(1, 2, 3)
    node.loader.load()
    node.loader.load()
    assert node.installed == [0, 1, 2, 3]


def test_p15_a_view_that_is_missing_is_not_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    node = Node(Store(remote=False))
    node.store.add(1, 3)
    node.loader.load()
    node.loader.load()
    assert node.installed == [0, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "view 2 is missing from a store"  # said once
    ]
    node.store.add(2)
    node.loader.load()
    assert node.installed == [0, 1, 2, 3]


@pytest.mark.asyncio
async def test_p15_a_remote_store_is_asked_by_a_thread_and_its_views_come_in_order() -> None:
    node = Node(Store(remote=True))
    node.store.gate.clear()
    node.store.add(1, 2)
    node.loader.start(POLL_S)
    await until(node.store.asked.is_set)
    node.loader.load()  # does not wait for the store
    assert node.installed == [0]
    node.store.gate.set()
    await until(lambda: node.installed == [0, 1, 2])
    node.store.add(3)
    await until(lambda: node.installed == [0, 1, 2, 3])
    await node.loader.aclose()
    assert node.store.closed


@pytest.mark.asyncio
async def test_a_view_that_the_node_installed_by_itself_does_not_come_twice() -> None:
    node = Node(Store(remote=True))
    node.store.gate.clear()
    node.loader.start(POLL_S)
    await until(node.store.asked.is_set)
    node.store.add(1, 2)
    node.installed.append(1)
    node.store.gate.set()
    await until(lambda: node.installed[-1] == 2)
    assert node.installed == [0, 1, 2]
    await node.loader.aclose()


@pytest.mark.asyncio
async def test_while_the_store_is_silent_the_present_view_holds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    node = Node(Store(remote=True))
    node.store.problem = NodeUnreachable("a store", "no answer")
    node.loader.start(POLL_S)
    await until(lambda: node.loader.problem != "")
    node.store.add(1)
    node.store.problem = None
    await until(lambda: node.installed == [0, 1])
    await node.loader.aclose()
    assert node.failures == []
    assert [record.getMessage() for record in caplog.records] == [
        "cannot reach a store: no answer; the present view holds meanwhile",
        "the view store a store answers again",
    ]


@pytest.mark.asyncio
async def test_a_damaged_view_fails_the_node() -> None:
    node = Node(Store(remote=True))
    node.store.problem = CorruptJournal("view 1", 0, "x")
    node.loader.start(POLL_S)
    await until(lambda: node.failures != [])
    assert node.failures == [node.store.problem]
    await node.loader.aclose()


def test_p3_a_later_start_of_the_node_ends_this_one() -> None:
    node = Node(Store(remote=False))
    node.loader.check_alone()
    assert node.failures == []
    node.store.started = 2
    node.loader.check_alone()
    assert "storage-1 (start 2, this one is 1), and only the latest" in str(node.failures[0])


@pytest.mark.asyncio
async def test_p3_a_later_start_in_a_remote_store_ends_this_one() -> None:
    node = Node(Store(remote=True))
    node.store.started = 2
    node.loader.check_alone()
    assert node.failures == []  # the loop does not wait for the store
    node.loader.start(POLL_S)
    await until(lambda: node.failures != [])
    assert "only the latest counts" in str(node.failures[0])
    await node.loader.aclose()
