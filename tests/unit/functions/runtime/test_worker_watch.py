"""What a host sees of its workers' processes: the memory they take, and silence."""

from __future__ import annotations

from pathlib import Path

import pytest

import bokilog.functions.runtime.worker_watch as worker_watch
from bokilog.functions.runtime.effects import Address, MemoryUsed, WorkerSilent
from bokilog.functions.runtime.messages import CallMessage, Pulse, WorkerReady
from bokilog.functions.runtime.process_settings import HostSettings
from bokilog.functions.runtime.worker_watch import WorkerWatch

PID = 1_007


class Workers:
    """Worker 7, whose memory has a limit, and which runs calls."""

    def watched(self) -> list[tuple[int, int]]:
        return [(7, PID)]

    def shared(self) -> list[int]:
        return [7]


class Links:
    def __init__(self) -> None:
        self.sent: list[tuple[Address, CallMessage]] = []
        self.flushed_count = 0

    def send(self, to: Address, message: CallMessage) -> None:
        self.sent.append((to, message))

    def flush(self) -> None:
        self.flushed_count = len(self.sent)


class Rig:
    """Processes that have as much memory as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes: dict[int, int] = {}
        monkeypatch.setattr(worker_watch, "anonymous_bytes", self.bytes.get)
        self.links = Links()
        self.seen: list[MemoryUsed | WorkerSilent] = []
        settings = HostSettings(
            node_id="host-1",
            app="shop:app",
            app_dir=Path(),
            addresses=("unix:/nowhere",),
            log_url="bokilog://127.0.0.1:1",
            worker_silent_s=5.0,
        )
        self.watch = WorkerWatch(
            settings,
            workers=Workers(),  # type: ignore[arg-type]
            connections=self.links,  # type: ignore[arg-type]
            deliver=self.seen.append,
        )

    def look(self) -> list[MemoryUsed | WorkerSilent]:
        self.seen.clear()
        self.watch.look_at_memory()
        return list(self.seen)


def test_what_a_worker_had_when_it_was_ready_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch)
    rig.bytes[PID] = 1_000
    rig.watch.ready(WorkerReady(7, PID, []))
    assert rig.look() == []
    rig.bytes[PID] = 1_500
    assert rig.look() == [MemoryUsed(7, 500)]
    rig.bytes[PID] = 900
    assert rig.look() == []


def test_of_a_worker_that_was_not_seen_ready_the_first_look_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch)
    rig.watch.ready(WorkerReady(7, PID, []))  # its process cannot be looked at
    assert rig.look() == []
    rig.bytes[PID] = 1_000
    assert rig.look() == []
    rig.bytes[PID] = 1_200
    assert rig.look() == [MemoryUsed(7, 200)]


def test_a_worker_that_is_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    rig.bytes[PID] = 1_000
    rig.watch.ready(WorkerReady(7, PID, []))
    rig.watch.ended(7)
    rig.watch.ended(7)
    rig.bytes[PID] = 5_000  # of another process by now
    assert rig.look() == []


def test_who_does_not_answer_for_long_is_silent_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(monkeypatch)
    rig.watch.look_at_pulses(10.0)
    assert rig.links.sent == [(("worker", 7), Pulse(7))]
    assert rig.links.flushed_count == 1
    rig.watch.answered(7)
    rig.watch.look_at_pulses(11.0)
    rig.watch.look_at_pulses(15.9)
    assert rig.seen == []
    rig.watch.look_at_pulses(16.0)
    rig.watch.look_at_pulses(30.0)
    assert rig.seen == [WorkerSilent(7)]
