"""What a job writes into its control log, as JSON, and the tags everything of a job is found by.

Decides names and bytes; what the records mean together is the fold's (`job.py`). A record of a kind
or with fields that this version does not know is an error, never skipped: a fold that skips folds
to another state than its peers.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, assert_never

from scripts.flights.plan import EDGE_KINDS, Edge, EdgeKind, Plan, Stage, TaskId

# --- tags -----------------------------------------------------------------------------------------


def job_tag(job: str) -> str:
    """On every control record and output of the job."""
    return f"job:{job}"


def stage_tag(job: str, stage: str) -> str:
    """On every output of the stage."""
    return f"stage:{job}/{stage}"


def task_tag(job: str, task: TaskId) -> str:
    """On the outputs, commits and losses of the task."""
    return f"task:{job}/{task}"


def claim_tag(job: str, task: TaskId) -> str:
    """On the claims of the task."""
    return f"claim:{job}/{task}"


def beat_tag(job: str) -> str:
    """On the records that only make time move."""
    return f"beat:{job}"


# --- control records ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job begins, or, if it is there already, goes on."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Claimed:
    """`worker` is going to run the task."""

    task: TaskId
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The task has run; `output` is the seqnum of its record in the exchange."""

    task: TaskId
    worker: str
    output: int
    rows: int
    part_bytes: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class OutputLost:
    """The output of the commit at seqnum `commit` cannot be read any more."""

    task: TaskId
    commit: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The task's function raised an error: it will again, so the job ends."""

    task: TaskId
    worker: str
    error: str


@dataclass(frozen=True, slots=True)
class Beat:
    """Nothing happened, but it is later now."""


Control: TypeAlias = Submitted | Claimed | Committed | OutputLost | Failed | Beat


class InvalidControl(Exception):
    """A record of the control log that this version did not write."""


def encode(control: Control) -> bytes:
    """The record as JSON, so that people can read a job's log too."""
    return json.dumps(_fields(control), separators=(",", ":")).encode()


def _fields(control: Control) -> dict[str, object]:
    match control:
        case Submitted(plan):
            return {"kind": "submitted", "plan": _plan_fields(plan)}
        case Claimed(task, worker):
            return {"kind": "claimed", "task": [*task], "worker": worker}
        case Committed():
            return {
                "kind": "committed",
                "task": [*control.task],
                "worker": control.worker,
                "output": control.output,
                "rows": control.rows,
                "part_bytes": [*control.part_bytes],
                "seconds": control.seconds,
            }
        case OutputLost(task, commit):
            return {"kind": "output_lost", "task": [*task], "commit": commit}
        case Failed(task, worker, error):
            return {"kind": "failed", "task": [*task], "worker": worker, "error": error}
        case Beat():
            return {"kind": "beat"}
        case _:
            assert_never(control)


def _plan_fields(plan: Plan) -> dict[str, object]:
    stages = [
        {
            "name": stage.name,
            "tasks": stage.tasks,
            "partitions": stage.partitions,
            "edges": [[edge.parent, edge.kind] for edge in stage.edges],
        }
        for stage in plan.stages
    ]
    return {"stages": stages, "claim_ttl_ms": plan.claim_ttl_ms}


def decode(data: bytes) -> Control:
    """The record that `encode` wrote. Raises `InvalidControl`."""
    try:
        fields = json.loads(data)
        return _decoded(fields["kind"], fields)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidControl(f"{data[:100]!r}: {type(error).__name__}: {error}") from error


def _decoded(kind: str, fields: Mapping[str, object]) -> Control:
    if kind == "submitted":
        return Submitted(_decoded_plan(fields["plan"]))
    if kind == "beat":
        return Beat()
    stage, number = _list(fields["task"])
    task, worker = TaskId(_str(stage), _int(number)), fields.get("worker")
    match kind:
        case "claimed":
            return Claimed(task, _str(worker))
        case "committed":
            return Committed(
                task=task,
                worker=_str(worker),
                output=_int(fields["output"]),
                rows=_int(fields["rows"]),
                part_bytes=tuple(_int(size) for size in _list(fields["part_bytes"])),
                seconds=_float(fields["seconds"]),
            )
        case "output_lost":
            return OutputLost(task, _int(fields["commit"]))
        case "failed":
            return Failed(task, _str(worker), _str(fields["error"]))
        case _:
            raise ValueError(f"unknown kind {kind!r}")


def _decoded_plan(fields: object) -> Plan:
    if not isinstance(fields, dict):
        raise TypeError(f"a plan is no {type(fields).__name__}")
    return Plan(
        claim_ttl_ms=_int(fields["claim_ttl_ms"]),
        stages=tuple(
            Stage(
                name=_str(stage["name"]),
                tasks=_int(stage["tasks"]),
                partitions=_int(stage["partitions"]),
                edges=tuple(
                    Edge(parent=_str(parent), kind=_edge_kind(kind))
                    for parent, kind in stage["edges"]
                ),
            )
            for stage in fields["stages"]
        ),
    )


def _edge_kind(value: object) -> EdgeKind:
    for kind in EDGE_KINDS:
        if value == kind:
            return kind
    raise ValueError(f"{value!r} is none of {EDGE_KINDS}")


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no int")
    return value


def _float(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _str(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value
