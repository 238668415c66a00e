"""The fold of a job's control log: claims, claims again, duplicates, losses, readiness, the end."""

from __future__ import annotations

from scripts.flights.job import Claim, JobState, Phase
from scripts.flights.plan import Edge, Plan, Stage, TaskId
from scripts.flights.records import (
    Beat,
    Claimed,
    Committed,
    Control,
    Failed,
    OutputLost,
    Submitted,
)

A0, A1, B0 = TaskId("a", 0), TaskId("a", 1), TaskId("b", 0)
PLAN = Plan(
    claim_ttl_ms=5_000,
    stages=(
        Stage(name="a", tasks=2, partitions=1),
        Stage(name="b", tasks=1, partitions=1, edges=(Edge(parent="a", kind="scatter"),)),
    ),
)


def committed(task: TaskId, *, output: int = 100, worker: str = "w") -> Committed:
    return Committed(
        task=task, worker=worker, output=output, rows=3, part_bytes=(10, 20), seconds=0.5
    )


def folded(*controls: Control | tuple[Control, int]) -> JobState:
    """Seqnums 10, 20, ...; a record's time in ms stands beside it, or is that of the one before."""
    state, now_ms = JobState(), 0
    for number, each in enumerate(controls, 1):
        control, now_ms = each if isinstance(each, tuple) else (each, now_ms)
        state.apply(control, seqnum=number * 10, timestamp_ms=now_ms)
    return state


def test_nothing_is_claimable_before_the_plan() -> None:
    state = folded(Beat())
    assert (state.phase, state.claimable(), state.over) == (Phase.UNKNOWN, [], False)


def test_tasks_without_parents_are_claimable_at_once() -> None:
    assert folded(Submitted(PLAN)).claimable() == [Claim(A0, 0), Claim(A1, 0)]


def test_claimed_task_is_left_alone() -> None:
    assert folded(Submitted(PLAN), Claimed(A0, "w1")).claimable() == [Claim(A1, 0)]


def test_child_waits_for_the_whole_set_of_its_parents() -> None:
    one: list[Control] = [Submitted(PLAN), committed(A0)]
    assert B0 not in [claim.task for claim in folded(*one).claimable()]
    assert folded(*one, committed(A1)).claimable() == [Claim(B0, 0)]


def test_parent_that_commits_twice_is_one_parent() -> None:
    state = folded(Submitted(PLAN), committed(A0), committed(A0))
    assert state.claimable() == [Claim(A1, 0)]


def test_first_commit_in_log_order_wins() -> None:
    state = folded(
        Submitted(PLAN), committed(A0, output=1, worker="x"), committed(A0, output=2, worker="y")
    )
    assert state.outputs("a") == [committed(A0, output=1, worker="x")]
    assert (state.tasks[A0].commit, state.tasks[A0].last) == (20, 30)


def test_claim_runs_out_only_after_its_time_by_the_log() -> None:
    claim: list[Control | tuple[Control, int]] = [Submitted(PLAN), (Claimed(A0, "w1"), 1_000)]
    assert Claim(A0, 20) not in folded(*claim, (Beat(), 6_000)).claimable()
    assert Claim(A0, 20) in folded(*claim, (Beat(), 6_001)).claimable()


def test_claim_after_one_that_ran_out_starts_its_own_time() -> None:
    state = folded(
        Submitted(PLAN),
        (Claimed(A0, "dead"), 1_000),
        (Claimed(A0, "w2"), 7_000),
        (Beat(), 11_000),
    )
    assert state.claimable() == [Claim(A1, 0)]
    assert (state.tasks[A0].claimed_by, state.repeated_claims) == ("w2", 1)


def test_zombie_that_commits_first_wins_over_who_claimed_again() -> None:
    state = folded(
        Submitted(PLAN),
        (Claimed(A0, "slow"), 0),
        (Claimed(A0, "w2"), 6_000),
        committed(A0, output=1, worker="slow"),
        committed(A0, output=2, worker="w2"),
    )
    assert state.outputs("a") == [committed(A0, output=1, worker="slow")]


def test_claim_of_a_committed_task_changes_nothing() -> None:
    state = folded(Submitted(PLAN), committed(A0), Claimed(A0, "late"))
    assert state.claimable() == [Claim(A1, 0)]
    assert (state.waits_for_claims(), state.repeated_claims) == (False, 0)


def test_lost_output_is_computed_again_before_its_children() -> None:
    both: list[Control] = [Submitted(PLAN), Claimed(A0, "w"), committed(A0), committed(A1)]
    lost = folded(*both, OutputLost(A0, 30))
    assert lost.claimable() == [Claim(A0, 20)]
    assert lost.tasks[A0].last == 50
    again = folded(*both, OutputLost(A0, 30), committed(A0, output=200))
    assert again.claimable() == [Claim(B0, 0)]
    assert again.outputs("a")[0].output == 200


def test_loss_of_an_earlier_commit_changes_nothing() -> None:
    state = folded(
        Submitted(PLAN),
        committed(A0),
        OutputLost(A0, 20),
        committed(A0, output=200),
        OutputLost(A0, 20),
    )
    assert [output.output for output in state.outputs("a")] == [200]


def test_job_is_done_with_its_last_task_and_stays_done() -> None:
    state = folded(Submitted(PLAN), committed(A0), committed(A1), committed(B0))
    assert (state.phase, state.claimable()) == (Phase.DONE, [])
    state.apply(Failed(B0, "late", "no"), seqnum=50, timestamp_ms=0)
    assert state.phase is Phase.DONE


def test_error_of_a_function_ends_the_job() -> None:
    failed = Failed(A0, "w", "ValueError: no")
    state = folded(Submitted(PLAN), failed, committed(A1))
    assert (state.phase, state.failure, state.claimable()) == (Phase.FAILED, failed, [])


def test_second_submission_is_ignored() -> None:
    other = Plan(stages=(Stage(name="z", tasks=1, partitions=1),))
    assert folded(Submitted(PLAN), Submitted(other)).plan == PLAN


def test_time_of_the_log_never_goes_back() -> None:
    assert folded((Beat(), 500), (Beat(), 400)).now_ms == 500


def test_stats_count_what_was_committed() -> None:
    state = folded(
        Submitted(PLAN),
        (Claimed(A0, "w"), 1_000),
        (Claimed(A1, "v"), 1_200),
        (committed(A0), 3_500),
    )
    first, second = state.stats()
    assert first._asdict() == {
        "stage": "a",
        "tasks": 2,
        "records": 1,
        "rows": 3,
        "size_bytes": 30,
        "seconds": 2.5,
        "busy_s": 0.5,
    }
    assert (second.records, second.seconds) == (0, 0.0)
