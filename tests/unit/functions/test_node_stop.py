"""A host process ends when it is told to, also while its app is still being loaded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bokilog.functions.node import FunctionNodeSettings, _begun, _Parts, serve
from bokilog.functions.runtime.host import Host
from bokilog.functions.runtime.process_settings import HostSettings
from tests.integration.hosting import Seen

SETTINGS = HostSettings(
    node_id="host-1",
    app="shop:app",
    app_dir=Path(),
    addresses=("unix:/nowhere",),
    log_url="bokilog://127.0.0.1:1",
)


@pytest.mark.asyncio
async def test_a_stop_does_not_wait_for_an_app_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(self: Host) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Host, "begin", hang)
    stop = asyncio.Event()
    stop.set()
    assert not await _begun(Host(SETTINGS), stop)


@pytest.mark.parametrize("hurry", [False, True])
@pytest.mark.asyncio
async def test_who_is_in_a_hurry_does_not_wait_for_calls(
    monkeypatch: pytest.MonkeyPatch, hurry: bool
) -> None:
    steps: list[str] = []
    draining, drained = asyncio.Event(), asyncio.Event()

    async def nothing(self: object) -> None: ...

    async def drain(self: Host) -> None:
        draining.set()
        await drained.wait()
        steps.append("drained")

    async def close_parts(self: _Parts) -> None:
        steps.append("parts closed")

    async def abandon_parts(self: _Parts) -> None:
        steps.append("parts abandoned")

    async def close_host(self: Host, *, at_once: bool = False) -> None:
        steps.append("host closed at once" if at_once else "host closed")

    monkeypatch.setattr(Host, "begin", nothing)
    monkeypatch.setattr(Host, "drain", drain)
    monkeypatch.setattr(Host, "aclose", close_host)
    monkeypatch.setattr(_Parts, "live", lambda self: asyncio.Event().wait())
    monkeypatch.setattr(_Parts, "aclose", close_parts)
    monkeypatch.setattr(_Parts, "abandon", abandon_parts)
    stop, seen = asyncio.Event(), Seen()
    settings = FunctionNodeSettings(host=SETTINGS, http=False)
    living = asyncio.create_task(serve(settings, stop.set, stop, watcher=seen))
    await draining.wait()
    assert (seen.stops, steps) == ([0], ["parts closed"])
    if hurry:
        living.cancel()
    else:
        drained.set()
    await asyncio.wait([living])
    if hurry:
        assert living.cancelled()
        assert steps == ["parts closed", "parts abandoned", "host closed at once"]
    else:
        assert steps == ["parts closed", "drained", "parts closed", "host closed"]
