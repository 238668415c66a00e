"""Other people's servers: where their programs are, how they are started, and what is missing.

Decides their settings. They listen on loopback. Redis appends to its file and syncs as named;
nothing else is kept and the file is not rewritten meanwhile. JetStream has its default file store,
which syncs every two minutes, so it compares with `flush`. Every turn gets a fresh server in a
fresh directory.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from bokilog.bench.workers import BenchFailed, Server
from bokilog.io.free_ports import free_ports

_START_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.01
# Debian keeps daemons in sbin, which is not on everybody's PATH.
_PATH: Final = (os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin")
_PACKAGES: Final[Mapping[str, str]] = {
    "redis-server": "apt-get install --no-install-recommends redis-server",
    "nats-server": "apt-get install --no-install-recommends nats-server",
}
_MODULES: Final = ("hiredis", "msgspec", "nats", "redis", "uvloop")


def program(name: str) -> str | None:
    """Where a program is; None if it is not installed."""
    return shutil.which(name, path=os.pathsep.join(_PATH))


def missing() -> dict[str, str]:
    """What is not installed, and the line that installs it."""
    lines = {name: line for name, line in _PACKAGES.items() if program(name) is None}
    modules = [name for name in _MODULES if find_spec(name) is None]
    return lines | dict.fromkeys(modules, "pip install '.[bench]'")


def redis(directory: Path, port: int, *, appendfsync: str) -> list[str]:
    """The command line of a Redis that keeps everything in an append-only file."""
    return [
        program("redis-server") or "redis-server",
        *("--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory)),
        *("--save", "", "--appendonly", "yes", "--appendfsync", appendfsync),
        *("--auto-aof-rewrite-percentage", "0", "--maxclients", "2000"),
    ]


def nats(directory: Path, port: int) -> list[str]:
    """The command line of a NATS server with JetStream."""
    address = ("-a", "127.0.0.1", "-p", str(port))
    return [program("nats-server") or "nats-server", *address, "-js", "-sd", str(directory)]


class Started:
    """A server in a directory of its own; `close` ends it and deletes that."""

    def __init__(self, kind: str, directory: Path, *, appendfsync: str = "always") -> None:
        self.port = free_ports()
        self._directory = directory
        directory.mkdir(parents=True)
        if kind == "redis":
            command = redis(directory, self.port, appendfsync=appendfsync)
        else:
            command = nats(directory, self.port)
        self._server = Server(command, name=kind)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the server."""
        return self._server.pid

    def close(self) -> None:
        """End it."""
        self._server.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _wait(self) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while self._server.running and time.monotonic() < deadline_s:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
            except OSError:
                time.sleep(_POLL_S)
            else:
                return
        raise BenchFailed(f"{self._server.name} did not start within {_START_TIMEOUT_S:.0f} s")
