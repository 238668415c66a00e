"""The workers of a host, and the pools they are in.

Decides when workers are started, told to end and killed; which pools there are after a load of the
app; what a worker's end means for the next start (back-off). What its end means for its calls is
`dispatcher.py`'s to say, through the scheduler (`Owner`); which version of the app serves, and its
template, is `versions.py`'s.

Invariants: pools are those of the version that serves, and only its workers are in them; a worker
that was told to end gets no call. Does not know callers, other hosts, deadlines of calls but when
they have run out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from bokilog.functions.runtime.agenda import Agenda, Key
from bokilog.functions.runtime.effects import (
    Address,
    Disconnect,
    Effect,
    KillWorker,
    Send,
    WorkerEnded,
)
from bokilog.functions.runtime.messages import (
    Fork,
    Forked,
    Recall,
    Retire,
    TemplateReady,
    WorkerExited,
    WorkerReady,
)
from bokilog.functions.runtime.options import FunctionOptions
from bokilog.functions.runtime.pool import Call, Phase, Pool, Worker, WorkerState
from bokilog.functions.runtime.settings import SchedulerSettings
from bokilog.functions.runtime.versions import Versions

EXIT_BASE: Final = 256
"""Added to exit codes in `WorkerExited`, so that those of signals are not negative."""
SIZE_EVERY_S: Final = 0.02
"""While no call waits, a pool's size is looked at this often at most."""
RECALL_S: Final = 0.1
"""A worker that is about to be killed may take so long to give back what it has not begun."""
_SIGNALS: Final = {6: "SIGABRT", 7: "SIGBUS", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}


class Owner(Protocol):
    """Whoever decides about calls."""

    def dispatch(self, pool: Pool, now_s: float) -> None:
        """A worker of the pool takes calls now."""

    def lost(self, call: Call, reason: str, now_s: float) -> None:
        """The worker that ran it is gone."""

    def source_gone(self, source: Address, now_s: float) -> None:
        """A worker that made calls is."""

    def homeless(self, call: Call, now_s: float) -> None:
        """It waited for a function that the app has not any more."""


class Fleet:
    """All workers of one host.

    Args:
        owner: decides about calls.
        versions: of the app; whose template forks.
        settings: delays.
        agenda: shared with whoever decides about calls; the keys "worker" and "pool" are this
            class's.
        out: takes the effects.
        numbers: of templates and workers.
        last_s: until when a call may run.
    """

    def __init__(
        self,
        owner: Owner,
        *,
        versions: Versions,
        settings: SchedulerSettings,
        agenda: Agenda[Key],
        out: list[Effect],
        numbers: Iterator[int],
        last_s: Callable[[Call], float],
    ) -> None:
        self.pools: dict[str, Pool] = {}
        self.workers: dict[int, Worker] = {}
        """All that are not known to be gone, those of earlier versions included."""
        self.retired = False
        """Nothing is begun any more."""
        self.lost_count = 0
        self._owner = owner
        self._versions = versions
        self._settings = settings
        self._agenda = agenda
        self._out = out
        self._numbers = numbers
        self._last_s = last_s
        self._dirty: dict[str, None] = {}
        """Pools whose size is to be looked at when the batch ends."""
        self._used: dict[str, None] = {}
        """Others in which calls began or ended in this batch."""

    def touch(self, function: str) -> None:
        """Something happened to a pool: its size is looked at when the batch ends."""
        self._dirty[function] = None

    def used(self, function: str) -> None:
        """Calls of a pool began or ended: as long as none waits, its size need not follow each."""
        self._used[function] = None

    # --- links ------------------------------------------------------------------------------------

    def link_up(self, number: int) -> None:
        """A worker has greeted."""
        worker = self.workers.get(number)
        if worker is None:
            peer: Address = ("worker", number)
            self._out.append(Disconnect(peer, "nobody waits for that worker any more"))
        else:
            worker.linked = True

    def link_down(self, number: int, now_s: float, *, whole: bool) -> None:
        """A worker's connection is gone. Its exit tells more, if its template lives to say it."""
        worker = self.workers.get(number)
        if worker is None:
            return
        worker.linked = False
        if not whole:
            _may_have_begun(worker)
        if worker.exited:
            self._gone(worker, worker.exited, now_s)
            return
        worker.pool.remove(worker)
        self.touch(worker.function)
        if worker.told and not worker.calls and self._versions.lives(worker.template):
            return  # it ends as it was told to, and has the time that it got for that
        self._agenda.set(("worker", number), now_s + self._settings.exit_wait_s)

    def due(self, key: Key, now_s: float) -> None:
        """The time of a worker or a pool has come."""
        kind, which = key
        if kind == "worker":
            worker = self.workers.get(int(which))
            if worker is not None:
                self._worker_due(worker, now_s)
        elif kind == "pool":
            self.touch(str(which))
            self.size_pools(now_s)

    def forked(self, forked: Forked) -> None:
        """Workers run, and these are their processes."""
        for number, pid in zip(forked.workers, forked.pids, strict=False):
            if number in self.workers:
                self.workers[number].pid = pid

    def retire_all(self, now_s: float) -> None:
        """Every worker is to end, and there are no more."""
        self.retired = True
        for worker in list(self.workers.values()):
            if not worker.told:
                self.retire(worker, now_s)

    # --- workers ----------------------------------------------------------------------------------

    def worker_ready(self, number: int, ready: WorkerReady, now_s: float) -> None:
        """It takes calls now."""
        worker = self.workers.get(number)
        if worker is None or worker.state is not WorkerState.STARTING:
            return  # what nobody waits for was disconnected when it greeted
        worker.pid = ready.pid
        self._agenda.drop(("worker", worker.number))
        worker.pool.ready(worker, now_s)
        self._owner.dispatch(worker.pool, now_s)

    def retire(self, worker: Worker, now_s: float) -> None:
        """It finishes what it has, then ends."""
        worker.pool.remove(worker)
        worker.told = True
        self.touch(worker.function)
        self.recall(worker.pool.recall_all(worker))
        self._out.append(Send(("worker", worker.number), Retire(worker.number)))
        last_s = max((self._last_s(call) for call in worker.calls.values()), default=now_s)
        self._agenda.set(("worker", worker.number), last_s + self._settings.worker_drain_s)

    def stuck(self, worker: Worker, now_s: float) -> None:
        """It takes no more calls; what else it runs gets a little time, then it is killed."""
        worker.pool.remove(worker)
        self.touch(worker.function)
        self.recall(worker.pool.recall_all(worker))
        self._agenda.set(("worker", worker.number), now_s + self._settings.worker_drain_s)
        self.end_if_stuck(worker, now_s)

    def recall(self, calls: Iterable[Call]) -> None:
        """Workers are asked to give back what they have not begun."""
        for call in calls:
            assert call.worker is not None
            self._out.append(Send(("worker", call.worker.number), Recall(call.number)))

    def end_if_stuck(self, worker: Worker, now_s: float) -> None:
        """A worker that ends has nothing left that anybody waits for."""
        if worker.told or worker.ahead or any(not each.answered for each in worker.calls.values()):
            return
        if worker.calls:
            reason = f"a call of {worker.function} did not end at its deadline"
            self._kill(worker, reason, now_s)
        else:
            self.retire(worker, now_s)

    def silent(self, number: int, now_s: float) -> None:
        """Its loop stands still: something in it blocks, or the process does. What it has may still
        end, by its deadlines; new calls go to others."""
        worker = self.workers.get(number)
        if worker is None or worker.told or worker.state is not WorkerState.READY:
            return
        alike = sum(1 for each in self.workers.values() if each.pool is worker.pool)
        if alike < 2 * worker.pool.workers_max:  # else new ones only do the same
            self.retire(worker, now_s)

    def _worker_due(self, worker: Worker, now_s: float) -> None:
        reason = "it did not end when it was told to"
        if worker.exited:
            self._gone(worker, worker.exited, now_s)
            return
        if worker.state is WorkerState.STARTING:
            reason = "it did not get ready in time"
            if not worker.pid:
                self._versions.doubt(worker.template)
        elif not worker.linked:
            if not worker.told:
                reason = "its connection ended"
                if worker.orphaned:
                    reason = f"the template that it was forked from is gone: {worker.orphaned}"
            if not self._versions.lives(worker.template):
                # Nobody would tell us of its end; its number may be another process's by now.
                self._gone(worker, reason, now_s)
                return
        elif worker.doomed:
            reason = worker.doomed
        elif not worker.told:
            reason = f"a call of {worker.function} did not end at its deadline"
        self._kill(worker, reason, now_s)

    def _kill(self, worker: Worker, reason: str, now_s: float) -> None:
        self._out.append(KillWorker(worker.number, worker.pid, reason, worker.told))
        _may_have_begun(worker)  # until the signal reaches it
        self._gone(worker, reason, now_s)

    def memory_used(self, number: int, used_bytes: int, now_s: float) -> None:
        """So much memory of its own a worker has."""
        worker = self.workers.get(number)
        if worker is None or worker.doomed:
            return
        limit_bytes = worker.pool.options.memory_bytes
        if limit_bytes and used_bytes > limit_bytes:
            taken, limit = used_bytes / (1 << 20), limit_bytes / (1 << 20)
            reason = f"it took {taken:.1f} MiB of memory of its own, the limit is {limit:.1f} MiB"
            if not worker.ahead:
                self._kill(worker, reason, now_s)
                return
            worker.doomed = reason
            worker.pool.remove(worker)
            self.recall(worker.pool.recall_all(worker))
            self._agenda.set(("worker", number), now_s + RECALL_S)

    def worker_exited(self, exited: WorkerExited, now_s: float) -> None:
        """Its process is gone."""
        worker = self.workers.get(exited.worker)
        if worker is None:
            return
        reason = describe_exit(exited.status - EXIT_BASE)
        if not (worker.ahead and worker.linked):
            self._gone(worker, reason, now_s)
            return
        # What it had written may not be read yet, and says which call was the last that it began.
        worker.exited = reason
        worker.pool.remove(worker)
        self._agenda.set(("worker", worker.number), now_s + self._settings.exit_wait_s)

    def _gone(self, worker: Worker, reason: str, now_s: float) -> None:
        """Its process is no more, or soon: its calls go elsewhere or are told."""
        del self.workers[worker.number]
        self._agenda.drop(("worker", worker.number))
        pool, never_ready = worker.pool, worker.state is WorkerState.STARTING
        pool.remove(worker)
        self.touch(worker.function)
        if never_ready:
            pool.failures += 1
            pool.not_before_s = now_s + self._settings.back_off_s(pool.failures)
        if not worker.told:
            self.lost_count += 1
            self._out.append(WorkerEnded(worker.number, worker.function, reason))
        # The last is put in front first: so they start again in the order in which they came.
        for call in reversed(pool.lose(worker)):
            self._owner.lost(call, reason, now_s)
        self._owner.source_gone(("worker", worker.number), now_s)
        self._versions.lost_worker(worker.template)

    # --- how many there are -----------------------------------------------------------------------

    def size_pools(self, now_s: float) -> None:
        """The batch has ended: pools in which something happened get the size they need."""
        dirty, self._dirty = self._dirty, {}
        used, self._used = self._used, {}
        for function in dirty:
            pool = self.pools.get(function)
            if pool is not None:
                self._size(pool, now_s)
        for function in used:
            pool = self.pools.get(function)
            if pool is None or function in dirty:
                continue
            if pool.waiting or now_s - pool.sized_s >= SIZE_EVERY_S:
                self._size(pool, now_s)
            elif ("pool", function) not in self._agenda:  # its workers may be idle from now on
                self._agenda.set(("pool", function), now_s + SIZE_EVERY_S)

    def _size(self, pool: Pool, now_s: float) -> None:
        pool.sized_s = now_s
        for worker in pool.surplus(now_s):
            self.retire(worker, now_s)
        wanted = pool.wanted(now_s, stall_s=self._settings.stall_s)
        missing = wanted - len(pool.workers)
        if missing > 0 and not self.retired and now_s >= pool.not_before_s:
            self._fork(pool, missing, now_s)
        self._plan_size(pool, missing, now_s)

    def _plan_size(self, pool: Pool, missing: int, now_s: float) -> None:
        """When the pool is looked at again though nothing happens in it."""
        due_s = pool.idle_until_s()
        if pool.waiting or missing > 0:
            soon_s = max(now_s + self._settings.stall_s, pool.not_before_s)
            due_s = soon_s if due_s is None else min(due_s, soon_s)
        key: Key = ("pool", pool.function)
        if due_s is not None:
            self._agenda.set(key, due_s)
        else:
            self._agenda.drop(key)

    def _fork(self, pool: Pool, count: int, now_s: float) -> None:
        template = self._versions.forking
        if template is None:
            return
        numbers = []
        for _ in range(count):
            worker = Worker(next(self._numbers), pool, template=template, started_s=now_s)
            self.workers[worker.number] = worker
            pool.add(worker)
            due_s = now_s + self._settings.worker_start_s
            self._agenda.set(("worker", worker.number), due_s)
            numbers.append(worker.number)
        self._versions.forks(count)
        self._out.append(Send(("template", template), Fork(pool.function, numbers)))

    # --- versions of the app ----------------------------------------------------------------------

    def template_ready(self, ready: TemplateReady, now_s: float) -> bool:
        """A version of the app can be forked; whether it is the one that serves now."""
        if not self._versions.serve(ready):
            return False
        self._replace_pools(now_s)
        self._versions.tell_loaded(ready)
        return True

    def template_ended(self, number: int, why: str, now_s: float) -> None:
        """Of itself: who was asked of it and has no process will not have one."""
        if self._versions.ended(number, why, now_s):
            for worker in [each for each in self.workers.values() if each.template == number]:
                worker.orphaned = why
                if worker.state is WorkerState.STARTING and not worker.pid:
                    self._forget_starting(worker)

    def _replace_pools(self, now_s: float) -> None:
        """Workers of the version before finish what they run; what waits is for the new ones."""
        older, self.pools = self.pools, {}
        for row in self._versions.functions:
            name, plain = str(row[0]), row[1]
            assert isinstance(plain, dict)
            before = older.get(name)
            options = FunctionOptions.from_plain(plain)
            load = before.load if before is not None else None
            self.pools[name] = Pool(name, options, load=load)
            self.touch(name)
        waiting = [call for pool in older.values() for call in pool.take_all()]
        for pool in older.values():
            for worker in list(pool.workers.values()):
                if worker.state is WorkerState.READY:
                    self.retire(worker, now_s)
                else:  # it says that it is ready, and ends
                    self._forget_starting(worker)
        for call in waiting:
            pool_now = self.pools.get(call.function)
            if pool_now is None:
                self._owner.homeless(call, now_s)
            else:
                pool_now.put(call, now_s)

    def _forget_starting(self, worker: Worker) -> None:
        worker.pool.remove(worker)
        del self.workers[worker.number]
        self._agenda.drop(("worker", worker.number))
        self._versions.lost_worker(worker.template)


def _may_have_begun(worker: Worker) -> None:
    """What is ahead in a worker of which not all is known counts as what it ran."""
    for call in worker.ahead.values():
        if call.phase is Phase.AHEAD:
            call.phase = Phase.RUNNING


def describe_exit(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"it ended with exit code {code}"
    return f"it was killed by signal {-code}{_named(-code)}"


def _named(number: int) -> str:
    return f" ({_SIGNALS[number]})" if number in _SIGNALS else ""
