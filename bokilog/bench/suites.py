"""What `bokilog bench` measures: appends, reads, following, memory, large records and the start.

Decides which contenders meet in which command, and which of its figures have a bar: only those
that need nothing but this machine. How bokilog compares with other systems is
scripts/bench/peers.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bokilog.bench import machine
from bokilog.bench.appends import (
    ClusterAppends,
    EmbeddedAppends,
    Shape,
    Work,
    log_worker,
)
from bokilog.bench.figures import (
    Relation,
    Result,
    Sample,
    compare,
    describe,
    figure,
    p50s,
    rates,
)
from bokilog.bench.log_worker import OLD_TAGS_COUNT, STAMPED
from bokilog.bench.orders import Order, Outcome
from bokilog.bench.places import Cluster, cluster
from bokilog.bench.processes import memory_bytes
from bokilog.bench.rounds import Contender, Plan, interleave
from bokilog.bench.workers import Worker
from bokilog.limits import MIB

# Bars that every machine can check by itself (see DESIGN section 8 for the form).
ALONE_SYNC_MARGIN_US: Final = 60.0
ALONE_BAR: Final = 1.5
READ_AGAIN_US_MAX: Final = 3.0
READ_ENGINE_BAR: Final = 2.0
LARGE_BAR: Final = 0.5
MEMORY_BUDGET_BYTES: Final = 256 * MIB
IMPORT_MS_MAX: Final = 80.0
OPEN_MS_MAX: Final = 100.0
SEQUENCERS_BAR: Final = 0.7
"""What several sequencers leave of the throughput of one."""
# Syncs in a row before an append is acknowledged: the record's, then that of the cut that orders it
# (P11). The embedded shape covers both with one.
SYNCS_IN_A_ROW: Final[Mapping[Shape, int]] = {"embedded": 1, "cluster": 2}

_READ_COUNT: Final = 1_000
_FOLLOW_COUNT: Final = 50_000
_FILL_OUTSTANDING: Final = 8
_FILL_UNIT: Final = 256
_MEMORY_CHUNK: Final = 200_000
_LONG_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where, how long, and who is told of the progress."""

    directory: Path
    plan: Plan
    tell: Callable[[str], None]


# --- appends --------------------------------------------------------------------------------------


def append(shape: Shape, work: Work, setting: Setting) -> list[Result]:
    """Throughput, latency and CPU of appends; one at a time also against a sync of the disk."""
    with appending(shape, work, setting) as contender, ExitStack() as stack:
        contenders: list[Contender] = [contender]
        alone = shape == "embedded" and work.outstanding == 1 and work.durability == "sync"
        if alone and not work.sync_delay_ms:
            known = stack.enter_context(machine.references(setting.directory))
            contenders.append(known[machine.SYNC])
        single = replace(work, sequencers=1)
        if work.sequencers > 1:
            directory = setting.directory / "one-sequencer"
            other = appending(shape, single, replace(setting, directory=directory))
            contenders.append(stack.enter_context(other))
        samples = interleave(contenders, setting.plan, tell=setting.tell)
    ours = samples[contender.name]
    unit = "appends/s" if work.batch_count == 1 else "records/s"
    results = describe(contender.name, ours, unit=unit)
    if machine.SYNC in samples:
        results.append(against_one_sync(contender.name, ours, samples[machine.SYNC]))
    if work.sync_delay_ms and work.durability == "sync":
        results.append(against_the_delay(shape, work, ours))
    if work.sequencers > 1:
        results.append(
            compare(
                contender.name,
                rates(ours),
                unit,
                against=single.name(shape),
                others=rates(samples[single.name(shape)]),
                bar=SEQUENCERS_BAR,
            )
        )
    return results


@contextmanager
def appending(shape: Shape, work: Work, setting: Setting) -> Iterator[Contender]:
    """The contender of one work on one shape, with all that it needs."""
    if shape == "embedded":
        with log_worker("embedded") as worker:
            yield EmbeddedAppends(worker, setting.directory, work)
        return
    with (
        cluster(
            setting.directory / "cluster",
            sequencers=work.sequencers,
            sync_delay_ms=work.sync_delay_ms,
        ) as running,
        cluster_clients(running) as (client, follower),
    ):
        yield ClusterAppends(running, work, client=client, follower=follower)


@contextmanager
def cluster_clients(running: Cluster) -> Iterator[tuple[Worker, Worker]]:
    """(a client at the first engine, one that follows at the other)."""
    with (
        log_worker("client", running.urls[0]) as client,
        log_worker("follower", running.urls[1]) as follower,
    ):
        yield client, follower


def against_one_sync(name: str, ours: Sequence[Sample], syncs: Sequence[Sample]) -> Result:
    """One append at a time, as a multiple of what it cannot do without."""
    needed = [p50 + ALONE_SYNC_MARGIN_US for p50 in p50s(syncs)]
    return compare(
        f"{name}.p50",
        p50s(ours),
        "us",
        against=f"{machine.SYNC}.p50 + {ALONE_SYNC_MARGIN_US:.0f} us",
        others=needed,
        bar=ALONE_BAR,
        relation="at most",
    )


def against_the_delay(shape: Shape, work: Work, ours: Sequence[Sample]) -> Result:
    """What was acknowledged had to wait for its syncs: faster than those would be a lie."""
    count = SYNCS_IN_A_ROW[shape]
    return compare(
        f"{work.name(shape)}.p50",
        p50s(ours),
        "us",
        against=f"{count} x the sync delay",
        others=[count * work.sync_delay_ms * 1e3],
        bar=1.0,
        note="an append that is answered earlier was not synced",
    )


# --- reads ----------------------------------------------------------------------------------------


class Reads:
    """Reads by one process, of records that `prepare` made; a contender."""

    def __init__(
        self,
        name: str,
        worker: Worker,
        order: Order,
        *,
        prepare: Callable[[], Order] | None = None,
        cpu_of: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self.name = name
        self._worker = worker
        self._order = order
        self._prepare = prepare
        self._cpu_of = cpu_of

    def begin(self) -> None:
        """Make what is read."""
        if self._prepare is not None:
            self._order = self._prepare()

    def pids(self) -> Mapping[str, int]:
        """The reader's and those of the nodes."""
        return {"client": self._worker.pid, **self._cpu_of()}

    def run(self, seconds: float) -> Outcome:
        """Read."""
        return self._worker.ask(replace(self._order, seconds=seconds))

    def settle(self) -> Mapping[str, float]:
        """Nothing is left to do."""
        return {}

    def end(self) -> None:
        """Nothing is left."""


def read(shape: Shape, *, size_bytes: int, outstanding: int, setting: Setting) -> list[Result]:
    """Reads again in the same process; on a cluster also from the engine and from storage nodes."""
    with ExitStack() as stack:
        place = str(setting.directory / "log")
        running: Cluster | None = None
        if shape == "cluster":
            running = stack.enter_context(cluster(setting.directory / "cluster"))
            place = running.urls[0]
        worker = stack.enter_context(log_worker("client", place))
        filled = _fill(worker, Order(do="fill", count=_READ_COUNT, size_bytes=size_bytes))
        order = Order(do="read_again", seqnum=filled, count=_READ_COUNT, outstanding=outstanding)
        again = Reads(f"{shape}.read-again.{size_bytes}B.{outstanding}x", worker, order)
        contenders: list[Contender] = [again]
        if running is not None:
            contenders += _node_reads(stack, running, worker, size_bytes, outstanding)
            known = stack.enter_context(
                machine.references(setting.directory, answer_bytes=size_bytes)
            )
            contenders.append(known[machine.UNIX])
        plan = replace(setting.plan, warm_s=0.0)  # what is read once stays read
        samples = interleave(contenders, plan, tell=setting.tell)
    results = [
        result for name, each in samples.items() for result in describe(name, each, unit="reads/s")
    ]
    if outstanding == 1:
        results.extend(read_bars(samples, shape=shape, size_bytes=size_bytes))
    return results


def _fill(worker: Worker, order: Order) -> int:
    """Append what is to be read; the first of its seqnums, which are contiguous."""
    worker.ask(replace(order, do="create"))
    outcome = worker.ask(replace(order, batch_count=_FILL_UNIT, seconds=_LONG_S))
    return outcome.seqnum - order.count + 1


def _node_reads(
    stack: ExitStack, running: Cluster, writer: Worker, size_bytes: int, outstanding: int
) -> list[Contender]:
    """Reads that this process has no answer to: at the engine that has, and at one that has not."""
    numbers = itertools.count(1)

    def contender(where: str, url: str, *, warm: bool) -> Contender:
        reader = stack.enter_context(log_worker("reader", url))

        def prepare() -> Order:
            book = f"read-{where}-{next(numbers)}"
            order = Order(do="fill", book=book, count=_READ_COUNT, size_bytes=size_bytes)
            first = _fill(writer, order)
            if warm:  # whatever appends leave behind, now the engine has seen every record
                writer.ask(Order(do="scan", book=book))
            reader.ask(Order(do="open", place=url))
            return Order(
                do="read_once", book=book, seqnum=first, count=_READ_COUNT, outstanding=outstanding
            )

        name = f"cluster.read-from-{where}.{size_bytes}B.{outstanding}x"
        return Reads(name, reader, Order(do="read_once"), prepare=prepare, cpu_of=running.pids)

    return [
        contender("engine", running.node_urls[0], warm=True),
        contender("engine-over-tcp", running.urls[0], warm=True),
        contender("storage", running.urls[1], warm=False),
    ]


def read_bars(
    samples: Mapping[str, Sequence[Sample]], *, shape: Shape, size_bytes: int
) -> Iterator[Result]:
    """The bars of reads, one at a time."""
    again = f"{shape}.read-again.{size_bytes}B.1x"
    yield limit(f"{again}.p50", p50s(samples[again]), "us", READ_AGAIN_US_MAX)
    sent = [sample.values["messages_count"] for sample in samples[again]]
    yield compare(
        f"{again}.messages",
        [sum(sent)],
        "messages",
        against="one message",
        others=[1.0],
        bar=0.0,
        relation="at most",
    )
    engine = f"cluster.read-from-engine.{size_bytes}B.1x"
    if engine in samples and machine.UNIX in samples:
        yield compare(
            f"{engine}.p50",
            p50s(samples[engine]),
            "us",
            against=machine.UNIX,
            others=p50s(samples[machine.UNIX]),
            bar=READ_ENGINE_BAR,
            relation="at most",
            note="from the engine's memory, where a worker of its node finds most of them",
        )


def limit(
    name: str, values: Sequence[float], unit: str, most: float, *, relation: Relation = "at most"
) -> Result:
    """A figure against a fixed number."""
    against = f"{most:g} {unit}"
    return compare(name, values, unit, against=against, others=[most], bar=1.0, relation=relation)


# --- following ------------------------------------------------------------------------------------


def follow(shape: Shape, work: Work, setting: Setting) -> list[Result]:
    """How fast a follower catches up, and how far behind the appends it is when it has."""
    live = replace(work, flags=(STAMPED,), follower=True)
    with appending(shape, live, setting) as contender:
        samples = interleave([contender], setting.plan, tell=setting.tell)[contender.name]
    name = live.name(shape).replace("append", "follow")
    results = describe(f"{name}.beside-appends", samples, unit="appends/s")
    with ExitStack() as stack:
        place = str(setting.directory / "catch-up")
        other = place
        if shape == "cluster":
            running = stack.enter_context(cluster(setting.directory / "catch-up"))
            place, other = running.urls
        writer = stack.enter_context(log_worker("client", place))
        order = Order(do="fill", count=_FOLLOW_COUNT, size_bytes=work.size_bytes)
        _fill(writer, replace(order, durability=work.durability, outstanding=_FILL_OUTSTANDING))
        reader = writer
        if shape == "cluster":
            reader = stack.enter_context(log_worker("follower", other))
        found = []
        for number in range(setting.plan.rounds_count):
            setting.tell(f"round {number + 1} of {setting.plan.rounds_count}: catching up")
            reader.ask(Order(do="open", place=other))
            found.append(reader.ask(Order(do="follow")).rate)
    results.append(figure(f"{name}.catching-up", found, "records/s"))
    return results


# --- large records, memory, start -----------------------------------------------------------------


def large(setting: Setting, *, records_count: int) -> list[Result]:
    """Records of 1 MiB, not synced, against writing as much with a checksum."""
    work = Work(
        size_bytes=MIB, outstanding=16, durability="flush", follower=False, count=records_count
    )
    plan = replace(setting.plan, warm_s=0.0)
    with (
        log_worker("embedded") as worker,
        machine.references(setting.directory, large_count=records_count) as known,
    ):
        ours = EmbeddedAppends(worker, setting.directory, work)
        samples = interleave([ours, known[machine.WRITE]], plan, tell=setting.tell)
    return [*describe(ours.name, samples[ours.name], unit="records/s"), large_bar(samples)]


def large_bar(samples: Mapping[str, Sequence[Sample]]) -> Result:
    """1 MiB records as a share of plain writes; a record per second is a MiB per second."""
    (name,) = (name for name in samples if name != machine.WRITE)
    return compare(
        f"{name}.bandwidth",
        rates(samples[name]),
        "MiB/s",
        against=machine.WRITE,
        others=rates(samples[machine.WRITE]),
        bar=LARGE_BAR,
    )


def start(setting: Setting) -> list[Result]:
    """What `import bokilog` and `bokilog.open()` take in a fresh interpreter."""
    with Worker("bokilog.bench.machine_worker", name="machine") as worker:
        worker.ask(Order(do="start"))  # reads the files once
        found = []
        for number in range(setting.plan.rounds_count):
            setting.tell(f"round {number + 1} of {setting.plan.rounds_count}: start")
            found.append(worker.ask(Order(do="start")).values)
    return [
        limit("start.import", [each["import_ms"] for each in found], "ms", IMPORT_MS_MAX),
        limit("start.open", [each["open_ms"] for each in found], "ms", OPEN_MS_MAX),
    ]


def memory(setting: Setting, *, records_count: int, size_bytes: int) -> list[Result]:
    """Memory of every process while a cluster takes many records; then reads of the oldest tags."""
    peaks: dict[str, int] = {}
    with (
        cluster(setting.directory / "cluster") as running,
        cluster_clients(running) as (writer, reader),
    ):
        order = Order(do="create", size_bytes=size_bytes, durability="flush")
        writer.ask(order)
        for start_count in range(0, records_count, _MEMORY_CHUNK):
            count = min(_MEMORY_CHUNK, records_count - start_count)
            chunk = replace(
                order,
                do="fill",
                seqnum=start_count,
                count=count,
                batch_count=_FILL_UNIT,
                outstanding=_FILL_OUTSTANDING,
                seconds=_LONG_S,
            )
            rate = writer.ask(chunk).rate
            for name, pid in running.pids().items():
                peaks[name] = max(peaks.get(name, 0), memory_bytes(pid) or 0)
            largest = max(peaks, key=lambda name: peaks[name])
            setting.tell(
                f"{start_count + count:,} records, {rate:,.0f}/s; "
                f"most memory: {largest}, {peaks[largest] / MIB:,.0f} MiB"
            )
        asked = Order(do="read_old", count=min(OLD_TAGS_COUNT, records_count))
        old = reader.ask(replace(asked, seconds=_LONG_S))
        for name, pid in running.pids().items():
            peaks[name] = max(peaks[name], memory_bytes(pid) or 0)
    return memory_results(peaks, old, records_count=records_count)


def memory_results(peaks: Mapping[str, int], old: Outcome, *, records_count: int) -> list[Result]:
    """Peaks against the budget, and reads of old tags."""
    name = f"memory.{records_count}-records"
    results = [
        limit(f"{name}.{node}", [peak / MIB], "MiB", MEMORY_BUDGET_BYTES / MIB)
        for node, peak in peaks.items()
        if peak
    ]
    results.append(figure(f"{name}.read-next-of-old-tags", [old.rate], "reads/s"))
    results.append(figure(f"{name}.read-next-of-old-tags.p50", [old.p50_us], "us"))
    return results
