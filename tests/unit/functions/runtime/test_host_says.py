"""What a host says of trouble: to whoever watches it, else to the log; not to both."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from bokilog.client.admin import ClientLog
from bokilog.errors import InvalidSettings
from bokilog.functions.runtime import host as host_module, log_watch
from bokilog.functions.runtime.effects import (
    AppNotLoaded,
    Effect,
    KillWorker,
    TemplateLost,
    WorkerEnded,
)
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
async def test_a_template_that_ends_of_itself_is_told_to_people(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = Seen()
    line = "the template of the app is gone: it was killed; the app is loaded again"
    host_of(seen)._perform(TemplateLost("it was killed"))
    assert (seen.warnings, caplog.messages) == ([line], [])
    host_of(None)._perform(TemplateLost("it was killed"))
    assert caplog.messages == [line]


@pytest.mark.asyncio
async def test_a_log_that_is_not_there_is_waited_for_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And no more once it is known that the host will not live."""
    monkeypatch.setattr(log_watch, "QUIET_S", 0.0)
    dialled = asyncio.Event()

    async def connect(url: str, *, connect_timeout_s: float) -> ClientLog:
        dialled.set()
        await asyncio.Event().wait()
        raise AssertionError(url)

    monkeypatch.setattr(host_module, "connect", connect)
    seen = Seen()
    host = host_of(seen)
    monkeypatch.setattr(host._connections, "listen", _listened)
    monkeypatch.setattr(host._templates, "start", lambda number: None)
    beginning = asyncio.create_task(host.begin())
    await dialled.wait()
    while not seen.warnings:  # noqa: ASYNC110 - the timer is due in the loop's next turns
        await asyncio.sleep(0)
    assert seen.warnings == ["waiting up to 20 s for the log at bokilog://127.0.0.1:1"]
    beginning.cancel()
    await asyncio.wait([beginning])
    await host.aclose()
    assert not seen.news


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
