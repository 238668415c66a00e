"""A storage node whose segments come and go, whatever its store does and whenever it stops: every
record that is not trimmed is read back as it was or is an error, and no object is forgotten."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bokilog.cold import ColdOutcome
from bokilog.effects import Effect, TimerFired
from bokilog.errors import NotReady, from_wire
from bokilog.messages import ReadReply, RequestFailed
from bokilog.metalog import Proposer, Trim
from tests.protocol.storage_rig import BOOK, SPACE, messages, read
from tests.unit.storage_nodes.cold_rig import AWAY, ColdRig

CLIENT = 9
STEPS = 30


class ColdMachine(RuleBasedStateMachine):
    """The node is given little room, so that something moves all the time."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = ColdRig(hot_bytes=40_000, cache_bytes=20_000)
        self.rig.begin()
        self.rig.fill(2)
        self.appended = 2
        self.trimmed = 0
        self.time_ms = 10_000

    @rule(frames=st.integers(1, 4))
    def append(self, frames: int) -> None:
        self.rig.fill(frames)
        self.appended += frames

    @rule(frames=st.integers(4, 6), answers=st.integers(0, 8))
    def append_and_move(self, frames: int, answers: int) -> None:
        """What seldom comes about by single steps."""
        self.append(frames)
        self.store()
        self.look(1.0)
        for _ in range(answers):
            if not self.rig.jobs:
                self.look(1.0)
            if self.rig.jobs:
                self.answer()
        self.read_one(0.0)

    @rule(part=st.floats(0, 0.4))
    def trim(self, part: float) -> None:
        until = self.trimmed + int(part * (self.rig.index.tail - self.trimmed))
        self.time_ms += 10
        self.rig.order(Trim(self.time_ms, BOOK, None, until, Proposer(0, 0)))
        self.trimmed = until

    @rule()
    def store(self) -> None:
        effects = self.rig.do(TimerFired("checkpoint"))
        if any(type(each).__name__ == "Checkpoint" for each in effects):
            self.rig.finish_checkpoint()
        self.rig.report_all()

    @rule(passed_s=st.sampled_from([0.25, 1.0, 15.0]))
    def look(self, passed_s: float) -> None:
        self.rig.look(passed_s)
        self.rig.sync()

    @precondition(lambda self: self.rig.jobs)
    @rule()
    def answer(self) -> None:
        self.rig.answer()

    @precondition(lambda self: self.rig.jobs)
    @rule(outcome=st.sampled_from([AWAY, ColdOutcome(problem="no", final=True)]))
    def fail(self, outcome: ColdOutcome) -> None:
        job = type(self.rig.jobs[0]).__name__
        if outcome.final and job in ("StoreList", "Remove"):
            outcome = AWAY  # these never fail for good
        self.rig.answer(outcome)

    @precondition(lambda self: self.rig.jobs)
    @rule()
    def crash_behind_a_job(self) -> None:
        """It was carried out, and nobody was told."""
        self.rig._carry_out(self.rig.jobs[0])
        self.restart()

    @rule()
    def restart(self) -> None:
        self.rig.restart()
        self.rig.report_all()

    @rule(part=st.floats(0, 1))
    def read_one(self, part: float) -> None:
        """At once, once the store has answered, or not while it is away."""
        first, tail = max(1, self.trimmed), self.rig.index.tail
        seqnum = first + int(part * (tail - first))
        if seqnum == tail:
            return
        wanted = read(start=seqnum, until=seqnum + 1)
        effects: list[Effect] = self.rig.get(CLIENT, wanted)
        while self.rig.jobs and not messages(effects, ReadReply, RequestFailed):
            effects += self.rig.answer()
        (told,) = messages(effects, ReadReply, RequestFailed)
        if isinstance(told, ReadReply):
            assert told.seqnums == [seqnum], "a record is never absent"
            data = bytes(told.payload[0])
            assert data.rstrip(b"\0") == b"%d" % (seqnum - 1)
        else:
            assert isinstance(told, RequestFailed)
            assert isinstance(from_wire(told.error), NotReady), "nothing is lost"
            self.rig.do(TimerFired(("cold-down", SPACE)))

    @invariant()
    def everything_is_folded(self) -> None:
        assert self.rig.index.tail == self.appended + 1

    @invariant()
    def every_object_is_listed(self) -> None:
        names = {each.name for each in self.rig.listed}
        assert set(self.rig.objects) <= names

    def teardown(self) -> None:
        """A store that works again, and everything trimmed: nothing is left anywhere."""
        rig = self.rig
        rig.do(TimerFired(("cold-down", SPACE)))
        self.trim(1.0)
        for _ in range(3):
            self.store()
            for _ in range(4):
                rig.look(15.0)
                rig.sync()
                rig.answer_all()
        assert rig.objects == {}
        assert rig.states() == {}


TestColdMachine = ColdMachine.TestCase
TestColdMachine.settings = settings(max_examples=10, stateful_step_count=STEPS, deadline=None)
