"""A program's connection to a host that knows its functions, and then says nothing any more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bokilog.call_errors import CallTimeout, UnknownFunction
from bokilog.cli import calling
from bokilog.framing import WireMessage
from bokilog.functions.runtime import caller, outside
from bokilog.functions.runtime.caller import failed
from bokilog.functions.runtime.messages import Greeted, Greeting, Start, decode, encode
from bokilog.functions.runtime.outside import AppConnection
from bokilog.functions.runtime.process_caller import ProcessCaller
from bokilog.io.link import Link, LinkCallbacks
from bokilog.io.transport import listen

pytestmark = pytest.mark.asyncio


class Shop:
    """An app that is only its name."""

    name = "shop"
    connection: ProcessCaller | None = None


class SilentHost:
    """It greets, and answers nothing but what it does not know."""

    def __init__(self, timeout_s: float) -> None:
        self.started: list[Start] = []
        self._greeted = Greeted(
            "host-1", "shop", 1, [["price", {"timeout_s": timeout_s}, "()", ""]]
        )
        self.callbacks = LinkCallbacks(on_messages=self._on_messages)

    def _on_messages(self, link: Link, wires: list[WireMessage]) -> None:
        for message in map(decode, wires):
            if isinstance(message, Greeting):
                link.send(*encode(self._greeted))
            elif isinstance(message, Start):
                self.started.append(message)
                if message.function != "price":
                    link.send(*encode(failed(message.call, UnknownFunction(message.function))))


async def test_how_long_a_function_may_take_is_known_once_it_is_connected(tmp_path: Path) -> None:
    listener = await listen(f"unix:{tmp_path}/s", SilentHost(7.5).callbacks)
    url = f"bokilog+unix://{tmp_path}/s"
    try:
        async with AppConnection(Shop(), url=None, host=url, connect_timeout_s=10) as connection:
            assert connection.timeout_s_of("price") == 7.5
            assert connection.timeout_s_of("prize") is None
    finally:
        await listener.aclose()


@pytest.mark.parametrize(
    ("function", "error", "deadline_ms"),
    [("price", CallTimeout, 20), ("prize", UnknownFunction, 60_000)],
)
async def test_a_call_without_a_timeout_is_given_up_by_that_of_its_function(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    function: str,
    error: type[Exception],
    deadline_ms: int,
) -> None:
    def connection(
        app: calling._Named, *, url: str | None, host: str | None, connect_timeout_s: float
    ) -> AppConnection:
        at = f"bokilog+unix://{tmp_path}/s"
        return AppConnection(app, url=None, host=at, connect_timeout_s=connect_timeout_s)

    monkeypatch.setattr(outside, "AppConnection", connection)
    monkeypatch.setattr(caller, "SILENCE_S", 0.0)
    monkeypatch.setattr(caller, "SWEEP_S", 0.001)
    host = SilentHost(0.02)
    listener = await listen(f"unix:{tmp_path}/s", host.callbacks)
    try:
        async with asyncio.timeout(15):
            with pytest.raises(error):
                await calling._call("shop", function, b"[]", "", 10.0, None, as_json=False)
    finally:
        await listener.aclose()
    assert [start.deadline_ms for start in host.started] == [deadline_ms]
