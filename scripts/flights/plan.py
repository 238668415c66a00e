"""A job's DAG: its stages, how many tasks each has, and how their tasks read those of the parents.

Decides what a valid plan is, and the plan of the flights. A plan is a value: it is submitted once
and never changes. Invariants: parents stand before their children, so there is no cycle; the two
ends of a scatter agree on the number of partitions. Does not know what a stage computes.
Source: the kinds of edges are those of field/dag.md 1.15, as far as the flights have them.
"""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

EdgeKind: TypeAlias = Literal["scatter", "broadcast", "fan-in"]
EDGE_KINDS: Final[tuple[EdgeKind, ...]] = get_args(EdgeKind)

CLAIM_TTL_MS: Final = 5_000  # many times the longest task of the flights, on two busy cores


class TaskId(NamedTuple):
    """One run of a stage over its share of the data, from 0."""

    stage: str
    number: int

    def __str__(self) -> str:
        return f"{self.stage}/{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """How the tasks of a stage read those of a parent."""

    parent: str
    kind: EdgeKind
    """scatter: task i reads partition i of every parent task. broadcast: every task reads all
    partitions of all of them. fan-in: so does the only one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One level of the DAG."""

    name: str
    tasks: int
    partitions: int
    """What each of its tasks cuts its output into."""
    edges: tuple[Edge, ...] = ()

    def task_ids(self) -> list[TaskId]:
        """All tasks, in order."""
        return [TaskId(self.name, number) for number in range(self.tasks)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole DAG; parents stand before their children."""

    stages: tuple[Stage, ...]
    claim_ttl_ms: int = CLAIM_TTL_MS

    def __post_init__(self) -> None:
        known: dict[str, Stage] = {}
        for stage in self.stages:
            if stage.name in known or not stage.name or "/" in stage.name:
                raise ValueError(f"stage {stage.name!r}: names are unique, not empty, without '/'")
            if stage.tasks < 1 or stage.partitions < 1:
                raise ValueError(f"stage {stage.name!r} has no task or no partition")
            for edge in stage.edges:
                _check_edge(stage, edge, known.get(edge.parent))
            known[stage.name] = stage

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)


def _check_edge(child: Stage, edge: Edge, parent: Stage | None) -> None:
    if parent is None:
        raise ValueError(f"stage {child.name!r} reads {edge.parent!r}, which is no stage before it")
    if edge.kind == "scatter" and parent.partitions != child.tasks:
        raise ValueError(
            f"stage {child.name!r} has {child.tasks} tasks for the {parent.partitions} partitions "
            f"of {parent.name!r}"
        )
    if edge.kind == "fan-in" and child.tasks != 1:
        raise ValueError(f"stage {child.name!r} has {child.tasks} tasks: a fan-in has one")


def flights_plan(*, partitions: int, claim_ttl_ms: int = CLAIM_TTL_MS) -> Plan:
    """Delay by weather and by carrier. `partitions`: of the exchange by airport and hour."""
    return Plan(
        claim_ttl_ms=claim_ttl_ms,
        stages=(
            Stage(name="scan_flights", tasks=8, partitions=partitions),
            Stage(name="scan_weather", tasks=2, partitions=partitions),
            Stage(name="scan_airlines", tasks=1, partitions=1),
            Stage(
                name="join",
                tasks=partitions,
                partitions=2,
                edges=(
                    Edge(parent="scan_flights", kind="scatter"),
                    Edge(parent="scan_weather", kind="scatter"),
                ),
            ),
            Stage(
                name="aggregate",
                tasks=2,
                partitions=1,
                edges=(Edge(parent="join", kind="scatter"),),
            ),
            Stage(
                name="sort",
                tasks=1,
                partitions=2,
                edges=(
                    Edge(parent="aggregate", kind="fan-in"),
                    Edge(parent="scan_airlines", kind="broadcast"),
                ),
            ),
        ),
    )
