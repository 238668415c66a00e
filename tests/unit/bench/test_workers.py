"""How the processes of a benchmark end."""

from __future__ import annotations

import io
import subprocess

import pytest

from bokilog.bench.workers import Worker


class Busy:
    """A process that ends once its input does."""

    def __init__(self, command: list[str], **options: object) -> None:
        self.stdin = io.BytesIO()
        self.stdout = io.BytesIO()
        self.killed = False
        STARTED.append(self)

    def kill(self) -> None:
        self.killed = True

    def wait(self, timeout_s: float) -> int:
        assert self.stdin.closed
        return 0


STARTED: list[Busy] = []


@pytest.mark.parametrize("interrupted", [False, True])
def test_who_interrupts_a_measurement_does_not_wait_for_it(
    monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Busy)
    try:
        with Worker("m", name="client"):
            if interrupted:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert interrupted
    assert STARTED.pop().killed is interrupted
