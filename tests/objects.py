"""An S3-compatible store on loopback for tests: moto's server in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from bokilog.io.free_ports import free_ports

START_TIMEOUT_S = 30.0
BUCKET = "bucket"


@contextmanager
def object_store() -> Iterator[str]:
    """The URL of an empty bucket, `s3://...`; the environment says where it is, and who we are."""
    with store_process() as (url, _):
        yield url


@contextmanager
def store_process() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The same, with the process of the store."""
    port = free_ports()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "us-east-1",
    }
    try:
        _make_bucket(server, port)
        with mock.patch.dict(os.environ, environment):
            yield f"s3://{BUCKET}", server
    finally:
        server.kill()
        server.wait()


def _make_bucket(server: subprocess.Popen[bytes], port: int) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(request):
                return
        except OSError:
            assert server.poll() is None, "moto's server ended: is moto[server] installed?"
            assert time.monotonic() < deadline_s, "moto's server does not listen"
            time.sleep(0.02)
