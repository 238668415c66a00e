"""A real etcd on loopback for tests: one process, killed by its number."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from bokilog.io.free_ports import free_ports

START_TIMEOUT_S = 10.0
SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


class EtcdServer:
    """An etcd of one member; elects itself in a tenth of the usual time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_ports(2)
        self._peer_port = self.port + 1

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, prefix: str) -> str:
        return f"etcd://{self.endpoint}/{prefix}"

    def start(self) -> None:
        """Returns once it listens; a later start goes on with the same data at the same port."""
        program = shutil.which("etcd", path=SEARCH)
        assert program is not None, "a test of etcd is marked service('etcd')"
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.port, self._peer_port))
        with open(self._directory.with_suffix(".log"), "ab") as log:
            self._process = subprocess.Popen(
                [
                    *(program, "--name", "one", "--data-dir", str(self._directory)),
                    *("--listen-client-urls", client, "--advertise-client-urls", client),
                    *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                    *("--initial-cluster", f"one={peer}"),
                    *("--heartbeat-interval", "10", "--election-timeout", "100"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not _listens(self.port):
            assert self._process.poll() is None, f"etcd ended; see {log.name}"
            assert time.monotonic() < deadline_s, f"etcd does not listen; see {log.name}"
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP and SIGCONT to pause it."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # a paused one, too
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
