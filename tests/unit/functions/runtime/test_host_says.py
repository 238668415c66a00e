"""What a host says of trouble: to whoever watches it, else to the log; not to both."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from bokilog.functions.runtime.effects import AppNotLoaded, Effect, WorkerEnded
from bokilog.functions.runtime.host import Host, Watcher
from bokilog.functions.runtime.process_settings import HostSettings
from tests.integration.hosting import Seen


def host_of(watcher: Watcher | None) -> Host:
    return Host(
        HostSettings(
            node_id="host-1",
            app="shop:app",
            app_dir=Path(),
            addresses=("unix:/nowhere",),
            log_url="bokilog://127.0.0.1:1",
        ),
        watcher=watcher,
    )


@pytest.mark.asyncio
async def test_trouble_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    effects: list[Effect] = [
        AppNotLoaded("Traceback: no such thing", (), False),
        WorkerEnded(1, "f", "gone"),
    ]
    with caplog.at_level(logging.WARNING):
        seen = Seen()
        for effect in effects:
            host_of(seen)._perform(effect)
        assert (seen.failures, seen.lost) == (effects[:1], effects[1:])
        assert caplog.messages == []
        for effect in effects:
            host_of(None)._perform(effect)
        assert "no such thing" in caplog.messages[0]
        assert caplog.messages[1:] == ["worker 1 of f: gone"]
