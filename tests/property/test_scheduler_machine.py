"""The scheduler against a model: hosts, workers and callers that do anything in any order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import booleans, data, integers, sampled_from

from bokilog.functions.runtime.effects import (
    Address,
    Effect,
    KillWorker,
    LinkDown,
    LinkUp,
    MemoryUsed,
    Reload,
    Send,
    StartTemplate,
    TemplateEnded,
)
from bokilog.functions.runtime.messages import (
    CallMessage,
    Cancel,
    Done,
    Fork,
    Recall,
    Retire,
    Returned,
    Start,
    StartMany,
    WorkerExited,
)
from bokilog.functions.runtime.options import FunctionOptions
from bokilog.functions.runtime.pool import AHEAD_MAX
from tests.unit.functions.runtime.hosts import Sim, done, start

FUNCTIONS = {
    "one": FunctionOptions(max_workers=2, queue_limit=4, timeout_s=5.0, retries=1, idle_s=1.0),
    "many": FunctionOptions(max_concurrency=3, max_workers=2, queue_limit=3, timeout_s=20.0),
    "short": FunctionOptions(max_workers=2, queue_limit=20, timeout_s=5.0),
    "fresh": FunctionOptions(fresh=True, max_workers=3, queue_limit=5, timeout_s=5.0),
    "kept": FunctionOptions(min_workers=1, max_workers=2, memory_bytes=1 << 20, retries=2),
}
CALLERS: tuple[Address, ...] = (("caller", 1), ("caller", 2), ("local", 0), ("host", 3))
PEERS = ("host-2", "host-3")


class SchedulerMachine(RuleBasedStateMachine):
    """Whoever asks is answered once; limits hold; calls of a function start in order."""

    def __init__(self) -> None:
        super().__init__()
        self.sim = Sim(load=False)
        self.number = 0
        self.gone: set[Address] = set()
        self.open: dict[tuple[Address, int], str] = {}
        """Calls that were asked for and not answered, whose source is there."""
        self.starting: dict[int, str] = {}
        """Workers by number: function."""
        self.ready: dict[int, str] = {}
        self.given: dict[int, dict[int, Start]] = {}
        """What a worker was given and has not ended, in order; the first of it has begun."""
        self.begun: set[tuple[int, int]] = set()
        """(call, attempt): never twice, whatever dies."""
        self.begun_in: dict[int, set[tuple[int, int]]] = {}
        """The same by worker."""
        self.unread: dict[int, list[CallMessage]] = {}
        """What a worker has said and the host has not read."""
        self.passed: dict[str, set[int]] = {peer: set() for peer in PEERS}
        self.peers_up: set[str] = set()
        self.asked_at: dict[str, int] = {}
        """Call id to its place among all that were asked for."""
        self.given_once: set[str] = set()
        self.last_started: dict[tuple[str, int], int] = {}
        self.loaded = False
        self.takes(self.sim.effects)
        self.template_ready()

    # --- what it says -----------------------------------------------------------------------------

    def takes(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.took(effect.to, effect.message)
            elif isinstance(effect, KillWorker):
                self.forget(effect.worker)

    def took(self, to: Address, message: object) -> None:
        role, name = to
        if isinstance(message, Done):
            key = (to, message.call)
            assert key in self.open or to in self.gone, f"answered twice, or never asked: {key}"
            self.open.pop(key, None)
        elif isinstance(message, Fork):
            for number in message.workers:
                self.starting[number] = message.function
        elif isinstance(message, Start) and role == "worker":
            self.given_to(int(name), message)
        elif isinstance(message, (Recall, Cancel)) and role == "worker":
            self.gives_back(int(name), message)
        elif isinstance(message, Start):
            assert name in self.peers_up
            self.passed[str(name)].add(message.call)
        elif isinstance(message, StartMany):
            assert name in self.peers_up
            first = message.first_call
            self.passed[str(name)].update(range(first, first + len(message.payloads)))
        elif isinstance(message, Retire):
            self.ready.pop(int(name), None)

    def given_to(self, worker: int, message: Start) -> None:
        assert bytes(message.payload) == b"x", "without its arguments"
        assert self.ready.get(worker) == message.function, "given to a worker that is not ready"
        calls = self.given.setdefault(worker, {})
        calls[message.call] = message
        options = FUNCTIONS[message.function]
        at_once = self.at_once(message.function)
        assert len(calls) <= (1 if options.fresh else at_once + AHEAD_MAX)
        self.begins(worker)
        first_time = message.call_id not in self.given_once
        self.given_once.add(message.call_id)
        if message.attempt == 0 and first_time:
            place = self.asked_at[message.call_id]
            version = self.sim.core.stats().version
            key = (message.function, version)
            if message.call_id.startswith("id"):
                assert place > self.last_started.get(key, -1), "out of order"
                self.last_started[key] = place

    def at_once(self, function: str) -> int:
        return FUNCTIONS[function].max_concurrency or 1

    def begins(self, worker: int) -> None:
        """As many of its calls as it runs at once."""
        begun_here = self.begun_in.setdefault(worker, set())
        for message in list(self.given[worker].values()):
            running = sum(
                (each.call, each.attempt) in begun_here for each in self.given[worker].values()
            )
            key = message.call, message.attempt
            if key not in begun_here and running < self.at_once(message.function):
                assert key not in self.begun, "begun twice"
                self.begun.add(key)
                begun_here.add(key)

    def gives_back(self, worker: int, message: Recall | Cancel) -> None:
        start = self.given.get(worker, {}).get(message.call)
        if start is None or (start.call, start.attempt) in self.begun_in.get(worker, ()):
            return
        del self.given[worker][message.call]
        back = Returned(message.call) if isinstance(message, Recall) else done(message.call)
        self.unread.setdefault(worker, []).append(back)

    def forget(self, worker: int) -> None:
        self.unread.pop(worker, None)
        self.starting.pop(worker, None)
        self.ready.pop(worker, None)
        self.given.pop(worker, None)
        source: Address = ("worker", worker)
        self.gone.add(source)
        self.open = {key: what for key, what in self.open.items() if key[0] != source}

    # --- what happens -----------------------------------------------------------------------------

    @rule(function=sampled_from(sorted(FUNCTIONS)), place=integers(0, 3), hasty=booleans())
    def ask(self, function: str, place: int, hasty: bool) -> None:
        self.asks(CALLERS[place], function, hasty)

    @precondition(lambda self: self.given and any(self.given.values()))
    @rule(function=sampled_from(sorted(FUNCTIONS)), draw=data())
    def ask_within_a_call(self, function: str, draw: object) -> None:
        worker = min(number for number, calls in self.given.items() if calls)
        self.asks(("worker", worker), function, False)

    def asks(self, source: Address, function: str, hasty: bool) -> None:
        if source in self.gone:
            return
        self.number += 1
        self.open[source, self.number] = function
        # Calls that may be passed on, come back and run late are no measure of the order.
        prefix = "id" if not self.peers_up else "any"
        call_id = f"{prefix}{self.number}"
        self.asked_at[call_id] = self.number
        message = start(self.number, function, deadline_ms=500 if hasty else 0, call_id=call_id)
        self.takes(self.sim.tell(source, message))

    @rule(count=integers(1, 40), place=integers(0, 3), function=sampled_from(["many", "short"]))
    def ask_for_many(self, count: int, place: int, function: str) -> None:
        self.ask_many(count, place, function)

    def ask_many(self, count: int, place: int, function: str) -> None:
        source = CALLERS[place]
        if source in self.gone:
            return
        first = self.number + 1
        self.number += count
        for number in range(first, first + count):
            self.open[source, number] = function
        base = f"m{first}"
        self.asked_at[base] = first
        for offset in range(1, count):
            self.asked_at[f"{base}.{offset}"] = first + offset
        many = StartMany(first, function, 0, 0, 0, 0, base, "", "", [b"x"] * count)
        self.takes(self.sim.tell(source, many))

    @rule(count=integers(6, 20))
    def busy_times(self, count: int) -> None:
        """Enough short calls wait for workers to be given some ahead."""
        for number in [each for each, function in self.starting.items() if function == "short"]:
            self.gets_ready(number)
        self.ask_many(count, 2, "short")

    @precondition(lambda self: self.open)
    @rule(draw=data())
    def cancel(self, draw: object) -> None:
        source, number = draw.draw(sampled_from(sorted(self.open, key=repr)))  # type: ignore[attr-defined]
        self.takes(self.sim.tell(source, Cancel(number, "no")))

    @precondition(lambda self: self.starting)
    @rule()
    def worker_ready(self) -> None:
        self.gets_ready(min(self.starting))

    def gets_ready(self, number: int) -> None:
        function = self.starting.pop(number)
        if number in self.sim.core._fleet.workers:
            self.ready[number] = function
        self.takes(self.sim.ready(number))

    @precondition(lambda self: any(self.given.values()))
    @rule(draw=data())
    def call_done(self, draw: object) -> None:
        busy = sorted(number for number, calls in self.given.items() if calls)
        worker = draw.draw(sampled_from(busy))  # type: ignore[attr-defined]
        running = [call for call, _ in sorted(self.begun_in[worker]) if call in self.given[worker]]
        self.ends(worker, draw.draw(sampled_from(running)))  # type: ignore[attr-defined]

    def ends(self, worker: int, call: int) -> None:
        """The host may read of it later; the worker goes on to the next."""
        del self.given[worker][call]
        self.unread.setdefault(worker, []).append(done(call))
        self.begins(worker)

    @precondition(lambda self: any(self.unread.values()))
    @rule(draw=data(), at_most=integers(1, 5))
    def host_reads(self, draw: object, at_most: int) -> None:
        talkers = sorted(worker for worker, said in self.unread.items() if said)
        worker = draw.draw(sampled_from(talkers))  # type: ignore[attr-defined]
        self.reads(worker, at_most)

    def reads(self, worker: int, at_most: int) -> None:
        said = self.unread[worker]
        now, self.unread[worker] = said[:at_most], said[at_most:]
        self.takes(self.sim.tell(("worker", worker), *now))

    @precondition(lambda self: self.starting or self.ready)
    @rule(draw=data(), told=booleans(), whole=booleans(), told_first=booleans())
    def worker_dies(self, draw: object, told: bool, whole: bool, told_first: bool) -> None:
        live = sorted({*self.starting, *self.ready}, key=lambda n: -len(self.given.get(n, ())))
        worker = draw.draw(sampled_from(live[:3]))  # type: ignore[attr-defined]
        up = worker in self.ready
        template: Address = ("template", self.sim.template)
        exited = WorkerExited(worker, 1, 256 - 9)
        self.given.pop(worker, None)  # it runs nothing any more; what it has said may be read
        if told and told_first:
            self.takes(self.sim.tell(template, exited))
        if whole and self.unread.get(worker):
            self.reads(worker, len(self.unread[worker]))
        self.forget(worker)
        effects = self.sim.give(LinkDown(("worker", worker), whole)) if up else []
        if told and not told_first:
            effects += self.sim.tell(template, exited)
        self.takes(effects)

    @precondition(lambda self: self.ready)
    @rule(draw=data(), used_bytes=integers(0, 2 << 20))
    def memory(self, draw: object, used_bytes: int) -> None:
        worker = draw.draw(sampled_from(sorted(self.ready)))  # type: ignore[attr-defined]
        self.takes(self.sim.give(MemoryUsed(worker, used_bytes)))

    @rule(place=integers(0, 1))
    def caller_leaves(self, place: int) -> None:
        source = CALLERS[place]
        self.open = {key: what for key, what in self.open.items() if key[0] != source}
        self.gone.add(source)
        self.takes(self.sim.give(LinkDown(source)))

    @rule(place=integers(0, 1))
    def caller_comes(self, place: int) -> None:
        source = CALLERS[place]
        if source in self.gone:
            self.gone.discard(source)
            self.takes(self.sim.give(LinkUp(source)))

    @rule(peer=sampled_from(PEERS))
    def peer_comes(self, peer: str) -> None:
        if peer not in self.peers_up:
            self.peers_up.add(peer)
            self.takes(self.sim.give(LinkUp(("peer", peer))))

    @rule(peer=sampled_from(PEERS))
    def peer_leaves(self, peer: str) -> None:
        if peer in self.peers_up:
            self.peers_up.discard(peer)
            self.passed[peer].clear()
            self.takes(self.sim.give(LinkDown(("peer", peer))))

    @precondition(lambda self: any(self.passed.values()))
    @rule(draw=data(), refused=booleans())
    def peer_answers(self, draw: object, refused: bool) -> None:
        peer = min(name for name, calls in self.passed.items() if calls)
        number = draw.draw(sampled_from(sorted(self.passed[peer])))  # type: ignore[attr-defined]
        self.passed[peer].discard(number)
        error: list[object] = [53, 0.5, "x"] if refused else []
        self.takes(self.sim.tell(("peer", peer), done(number, error=error)))

    @rule(again=booleans())
    def reload(self, again: bool) -> None:
        before = len([e for e in self.sim.effects if isinstance(e, StartTemplate)])
        if again:
            self.takes(self.sim.give(Reload("m.py")))
        else:
            self.takes(self.sim.give(TemplateEnded(self.sim.template, "killed")))
            self.takes(self.sim.wait(0.2))
        if len([e for e in self.sim.effects if isinstance(e, StartTemplate)]) > before:
            self.template_ready()

    def template_ready(self) -> None:
        self.takes(self.sim.load(FUNCTIONS))
        # Workers of the version before that were not ready are told so when they greet.
        known = self.sim.core._fleet.workers
        self.starting = {n: f for n, f in self.starting.items() if n in known}

    @rule(delay_s=sampled_from([0.02, 0.3, 2.0, 30.0]))
    def wait(self, delay_s: float) -> None:
        effects = self.sim.wait(delay_s)
        self.takes(effects)

    # --- what always holds ------------------------------------------------------------------------

    @invariant()
    def what_is_asked_is_known(self) -> None:
        by_source = self.sim.core._calls.by_source
        known = {(source, asked) for source, calls in by_source.items() for asked in calls}
        assert set(self.open) == known

    def teardown(self) -> None:
        """In the end everybody has an answer: no call is lost."""
        while busy := [worker for worker, calls in self.given.items() if calls]:
            worker = busy[0]
            for call in list(self.given[worker]):
                if call in self.given[worker]:
                    self.ends(worker, call)
            self.reads(worker, len(self.unread[worker]))
        self.takes(self.sim.wait(70.0))
        assert self.open == {}
        assert self.sim.core.calls_count == 0


SchedulerMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None
)
TestSchedulerMachine = SchedulerMachine.TestCase
