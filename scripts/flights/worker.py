"""A worker: claims what is ready, runs it, commits it, until the job is over.

    python -m scripts.flights.worker --url bokilog://127.0.0.1:7300 --job ID --data DIR

Decides which of the claimable tasks to try, and what an error means: an input that is gone is said
in the log, so that its task runs again; an error of a stage function ends the job. Every worker is
equal, may be started at any time and killed at any time. Does not know its peers.
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import pyarrow as pa
import xxhash

import bokilog
from bokilog.logbook import Log
from scripts.flights.control import EXCHANGE_BOOK, JobControl
from scripts.flights.exchange import Exchange, OutputGone
from scripts.flights.failures import CAUGHT, explain
from scripts.flights.job import Claim
from scripts.flights.plan import CLAIM_TTL_MS, Edge, Stage, TaskId
from scripts.flights.records import Committed, job_tag, stage_tag, task_tag
from scripts.flights.stages import FUNCTIONS, Call

_BEATS_PER_TTL = 5  # a claim that has run out is seen at most a fifth of its time too late


class Worker:
    """One worker; `run` returns once its job is over.

    Args:
        log: where the job is.
        job: its id; it may be submitted later.
        data: the folder with the source tables.
        name: of this worker, in the claims it makes.
        halts: claim one task and then do nothing, for ever: to be killed, as a demonstration.
    """

    def __init__(self, log: Log, job: str, *, data: Path, name: str, halts: bool = False) -> None:
        self.control = JobControl(log, job)
        self._exchange = Exchange(log.book(EXCHANGE_BOOK))
        self._job = job
        self._data = data
        self._name = name
        self._halts = halts

    async def run(self) -> None:
        """Work until the job is done or has failed. If cancelled, claims run out by themselves."""
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self.control.follow())
            await self._work()
            following.cancel()

    async def _work(self) -> None:
        state = self.control.state
        while not state.over:
            claims = state.claimable()
            if not claims:
                await self._wait()
                continue
            claim = min(claims, key=self._preference)
            if seqnum := await self.control.claim(claim, self._name):
                if self._halts:
                    await asyncio.Event().wait()
                await self._run(claim.task, claimed=seqnum)

    def _preference(self, claim: Claim) -> int:
        """Each worker has an order of its own, so that they rarely want the same task at once."""
        return xxhash.xxh3_64_intdigest(f"{self._name} {claim.task}".encode())

    async def _wait(self) -> None:
        state = self.control.state
        ttl_ms = state.plan.claim_ttl_ms if state.plan is not None else CLAIM_TTL_MS
        moved = await self.control.moved(ttl_ms / 1000 / _BEATS_PER_TTL)
        if not moved and state.waits_for_claims():
            await self.control.beat()

    # --- one task ---------------------------------------------------------------------------------

    async def _run(self, task: TaskId, *, claimed: int) -> None:
        state = self.control.state
        if state.tasks[task].committed is not None:
            return  # whoever let the claim run out has committed after all
        assert state.plan is not None
        stage, after = state.plan.stage(task.stage), state.tasks[task].last
        try:
            committed = await self._computed(stage, task, claimed=claimed)
        except OutputGone as gone:
            await self._report_gone(stage, gone.seqnum)
        except bokilog.BokilogError:
            raise  # trouble with the log is not the stage's: this claim runs out, others go on
        except Exception as error:  # a stage function may raise anything; a second try would too
            text = f"{type(error).__name__}: {error}"
            await self.control.fail(task, self._name, text, after=after)
        else:
            await self.control.commit(committed, after=after)  # nobody reads a loser's output

    async def _computed(self, stage: Stage, task: TaskId, *, claimed: int) -> Committed:
        """Read, run and write; what is left is to say so."""
        started_s = time.perf_counter()
        inputs = await self._inputs(stage, task)
        tables = await asyncio.to_thread(self._call, stage, task, inputs)
        # One output per claim: two runs of a task are two records, a retried append of one is not.
        key = f"{self._job}/{task}/{claimed}"
        written = await self._exchange.write(tables, tags=self._tags(task), key=key)
        return Committed(
            task=task,
            worker=self._name,
            output=written.seqnum,
            rows=written.rows,
            part_bytes=written.part_bytes,
            seconds=time.perf_counter() - started_s,
        )

    def _call(
        self, stage: Stage, task: TaskId, inputs: dict[str, Sequence[pa.Table]]
    ) -> list[pa.Table]:
        function = FUNCTIONS.get(stage.name)
        if function is None:
            raise LookupError(f"this version has no stage {stage.name!r}")
        call = Call(
            data=self._data,
            task=task.number,
            tasks=stage.tasks,
            partitions=stage.partitions,
            inputs=inputs,
        )
        tables = function(call)
        if len(tables) != stage.partitions:
            raise ValueError(f"{task} made {len(tables)} partitions instead of {stage.partitions}")
        return tables

    async def _inputs(self, stage: Stage, task: TaskId) -> dict[str, Sequence[pa.Table]]:
        """By parent stage, its pieces for this task, in the order of the parent's tasks."""
        return {edge.parent: await self._pieces(edge, task) for edge in stage.edges}

    async def _pieces(self, edge: Edge, task: TaskId) -> list[pa.Table]:
        state = self.control.state
        assert state.plan is not None
        partitions = state.plan.stage(edge.parent).partitions
        wanted = [task.number] if edge.kind == "scatter" else range(partitions)
        reads = [
            self._exchange.read(committed.output, number, partitions=partitions)
            for committed in state.outputs(edge.parent)
            for number in wanted
        ]
        return list(await asyncio.gather(*reads))

    async def _report_gone(self, stage: Stage, output: int) -> None:
        state = self.control.state
        for edge in stage.edges:
            for committed in state.outputs(edge.parent):
                if committed.output == output:
                    commit = state.tasks[committed.task].commit
                    await self.control.lose(committed.task, commit)

    def _tags(self, task: TaskId) -> list[str]:
        return [job_tag(self._job), stage_tag(self._job, task.stage), task_tag(self._job, task)]


# --- the process ----------------------------------------------------------------------------------


@click.command()
@click.option("--url", required=True, help="Where the log is; the first address is tried first.")
@click.option("--job", required=True, help="The job to work on.")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The folder with the source tables.",
)
@click.option("--name", default=None, help="In the claims it makes; default: its process id.")
@click.option(
    "--ends-with-stdin", is_flag=True, help="End when standard input does: when the starter dies."
)
@click.option("--halts", is_flag=True, help="Claim one task and then do nothing, to be killed.")
def main(
    url: str, job: str, data: Path, name: str | None, ends_with_stdin: bool, halts: bool
) -> None:
    """Work on a job until it is over."""
    pa.set_cpu_count(1)  # the worker processes are the parallelism
    name = name or f"worker-{os.getpid()}"
    try:
        asyncio.run(_main(url, job, data=data, name=name, attached=ends_with_stdin, halts=halts))
    except CAUGHT as error:
        sys.exit(explain(error))


async def _main(url: str, job: str, *, data: Path, name: str, attached: bool, halts: bool) -> None:
    async with bokilog.connect(url) as log, asyncio.TaskGroup() as group:
        working = group.create_task(Worker(log, job, data=data, name=name, halts=halts).run())
        if attached:
            watching = group.create_task(_stdin_ends())
            await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            watching.cancel()


async def _stdin_ends() -> None:
    """Return once nobody holds the other end any more, however they died."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


if __name__ == "__main__":
    main()
