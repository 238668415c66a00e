"""The core of a host: which call runs where and when, and what becomes of it.

Decides: whether a call is taken (known function, depth, queue bound), on which host and in which
worker it runs, what happens at deadlines, cancellations and lost workers. Which workers there are,
of which version of the app, is `fleet.py`'s. Callers, other hosts and calls of this process are
sources alike; workers are sources too, for the calls within their calls.

Invariants: every call is answered once, unless its source is gone; a call whose worker was lost is
started again only while `retries` allows and nothing of its stream has left; once a version of the
app is loaded, no call is given to a worker of an earlier one. What waits is bounded per function.
Payloads are handed on as they came.

Does not know processes, sockets, clocks, nor what a payload means, but where its data is.
Source: Nightcore (pools per function, last in first out), DESIGN section 6.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, assert_never

from bokilog.call_errors import (
    AppFailed,
    CallCancelled,
    CallTimeout,
    CallTooDeep,
    UnknownFunction,
    WorkerLost,
)
from bokilog.codec import unpack
from bokilog.effects import BatchEnded, SetTimer, TimerFired
from bokilog.errors import BY_CODE, BokilogError, NotReady, Overloaded, RemoteProtocolError, to_wire
from bokilog.functions.runtime.agenda import Agenda
from bokilog.functions.runtime.effects import (
    Address,
    CallBegan,
    CallOver,
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
    Stopping,
    TemplateEnded,
    WorkerSilent,
)
from bokilog.functions.runtime.fleet import Fleet, Key
from bokilog.functions.runtime.messages import (
    DEPTH_MAX,
    STREAM_WINDOW,
    Cancel,
    Credit,
    Done,
    Encoding,
    Flag,
    Forked,
    FunctionRows,
    Greeted,
    Item,
    Payload,
    Returned,
    Start,
    StartMany,
    TemplateFailed,
    TemplateReady,
    WorkerExited,
    WorkerReady,
)
from bokilog.functions.runtime.placement import Placement
from bokilog.functions.runtime.pool import Call, Phase, Pool, WorkerState
from bokilog.functions.runtime.settings import SchedulerSettings
from bokilog.histogram import Histogram

TIMER: Final = "agenda"
_ANY: Final = 1 << 30
"""More calls than another host has: any that answers is better than this one."""
# What another host answers when it has certainly not started the call.
_REFUSALS: Final = frozenset({Overloaded.code, NotReady.code, UnknownFunction.code, AppFailed.code})


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
        self._settings = settings
        self._out: list[Effect] = []
        self._agenda: Agenda[Key] = Agenda()
        self._timer_s: float | None = None
        self._placement = Placement(name, seed=seed)
        self._fleet = Fleet(
            app,
            self,
            settings=settings,
            agenda=self._agenda,
            out=self._out,
            last_s=self._last_s,
        )
        self._calls: dict[int, Call] = {}
        self._asked: dict[Address, dict[int, Call]] = {}
        """By source and its number for the call; entries leave with their answer."""
        self._greeted: dict[Address, None] = {}
        """Who is told when the functions change."""
        self._numbers = 0
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._took: defaultdict[str, Histogram] = defaultdict(Histogram)
        self._cold: Counter[str] = Counter()
        self._retries = 0

    # --- what others may look at ------------------------------------------------------------------

    def functions(self) -> FunctionRows:
        """What can be called now."""
        return self._fleet.functions

    @property
    def app(self) -> str:
        """Its name, once it is loaded; before, where it is imported from."""
        return self._fleet.app

    def pids(self) -> list[int]:
        """Of workers that are not known to be gone."""
        return [worker.pid for worker in self._fleet.workers.values() if worker.pid]

    @property
    def calls_count(self) -> int:
        """Calls that are not over."""
        return len(self._calls)

    def greeted(self) -> Greeted:
        """What callers and hosts are told."""
        return Greeted(self._name, self._fleet.app, self._fleet.version, self._fleet.functions)

    def call_id(self, number: int) -> str:
        """Of a call that a worker has; empty: it is over."""
        call = self._calls.get(number)
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
            version=self._fleet.version,
            loaded=self._fleet.loaded,
            calls=len(self._calls),
            waiting={name: pool.waiting for name, pool in self._fleet.pools.items()},
            workers={name: len(pool.workers) for name, pool in self._fleet.pools.items()},
            outcomes=dict(self._outcomes),
            took={name: (each.sum_s, list(each.counts)) for name, each in self._took.items()},
            cold=dict(self._cold),
            retries=self._retries,
            workers_lost=self._fleet.lost_count,
        )

    # --- events -----------------------------------------------------------------------------------

    def begin(self) -> list[Effect]:
        """The first template."""
        self._fleet.start_template()
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
                self._placement.down(name)
            case WorkerSilent(worker=number):
                self._fleet.silent(number, now_s)
            case MemoryUsed(worker=number, used_bytes=used_bytes):
                self._fleet.memory_used(number, used_bytes, now_s)
            case TemplateEnded(template=number, why=why):
                self._fleet.template_ended(number, why, now_s)
            case Reload():
                self._fleet.reload()
            case Stopping():
                self._fleet.stopping = True
            case RetireAll():
                self._retire_all(now_s)
            case _:
                assert_never(event)
        return self._take(now_s)

    def _received(self, source: Address, message: object, now_s: float) -> None:
        match message:
            case Done():
                self._done(source, message, now_s)
            case Start():
                self._start(source, message, now_s)
            case Item():
                self._item(source, message)
            case StartMany():
                self._start_many(source, message, now_s)
            case Credit():
                self._credit(source, message)
            case Cancel():
                self._cancel(source, message, now_s)
            case Returned() if source[0] == "worker":
                self._returned(source, message, now_s)
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
                self._fleet.template_failed(message, now_s)
            case _:
                problem = f"{type(message).__name__} from a {source[0]}"
                self._out.append(Disconnect(source, problem))

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
            self._placement.up(str(name))
        elif role in ("caller", "host"):
            self._greeted[peer] = None
            self._out.append(Send(peer, self.greeted()))
        elif role == "worker":
            self._fleet.link_up(int(name))

    def _link_down(self, peer: Address, now_s: float, *, whole: bool) -> None:
        role, name = peer
        self._greeted.pop(peer, None)
        if role == "peer":
            self._placement.down(str(name))
            self._peer_lost(str(name), now_s)
        elif role == "worker":
            self._fleet.link_down(int(name), now_s, whole=whole)
        self.source_gone(peer, now_s)

    def source_gone(self, source: Address, now_s: float) -> None:
        """Nobody waits for these any more; durable ones go on."""
        for call in self._asked.pop(source, {}).values():
            call.answered = True
            if not call.flags & Flag.DURABLE:
                self._stop(call, "its caller is gone", now_s)

    # --- calls come -------------------------------------------------------------------------------

    def _start(self, source: Address, start: Start, now_s: float) -> None:
        call = self._taken(source, start, start.payload, now_s, asked=start.call)
        if call is None:
            return
        if self._fleet.stopping and source[0] != "worker":
            self._send_away(call, now_s)
            return
        if not call.home and not self._placement.alone:
            near = _data_host(start)
            pool = self._fleet.pools[call.function]
            waiting = pool.waiting + 1 if pool.saturated else None
            host = self._placement.choose(now_s, near=near, waiting=waiting)
            if host:
                self._pass_on(call, host, now_s)
                return
        self._enqueue(call, now_s)

    def _start_here(self, call: Call, now_s: float) -> None:
        if self._fleet.stopping and call.source[0] != "worker":
            self._send_away(call, now_s)
        else:
            self._enqueue(call, now_s)

    def _send_away(self, call: Call, now_s: float) -> None:
        """This host is about to stop: to another one, if there is one that has room."""
        host = self._placement.choose(now_s, near="", waiting=_ANY)
        if host:
            self._pass_on(call, host, now_s)
        else:
            error = NotReady(f"host {self._name} is about to stop")
            self._answer_error(call, error, now_s)

    def _start_many(self, source: Address, many: StartMany, now_s: float) -> None:
        """A part of the fan-out each, for this host and others that are free (a tree)."""
        place = 0
        shares = [("", len(many.payloads))]
        if self._fleet.stopping and source[0] != "worker":
            shares = [(self._placement.choose(now_s, near="", waiting=_ANY), len(many.payloads))]
        elif source[0] != "host" and many.function in self._fleet.pools:
            shares = self._placement.shares(now_s, len(many.payloads))
        for host, count in shares:
            taken = []
            for offset in range(place, place + count):
                asked = many.first_call + offset
                call = self._taken(source, many, many.payloads[offset], now_s, asked=asked)
                if call is not None:
                    taken.append(call)
            place += count
            if host:
                self._pass_many(taken, host, now_s)
            else:
                for call in taken:
                    self._start_here(call, now_s)

    def _taken(
        self,
        source: Address,
        start: Start | StartMany,
        payload: Payload,
        now_s: float,
        *,
        asked: int,
    ) -> Call | None:
        """A call that may run here; else it is answered already."""
        pool = self._fleet.pools.get(start.function)
        problem = self._refusal(source, start, pool)
        if problem is not None or pool is None:
            assert problem is not None
            self._refuse(source, asked, start.function, problem)
            return None
        known = self._asked.setdefault(source, {})
        if asked in known:
            self._out.append(Disconnect(source, f"call {asked} twice"))
            return None
        self._numbers += 1
        limit_s = start.deadline_ms / 1e3 if start.deadline_ms else pool.options.timeout_s
        call = Call(
            self._numbers,
            source=source,
            asked=asked,
            function=start.function,
            encoding=start.encoding,
            depth=start.depth,
            attempt=0 if isinstance(start, StartMany) else start.attempt,
            flags=start.flags,
            call_id=id_in_many(start.first_call_id, asked - start.first_call)
            if isinstance(start, StartMany)
            else start.call_id,
            token=start.token,
            trace=start.trace,
            payload=payload,
            received_s=now_s,
            deadline_s=now_s + limit_s,
        )
        call.home = source[0] == "host"
        known[asked] = call
        self._calls[call.number] = call
        self._agenda.set(("call", call.number), call.deadline_s)
        if source[0] == "worker":
            worker = self._fleet.workers.get(int(source[1]))
            if worker is not None:
                worker.children += 1
                if not worker.pool.calls_others:
                    worker.pool.calls_others = True
                    self._fleet.recall(worker.pool.recall_all())
        return call

    def _refusal(
        self, source: Address, start: Start | StartMany, pool: Pool | None
    ) -> BokilogError | None:
        alone = source[0] == "host" or (source[0] != "worker" and self._placement.alone)
        if self._fleet.retired or (self._fleet.stopping and alone):
            return NotReady(f"host {self._name} is about to stop")
        if start.depth > DEPTH_MAX:
            return CallTooDeep(start.function, start.depth, DEPTH_MAX)
        if pool is not None:
            return None
        if not self._fleet.loaded:
            if self._fleet.failed:
                return AppFailed(self._fleet.app, self._fleet.failed)
            return NotReady(f"app {self._fleet.app} is being loaded")
        return UnknownFunction(start.function, _hint(start.function, self._fleet.pools))

    def _refuse(self, source: Address, asked: int, function: str, error: BokilogError) -> None:
        """An answer to what never became a call."""
        # Names that no function has are counted as one: there is no end to them.
        shown = function if function in self._fleet.pools else ""
        self._outcomes[shown, type(error).__name__] += 1
        self._out.append(Send(source, _failed(asked, error)))

    def _enqueue(self, call: Call, now_s: float, *, first: bool = False) -> None:
        """To its function's queue, and on to a worker if one is free."""
        pool = self._fleet.pools.get(call.function)
        if pool is None:  # a reload took the function away
            error = UnknownFunction(call.function, _hint(call.function, self._fleet.pools))
            self._answer_error(call, error, now_s)
            return
        if not first:
            pool.load.arrived(now_s)
            if not pool.has_room():
                retry_after_s = round(pool.retry_after_s(), 3)
                what = f"one more call of {call.function}"
                self._answer_error(call, Overloaded(retry_after_s, what), now_s)
                return
        call.phase = Phase.WAITING
        call.worker, call.peer = None, ""
        pool.put(call, now_s, first=first)
        self.dispatch(pool, now_s)
        if call.phase is Phase.WAITING or call.phase is Phase.AHEAD:
            # A slice would keep the whole read in memory that it came with.
            call.payload = bytes(call.payload)

    def dispatch(self, pool: Pool, now_s: float) -> None:
        for worker, call in pool.assign(now_s):
            if call.cold:
                self._cold[call.function] += 1
            self._out.append(Send(("worker", worker.number), self._as_start(call, now_s)))
            self._begins(call, pool, now_s)
        for worker, call in pool.assign_ahead(now_s):
            self._out.append(Send(("worker", worker.number), self._as_start(call, now_s)))
        if pool.waiting:
            self._fleet.recall(pool.to_recall(now_s))
        self._fleet.used(pool.function)

    def _begins(self, call: Call, pool: Pool, now_s: float) -> None:
        """Its worker runs it from now on."""
        key = ("call", call.number)
        if call.phase is not Phase.RUNNING:  # it was cancelled, and is not begun
            if key not in self._agenda:
                self._agenda.set(key, now_s + self._settings.grace_s)
            return
        self._agenda.set(key, max(call.deadline_s, now_s) + self._settings.grace_s)
        if call.credit:
            self._out.append(Send(_runner(call), Credit(call.number, call.credit)))
            call.credit = 0
        if pool.options.retries <= call.attempt:
            call.payload = b""
        waited_s = now_s - call.received_s
        self._out.append(CallBegan(call.call_id, call.function, call.attempt, waited_s))

    def _as_start(self, call: Call, now_s: float) -> Start:
        return Start(
            call.number,
            call.function,
            call.encoding,
            max(round((call.deadline_s - now_s) * 1e3), 1),
            call.depth,
            call.attempt,
            call.flags,
            call.call_id,
            call.token,
            call.trace,
            call.payload,
        )

    # --- other hosts ------------------------------------------------------------------------------

    def _pass_on(self, call: Call, host: str, now_s: float) -> None:
        self._mark_passed(call, host, now_s)
        self._out.append(Send(("peer", host), self._as_start(call, now_s)))
        if call.credit:
            self._out.append(Send(("peer", host), Credit(call.number, call.credit)))
            call.credit = 0

    def _pass_many(self, calls: list[Call], host: str, now_s: float) -> None:
        """As one message: their numbers follow one another, since nothing came between."""
        if not calls:
            return
        for call in calls:
            self._mark_passed(call, host, now_s)
        first = calls[0]
        many = StartMany(
            first.number,
            first.function,
            first.encoding,
            max(round((first.deadline_s - now_s) * 1e3), 1),
            first.depth,
            first.flags,
            first.call_id,
            first.token,
            first.trace,
            [call.payload for call in calls],
        )
        self._out.append(Send(("peer", host), many))

    def _mark_passed(self, call: Call, host: str, now_s: float) -> None:
        call.peer = host
        call.phase = Phase.RUNNING
        call.sent_s = now_s
        self._placement.began(host)
        self._agenda.set(("call", call.number), call.deadline_s + 2 * self._settings.grace_s)

    def _peer_lost(self, host: str, now_s: float) -> None:
        for call in [each for each in self._calls.values() if each.peer == host]:
            self.lost(call, f"host {host} is gone", now_s)

    # --- answers ----------------------------------------------------------------------------------

    def _done(self, source: Address, done: Done, now_s: float) -> None:
        call = self._calls.get(done.call)
        if call is None:
            return  # it was answered in its place, and given up
        if source[0] == "peer":
            self._done_elsewhere(call, done, str(source[1]), now_s)
            return
        worker = call.worker
        if worker is None or source != ("worker", worker.number):
            self._out.append(Disconnect(source, f"the end of call {done.call}, which it has not"))
            return
        pool = worker.pool
        if call.number in worker.calls:
            pool.load.finished(now_s - call.sent_s)
        begun = pool.done(worker, call, now_s)
        if begun is not None:
            self._begins(begun, pool, now_s)
        self._forget(call)
        self._answer(call, done, now_s)
        if worker.state is WorkerState.READY:
            if pool.options.fresh:
                self._fleet.retire(worker, now_s)
            self.dispatch(pool, now_s)
        else:
            self._fleet.end_if_stuck(worker, now_s)

    def _returned(self, source: Address, returned: Returned, now_s: float) -> None:
        """A call that was given ahead has not begun: it waits here again, before all others."""
        call = self._calls.get(returned.call)
        worker = call.worker if call is not None else None
        if call is None or worker is None or source != ("worker", worker.number):
            return
        if call.number not in worker.ahead:
            self._out.append(Disconnect(source, f"call {call.number} back, which it has begun"))
            return
        worker.pool.done(worker, call, now_s)
        if call.answered or call.phase is Phase.CANCELLED:
            error = CallCancelled(call.function, "its caller does not want it")
            self._answer_error(call, error, now_s)
        else:
            self._agenda.set(("call", call.number), call.deadline_s)
            self._enqueue(call, now_s, first=True)
        if worker.state is WorkerState.READY:
            self.dispatch(worker.pool, now_s)
        else:
            self._fleet.end_if_stuck(worker, now_s)

    def _done_elsewhere(self, call: Call, done: Done, host: str, now_s: float) -> None:
        if call.peer != host:
            return
        self._placement.over(host)
        if done.error and done.error[0] in _REFUSALS and call.phase is Phase.RUNNING:
            after_s = self._settings.peer_back_off_s
            if done.error[0] == Overloaded.code and len(done.error) > 1:
                told = done.error[1]
                after_s = max(after_s, told if isinstance(told, (int, float)) else 0.0)
            self._placement.refused(host, until_s=now_s + after_s)
            call.home = True
            self._agenda.set(("call", call.number), call.deadline_s)
            self._enqueue(call, now_s)
            return
        self._forget(call)
        self._answer(call, done, now_s)

    def _answer(self, call: Call, done: Done, now_s: float) -> None:
        """To the source, in its own numbers; once."""
        call.phase = Phase.OVER
        if call.answered:
            return
        call.answered = True
        self._leave_source(call)
        queued_us = done.queued_us + max(round((call.sent_s - call.received_s) * 1e6), 0)
        error, cold = done.error, done.cold or call.cold
        answer = Done(
            call.asked, done.encoding, done.token, error, queued_us, done.ran_us, cold, done.payload
        )
        self._out.append(Send(call.source, answer))
        self._note_over(call, error, now_s)

    def _answer_error(self, call: Call, error: BokilogError, now_s: float) -> None:
        """Its end, told by this host."""
        self._forget(call)
        self._answer_early(call, error, now_s)
        call.phase = Phase.OVER

    def _answer_early(self, call: Call, error: BokilogError, now_s: float) -> None:
        """The source is told; whatever still runs is not waited for."""
        if call.answered:
            return
        call.answered = True
        self._leave_source(call)
        until_s = call.sent_s if call.sent_s else now_s
        queued_us = max(round((until_s - call.received_s) * 1e6), 0)
        answer = _failed(call.asked, error)._replace(queued_us=queued_us, cold=call.cold)
        self._out.append(Send(call.source, answer))
        self._note_over(call, answer.error, now_s)

    def _note_over(self, call: Call, error: list[object], now_s: float) -> None:
        outcome = "ok" if not error else _error_name(error)
        self._outcomes[call.function, outcome] += 1
        took_s = now_s - call.received_s
        self._took[call.function].observe(took_s)
        self._out.append(CallOver(call.call_id, call.function, error, took_s, call.cold))

    def _leave_source(self, call: Call) -> None:
        asked = self._asked.get(call.source)
        if asked is not None:
            asked.pop(call.asked, None)
            if not asked:
                del self._asked[call.source]

    def _forget(self, call: Call) -> None:
        """It is over on this host."""
        if self._calls.pop(call.number, None) is None:
            return
        self._agenda.drop(("call", call.number))
        if call.source[0] == "worker":
            worker = self._fleet.workers.get(int(call.source[1]))
            if worker is not None:
                worker.children -= 1

    # --- streams ----------------------------------------------------------------------------------

    def _item(self, source: Address, item: Item) -> None:
        call = self._calls.get(item.call)
        if call is None or call.answered:
            return
        runs_it = (call.worker is not None and source == ("worker", call.worker.number)) or (
            call.peer and source == ("peer", call.peer)
        )
        if runs_it:
            call.items += 1
            self._out.append(Send(call.source, item._replace(call=call.asked)))

    def _credit(self, source: Address, credit: Credit) -> None:
        call = self._asked.get(source, {}).get(credit.call)
        if call is None:
            return
        count = min(credit.items, STREAM_WINDOW)
        if call.phase is Phase.WAITING or call.phase is Phase.AHEAD:
            call.credit = min(call.credit + count, STREAM_WINDOW)
        else:
            self._out.append(Send(_runner(call), Credit(call.number, count)))

    # --- ends before time -------------------------------------------------------------------------

    def _cancel(self, source: Address, cancel: Cancel, now_s: float) -> None:
        call = self._asked.get(source, {}).get(cancel.call)
        if call is not None:
            self._stop(call, cancel.reason or "its caller does not want it", now_s)

    def _stop(self, call: Call, reason: str, now_s: float) -> None:
        """Out of the queue at once; or its worker is told, and has a moment to end it."""
        if call.phase is Phase.WAITING:
            self._fleet.pools[call.function].drop(call)
            self._fleet.touch(call.function)
            self._answer_error(call, CallCancelled(call.function, reason), now_s)
        elif call.phase is Phase.RUNNING or call.phase is Phase.AHEAD:
            call.phase = Phase.CANCELLED
            self._out.append(Send(_runner(call), Cancel(call.number, reason)))
            due_s = min(now_s + self._settings.cancel_grace_s, self._last_s(call))
            self._agenda.set(("call", call.number), due_s)

    def _last_s(self, call: Call) -> float:
        """Until when it may run."""
        return call.deadline_s + self._settings.grace_s * (2 if call.peer else 1)

    def _due(self, key: Key, now_s: float) -> None:
        kind, which = key
        if kind != "call":
            self._fleet.due(key, now_s)
            return
        call = self._calls.get(int(which))
        if call is not None:
            self._call_due(call, now_s)

    def _call_due(self, call: Call, now_s: float) -> None:
        limit_s = round(call.deadline_s - call.received_s, 3)
        late = now_s >= self._last_s(call) or call.phase is Phase.WAITING
        if call.phase is Phase.WAITING:
            self._fleet.pools[call.function].drop(call)
            self._answer_error(call, CallTimeout(call.function, limit_s), now_s)
            return
        if call.worker is not None and call.number in call.worker.ahead:
            self._due_ahead(call, now_s)
            return
        if not late:  # cancelled a moment ago, and it has not ended: it may until its deadline
            self._answer_early(call, CallCancelled(call.function, "it goes on"), now_s)
            self._agenda.set(("call", call.number), self._last_s(call))
            return
        self._answer_early(call, CallTimeout(call.function, limit_s), now_s)
        if call.peer:
            self._out.append(Send(_runner(call), Cancel(call.number, "its time is over")))
            self._placement.over(call.peer)
            self._forget(call)
        elif call.worker is not None:
            self._fleet.stuck(call.worker, now_s)

    def _due_ahead(self, call: Call, now_s: float) -> None:
        """It is over for its caller; its worker says so once it is free, without beginning it."""
        if call.phase is Phase.CANCELLED:
            self._answer_early(call, CallCancelled(call.function, "it had not begun"), now_s)
            return
        limit_s = round(call.deadline_s - call.received_s, 3)
        self._answer_early(call, CallTimeout(call.function, limit_s), now_s)
        call.phase = Phase.CANCELLED
        self._out.append(Send(_runner(call), Cancel(call.number, "its time is over")))

    # --- workers ----------------------------------------------------------------------------------

    def lost(self, call: Call, reason: str, now_s: float) -> None:
        """Whoever ran it is gone."""
        call.worker = None
        if call.phase is Phase.AHEAD and not call.answered:
            self._enqueue(call, now_s, first=True)
            return
        pool = self._fleet.pools.get(call.function)
        again = (
            pool is not None
            and call.attempt < pool.options.retries
            and call.phase is Phase.RUNNING
            and not call.answered
            and not call.items
            and now_s < call.deadline_s
        )
        if not again:
            error = WorkerLost(call.function, reason)
            if call.phase is Phase.CANCELLED:
                self._answer_error(call, CallCancelled(call.function, reason), now_s)
            else:
                self._answer_error(call, error, now_s)
            return
        self._retries += 1
        call.attempt += 1
        call.home = True
        self._agenda.set(("call", call.number), call.deadline_s)
        self._enqueue(call, now_s, first=True)

    # --- the end ----------------------------------------------------------------------------------

    def _retire_all(self, now_s: float) -> None:
        for call in list(self._calls.values()):
            if call.phase is Phase.WAITING:
                self._fleet.pools[call.function].drop(call)
                error = NotReady(f"host {self._name} stops")
                self._answer_error(call, error, now_s)
            else:
                self._answer_early(call, WorkerLost(call.function, "its host stops"), now_s)
        self._fleet.retire_all(now_s)

    # --- what the fleet tells (Owner: also `dispatch`, `lost`, `source_gone`) ---------------------

    def homeless(self, call: Call, now_s: float) -> None:
        """It waited for a function that the app has not any more."""
        error = UnknownFunction(call.function, _hint(call.function, self._fleet.pools))
        self._answer_error(call, error, now_s)

    # --- invariants -------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert the invariants."""
        for pool in self._fleet.pools.values():
            pool.check()
            assert pool.waiting <= pool.options.queue_limit + (
                max(pool.workers_max, len(pool.workers)) * pool.concurrency
            ) + sum(call.attempt > 0 or call.recalled for call in self._calls.values())
            for worker in pool.workers.values():
                assert self._fleet.workers[worker.number] is worker
        for source, calls in self._asked.items():
            for asked, call in calls.items():
                assert call.source == source and call.asked == asked and not call.answered
                assert self._calls[call.number] is call
        for call in self._calls.values():
            ending = call.worker is not None and call.worker.state is WorkerState.ENDING
            timed = ("call", call.number) in self._agenda
            ahead = call.worker is not None and call.number in call.worker.ahead
            assert timed or (call.answered and (ending or ahead)), "a call without a deadline"
            assert call.phase is not Phase.OVER
            if call.phase is not Phase.WAITING and not call.peer:
                assert call.worker is not None
                held = call.worker.ahead if ahead else call.worker.calls
                assert held[call.number] is call
                assert self._fleet.workers[call.worker.number] is call.worker
        for worker in self._fleet.workers.values():
            children = sum(c.source == ("worker", worker.number) for c in self._calls.values())
            assert worker.children == children


def id_in_many(first: str, place: int) -> str:
    """The id of a call of a fan-out.

    >>> id_in_many("0123456789abcdef", 0), id_in_many("0123456789abcdef", 2)
    ('0123456789abcdef', '0123456789abcdef.2')
    >>> id_in_many("0123456789abcdef.40", 2)
    '0123456789abcdef.42'
    """
    if place == 0:
        return first
    base, _, before = first.partition(".")
    return f"{base}.{(int(before) if before.isdigit() else 0) + place}"


def _runner(call: Call) -> Address:
    if call.peer:
        return ("peer", call.peer)
    assert call.worker is not None
    return ("worker", call.worker.number)


def _failed(asked: int, error: BokilogError) -> Done:
    return Done(asked, Encoding.MSGPACK, "", to_wire(error), 0, 0, False, b"")


def _error_name(error: list[object]) -> str:
    code = error[0]
    known = BY_CODE.get(code) if isinstance(code, int) else None
    return known.__name__ if known is not None else "unknown"


def _hint(function: str, known: Iterable[str]) -> str:
    names = [name for name in known if not name.startswith("$")]
    near = get_close_matches(function, names, n=1)
    if near:
        return f": did you mean {near[0]!r}?"
    return f": the app has {', '.join(sorted(names)[:20])}" if names else ": the app has none"


def _data_host(start: Start) -> str:
    """The host that the payload's record was written on; empty: it has none, or says no such."""
    if start.encoding != Encoding.REFERENCE:
        return ""
    try:
        reference = unpack(memoryview(start.payload))
    except RemoteProtocolError:
        return ""
    if isinstance(reference, list) and len(reference) == 4 and isinstance(reference[3], str):
        return reference[3]
    return ""
