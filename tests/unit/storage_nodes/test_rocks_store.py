import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest

from bokilog.errors import DirectoryInUse
from bokilog.storage_nodes.rocks_store import RocksStore

ROOT = Path(__file__).parents[3]

# Folds and checkpoints without end; says so after each flush, so that the parent may kill it at
# any point of the next one.
CHILD = """
import sys
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.rocks_store import RocksStore
from tests.unit.storage_nodes.folds import SPACE, Fold
from tests.unit.storage_nodes.test_rocks_store import entry_number

fold = Fold(Index(SPACE, RocksStore(sys.argv[1], memory_bytes=4 << 20)))
number = 0
while True:
    for _ in range(20):
        entry_number(fold, number)
        number += 1
    fold.index.checkpoint()
    print(fold.index.generations.stored_position.count, fold.index.chained_hash, flush=True)
"""


def entry_number(fold, number: int) -> None:  # type: ignore[no-untyped-def]
    """The same entries in every process: cuts with keys and conditions, trims, holds."""
    from tests.unit.storage_nodes.folds import U  # the child imports this module, too

    tags = [f"t{number % 7}", f"t{number % 3}"] * 20
    fold.append(U(tags), U(["c"], unless=[("c", number - 3)]), U(key=f"k{number % 50}"))
    if number % 5 == 0:
        fold.trim(fold.index.tail - 100, tag="t1" if number % 10 else None)
    if number % 7 == 0:
        fold.hold("h", fold.index.tail - 50, ttl_ms=3)


def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    store = RocksStore(tmp_path)
    with pytest.raises(DirectoryInUse, match=str(tmp_path)):
        RocksStore(tmp_path)
    store.close()
    RocksStore(tmp_path).close()


def test_closing_waits_for_a_flush(tmp_path: Path) -> None:
    store, flushing, go_on, events = RocksStore(tmp_path), Event(), Event(), list[str]()
    db = store._db

    class Slow:
        def flush(self, *, wait: bool) -> None:
            flushing.set()
            assert go_on.wait(10)
            events.append("flushed")

        def close(self) -> None:
            events.append("closed")
            db.close()

    store._db = Slow()  # type: ignore[assignment]
    threads = [Thread(target=store.flush), Thread(target=store.close)]
    threads[0].start()
    assert flushing.wait(10)
    threads[1].start()
    threads[1].join(0.05)
    assert not events
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert events == ["flushed", "closed"]


def test_what_was_flushed_is_there_after_reopening(tmp_path: Path) -> None:
    store = RocksStore(tmp_path)
    batch = store.batch()
    batch.put(b"a", b"1")
    store.write(batch)
    assert store.seek_prev(b"z", b"a") == (b"a", b"1")  # its iterator must not keep the lock
    store.flush()
    store.close()
    store = RocksStore(tmp_path)
    assert store.get(b"a") == b"1"
    store.close()


@pytest.mark.slow
@pytest.mark.kill
def test_p19_a_kill_at_any_point_leaves_exactly_one_position(tmp_path: Path) -> None:
    from bokilog.storage_nodes.index import Index
    from bokilog.storage_nodes.memory_store import MemoryStore
    from tests.unit.storage_nodes.folds import SPACE, Fold

    for attempt, flushes in enumerate((1, 3, 6)):
        directory = tmp_path / str(attempt)
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(directory)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert child.stdout is not None
        try:
            said = [child.stdout.readline().split() for _ in range(flushes)]
            os.kill(child.pid, signal.SIGKILL)
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        store = RocksStore(directory)
        index = Index(SPACE, store)
        assert index.generations.stored_position.count >= int(said[-1][0]), (
            "a flushed position was lost"
        )
        expected = Fold(Index(SPACE, MemoryStore()))
        number = 0
        while expected.index.position.count < index.position.count:
            entry_number(expected, number)
            number += 1
        assert expected.index.position == index.position
        assert expected.index.chained_hash == index.chained_hash
        for tag in (None, "c", *(f"t{n}" for n in range(7))):
            assert index.seqnums(5, tag, 0, 2**53, limit=10**6) == expected.visible(tag)
            assert index.last(5, tag) == expected.index.last(5, tag)
        assert index.book_state(5) == expected.index.book_state(5)
        store.close()


# Its child ends as any Python program does, with a store that its parent has open.
FORKING = """
import os, sys
from bokilog.errors import NotSupported
from bokilog.storage_nodes.rocks_store import RocksStore

store = RocksStore(sys.argv[1])
batch = store.batch()
batch.put(b"a", b"1")
store.write(batch)
store.flush()  # by a thread of the library
store.seek_next(b"a", b"a")
child = os.fork()
if child == 0:
    try:
        RocksStore(sys.argv[1] + "-of-the-child")
    except NotSupported as error:
        print(error)
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
store.close()
store = RocksStore(sys.argv[1])
print(store.get(b"a"))
store.close()
"""


def test_a_forked_process_ends_and_leaves_the_store_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    refused, *others = done.stdout.splitlines()
    assert "forked from one that had a log on disk open" in refused
    assert (others, done.stderr) == (["7", "b'1'"], "")


def test_a_store_whose_directory_is_gone_closes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "index"
    store = RocksStore(directory)
    batch = store.batch()
    batch.put(b"a", b"1")
    store.write(batch)
    shutil.rmtree(directory)
    store.close()
    assert "does not close: IO error" in caplog.text
