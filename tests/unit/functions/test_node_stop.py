"""A host process ends when it is told to, also while its app is still being loaded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bokilog.functions.node import _begun
from bokilog.functions.runtime.host import Host
from bokilog.functions.runtime.process_settings import HostSettings


@pytest.mark.asyncio
async def test_a_stop_does_not_wait_for_an_app_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(self: Host) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Host, "begin", hang)
    settings = HostSettings(
        node_id="host-1",
        app="shop:app",
        app_dir=Path(),
        addresses=("unix:/nowhere",),
        log_url="bokilog://127.0.0.1:1",
    )
    stop = asyncio.Event()
    stop.set()
    assert not await _begun(Host(settings), stop)
