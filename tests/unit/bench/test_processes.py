"""CPU and memory of processes, where the system tells."""

import os
import sys
from pathlib import Path

import pytest

from bokilog.bench.processes import cpu_ns, in_memory, memory_bytes

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_work_shows_in_this_processes_cpu() -> None:
    before = cpu_ns(os.getpid())
    assert before is not None
    while (now := cpu_ns(os.getpid())) is not None and now <= before:
        sum(range(10_000))


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    nobody = 2**22 + 1  # above what Linux gives out
    assert cpu_ns(nobody) is None
    assert memory_bytes(nobody) is None


@linux
def test_memory_of_this_process_is_known() -> None:
    found = memory_bytes(os.getpid())
    assert found is not None
    assert found > 1 << 20


@linux
def test_a_file_system_in_memory_is_told_from_a_disk() -> None:
    assert in_memory(Path("/proc")) is False
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    for _, mounted, kind, *_ in (line.split() for line in mounts):
        if kind == "tmpfs" and "\\" not in mounted:
            assert in_memory(Path(mounted) / "some" / "folder") is True
            break
