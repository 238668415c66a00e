"""Which host runs which durable call, and when: the core of a host's part in them.

Decides what this host appends: claims (its own calls at once, those that other hosts left lying
after a delay by rank), extensions of its leases, ends of others' leases, outcomes, and the calls of
schedules. Every decision is made from the state (`state.py`) and from what runs here, and appended
under the condition that the call has no newer step: so it does not matter how often, by how many
or how late it is made. What the state then shows is what happened, whatever an append's answer was.

Composes `ready` (whose turn it is), `attempts` (what runs here), `tickets` (what is under way),
`alarms` (when to look again), `ranks` (which host acts first), `firing` and `outcomes`.

Invariants: a call is run here only while the log says that this host holds it; what a zombie
appends is refused. Time: leases end by the log (`log_ms` estimates it); this host renews its own by
its monotonic clock. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, assert_never

from bokilog.call_errors import UnknownFunction, WorkerLost
from bokilog.errors import BokilogError, DataLost, to_wire
from bokilog.functions.calls.alarms import Alarms
from bokilog.functions.calls.attempts import At, Attempt, Attempts
from bokilog.functions.calls.effects import (
    Append,
    Appended,
    CapacityIs,
    CaughtUpNow,
    Changed,
    ClaimsEffect,
    ClaimsEvent,
    Drain,
    FunctionsAre,
    HostsAre,
    NotAppended,
    Refused,
    Run,
    RunOver,
    StateReplaced,
    StopRun,
    WakeAt,
    Woke,
)
from bokilog.functions.calls.firing import Firing
from bokilog.functions.calls.outcomes import given_up, outcome_of
from bokilog.functions.calls.ranks import Ranks
from bokilog.functions.calls.ready import Ready
from bokilog.functions.calls.records import (
    Cancelled,
    Claimed,
    Expired,
    Extended,
    Retried,
    Step,
    call_tag,
    tags_of,
)
from bokilog.functions.calls.state import CallsState, OpenCall, Phase
from bokilog.functions.calls.tickets import NOT_BUSY, UNTIL_TOLD, Tickets
from bokilog.functions.runtime.options import FunctionOptions

AGAIN_S: Final = 0.5
"""After an append that failed, before the call is looked at again."""
FIRED_AGAIN_S: Final = 0.1
"""Between two records of one schedule."""
MARGIN_MS: Final = 20
"""A lease is called over so much later than it seems: a refused record helps nobody."""
_CALL: Final = call_tag("")
_SCHEDULE: Final = "schedule:"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimsSettings:
    """How eagerly calls are claimed."""

    ttl_ms: int = 10_000
    """Of a lease: how long a call of a host that died waits for another one."""
    capacity: int = 256
    """Durable calls at once on a host; the host's own queue and workers limit them further."""
    rank_delay_s: float = 0.2
    """How much longer each next host waits before it takes a call that is not its own."""
    unknown_s: float = 600.0
    """After that a call of a function that this host does not know is given up."""


class ClaimsStats(NamedTuple):
    """How things stand."""

    open_count: int
    ready_count: int
    running_count: int
    under_way_count: int
    """Appends."""
    claimed_count: int
    refused_count: int
    lost_leases_count: int


class Claims:
    """One host's part in the calls of an app.

    Args:
        state: shared with whoever folds the log into it, who tells each change.
        host: its name, as in `HostsAre`.
        boot: tells its starts apart; no two starts have the same.
        settings: see there.
    """

    def __init__(
        self, state: CallsState, *, host: str, boot: str, settings: ClaimsSettings | None = None
    ) -> None:
        self._state = state
        self._me = f"{host}/{boot}"
        self._settings = settings or ClaimsSettings()
        self._capacity = self._settings.capacity
        self._ranks = Ranks(host)
        self._functions: dict[str, FunctionOptions] = {}
        self._firing = Firing()
        self._ready = Ready()
        self._attempts = Attempts()
        self._tickets = Tickets()
        self._alarms = Alarms()
        self._lost: dict[str, int] = {}
        """Of schedules: a last step that no state will ever take in."""
        self._caught_up = False
        self._draining = False
        self._log_ahead_ms = 0.0
        """The time of the log less that of our clock: by the last record that came live."""
        self._wall_ahead_ms = 0.0
        self._out: list[ClaimsEffect] = []
        self._claimed_count = self._refused_count = self._lost_leases_count = 0

    # --- events -----------------------------------------------------------------------------------

    def handle(self, event: ClaimsEvent, now_s: float) -> list[ClaimsEffect]:
        """What is to be done now."""
        return self.handle_all((event,), now_s)

    def handle_all(self, events: Iterable[ClaimsEvent], now_s: float) -> list[ClaimsEffect]:
        """The same for what came together: the state may have taken in all of it already."""
        for event in events:
            self._handle(event, now_s)
        self._claim(now_s)
        self._wake()
        effects, self._out = self._out, []
        return effects

    def _handle(self, event: ClaimsEvent, now_s: float) -> None:
        match event:
            case Changed(what):
                self._changed(what, now_s)
            case Appended(ticket, seqnum):
                self._appended(ticket, seqnum, now_s)
            case RunOver():
                self._run_over(event, now_s)
            case Woke(wall_ms):
                self._wall_ahead_ms = wall_ms - now_s * 1_000
                self._ring(now_s)
            case Refused():
                self._refused(event, now_s)
            case NotAppended(ticket):
                self._not_appended(ticket, now_s)
            case CaughtUpNow():
                if not self._caught_up:
                    self._caught_up = True
                    newest_ms = self._state.log_ms - now_s * 1_000
                    self._log_ahead_ms = max(newest_ms, self._wall_ahead_ms)
                    self._look_at_all(now_s)
            case StateReplaced():
                self._replaced(now_s)
            case HostsAre(hosts):
                if self._ranks.hosts_are(hosts):
                    self._look_at_all(now_s)
            case FunctionsAre(functions):
                self._functions = dict(functions)
                self._firing.functions_are(functions)
                self._look_at_all(now_s)
            case CapacityIs(capacity):
                self._capacity = capacity
            case Drain(now=at_once):
                self._drain(now_s, at_once=at_once)
            case _:
                assert_never(event)

    @property
    def is_idle(self) -> bool:
        """Nothing runs, and no append is under way."""
        return not self._attempts and not self._tickets.under_way_count

    def held_at(self, call_id: str, attempt: int) -> int | None:
        """While this host holds the call in that attempt: the seqnum of the call's last step."""
        call = self._state.calls.get(call_id)
        if call is None or call.phase != Phase.CLAIMED or call.holder != self._me:
            return None
        return call.seqnum if call.attempt == attempt else None

    def stats(self) -> ClaimsStats:
        """A snapshot for people."""
        return ClaimsStats(
            open_count=len(self._state.calls),
            ready_count=len(self._ready),
            running_count=len(self._attempts),
            under_way_count=self._tickets.under_way_count,
            claimed_count=self._claimed_count,
            refused_count=self._refused_count,
            lost_leases_count=self._lost_leases_count,
        )

    def check(self) -> None:
        """Assert what must always hold."""
        self._state.check()
        assert not self._out
        self._attempts.check()
        for call_id, call in self._state.calls.items():
            if call.holder == self._me and call.phase == Phase.CLAIMED:
                assert call_id in self._attempts or call_tag(call_id) in self._tickets, call_id

    # --- the state moved --------------------------------------------------------------------------

    def _changed(self, what: str, now_s: float) -> None:
        if not self._caught_up:
            return
        self._log_ahead_ms = self._state.log_ms - now_s * 1_000
        if what.startswith(_SCHEDULE):
            self._look_at_schedule(what.removeprefix(_SCHEDULE), now_s)
            return
        self._look(what, now_s)
        call = self._state.calls.get(what)
        if call is not None and call.schedule and call.seqnum == call.spawned_seqnum:
            self._look_at_schedule(call.schedule, now_s)

    def _replaced(self, now_s: float) -> None:
        self._ready.clear()
        for call_id in [each for each in self._attempts if each not in self._state.calls]:
            self._over(call_id, now_s)
        self._tickets.forget_all_answered()
        self._look_at_all(now_s)

    def _look_at_all(self, now_s: float) -> None:
        if not self._caught_up:
            return
        for call_id in list(self._state.calls):
            self._look(call_id, now_s)
        for function in self._firing.scheduled():
            self._look_at_schedule(function, now_s)

    def _look(self, call_id: str, now_s: float) -> None:
        """Do what the state asks of this host for a call; nothing, if it is for others to act."""
        call = self._state.calls.get(call_id)
        if call is None:
            self._over(call_id, now_s)
            return
        if self._is_busy(call_tag(call_id), call.seqnum, now_s):
            return
        if call.phase == Phase.CLAIMED and call.holder == self._me:
            self._mine(call, now_s)
            return
        self._forget(call_id, "its lease is over: another host may run it")
        if call.phase == Phase.CLAIMED:
            self._ready.discard(call_id)
            self._held_by_another(call, now_s)
        else:
            self._waiting(call, now_s)

    def _is_busy(self, ticket: str, seqnum: int, now_s: float) -> bool:
        """Whether an append of that ticket is under way, or not yet in the state."""
        until_s = self._tickets.busy_until(ticket, seqnum, now_s)
        if until_s not in (NOT_BUSY, UNTIL_TOLD):
            self._alarms.set(ticket, until_s)
        return until_s != NOT_BUSY

    # --- calls in each phase ----------------------------------------------------------------------

    def _mine(self, call: OpenCall, now_s: float) -> None:
        attempt = self._attempts.get(call.call_id)
        if attempt is None or attempt.number != call.attempt:
            # An append of ours was let in after we had given it up for lost.
            self._forget(call.call_id, "another attempt has begun")
            attempt = self._begin(call, now_s)
        if attempt.at == At.CLAIMING:
            if self._draining:
                attempt.end(self._released(call))
            else:
                attempt.at = At.RUNNING
                run = Run(call.call_id, call.attempt, call.spawned_seqnum, call.spawned)
                self._out.append(run)
        if attempt.outcome is not None:
            self._step(call, attempt.outcome)
        elif now_s < attempt.extend_s:
            self._alarms.set(call_tag(call.call_id), attempt.extend_s)
        else:
            attempt.extend_s = self._extend_s(now_s)
            self._step(call, Extended(call.call_id, self._me, call.attempt, self._settings.ttl_ms))

    def _held_by_another(self, call: OpenCall, now_s: float) -> None:
        due_s = self._log_to_s(call.lease_ms + MARGIN_MS) + self._rank_s(call)
        if due_s > now_s:
            self._alarms.set(call_tag(call.call_id), due_s)
        elif not self._draining:
            self._lost_leases_count += 1
            self._step(call, Expired(call.call_id, call.holder, call.attempt, self._me))

    def _waiting(self, call: OpenCall, now_s: float) -> None:
        rank_s = self._rank_s(call)
        due_s = self._log_to_s(call.due_ms) + rank_s
        if due_s > now_s:
            self._ready.discard(call.call_id)
            self._alarms.set(call_tag(call.call_id), due_s)
        elif self._draining:
            return
        elif call.is_exhausted:
            reason = f"the lease of host {call.holder.partition('/')[0]!r} ran out"
            self._give_up(call, WorkerLost(call.function, reason))
        elif self._functions and (call.function in self._functions or call.function[:1] == "$"):
            # What starts with a dollar is in every app: it runs what came along in its arguments.
            self._ready.add(call.call_id, call.function, own=rank_s == 0.0)
        else:
            self._ready.discard(call.call_id)
            if self._functions:
                self._unknown(call, now_s, rank_s)

    def _unknown(self, call: OpenCall, now_s: float, rank_s: float) -> None:
        unknown_ms = int(self._settings.unknown_s * 1_000)
        due_s = self._log_to_s(call.spawned_ms + unknown_ms) + rank_s
        if due_s > now_s:
            self._alarms.set(call_tag(call.call_id), due_s)
        else:
            self._give_up(call, UnknownFunction(call.function))

    def _give_up(self, call: OpenCall, error: BokilogError, *, after: int = 0) -> None:
        self._ready.discard(call.call_id)
        self._step(call, given_up(call, self._me, error, to_wire(error)), after=after)

    def _over(self, call_id: str, now_s: float) -> None:
        """The log says that the call is over, or never was."""
        self._ready.discard(call_id)
        ticket = call_tag(call_id)
        self._alarms.drop(ticket)
        self._tickets.forget_answered(ticket)
        self._forget(call_id, "the call was cancelled, or is over already")
        for function in self._firing.blocked():
            self._look_at_schedule(function, now_s)

    # --- claiming and running ---------------------------------------------------------------------

    def _claim(self, now_s: float) -> None:
        """Claim as much as there is room for."""
        if self._draining or not self._caught_up:
            return
        while len(self._attempts) < self._capacity:
            call_id = self._ready.pop(self._has_room)
            if call_id is None:
                return
            call = self._state.calls.get(call_id)
            if call is None or self._is_busy(call_tag(call_id), call.seqnum, now_s):
                continue  # whoever is busy looks again when it is not
            self._begin(call, now_s)
            self._claimed_count += 1
            self._step(call, Claimed(call_id, self._me, call.attempt, self._settings.ttl_ms))

    def _has_room(self, function: str) -> bool:
        return self._attempts.has_room(function, self._capacity)

    def _begin(self, call: OpenCall, now_s: float) -> Attempt:
        return self._attempts.begin(call, extend_s=self._extend_s(now_s))

    def _forget(self, call_id: str, reason: str) -> None:
        attempt = self._attempts.forget(call_id)
        if attempt is not None and attempt.at == At.RUNNING:
            self._out.append(StopRun(call_id, attempt.number, reason))

    def _run_over(self, event: RunOver, now_s: float) -> None:
        attempt, call = self._attempts.get(event.call_id), self._state.calls.get(event.call_id)
        if attempt is None or call is None:
            return
        if (attempt.at, attempt.number) != (At.RUNNING, event.attempt):
            return  # it was stopped: whoever stopped it has dealt with it
        attempt.end(
            outcome_of(call, self._me, event.done, ran_ms=event.ran_ms, draining=self._draining)
        )
        self._look(event.call_id, now_s)

    def _drain(self, now_s: float, *, at_once: bool) -> None:
        self._draining = True
        self._ready.clear()
        if not at_once:
            return
        for call_id, attempt in list(self._attempts.items()):
            call = self._state.calls.get(call_id)
            if attempt.at == At.RUNNING and call is not None:
                self._out.append(StopRun(call_id, attempt.number, "the host is going down"))
                attempt.end(self._released(call))
                self._look(call_id, now_s)

    def _released(self, call: OpenCall) -> Retried:
        return Retried(call.call_id, self._me, call.attempt, 0, [])

    # --- appends ----------------------------------------------------------------------------------

    def _step(self, call: OpenCall, step: Step, *, after: int = 0) -> None:
        ticket = call_tag(call.call_id)
        self._tickets.begin(ticket)
        tags = tags_of(step, stream=call.is_stream)
        self._out.append(Append(ticket, step, tags, max(after, call.seqnum), None))

    def _appended(self, ticket: str, seqnum: int, now_s: float) -> None:
        # A schedule's key that was used before answers too: no hurry, should that happen again.
        again_s = now_s + FIRED_AGAIN_S if ticket.startswith(_SCHEDULE) else 0.0
        if self._tickets.end(ticket, seqnum, again_s=again_s):
            self._look_by(ticket, now_s)

    def _refused(self, event: Refused, now_s: float) -> None:
        """Somebody was first, or an append of ours that we had given up for lost."""
        self._refused_count += 1
        if not self._tickets.end(event.ticket, event.winner):
            return
        if self._seqnum_of(event.ticket) < event.winner < event.position:
            self._history_is_lost(event.ticket, event.winner, now_s)
        else:
            self._look_by(event.ticket, now_s)

    def _history_is_lost(self, ticket: str, winner: int, now_s: float) -> None:
        """The state has passed by a step whose bytes are lost: nobody knows what it said."""
        self._tickets.forget(ticket)
        if ticket.startswith(_SCHEDULE):
            self._lost[ticket] = winner
            self._look_by(ticket, now_s)
            return
        call = self._state.calls.get(ticket.removeprefix(_CALL))
        if call is not None:
            self._forget(call.call_id, "a record of the call is lost")
            self._give_up(call, DataLost(winner), after=winner)

    def _not_appended(self, ticket: str, now_s: float) -> None:
        if self._tickets.fail(ticket, again_s=now_s + AGAIN_S):
            self._look_by(ticket, now_s)

    def _seqnum_of(self, ticket: str) -> int:
        """Of the last step in the state; what is over has no more to come."""
        if ticket.startswith(_SCHEDULE):
            due = self._state.schedules.get(ticket.removeprefix(_SCHEDULE))
            return 0 if due is None else due.seqnum
        call = self._state.calls.get(ticket.removeprefix(_CALL))
        return 1 << 62 if call is None else call.seqnum

    def _look_by(self, ticket: str, now_s: float) -> None:
        if ticket.startswith(_SCHEDULE):
            self._look_at_schedule(ticket.removeprefix(_SCHEDULE), now_s)
        else:
            self._look(ticket.removeprefix(_CALL), now_s)

    # --- schedules --------------------------------------------------------------------------------

    def _look_at_schedule(self, function: str, now_s: float) -> None:
        if self._draining or not self._caught_up:
            return
        due = self._state.schedules.get(function)
        ticket = _SCHEDULE + function
        if self._is_busy(ticket, 0 if due is None else due.seqnum, now_s):
            return
        wish = self._firing.wish(
            function,
            due,
            wall_ms=int(now_s * 1_000 + self._wall_ahead_ms),
            delay_ms=int(1_000 * self._settings.rank_delay_s * self._ranks.of(ticket)),
        )
        if wish.again_ms is not None:
            # A millisecond later: the way there and back rounds down.
            again_s = max(now_s, (wish.again_ms - self._wall_ahead_ms) / 1_000) + 0.001
            self._alarms.set(ticket, again_s)
        if wish.record is not None:
            after = max(0 if due is None else due.seqnum, self._lost.get(ticket, 0))
            self._tickets.begin(ticket)
            tags = tags_of(wish.record)
            self._out.append(Append(ticket, wish.record, tags, after, wish.key))
        for call_id in wish.cancel:
            call = self._state.calls.get(call_id)
            if call is not None and not self._is_busy(call_tag(call_id), call.seqnum, now_s):
                self._ready.discard(call_id)
                self._step(call, Cancelled(call_id, "the next one of its schedule is due"))

    # --- time -------------------------------------------------------------------------------------

    def _log_to_s(self, log_ms: int) -> float:
        """When, by our clock, it is that time by the log's."""
        return (log_ms - self._log_ahead_ms) / 1_000

    def _extend_s(self, now_s: float) -> float:
        """When a lease of now is renewed: early enough for a second try."""
        return now_s + self._settings.ttl_ms / 3_000

    def _rank_s(self, call: OpenCall) -> float:
        """How much longer than others this host waits before it does something for the call."""
        return self._ranks.of_call(call) * self._settings.rank_delay_s

    def _ring(self, now_s: float) -> None:
        self._alarms.rang()
        while (ticket := self._alarms.pop_due(now_s)) is not None:
            self._look_by(ticket, now_s)

    def _wake(self) -> None:
        wake_s = self._alarms.pop_wish()
        if wake_s is not None:
            self._out.append(WakeAt(wake_s))
