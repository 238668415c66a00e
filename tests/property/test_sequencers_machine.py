"""Three sequencers under anything: messages of any link at any time, links that break, crashes that
lose what was not synced, disks that are wiped, and a driver that seals, extends and stores views at
random, as several controllers at once would (P11, P12, P13, P14, P26).

The rig checks that no two entries are ever published at one position. Here: what was published is
in every later end, a tail that was confirmed covers what was published before it was asked for, and
once a majority is together again the log goes on. A walk is weighted, so that most of its steps get
somewhere: of rules that are drawn evenly nearly all fail to.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from random import Random

from hypothesis import given, settings, strategies as st

from bokilog.ids import NodeId
from bokilog.messages import Tail, TailRequest
from bokilog.metalog import Cut
from bokilog.view import End
from tests.unit.sequencer.trio import SEQUENCERS, SPACE, started

STEPS = 200


class Walk:
    """One log space of class `sync`, from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.trio = started()
        self.ends: list[End] = []
        """What the driver found for the present term: each is as good as any other."""
        self.asked: dict[int, int] = {}
        """A request for a tail, and what was published when it was made."""
        self.actions: dict[Callable[[], None], float] = {
            self.deliver: 40,
            self.sync: 14,
            self.order: 12,
            self.follow: 4,
            self.ask_for_the_tail: 4,
            self.seal: 10,
            self.find_an_end: 8,
            self.extend: 10,
            self.swap: 10,
            self.load: 8,
            self.cut: 3,
            self.link: 6,
            self.crash: 2,
            self.start: 5,
            self.wipe: 0.5,
            self.fire: 4,
        }

    def run(self) -> None:
        actions, weights = list(self.actions), list(self.actions.values())
        for action in self.random.choices(actions, weights, k=STEPS):
            action()
            self.check()
        self.end()

    def alive(self) -> list[NodeId]:
        return sorted(self.trio.processes)

    def somebody(self) -> NodeId | None:
        return self.random.choice(self.alive()) if self.trio.processes else None

    def believer(self) -> NodeId | None:
        """Somebody who believes to be primary."""
        found = [node for node in self.alive() if self.trio.core(node).primaries]
        return self.random.choice(found) if found else None

    # --- the log ----------------------------------------------------------------------------------

    def order(self) -> None:
        node = self.believer()
        if node is not None:
            self.trio.order(node, self.random.randint(1, 3))

    def follow(self) -> None:
        node = self.believer()
        if node is not None:
            self.trio.follow(node)

    def ask_for_the_tail(self) -> None:
        node = self.believer()
        if node is not None:
            request = len(self.asked) + 1
            self.asked[request] = max(self.trio.published)
            self.trio.tell(node, TailRequest(request, SPACE), source="reader")

    # --- messages, disks and trouble --------------------------------------------------------------

    def deliver(self) -> None:
        busy = sorted(link for link, queue in self.trio.queues.items() if queue)
        if busy:
            link = self.random.choice(busy)
            for _ in range(self.random.randint(1, 3)):
                self.trio.deliver(*link)

    def sync(self) -> None:
        node = self.somebody()
        if node is not None:
            self.trio.sync(node)

    def fire(self) -> None:
        node = self.somebody()
        if node is not None:
            for timer in sorted(self.trio.processes[node].timers, key=str):
                self.trio.fire(node, timer)

    def cut(self) -> None:
        self.trio.cut(*self.random.sample(SEQUENCERS, 2))

    def link(self) -> None:
        self.trio.link(*self.random.sample(SEQUENCERS, 2))

    def crash(self) -> None:
        node = self.somebody()
        if node is not None:
            self.trio.crash(node, keep_unsynced=self.random.random() < 0.5)

    def start(self) -> None:
        for node in SEQUENCERS:
            if node not in self.trio.processes:
                self.trio.start(node)

    def wipe(self) -> None:
        node = self.somebody()
        if node is not None:
            self.trio.crash(node, wipe=True)

    # --- the driver -------------------------------------------------------------------------------

    def seal(self) -> None:
        node = self.somebody()
        if node is not None:
            self.trio.seal(node)

    def load(self) -> None:
        node = self.somebody()
        if node is not None:
            self.trio.load_views(node)

    def find_an_end(self) -> None:
        """Of any majority of the answers."""
        answers = sorted(self.trio.answers())
        if len(answers) >= 2:
            self.ends.append(self.trio.end_of(self.random.choice([*combinations(answers, 2)])))

    def extend(self) -> None:
        if self.ends and self.trio.processes:
            end = self.random.choice(self.ends)
            for node in self.random.sample(self.alive(), len(self.alive())):
                self.trio.extend(node, end, self.random.choice(SEQUENCERS))

    def swap(self) -> None:
        for end in self.random.sample(self.ends, len(self.ends)):
            holders = [node for node in SEQUENCERS if self.trio.has_extended(node, end)]
            if len(holders) >= 2:
                self.store_view(end, self.random.choice(holders))
                return

    def store_view(self, end: End, primary: NodeId) -> None:
        published = max(self.trio.published)
        assert end.position.count >= published, f"{published} entries were published (P13)"
        records = sum(
            span.until - span.start
            for _, entry in self.trio.published.values()
            if isinstance(entry, Cut)
            for span in entry.spans
        )
        assert end.tail > records, "a seqnum would be given twice"
        self.trio.swap(end, primary)
        self.ends.clear()

    # --- what must hold ---------------------------------------------------------------------------

    def check(self) -> None:
        for _, message in self.trio.received.pop("reader", []):
            if isinstance(message, Tail):
                assert message.position.count >= self.asked[message.request], "P26"
        terms = [
            primary.term
            for process in self.trio.processes.values()
            for primary in process.core.primaries.values()
        ]
        assert len(terms) == len(set(terms)), "two primaries of one term (P12)"

    def end(self) -> None:
        """Once a majority is together again the log goes on, and nothing is missing in it."""
        trio = self.trio
        self.start()
        for node in SEQUENCERS:
            trio.load_views(node)
        trio.heal()
        trio.settle()
        named = {node.id: node.disk_id for node in trio.view.nodes}
        voters = [node for node in SEQUENCERS if trio.disks[node].id == named[node]]
        if len(voters) < 2:
            return  # more disks were lost at once than may be
        for node in voters:
            trio.seal(node)
        trio.settle()
        end = trio.end_of(voters)
        for node in SEQUENCERS:
            for source in voters:
                trio.extend(node, end, source)
                trio.settle()
        holders = [node for node in SEQUENCERS if trio.has_extended(node, end)]
        assert len(holders) >= 2
        self.store_view(end, holders[0])
        for node in SEQUENCERS:
            trio.load_views(node)
        trio.settle()
        before = max(trio.published)
        trio.follow(holders[0])
        trio.order(holders[0])
        trio.settle()
        last = max(trio.published)
        assert last > before
        assert sorted(trio.published) == list(range(1, last + 1))
        assert {trio.count(node) for node in SEQUENCERS} == {last}, "everybody has caught up"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_what_was_published_is_never_lost_or_replaced(seed: int) -> None:
    Walk(seed).run()
