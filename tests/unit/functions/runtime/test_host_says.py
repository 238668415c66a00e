"""What a host says of trouble: to whoever watches it, else to the log; not to both."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from bokilog.errors import InvalidSettings
from bokilog.functions.runtime import host as host_module
from bokilog.functions.runtime.effects import AppNotLoaded, Effect, KillWorker, WorkerEnded
from bokilog.functions.runtime.host import Host
from bokilog.functions.runtime.process_settings import HostSettings
from bokilog.functions.runtime.shown import Watcher
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
        unwatched = host_of(None)
        for effect in (*effects, effects[0]):
            unwatched._perform(effect)
        assert caplog.messages[0] == "worker 1 of f: gone", "what is wrong at the start is raised"
        assert "no such thing" in caplog.messages[1]


@pytest.mark.asyncio
async def test_a_killed_worker_is_told_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its end, if nobody had told it to end; else by its kill, which nothing follows."""
    killed: list[int] = []
    monkeypatch.setattr(host_module, "kill", killed.append)
    unwatched = host_of(None)
    unwatched._perform(KillWorker(4, 104, "it took too long", False))
    unwatched._perform(WorkerEnded(4, "slow", "it took too long"))
    unwatched._perform(KillWorker(5, 105, "it did not end when it was told to", True))
    assert killed == [104, 105]
    assert caplog.messages == [
        "worker 4 of slow: it took too long",
        "worker 5 is ended: it did not end when it was told to",
    ]


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.asyncio
async def test_a_load_error_at_the_start_is_told_once(
    watched: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = host_of(Seen() if watched else None)
    monkeypatch.setattr(host._connections, "listen", _listened)
    monkeypatch.setattr(host._templates, "start", lambda number: None)
    beginning = asyncio.create_task(host.begin())
    await asyncio.sleep(0)
    host._perform(AppNotLoaded("Traceback: no such thing", (), False))
    with pytest.raises(InvalidSettings, match=r"app=shop:app cannot be loaded") as caught:
        await beginning
    assert ("no such thing" in str(caught.value)) is not watched
    assert caplog.messages == []
    await host.aclose()


async def _listened(address: str) -> str:
    return address
