"""examples/transfer.py moves money exactly once, at whatever step its process is killed.

Steps are counted in the child: every callback of its event loop, and every call of the log before
and after. One run per step: a child is killed at it by SIGKILL, a second one starts over on the
same directory, and the accounts are what one transfer makes of them. The children are forks of one
process that has imported everything and started nothing, so a run takes a tenth of a second.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest

import bokilog
from bokilog import AppendUnknown, Entry, LogBook
from bokilog.record import Unless

ROOT = Path(__file__).parents[2]
NAME, SOURCE, TARGET, AMOUNT, OPENING = "t1", "alice", "bob", 100, 100
MOVED = 10
"""Exit code: the money had moved already."""
STEPS_MAX = 200


def example() -> ModuleType:
    """examples/ is no package: its files are loaded as a user's are."""
    spec = importlib.util.spec_from_file_location("transfer", ROOT / "examples" / "transfer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- in the child: count, and be killed -----------------------------------------------------------


class Steps:
    """Counts the steps of a process, and is its end at one of them."""

    def __init__(self, last: int) -> None:
        self.count = 0
        self._last = last
        self.counting = False

    def step(self) -> None:
        if self.counting:
            self.count += 1
            if self.count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop that counts each callback just before it runs."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps

    def call_soon(
        self,
        callback: Callable[..., object],
        *args: object,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        def stepped() -> object:
            self._steps.step()
            return callback(*args)

        return super().call_soon(stepped, context=context)


class SteppedBook:
    """A LogBook whose calls are steps: before each and after each."""

    def __init__(self, book: LogBook, steps: Steps) -> None:
        self._book = book
        self._steps = steps

    def __getattr__(self, name: str) -> object:
        call = getattr(self._book, name)
        return self._scanned(call) if name == "scan" else self._awaited(call)

    def _awaited(self, call: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        async def stepped(*args: object, **kwargs: object) -> object:
            self._steps.step()
            result = await call(*args, **kwargs)
            self._steps.step()
            return result

        return stepped

    def _scanned(
        self, call: Callable[..., AsyncGenerator[object, None]]
    ) -> Callable[..., AsyncGenerator[object, None]]:
        async def stepped(*args: object, **kwargs: object) -> AsyncGenerator[object, None]:
            self._steps.step()
            async for record in call(*args, **kwargs):
                yield record
                self._steps.step()

        return stepped


def attempt(directory: str, last: int) -> int:
    """What a user's process does, from its start to its end; returns its exit code.

    0: it ended with the right balances, and found them wrong at first; MOVED: found them right.
    """
    transfer, steps = example(), Steps(last)

    async def work() -> int:
        async with bokilog.open(directory) as log:
            bank = log.book("bank")
            await bank.append(b"%d" % OPENING, f"account:{SOURCE}", key="opening")
            moved = (await transfer.balance(bank, TARGET))[0] == AMOUNT
            steps.counting = True
            stepped = cast(LogBook, SteppedBook(bank, steps))
            await transfer.transfer(stepped, NAME, SOURCE, TARGET, AMOUNT)
            steps.counting = False
            held = [(await transfer.balance(bank, account))[0] for account in (SOURCE, TARGET)]
            assert held == [OPENING - AMOUNT, AMOUNT], held
            return MOVED if moved else 0

    with asyncio.Runner(loop_factory=lambda: SteppedLoop(steps)) as runner:
        return runner.run(work())


def forked(directory: str, last: int) -> int:
    """`attempt` in a fork of this process, in which there is no thread and no loop yet."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            code = attempt(directory, last)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def kill_at_every_step(directory: str) -> None:
    """Prints how often the second process found the money unmoved, and how often moved."""
    importlib.import_module("bokilog.shapes.embedded")  # once for all forks
    found = {0: 0, MOVED: 0}
    for step in range(1, STEPS_MAX):
        here = f"{directory}/{step}"
        first = forked(here, step)
        second = forked(here, 0)
        shutil.rmtree(here)
        if first == 0:  # it had ended before that step
            print(found[0], found[MOVED])
            return
        assert first == -signal.SIGKILL, f"exit code {first} instead of a kill at step {step}"
        assert second in found, f"exit code {second} after a kill at step {step}"
        found[second] += 1
    raise AssertionError(f"still not done after {STEPS_MAX} steps")


if __name__ == "__main__":
    kill_at_every_step(sys.argv[1])


# --- the tests ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.timeout(120)
def test_money_moves_exactly_once_whatever_step_was_the_last(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.test_transfer_example", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed_before, killed_after = map(int, done.stdout.split())
    assert killed_before >= 10
    assert killed_after >= 2


class UnknownBook:
    """A LogBook whose first unit ends in `AppendUnknown`, in the log or not."""

    def __init__(self, book: LogBook, *, lands: bool) -> None:
        self._book = book
        self._lands = lands
        self._failed = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._book, name)

    async def append_batch(self, entries: list[Entry], *, unless: Unless, key: str) -> range:
        if self._failed:
            return await self._book.append_batch(entries, unless=unless, key=key)
        self._failed = True
        if self._lands:
            await self._book.append_batch(entries, unless=unless, key=key)
        raise AppendUnknown("the answer was lost")


@pytest.mark.asyncio
@pytest.mark.parametrize("lands", [True, False])
async def test_an_unknown_outcome_is_settled_by_asking_again(lands: bool) -> None:
    transfer = example()
    async with bokilog.open() as log:
        bank = log.book("bank")
        await bank.append(b"100", "account:alice")
        unknown = cast(LogBook, UnknownBook(bank, lands=lands))
        await transfer.transfer(unknown, "t1", "alice", "bob", 100)
        assert [await transfer.balance(bank, name) for name in ("alice", "bob")] == [
            (0, 3),
            (100, 4),
        ]


@pytest.mark.asyncio
async def test_transfers_at_once_neither_make_nor_lose_money() -> None:
    transfer = example()
    async with bokilog.open() as log:
        bank = log.book("bank")
        await bank.append(b"100", "account:a")
        around = [("a", "b"), ("b", "c"), ("c", "a")]
        for turn in range(3):  # each of them from two places
            names = [(f"{turn}-{source}", source, target) for source, target in around] * 2
            results = await asyncio.gather(
                *(transfer.transfer(bank, *each, 10 * (turn + 1)) for each in names),
                return_exceptions=True,
            )
            assert {type(result) for result in results} <= {type(None), ValueError}
            held = [(await transfer.balance(bank, account))[0] for account in "abc"]
            assert sum(held) == 100
            assert min(held) >= 0


@pytest.mark.asyncio
async def test_what_is_not_there_is_not_moved_but_what_moved_stays_moved() -> None:
    transfer = example()
    async with bokilog.open() as log:
        bank = log.book("bank")
        await bank.append(b"100", "account:alice")
        with pytest.raises(ValueError, match="alice holds 100: 101 cannot be moved"):
            await transfer.transfer(bank, "t1", "alice", "bob", 101)
        await transfer.transfer(bank, "t2", "alice", "bob", 100)
        await transfer.transfer(bank, "t2", "alice", "bob", 100)  # although alice holds 0 now


def test_the_example_is_as_short_as_it_is_said_to_be() -> None:
    lines = (ROOT / "examples" / "transfer.py").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("async def"))
    last = next(number for number, line in enumerate(lines) if line.startswith("async def main"))
    count = len([line for line in lines[first:last] if line.strip()])
    assert f"exactly once in {count} lines" in (ROOT / "README.md").read_text()
