"""One job's control log: every call a worker or a watcher makes on it, and the fold it follows.

Decides the conditions under which each kind of record may stand: that is all the coordination of a
job. A claim stands if nobody claimed since the claim that was seen; a commit, a loss or a failure
if the task's last word is still the one that was seen; a beat if nobody made time move since.

`state` is always the fold of a prefix of the log. Whoever appended, or lost against somebody, waits
with `reached` until the fold has seen it, and decides on that. Does not know what tasks do.
"""

import asyncio
import secrets

from bokilog import CaughtUp, ConditionFailed
from bokilog.logbook import Log
from scripts.flights.exchange import append_settled
from scripts.flights.job import Claim, JobState
from scripts.flights.plan import Plan, TaskId
from scripts.flights.records import (
    Beat,
    Claimed,
    Committed,
    Control,
    Failed,
    OutputLost,
    Submitted,
    beat_tag,
    claim_tag,
    decode,
    encode,
    job_tag,
    task_tag,
)

CONTROL_BOOK = "flights-control"
EXCHANGE_BOOK = "flights-exchange"


async def create_books(log: Log) -> None:
    """The two LogBooks of the demonstration; again alike changes nothing.

    Claims and commits are the job: synced. Outputs can be computed again: written to the OS is
    enough, and whoever finds one gone says so in the control log.
    """
    await log.create_book(CONTROL_BOOK, durability="sync")
    await log.create_book(EXCHANGE_BOOK, durability="flush")


class JobControl:
    """One job as seen by one worker or watcher; one task must run `follow`."""

    def __init__(self, log: Log, job: str) -> None:
        self.job = job
        self.state = JobState()
        self._book = log.book(CONTROL_BOOK)
        self._moved = asyncio.Event()  # replaced at each move, so that nobody has to clear it
        self._key = secrets.token_hex(8)  # of this life: a later one must not meet our keys
        self._appends = 0

    # --- reading ----------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Fold the log as it grows, until cancelled.

        Waiters are woken only where the fold has caught up: on the way there everything looks
        unclaimed that somebody claimed since.
        """
        async for each in self._book.follow(tag=job_tag(self.job), caught_up=True):
            if isinstance(each, CaughtUp):
                self._moved.set()
                self._moved = asyncio.Event()
            else:
                control = decode(each.data)
                self.state.apply(control, seqnum=each.seqnum, timestamp_ms=each.timestamp_ms)

    async def moved(self, wait_s: float) -> bool:
        """Wait until the fold has moved, or for `wait_s` seconds: then False."""
        try:
            async with asyncio.timeout(wait_s):
                await self._moved.wait()
        except TimeoutError:
            return False
        return True

    async def reached(self, seqnum: int) -> None:
        """Wait until the fold has seen `seqnum`, which stands in the log."""
        while self.state.position < seqnum:
            await self._moved.wait()

    # --- writing ----------------------------------------------------------------------------------

    # Each returns the seqnum of its record, or 0 when somebody was faster and it does not stand.

    async def submit(self, plan: Plan) -> int:
        """Begin the job. 0: it has begun before, maybe with another plan, and goes on."""
        return await self._append(Submitted(plan), [], unless={job_tag(self.job): 0})

    async def claim(self, claim: Claim, worker: str) -> int:
        """Take a task."""
        tag = claim_tag(self.job, claim.task)
        return await self._append(Claimed(claim.task, worker), [tag], unless={tag: claim.after})

    async def commit(self, committed: Committed, *, after: int) -> int:
        """Say that a task has run. `after`: the task's last word so far."""
        return await self._about(committed.task, committed, after=after)

    async def lose(self, task: TaskId, commit: int) -> int:
        """Say that the output of the commit at seqnum `commit` cannot be read any more."""
        return await self._about(task, OutputLost(task, commit), after=commit)

    async def fail(self, task: TaskId, worker: str, error: str, *, after: int) -> int:
        """End the job: the task's function raises an error, and would again."""
        return await self._about(task, Failed(task, worker, error), after=after)

    async def beat(self) -> int:
        """Make time move, so that a dead worker's claim can run out."""
        tag = beat_tag(self.job)
        return await self._append(Beat(), [tag], unless={tag: self.state.beat})

    async def _about(self, task: TaskId, control: Control, *, after: int) -> int:
        tag = task_tag(self.job, task)
        return await self._append(control, [tag], unless={tag: after})

    async def _append(
        self, control: Control, tags: list[str], *, unless: dict[str | None, int]
    ) -> int:
        """Append, and see it or what won against it in the fold."""
        self._appends += 1
        try:
            seqnum = await append_settled(
                self._book,
                encode(control),
                tags=[job_tag(self.job), *tags],
                key=f"{self.job}/{self._key}/{self._appends}",
                unless=unless,
            )
        except ConditionFailed as lost:
            await self.reached(lost.winner)
            return 0
        await self.reached(seqnum)
        return seqnum
