"""A function may fork; a child that comes back out of it ends, and only its parent answers."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, os, sys, warnings
from bokilog import App

warnings.simplefilter("ignore")  # of forks in processes with threads, which this is about
app = App("forking")

def forked():
    child = os.fork()
    return child == 0, child

def left_with(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

@app.function
async def comes_back():
    is_child, child = forked()
    return None if is_child else left_with(child)

@app.function
def comes_back_in_thread():
    is_child, child = forked()
    return None if is_child else left_with(child)

@app.function
async def raises():
    is_child, child = forked()
    if is_child:
        raise ValueError("the child's")
    return left_with(child)

@app.function
def exits_in_thread():
    is_child, child = forked()
    if is_child:
        sys.exit(7)
    return left_with(child)

@app.function
async def exits_with_text():
    is_child, child = forked()
    if is_child:
        sys.exit("no")
    return left_with(child)

@app.function
async def yields():
    is_child, child = forked()
    yield "child" if is_child else left_with(child)

@app.function
def yields_in_thread():
    is_child, child = forked()
    yield "child" if is_child else left_with(child)

async def main():
    async with app.local():
        for each in (comes_back, comes_back_in_thread, raises, exits_in_thread, exits_with_text):
            print(each.name, await each.remote())
        for each in (yields, yields_in_thread):
            print(each.name, [item async for item in each.stream()])

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_child_that_comes_back_out_of_a_function_ends_and_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=15, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "comes_back 1",
        "comes_back_in_thread 1",
        "raises 1",
        "exits_in_thread 7",
        "exits_with_text 1",
        "yields [1]",
        "yields_in_thread [1]",
    ]
    child = "a child of os.fork in function"
    assert done.stderr.splitlines() == [
        f"{child} 'comes_back' came back from it: end it with os._exit",
        f"{child} 'comes_back_in_thread' came back from it: end it with os._exit",
        f"{child} 'raises' raised ValueError: end it with os._exit",
        f"{child} 'exits_with_text' raised SystemExit: end it with os._exit",
        f"{child} 'yields' came back from it: end it with os._exit",
        f"{child} 'yields_in_thread' came back from it: end it with os._exit",
    ]
