"""The core of a host: which part of it an event is for, and on which host a call runs.

Decides whether a call stays, goes to another host or is sent away, and what a link's coming and
going means to each part. The parts decide the rest, each with the help of those named before it:
who is told how a call ended (`open_calls.py`), what other hosts have (`other_hosts.py`), which
version of the app serves (`versions.py`), which workers there are (`fleet.py`), which calls are
taken (`admission.py`), when a worker gets one and what its loss means (`dispatcher.py`), how calls
end before their time (`endings.py`). Callers, other hosts and calls of this process are sources
alike; workers are sources too, for the calls within their calls.

Invariants: every call is answered once, unless its source is gone; once a version of the app is
loaded, no call is given to a worker of an earlier one. What waits is bounded per function. Payloads
are handed on as they came.

Does not know processes, sockets, clocks, nor what a payload means. Source: DESIGN section 6.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final, assert_never

from bokilog.effects import BatchEnded, SetTimer, TimerFired
from bokilog.functions.runtime.admission import Admission
from bokilog.functions.runtime.agenda import Agenda, Key
from bokilog.functions.runtime.dispatcher import Dispatcher
from bokilog.functions.runtime.effects import (
    Address,
    Disconnect,
    Effect,
    Event,
    LinkDown,
    LinkUp,
    MemoryUsed,
    PeerLeaves,
    Received,
    Reload,
    RetireAll,
    Send,
    SendAway,
    Stopping,
    TemplateEnded,
    WorkerSilent,
)
from bokilog.functions.runtime.endings import Endings
from bokilog.functions.runtime.fleet import Fleet
from bokilog.functions.runtime.messages import (
    STREAM_WINDOW,
    Cancel,
    Credit,
    Done,
    Forked,
    FunctionRows,
    Greeted,
    Item,
    Leaving,
    Returned,
    Start,
    StartMany,
    TemplateFailed,
    TemplateReady,
    WorkerExited,
    WorkerReady,
)
from bokilog.functions.runtime.open_calls import OpenCalls, runner
from bokilog.functions.runtime.other_hosts import OtherHosts
from bokilog.functions.runtime.pool import Call, Phase, Pool
from bokilog.functions.runtime.settings import SchedulerSettings
from bokilog.functions.runtime.versions import Versions

TIMER: Final = "agenda"


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """What a scheduler holds and has done."""

    version: int
    loaded: bool
    calls: int
    """That are not over."""
    waiting: dict[str, int]
    """By function."""
    workers: dict[str, int]
    outcomes: dict[tuple[str, str], int]
    """(function, `ok` or the error's name) to how often."""
    took: dict[str, tuple[float, list[int]]]
    """From a call to its answer, by function: the sum in s, and counts by bucket
    (`histogram.py`)."""
    cold: dict[str, int]
    """Calls that a worker was started for, by function."""
    retries: int
    workers_lost: int


class Scheduler:
    """The state of one host. Fed one event at a time.

    Args:
        name: of the host.
        app: what templates import, as `module:app`.
        seed: of its draws between other hosts.
    """

    def __init__(self, name: str, app: str, *, settings: SchedulerSettings, seed: int) -> None:
        self._name = name
        self._out: list[Effect] = []
        self._agenda: Agenda[Key] = Agenda()
        self._timer_s: float | None = None
        self._calls = OpenCalls(grace_s=settings.grace_s, agenda=self._agenda, out=self._out)
        self._hosts = OtherHosts(
            name,
            seed=seed,
            back_off_s=settings.peer_back_off_s,
            calls=self._calls,
            out=self._out,
        )
        numbers = itertools.count(1)
        self._versions = Versions(
            app, settings=settings, agenda=self._agenda, out=self._out, numbers=numbers
        )
        self._fleet = Fleet(
            self,
            versions=self._versions,
            settings=settings,
            agenda=self._agenda,
            out=self._out,
            numbers=numbers,
            last_s=self._calls.last_s,
        )
        self._dispatcher = Dispatcher(
            grace_s=settings.grace_s, calls=self._calls, fleet=self._fleet, out=self._out
        )
        self._admission = Admission(
            name,
            calls=self._calls,
            hosts=self._hosts,
            versions=self._versions,
            fleet=self._fleet,
            out=self._out,
        )
        self._endings = Endings(
            cancel_grace_s=settings.cancel_grace_s,
            calls=self._calls,
            hosts=self._hosts,
            fleet=self._fleet,
            out=self._out,
        )
        self._greeted: dict[Address, None] = {}
        """Who may make calls here, and is told when the functions change."""

    # --- what others may look at ------------------------------------------------------------------

    def functions(self) -> FunctionRows:
        """What can be called now."""
        return self._versions.functions

    @property
    def app(self) -> str:
        """Its name, once it is loaded; before, where it is imported from."""
        return self._versions.app

    def pids(self) -> list[int]:
        """Of workers that are not known to be gone."""
        return [worker.pid for worker in self._fleet.workers.values() if worker.pid]

    @property
    def calls_count(self) -> int:
        """Calls that are not over."""
        return len(self._calls.by_number)

    @property
    def callers_count(self) -> int:
        """Callers and hosts that may still make calls here."""
        return len(self._greeted)

    def greeted(self) -> Greeted:
        """What callers and hosts are told."""
        versions = self._versions
        return Greeted(self._name, versions.app, versions.version, versions.functions)

    def call_id(self, number: int) -> str:
        """Of a call that a worker has; empty: it is over."""
        call = self._calls.by_number.get(number)
        return "" if call is None else call.call_id

    def watched(self) -> list[tuple[int, int]]:
        """Workers whose memory has a limit: number and pid."""
        return [
            (worker.number, worker.pid)
            for worker in self._fleet.workers.values()
            if worker.pid and worker.pool.options.memory_bytes
        ]

    def shared(self) -> list[int]:
        """Workers that run calls now and would take more: who stands still would hold those up."""
        return [
            worker.number
            for worker in self._fleet.workers.values()
            if worker.calls and worker.linked and worker.pool.concurrency > 1 and not worker.told
        ]

    def stats(self) -> SchedulerStats:
        """What there is and was."""
        return SchedulerStats(
            version=self._versions.version,
            loaded=self._versions.loaded,
            calls=len(self._calls.by_number),
            waiting={name: pool.waiting for name, pool in self._fleet.pools.items()},
            workers={name: len(pool.workers) for name, pool in self._fleet.pools.items()},
            outcomes=dict(self._calls.outcomes),
            took={name: (each.sum_s, list(each.counts)) for name, each in self._calls.took.items()},
            cold=dict(self._dispatcher.cold),
            retries=self._dispatcher.retries,
            workers_lost=self._fleet.lost_count,
        )

    # --- events -----------------------------------------------------------------------------------

    def begin(self) -> list[Effect]:
        """The first template."""
        self._versions.start()
        return self._take(0.0)

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """What follows from an event."""
        match event:
            case Received(source=source, message=message):
                self._received(source, message, now_s)
            case BatchEnded():
                self._fleet.size_pools(now_s)
            case TimerFired():
                self._timer_s = None
                for key in self._agenda.take(now_s):
                    self._due(key, now_s)
            case LinkUp(peer=peer):
                self._link_up(peer)
            case LinkDown(peer=peer, whole=whole):
                self._link_down(peer, now_s, whole=whole)
            case PeerLeaves(name=name):
                self._hosts.down(name)
            case WorkerSilent(worker=number):
                self._fleet.silent(number, now_s)
            case MemoryUsed(worker=number, used_bytes=used_bytes):
                self._fleet.memory_used(number, used_bytes, now_s)
            case TemplateEnded(template=number, why=why):
                self._fleet.template_ended(number, why, now_s)
            case Reload():
                self._versions.reload()
            case Stopping():
                self._versions.stopping = True
            case SendAway():
                self._out.extend(Send(peer, Leaving(self._name)) for peer in self._greeted)
            case RetireAll():
                self._endings.host_stops(self._name, now_s)
                self._versions.stopping = True
                self._fleet.retire_all(now_s)
            case _:
                assert_never(event)
        return self._take(now_s)

    def _received(self, source: Address, message: object, now_s: float) -> None:
        match message:
            case Done() if source[0] == "peer":
                self._done_elsewhere(str(source[1]), message, now_s)
            case Done():
                self._dispatcher.done(source, message, now_s)
            case Start():
                self._start(source, message, now_s)
            case Item():
                self._item(source, message)
            case StartMany():
                self._start_many(source, message, now_s)
            case Credit():
                self._credit(source, message)
            case Cancel():
                self._endings.cancel(source, message, now_s)
            case Leaving() if source[0] == "peer":
                self._hosts.down(str(source[1]))
                self._out.append(Send(source, Leaving(self._name)))
            case Leaving() if source[0] in ("caller", "host"):
                self._greeted.pop(source, None)
            case Returned() if source[0] == "worker":
                self._dispatcher.returned(source, message, now_s)
            case WorkerReady() if source[0] == "worker":
                self._fleet.worker_ready(int(source[1]), message, now_s)
            case Forked() if source[0] == "template":
                self._fleet.forked(message)
            case WorkerExited() if source[0] == "template":
                self._fleet.worker_exited(message, now_s)
            case TemplateReady() if source[0] == "template":
                if self._fleet.template_ready(message, now_s):
                    greeted = self.greeted()
                    self._out.extend(Send(peer, greeted) for peer in self._greeted)
            case TemplateFailed() if source[0] == "template":
                self._versions.load_failed(message, now_s)
            case _:
                problem = f"{type(message).__name__} from a {source[0]}"
                self._out.append(Disconnect(source, problem))

    def _due(self, key: Key, now_s: float) -> None:
        kind, which = key
        if kind == "template":
            self._versions.due()
            return
        if kind != "call":
            self._fleet.due(key, now_s)
            return
        call = self._calls.by_number.get(int(which))
        if call is not None:
            self._endings.due(call, now_s)

    def _take(self, now_s: float) -> list[Effect]:
        """The effects so far, with the timer as the agenda has it."""
        next_s = self._agenda.next_s()
        # A timer that goes off early finds nothing: cheaper than moving it with every call.
        if next_s is not None and (self._timer_s is None or next_s < self._timer_s):
            self._timer_s = next_s
            self._out.append(SetTimer(TIMER, max(next_s - now_s, 0.0)))
        out = self._out.copy()
        self._out.clear()  # the fleet has it too
        return out

    # --- links ------------------------------------------------------------------------------------

    def _link_up(self, peer: Address) -> None:
        role, name = peer
        if role == "peer":
            self._hosts.up(str(name))
        elif role in ("caller", "host"):
            self._greeted[peer] = None
            self._out.append(Send(peer, self.greeted()))
        elif role == "worker":
            self._fleet.link_up(int(name))

    def _link_down(self, peer: Address, now_s: float, *, whole: bool) -> None:
        role, name = peer
        self._greeted.pop(peer, None)
        if role == "peer":
            self._hosts.down(str(name))
            for call in self._hosts.calls_on(str(name)):
                self._dispatcher.lost(call, f"host {name} is gone", now_s)
        elif role == "worker":
            self._fleet.link_down(int(name), now_s, whole=whole)
        self._endings.source_gone(peer, now_s)

    # --- calls come -------------------------------------------------------------------------------

    def _start(self, source: Address, start: Start, now_s: float) -> None:
        call = self._admission.take(source, start, start.payload, now_s, asked=start.call)
        if call is None:
            return
        if self._versions.stopping and source[0] != "worker":
            self._send_away(call, now_s)
            return
        host = (
            "" if call.home else self._hosts.choose(call, self._fleet.pools[call.function], now_s)
        )
        if host:
            self._hosts.pass_on(call, host, now_s)
        else:
            self._dispatcher.enqueue(call, now_s)

    def _start_here(self, call: Call, now_s: float) -> None:
        if self._versions.stopping and call.source[0] != "worker":
            self._send_away(call, now_s)
        else:
            self._dispatcher.enqueue(call, now_s)

    def _send_away(self, call: Call, now_s: float) -> None:
        """This host is about to stop: to another one, if there is one that has room."""
        host = self._hosts.any_free(now_s)
        if host:
            self._hosts.pass_on(call, host, now_s)
        else:
            self._calls.fail(call, self._admission.leaving(), now_s)

    def _start_many(self, source: Address, many: StartMany, now_s: float) -> None:
        """A part of the fan-out each, for this host and others that are free (a tree)."""
        place = 0
        shares = [("", len(many.payloads))]
        if self._versions.stopping and source[0] != "worker":
            shares = [(self._hosts.any_free(now_s), len(many.payloads))]
        elif source[0] != "host" and many.function in self._fleet.pools:
            shares = self._hosts.shares(now_s, len(many.payloads))
        for host, count in shares:
            taken = []
            for offset in range(place, place + count):
                asked = many.first_call + offset
                payload = many.payloads[offset]
                call = self._admission.take(source, many, payload, now_s, asked=asked)
                if call is not None:
                    taken.append(call)
            place += count
            if host:
                self._hosts.pass_many(taken, host, now_s)
            else:
                for call in taken:
                    self._start_here(call, now_s)

    def _done_elsewhere(self, host: str, done: Done, now_s: float) -> None:
        call = self._calls.by_number.get(done.call)
        if call is None or call.peer != host:
            return  # it was answered in its place, and given up
        if self._hosts.refused(call, done, now_s):
            self._dispatcher.enqueue(call, now_s)
        else:
            self._calls.end(call, done, now_s)

    # --- streams ----------------------------------------------------------------------------------

    def _item(self, source: Address, item: Item) -> None:
        call = self._calls.by_number.get(item.call)
        if call is None or call.answered:
            return
        runs_it = (call.worker is not None and source == ("worker", call.worker.number)) or (
            call.peer and source == ("peer", call.peer)
        )
        if runs_it:
            call.items += 1
            self._out.append(Send(call.source, item._replace(call=call.asked)))

    def _credit(self, source: Address, credit: Credit) -> None:
        call = self._calls.asked(source, credit.call)
        if call is None:
            return
        count = min(credit.items, STREAM_WINDOW)
        if call.phase is Phase.WAITING or call.phase is Phase.AHEAD:
            call.credit = min(call.credit + count, STREAM_WINDOW)
        else:
            self._out.append(Send(runner(call), Credit(call.number, count)))

    # --- what the fleet tells (`Owner`) -----------------------------------------------------------

    def dispatch(self, pool: Pool, now_s: float) -> None:
        """A worker of the pool takes calls now."""
        self._dispatcher.dispatch(pool, now_s)

    def lost(self, call: Call, reason: str, now_s: float) -> None:
        """The worker that ran it is gone."""
        self._dispatcher.lost(call, reason, now_s)

    def homeless(self, call: Call, now_s: float) -> None:
        """It waited for a function that the app has not any more."""
        self._dispatcher.homeless(call, now_s)

    def source_gone(self, source: Address, now_s: float) -> None:
        """A worker that made calls is."""
        self._endings.source_gone(source, now_s)

    # --- invariants -------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert the invariants."""
        self._calls.check()
        self._versions.check()
        calls = self._calls.by_number.values()
        for pool in self._fleet.pools.values():
            pool.check()
            assert pool.waiting <= pool.options.queue_limit + (
                max(pool.workers_max, len(pool.workers)) * pool.concurrency
            ) + sum(call.attempt > 0 or call.recalled for call in calls)
            for worker in pool.workers.values():
                assert self._fleet.workers[worker.number] is worker
        for call in calls:
            if call.phase is not Phase.WAITING and not call.peer:
                runs = call.worker
                assert runs is not None and self._fleet.workers[runs.number] is runs
                held = runs.ahead if call.number in runs.ahead else runs.calls
                assert held[call.number] is call
        for worker in self._fleet.workers.values():
            children = sum(call.source == ("worker", worker.number) for call in calls)
            assert worker.children == children
