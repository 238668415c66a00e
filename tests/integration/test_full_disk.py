"""P32 on a disk that is really full: a small tmpfs, where one can be mounted.

How soon whoever notices what does not matter here: each wait is for something that has to come, and
what may come first, since the disk fills up while frames are on their way, is passed over.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Mounts are the child's own: they are gone with it.
INSIDE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = 'mount -t tmpfs -o size={size} tmpfs "$0"'
EMBEDDED_STORY = """
import asyncio, sys
import bokilog
from bokilog.errors import AppendUnknown, ReadOnly
from bokilog.shapes.embedded import EmbeddedSettings, open

SETTINGS = EmbeddedSettings(headroom_bytes=8 << 20, checkpoint_s=0.2)


async def main(path):
    async with open(path, settings=SETTINGS) as log:
        book, last = log.book("orders"), 0
        try:
            while True:
                last = await book.append(bytes(200_000), "t", timeout_s=3)
        except (ReadOnly, AppendUnknown) as error:
            print("full:", error)
        assert last > 20, last
        assert (await book.read_prev(tag="t")).seqnum == last, "reads go on"
        assert (await book.trim(until=last + 1, timeout_s=5)).until == last + 1
        again = await book.append(b"again", "t", timeout_s=20)
    async with open(path, settings=SETTINGS) as log:
        book = log.book("orders")
        assert (await book.read_prev(tag="t")).seqnum >= again
        await book.append(b"and again", "t")
    print("done")


asyncio.run(main(sys.argv[1]))
"""

CLUSTER_STORY = """
import asyncio, sys
from pathlib import Path
import bokilog
from bokilog.errors import AppendUnknown, ReadOnly
from bokilog.io.free_ports import free_ports
from bokilog.shapes.local_cluster import LocalCluster

SMALL = '''[storage]
segment_bytes = "1 MiB"
checkpoint_s = 0.3
headroom_bytes = "64 MiB"
'''


async def refused(book):
    for _ in range(20):  # what is under way while the disk fills up ends as unknown
        try:
            await book.append(bytes(200_000), "t", timeout_s=2)
        except ReadOnly as error:
            return error
        except AppendUnknown as error:
            print("unknown:", error)


async def main(url):
    async with bokilog.connect(url) as log:
        book, last = log.book("orders"), 0
        try:
            while True:
                last = await book.append(bytes(200_000), "t", timeout_s=2)
        except (ReadOnly, AppendUnknown) as error:
            print("full:", error)
        assert last > 20, last
        error = await refused(book)
        print("refused:", error)
        assert error.definite and "storage-" in str(error), error
        newest = await book.read_prev(tag="t")
        assert newest.seqnum >= last, "reads go on"
        done = await book.trim(until=newest.seqnum + 1, timeout_s=20)
        assert done.until == newest.seqnum + 1
        assert await book.append(b"again", "t", timeout_s=40) > newest.seqnum
    print("done")


path = Path(sys.argv[1]) / "cluster"
cluster = LocalCluster(path, function_nodes=2, port=free_ports(2))
file = cluster.layout.settings_file
file.write_text(SMALL + file.read_text())
with cluster:
    asyncio.run(main(cluster.url))
"""


def can_mount(path: Path) -> bool:
    mount = MOUNT.format(size="1m")
    try:
        return subprocess.run([*INSIDE, mount, str(path)], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def told(story: str, path: Path, *, size: str) -> str:
    """What a program prints that has a disk of this size."""
    if not can_mount(path):
        pytest.skip("this machine lets nobody mount a tmpfs of his own")
    file = path.with_suffix(".py")
    file.write_text(story)
    command = f'{MOUNT.format(size=size)} && exec "$1" "$2" "$0"'
    run = subprocess.run(
        [*INSIDE, command, str(path), sys.executable, str(file)],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert run.stdout.endswith("done\n"), run.stdout + run.stderr
    return run.stdout


@pytest.mark.slow
def test_p32_an_embedded_log_on_a_small_tmpfs_has_room_after_a_trim(tmp_path: Path) -> None:
    printed = told(EMBEDDED_STORY, tmp_path, size="48m")
    assert "beside the reserve" in printed, "it was refused to keep the headroom"


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_p32_a_cluster_on_a_small_tmpfs_refuses_for_certain_and_goes_on_after_a_trim(
    tmp_path: Path,
) -> None:
    printed = told(CLUSTER_STORY, tmp_path, size="256m")
    assert "refused: read-only: storage-" in printed
