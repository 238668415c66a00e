"""A controller's calls on a view store that hangs, in the thread that they have for themselves."""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from pathlib import Path

from bokilog.effects import (
    AcquireLease,
    Event,
    IntentStored,
    LeaseHeld,
    ReleaseLease,
    StoreIntent,
    SwapView,
    ViewSwapped,
)
from bokilog.ids import NodeId, Term
from bokilog.io.file_views import FileViews
from bokilog.sequencer.member_node import StoreCalls
from bokilog.view import Node
from tests.unit.sequencer.controllers import A, first_view

WAIT_S = 10.0
VIEW = replace(
    first_view(),
    nodes=(*first_view().nodes, Node(id=NodeId("storage-1"), role="storage", address="")),
)


class Hanging(FileViews):
    """Whoever asks for the lease waits until a test lets it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.calls: list[str] = []
        self.entered = threading.Semaphore(0)
        self.released = threading.Event()

    def try_lease(self, node: NodeId) -> bool:
        self.calls.append("lease")
        self.entered.release()
        assert self.released.wait(WAIT_S)
        return super().try_lease(node)

    def release_lease(self, node: NodeId) -> None:
        self.calls.append("release")
        super().release_lease(node)

    def store_intent(self, term: Term, reason: str) -> None:
        self.calls.append(f"intent: {reason}")
        super().store_intent(term, reason)


class Rig:
    """A store that hangs in its first call."""

    def __init__(self, directory: Path) -> None:
        self.store = Hanging(directory)
        assert self.store.compare_and_swap(None, VIEW)
        self.answers: queue.Queue[Event] = queue.Queue()
        self.calls = StoreCalls(
            self.store, node=A, deliver=self.answers.put, load_views=lambda: None
        )
        self.calls.perform(AcquireLease())
        assert self.store.entered.acquire(timeout=WAIT_S)

    def end(self, count: int) -> list[Event]:
        """The store answers again: so many answers."""
        self.store.released.set()
        found = [self.answers.get(timeout=WAIT_S) for _ in range(count)]
        self.calls.close()
        return found


def test_calls_that_are_asked_again_while_a_store_hangs_wait_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "views")
    for number in range(1000):
        rig.calls.perform(StoreIntent(Term(0), f"reason {number}"))
        rig.calls.perform(AcquireLease())
    rig.calls.perform(SwapView(Term(0), replace(VIEW, term=Term(1))))
    held = LeaseHeld((Term(0), "reason 999"))
    assert rig.end(4) == [LeaseHeld(None), IntentStored(Term(0)), held, ViewSwapped(Term(1), True)]
    assert rig.store.calls == ["lease", "intent: reason 999", "lease"]


def test_of_asking_for_the_lease_and_letting_it_go_the_last_word_counts(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "views")
    for _ in range(2):
        rig.calls.perform(AcquireLease())
        rig.calls.perform(ReleaseLease())
    rig.calls.perform(StoreIntent(Term(0), "because"))
    assert rig.end(2) == [LeaseHeld(None), IntentStored(Term(0))]
    assert rig.store.calls == ["lease", "release", "intent: because"]
