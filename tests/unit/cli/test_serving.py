"""`bokilog dev` and `serve`: what they refuse, and how they end."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import pytest
from rich.console import Console

from bokilog.cli import serving
from bokilog.cli.main import main
from bokilog.cli.screen import Screen
from bokilog.functions import node
from bokilog.functions.node import FunctionNodeSettings
from bokilog.functions.runtime.process_settings import HostSettings

SETTINGS = FunctionNodeSettings(
    host=HostSettings(
        node_id="dev",
        app="shop:app",
        app_dir=Path(),
        addresses=("unix:/nowhere",),
        log_url="bokilog://127.0.0.1:1",
    )
)


def test_memory_goes_with_embedded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dev", "m:app", "--memory"]) == 2
    assert "goes with --embedded" in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--embedded",), ()])
def test_the_log_and_http_have_a_port_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    ports = ("--port", "7380", "--http-port", "7380")
    assert main(["dev", "m:app", *ports, "--dir", str(tmp_path / "data"), *options]) == 2
    assert "--http-port=7380 is the log's --port too" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [("--embedded",), ()])
def test_a_directory_that_is_refused_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    directory = os.fsdecode(bytes(tmp_path / "data") + b"\xff")
    assert main(["dev", "m:app", "--http-port", "0", "--dir", directory, *options]) == 2
    assert "is not UTF-8" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("log", ["memory:", "file:{}", "file:{}/nope", "{}"])
def test_what_serves_needs_a_log_that_its_workers_reach_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], log: str
) -> None:
    connect = log.format(tmp_path)
    assert main(["serve", "m:app", "--http-port", "0", "--connect", connect]) == 2
    told = capsys.readouterr()
    assert f"{connect!r} is neither bokilog://HOST:PORT nor" in told.err and not told.out
    assert not list(tmp_path.iterdir()), "no log is made"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("m:app", "--connect", "bokilog://"), "has the seed '', which is not HOST:PORT"),
        (("m:app", "--listen", ""), "address='' is neither tcp:HOST:PORT nor unix:PATH"),
        (("\udcff:app",), "app='\\udcff:app' holds what cannot be printed, or is not UTF-8"),
        (("m:app", "--app-dir", "{}"), "app_dir="),
    ],
)
def test_what_cannot_serve_is_refused_before_the_app_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], problem: str
) -> None:
    folder = os.fsdecode(bytes(tmp_path) + b"/\xff")
    os.mkdir(folder)
    said = [each.format(folder) for each in options]
    assert main(["serve", "--http-port", "0", *said]) == 2
    told = capsys.readouterr()
    assert problem in told.err and not told.out


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "name='' has 0 bytes: the name of a host has 1 to 128"),
        (
            "n" * 129,
            "name='nnnnnnnnnnnnnnnnnnnn...' has 129 bytes: the name of a host has 1 to 128",
        ),
        ("a\nb", "name='a\\nb' holds what cannot be printed"),
        ("\udcff", "name='\\udcff' holds what cannot be printed"),
    ],
)
def test_the_name_of_a_host_can_be_told_to_others(
    capsys: pytest.CaptureFixture[str], name: str, problem: str
) -> None:
    assert main(["serve", "m:app", "--http-port", "0", "--name", name]) == 2
    assert f"InvalidSettings: {problem}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("http", "loaded", "said"),
    [
        (True, True, "shop:app is served at http://127.0.0.1:7380; log"),
        (
            True,
            False,
            "shop:app will be served at http://127.0.0.1:7380 once it can be loaded; log",
        ),
        (False, True, "shop:app is served without HTTP; log"),
    ],
)
def test_where_an_app_is_found_is_said(http: bool, loaded: bool, said: str) -> None:
    settings = replace(SETTINGS, http=http)
    assert serving._where(settings, loaded=loaded) == f"{said} at bokilog://127.0.0.1:1"


@pytest.mark.asyncio
async def test_a_signal_stops_in_order_and_another_one_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[str] = []

    async def serve(
        settings: FunctionNodeSettings,
        ready: Callable[[], None],
        stop: asyncio.Event,
        *,
        watcher: Screen,
    ) -> None:
        ready()
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await stop.wait()
            steps.append("told to stop")
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            steps.append("cancelled")
            raise

    monkeypatch.setattr(node, "serve", serve)
    with pytest.raises(click.Abort) as ended:
        await serving._live(SETTINGS, Screen(Console(file=io.StringIO()), calls=False))
    assert steps == ["told to stop", "cancelled"]
    assert ended.value.__cause__ is not None, "then no line is printed for it"
