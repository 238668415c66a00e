"""What bokilog has to reach, and against whom: the table that peers.py fills in.

Decides the bars, each with the contender it is held against, how figures of another machine are
scaled to this one, and how near the peers must come to what was measured of them before. Everything
here is computed from the samples of one run in turns; pure.

Sources: the bars are the project's goals. Reference figures of peers and of Boki were measured by
us on one machine of two cores; the three references of that machine were taken in the same hour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from bokilog.bench import machine
from bokilog.bench.appends import Work
from bokilog.bench.figures import (
    Relation,
    Result,
    Sample,
    compare,
    cpu_totals,
    median,
    p50s,
    rates,
    shown,
)
from bokilog.bench.suites import against_one_sync, against_the_delay

Samples = Mapping[str, Sequence[Sample]]
Measure = Literal["rate", "p50"]

# --- ours -----------------------------------------------------------------------------------------

EMBEDDED: Final = Work()
EMBEDDED_UNITS: Final = Work(outstanding=1, batch_count=256)
EMBEDDED_ALONE: Final = Work(outstanding=1)
EMBEDDED_DELAYED: Final = Work(outstanding=1, sync_delay_ms=1.0)
CLUSTER: Final = Work()
CLUSTER_FLUSH: Final = Work(size_bytes=128, durability="flush")
CLUSTER_BOKI: Final = (
    Work(size_bytes=100, outstanding=128),
    Work(size_bytes=1024, outstanding=128),
)
CLUSTER_THREE: Final = tuple(replace(work, sequencers=3) for work in CLUSTER_BOKI)
"""Boki's own set-up."""
CLUSTER_ALONE: Final = Work(outstanding=1)
CLUSTER_DELAYED: Final = Work(outstanding=1, sync_delay_ms=1.0)

EMBEDDED_WORKS: Final = (EMBEDDED, EMBEDDED_UNITS, EMBEDDED_ALONE)
CLUSTER_WORKS: Final = (CLUSTER, CLUSTER_FLUSH, *CLUSTER_BOKI, CLUSTER_ALONE)

# --- theirs ---------------------------------------------------------------------------------------

REDIS: Final = "redis-py.always.1024B.256x"
SQLITE: Final = "sqlite3.1-per-commit.1024B"
SQLITE_UNITS: Final = "sqlite3.256-per-commit.1024B"
BARE: Final = "bare-log.sync.1024B.256x"
CHAIN: Final = "chain.2-of-3.flush.128B.256x"
NATS: Final = "nats-py.jetstream.1024B.256x"

PEERS: Final[Mapping[str, float]] = {
    "redis-py.always.1024B.1x": 11_000,
    REDIS: 32_000,
    "redis-py.everysec.1024B.256x": 32_000,
    "redis-py.always.1024B.pipeline-of-256": 98_000,
    "redis-py.everysec.1024B.pipeline-of-256": 118_000,
    "redis-coalescing.always.1024B.64x": 140_000,
    "redis-coalescing.always.1024B.256x": 121_000,
    "redis-coalescing.everysec.1024B.64x": 454_000,
    "redis-coalescing.everysec.1024B.256x": 331_000,
    NATS: 67_000,
    SQLITE: 37_089,
    SQLITE_UNITS: 482_304,
    BARE: 590_000,
}
"""Operations per second that each reached on the reference machine."""
PEERS_BAR: Final = 0.75
PROGRAM_OF: Final[Mapping[str, str]] = {"redis": "redis-server", "nats": "nats-server"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One figure of ours against one of theirs."""

    ours: str
    theirs: str
    bar: float
    relation: Relation = "at least"
    unit: str = "appends/s"
    note: str = ""


BARS: Final = (
    Bar(ours=EMBEDDED.name("embedded"), theirs=REDIS, bar=5.0, note="8x is the aim"),
    Bar(ours=EMBEDDED.name("embedded"), theirs=SQLITE, bar=4.0),
    Bar(ours=EMBEDDED.name("embedded"), theirs=BARE, bar=0.25),
    Bar(ours=EMBEDDED_UNITS.name("embedded"), theirs=SQLITE_UNITS, bar=0.7, unit="records/s"),
    Bar(ours=CLUSTER.name("cluster"), theirs=REDIS, bar=2.0),
    Bar(ours=CLUSTER_FLUSH.name("cluster"), theirs=CHAIN, bar=1 / 3),
)
CLUSTER_ALONE_US_MAX: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Boki:
    """One row of what Boki reached on the reference machine, at 128 outstanding."""

    work: Work
    rate: float
    cpu_us: float


BOKI: Final = (
    Boki(work=CLUSTER_BOKI[0], rate=76_000, cpu_us=22.0),
    Boki(work=CLUSTER_BOKI[1], rate=62_000, cpu_us=29.0),
    Boki(work=CLUSTER_THREE[0], rate=76_000, cpu_us=22.0),
    Boki(work=CLUSTER_THREE[1], rate=62_000, cpu_us=29.0),
)
BOKI_IS: Final = "Boki, 3 of 3, three sequencers, memory"
OURS_IS: Final = "ours: W = 2 of 3, as many sequencers as the name says or one, synced"
REFERENCE_MACHINE_US: Final[Mapping[str, float]] = {
    machine.TCP: 12.5,
    machine.SYNC: 50.0,
    machine.ADDS: 400_000.0,
}


def scales(samples: Samples) -> list[float]:
    """Per round, how much faster this machine is than the reference machine.

    The geometric mean over its three references: neither of them speaks for the whole.
    """
    columns = [p50s(samples.get(name, ())) for name in REFERENCE_MACHINE_US]
    known_us = list(REFERENCE_MACHINE_US.values())
    found = []
    for row in zip(*columns, strict=False):
        ratios = [known / now for known, now in zip(known_us, row, strict=True) if now > 0]
        if len(ratios) == len(known_us):
            found.append(math.prod(ratios) ** (1 / len(ratios)))
    return found


# --- the table ------------------------------------------------------------------------------------


def table(samples: Samples) -> list[Result]:
    """Every bar that the samples of one run decide; what was not measured does not hold."""
    return [
        *(_against(each, samples) for each in BARS),
        *_against_boki(samples),
        *_alone(samples),
        *_delayed(samples),
    ]


def _against(bar: Bar, samples: Samples) -> Result:
    ours, theirs = samples.get(bar.ours, ()), samples.get(bar.theirs, ())
    lacking = " and ".join(
        name for name, each in ((bar.ours, ours), (bar.theirs, theirs)) if not each
    )
    return compare(
        bar.ours,
        rates(ours),
        bar.unit,
        against=bar.theirs,
        others=rates(theirs),
        bar=bar.bar,
        relation=bar.relation,
        note=f"not measured: {lacking}" if lacking else bar.note,
    )


def _against_boki(samples: Samples) -> Iterator[Result]:
    factors = scales(samples)
    note = (
        f"{OURS_IS}; {BOKI_IS}, whose figures are scaled by {shown(median(factors))}, the mean of "
        "this machine's three references"
    )
    for row in BOKI:
        name = row.work.name("cluster")
        ours = samples.get(name, ())
        yield compare(
            name,
            rates(ours),
            "appends/s",
            against=f"{BOKI_IS}, scaled",
            others=[row.rate * factor for factor in factors],
            bar=1.0,
            note=note,
        )
        yield compare(
            f"{name}.cpu",
            cpu_totals(ours),
            "us/append",
            against=f"{BOKI_IS}, scaled",
            others=[row.cpu_us / factor for factor in factors],
            bar=1.0,
            relation="at most",
            note=note,
        )


def _alone(samples: Samples) -> Iterator[Result]:
    name = EMBEDDED_ALONE.name("embedded")
    yield against_one_sync(name, samples.get(name, ()), samples.get(machine.SYNC, ()))
    name = CLUSTER_ALONE.name("cluster")
    yield compare(
        f"{name}.p50",
        p50s(samples.get(name, ())),
        "us",
        against=f"{CLUSTER_ALONE_US_MAX:.0f} us",
        others=[CLUSTER_ALONE_US_MAX],
        bar=1.0,
        relation="at most",
    )


def _delayed(samples: Samples) -> Iterator[Result]:
    name = EMBEDDED_DELAYED.name("embedded")
    yield against_the_delay("embedded", EMBEDDED_DELAYED, samples.get(name, ()))
    name = CLUSTER_DELAYED.name("cluster")
    yield against_the_delay("cluster", CLUSTER_DELAYED, samples.get(name, ()))


def peers(samples: Samples, *, load_average: float) -> list[Result]:
    """Each peer against what it reached on the reference machine; if it did not, why.

    Args:
        samples: of this run.
        load_average: how many processes wanted a core when the run began.
    """
    factors = scales(samples)
    found = []
    for name, known in PEERS.items():
        if name not in samples:
            continue
        values = rates(samples[name])
        ratio = median(values) / known
        slow = "" if ratio >= PEERS_BAR else why(ratio, median(factors), load_average)
        found.append(
            compare(
                name,
                values,
                "appends/s",
                against="itself, on the reference machine",
                others=[known],
                bar=PEERS_BAR,
                note=slow and f"peers slower than before: {slow}",
            )
        )
    return found


def why(ratio: float, scale: float, load_average: float) -> str:
    """What accounts for a peer that is slower than it was."""
    if not math.isnan(scale) and ratio / scale >= PEERS_BAR:
        return f"this machine is at {shown(scale)} of the reference machine in all"
    if load_average >= 1:
        return f"{shown(load_average)} other processes wanted a core when this began"
    return (
        f"neither this machine (at {shown(scale)} of the reference machine) nor other load "
        f"({shown(load_average)} processes) accounts for it; other versions of it may"
    )
