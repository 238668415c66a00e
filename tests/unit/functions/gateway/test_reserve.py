"""A gateway's port is taken before anything else is started."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import bokilog
from bokilog.cli.main import main
from bokilog.errors import InvalidSettings
from bokilog.functions import node
from bokilog.functions.gateway.server import Gateway, reserve
from bokilog.functions.gateway.settings import GatewaySettings
from bokilog.functions.runtime.process_settings import HostSettings
from bokilog.io.process import new_loop
from tests.unit.functions.gateway.fake_runner import FakeRunner


@pytest.fixture
def port_in_use() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield int(other.getsockname()[1])


def test_a_port_in_use_is_known_before_the_app_is_loaded(
    port_in_use: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*said: object, **named: object) -> None:
        raise AssertionError("a host was made")

    monkeypatch.setattr(node, "Host", started)
    host = HostSettings(
        node_id="host-1",
        app="shop:app",
        app_dir=Path(),
        addresses=("unix:/nowhere",),
        log_url="bokilog://127.0.0.1:1",
    )
    settings = node.FunctionNodeSettings(host=host, gateway=GatewaySettings(http_port=port_in_use))
    with pytest.raises(InvalidSettings, match=f"http_port={port_in_use} is in use by another"):
        asyncio.run(node.serve(settings, lambda: None, asyncio.Event()))


@pytest.mark.parametrize("command", [["dev", "m:app"], ["serve", "m:app"]])
def test_commands_tell_of_a_port_in_use_before_they_start_anything(
    port_in_use: int,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--http-port", str(port_in_use)]) == 2
    told = capsys.readouterr()
    assert f"http_port={port_in_use} is in use by another process" in told.err
    assert told.out == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.asyncio
async def test_what_was_reserved_is_served_and_let_go_of(host: str) -> None:
    settings = GatewaySettings(http_host=host, http_port=0)
    reserved = reserve(settings)
    assert len({each.getsockname()[1] for each in reserved}) == 1
    async with bokilog.open() as log:
        gateway = await Gateway.start(
            FakeRunner({}), log, app="shop", settings=settings, reserved=reserved
        )
        port = int(gateway.url.rpartition(":")[2])
        with pytest.raises(InvalidSettings, match="in use"):
            reserve(GatewaySettings(http_host=host, http_port=port))
        await gateway.aclose()
    assert all(each.fileno() == -1 for each in reserved)


def test_of_two_that_reserved_a_port_at_once_the_second_is_told_that_it_is_in_use() -> None:
    async def serve() -> None:
        first = reserve(GatewaySettings(http_port=0))
        port = first[0].getsockname()[1]
        settings = GatewaySettings(http_port=port)
        second = reserve(settings)
        async with bokilog.open() as log, AsyncExitStack() as stack:
            for each in second:
                stack.callback(each.close)

            async def start(reserved: list[socket.socket]) -> None:
                gateway = await Gateway.start(
                    FakeRunner({}), log, app="shop", settings=settings, reserved=reserved
                )
                stack.push_async_callback(gateway.aclose)

            await start(first)
            with pytest.raises(InvalidSettings, match=f"http_port={port} is in use by another"):
                await start(second)

    with asyncio.Runner(loop_factory=new_loop) as loop:
        loop.run(serve())
