"""P32 on a disk that is really full: a small tmpfs, where one can be mounted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Mounts are the child's own: they are gone with it.
INSIDE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = 'mount -t tmpfs -o size=48m tmpfs "$0"'
STORY = """
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


def can_mount(path: Path) -> bool:
    try:
        return subprocess.run([*INSIDE, MOUNT, str(path)], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_p32_an_embedded_log_on_a_small_tmpfs_has_room_after_a_trim(tmp_path: Path) -> None:
    if not can_mount(tmp_path):
        pytest.skip("this machine lets nobody mount a tmpfs of his own")
    story = tmp_path.with_suffix(".py")
    story.write_text(STORY)
    command = f'{MOUNT} && exec "$1" "$2" "$0"'
    told = subprocess.run(
        [*INSIDE, command, str(tmp_path), sys.executable, str(story)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.stdout.endswith("done\n"), told.stdout + told.stderr
    assert "beside the reserve" in told.stdout, "it was refused to keep the headroom"
