"""How a job stands: the pure fold of its control log.

Decides which tasks may be claimed, whose claim has run out, which output of a task counts and when
the job is over, from the control log alone: no process has to live for a job to go on. Every worker
and every watcher folds the same records into the same `JobState`.

Invariants, whatever was retried, duplicated or killed:

- The first commit of a task in log order wins; it stands until an `OutputLost` names it.
- A task is ready when the *set* of its committed parent tasks is complete; nothing is counted.
- A claim is the last one of its task. It runs out `claim_ttl_ms` after it was ordered, by the log's
  own time: the timestamp of the newest record. A local clock decides nothing.

Conditions on append already keep losers out of the log; the fold asks for the same again, so that a
careless writer cannot change an answer. Pure: does not know LogBooks, tables or what stages do.
Source: DESIGN section 6 (DAG); a set of parents instead of Wukong's counter, which a retry breaks.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, assert_never

from scripts.flights.plan import Plan, Stage, TaskId
from scripts.flights.records import (
    Beat,
    Claimed,
    Committed,
    Control,
    Failed,
    OutputLost,
    Submitted,
)


class Phase(Enum):
    """Where a job stands; it only moves forward."""

    UNKNOWN = "not submitted"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(slots=True)
class Task:
    """What the log says of one task."""

    claim: int = 0
    """Seqnum of its last claim, 0 before the first: the `after` of the next one."""
    claim_ms: int = 0
    claimed_by: str | None = None
    """Who holds that claim; None once the task was committed, or its output was lost."""
    commit: int = 0
    """Seqnum of the commit that counts, 0 when none does."""
    committed: Committed | None = None
    last: int = 0
    """Last seqnum of its task tag: the `after` of a commit."""


class Claim(NamedTuple):
    """A task that may be claimed: succeeds under `unless={claim_tag: after}`."""

    task: TaskId
    after: int


class StageStats(NamedTuple):
    """What one stage has done so far."""

    stage: str
    tasks: int
    records: int
    """Outputs that count: one per committed task."""
    rows: int
    size_bytes: int
    seconds: float
    """From the first claim to the last commit, by the log's time."""
    busy_s: float
    """Of all its tasks together, reading and writing included."""


@dataclass(slots=True)
class JobState:
    """A job as of one position of its control log."""

    phase: Phase = Phase.UNKNOWN
    plan: Plan | None = None
    tasks: dict[TaskId, Task] = field(default_factory=dict)
    position: int = 0
    """Seqnum of the newest record applied."""
    now_ms: int = 0
    """The log's time: that of the newest record."""
    beat: int = 0
    """Seqnum of the last beat."""
    repeated_claims: int = 0
    """Claims that followed one which had run out."""
    failure: Failed | None = None
    first_claim_ms: dict[str, int] = field(default_factory=dict)
    last_commit_ms: dict[str, int] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Nothing is left to do."""
        return self.phase in (Phase.DONE, Phase.FAILED)

    def apply(self, control: Control, *, seqnum: int, timestamp_ms: int) -> None:
        """The next record of the job's tag."""
        assert seqnum > self.position, f"seqnum {seqnum} after {self.position}"
        self.position = seqnum
        self.now_ms = max(self.now_ms, timestamp_ms)
        match control:
            case Submitted(plan):
                self._submit(plan)
            case Beat():
                self.beat = seqnum
            case Claimed(task, worker):
                self._claim(task, worker, seqnum=seqnum)
            case Committed():
                self._commit(control, seqnum=seqnum)
            case OutputLost(task, commit):
                self._lose(task, commit, seqnum=seqnum)
            case Failed(task):
                self._task(task).last = seqnum
                self.failure = self.failure or control
                self.phase = Phase.FAILED if self.phase is Phase.RUNNING else self.phase
            case _:
                assert_never(control)

    def claimable(self) -> list[Claim]:
        """Tasks whose parents have all committed and that nobody is working on, in order."""
        if self.plan is None or self.over:
            return []
        ready = [
            task for stage in self.plan.stages if self.ready(stage) for task in stage.task_ids()
        ]
        return [Claim(task, self.tasks[task].claim) for task in ready if self._free(task)]

    def ready(self, stage: Stage) -> bool:
        """Whether the last word on every task of every parent stage is a commit."""
        return all(self.complete(edge.parent) for edge in stage.edges)

    def complete(self, stage: str) -> bool:
        """Whether every task of the stage has committed."""
        assert self.plan is not None
        return all(self.tasks[task].committed for task in self.plan.stage(stage).task_ids())

    def outputs(self, stage: str) -> list[Committed]:
        """What the tasks of the stage have committed so far, in the order of the tasks."""
        assert self.plan is not None
        found = (self.tasks[task].committed for task in self.plan.stage(stage).task_ids())
        return [committed for committed in found if committed is not None]

    def stats(self) -> list[StageStats]:
        """One per stage, in order."""
        return [] if self.plan is None else [self._stats(stage) for stage in self.plan.stages]

    def waits_for_claims(self) -> bool:
        """Whether somebody has claimed a task and not finished it."""
        return any(task.claimed_by is not None for task in self.tasks.values())

    def _stats(self, stage: Stage) -> StageStats:
        outputs = self.outputs(stage.name)
        first_ms = self.first_claim_ms.get(stage.name, 0)
        last_ms = self.last_commit_ms.get(stage.name, first_ms)
        return StageStats(
            stage=stage.name,
            tasks=stage.tasks,
            records=len(outputs),
            rows=sum(output.rows for output in outputs),
            size_bytes=sum(sum(output.part_bytes) for output in outputs),
            seconds=(last_ms - first_ms) / 1000,
            busy_s=sum(output.seconds for output in outputs),
        )

    def _free(self, task: TaskId) -> bool:
        assert self.plan is not None
        state = self.tasks[task]
        if state.committed is not None:
            return False
        return state.claimed_by is None or self.now_ms - state.claim_ms > self.plan.claim_ttl_ms

    def _task(self, task: TaskId) -> Task:
        """A record may name a task that is not in the plan: it is kept, and nobody asks for it."""
        return self.tasks.setdefault(task, Task())

    def _submit(self, plan: Plan) -> None:
        if self.plan is not None:
            return
        self.plan = plan
        self.phase = Phase.RUNNING
        for task in _all_tasks(plan):
            self._task(task)

    def _claim(self, task: TaskId, worker: str, *, seqnum: int) -> None:
        state = self._task(task)
        if state.committed is None:
            self.repeated_claims += state.claimed_by is not None
            state.claimed_by = worker
        state.claim, state.claim_ms = seqnum, self.now_ms
        self.first_claim_ms.setdefault(task.stage, self.now_ms)

    def _commit(self, committed: Committed, *, seqnum: int) -> None:
        state = self._task(committed.task)
        state.last = seqnum
        if state.committed is not None:
            return
        state.commit, state.committed, state.claimed_by = seqnum, committed, None
        self.last_commit_ms[committed.task.stage] = self.now_ms
        if self.phase is Phase.RUNNING and self._all_committed():
            self.phase = Phase.DONE

    def _lose(self, task: TaskId, commit: int, *, seqnum: int) -> None:
        state = self._task(task)
        state.last = seqnum
        if state.commit == commit:
            state.commit, state.committed, state.claimed_by = 0, None, None

    def _all_committed(self) -> bool:
        assert self.plan is not None
        return all(self.complete(stage.name) for stage in self.plan.stages)


def _all_tasks(plan: Plan) -> Iterable[TaskId]:
    return (task for stage in plan.stages for task in stage.task_ids())
