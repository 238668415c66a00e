"""A template whose app hangs while it is loaded is not left behind by a host that was killed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HOST = """
import socket, subprocess, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1] + "/host.sock")
listening.listen()
where = f"--connect=unix:{sys.argv[1]}/host.sock"
command = [sys.executable, "-P", "-m", "bokilog.functions.runtime.template", where]
subprocess.Popen([*command, "--app=hangs:app", "--number=1", f"--folder={sys.argv[1]}"])
sys.stdin.read()
"""
APP = "import sys, time\nsys.stdout.original.write('hangs'), sys.stdout.flush()\ntime.sleep(60)\n"


def test_a_template_that_hangs_dies_with_its_host() -> None:
    with tempfile.TemporaryDirectory(prefix="bokilog-") as folder:
        Path(folder, "hangs.py").write_text(APP)
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", HOST, folder]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe) as host:
            assert host.stdout is not None
            assert host.stdout.read(5) == b"hangs"
            host.kill()
            assert host.stdout.read() == b""  # the last who could write there is gone
