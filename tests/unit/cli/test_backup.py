"""A place that keeps a command waiting is named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bokilog.cli.backup import AudiblePlace
from bokilog.io.places import Folder, Place

CALLS: list[Callable[[Place], object]] = [
    lambda place: next(iter(place.names())),
    lambda place: place.put("a", b"x"),
    lambda place: place.get("a"),
    lambda place: place.get_range("a", 0, 1),
    lambda place: place.delete("a"),
]


@pytest.mark.parametrize("call", CALLS)
def test_each_call_that_hangs_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[Place], object]
) -> None:
    said: list[str] = []
    told = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        told.set()

    def hangs(*_: object) -> None:
        assert told.wait(30)

    def names(_: Folder) -> Iterator[str]:
        hangs()
        yield "a"

    monkeypatch.setattr(Folder, "names", names)
    for name in ("put", "get", "get_range", "delete"):
        monkeypatch.setattr(Folder, name, hangs)
    call(AudiblePlace(Folder(tmp_path), say, quiet_s=0.0625))
    assert said == [f"{tmp_path} has not answered for 0.0625 s: still waiting"]
