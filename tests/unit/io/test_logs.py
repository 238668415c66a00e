"""A log file is rotated by its process, and a full disk loses lines, not the process."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bokilog.io import logs
from bokilog.io.logs import FileHandler, LineFormatter, last_lines, last_words


@pytest.fixture
def handler(tmp_path: Path) -> Iterator[FileHandler]:
    made = FileHandler(tmp_path / "x.log", bytes_max=120, files_count=3)
    made.setFormatter(LineFormatter("storage-1"))
    yield made
    made.close()


def record(text: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "levelname": "INFO", "created": 0.25, "msecs": 250})


def test_a_line_says_when_how_bad_and_who(handler: FileHandler) -> None:
    handler.emit(record("hello"))
    assert handler.path.read_text() == "1970-01-01T00:00:00.250Z INFO storage-1 hello\n"


def test_a_full_file_is_put_aside_and_old_ones_go(handler: FileHandler) -> None:
    for number in range(7):
        handler.emit(record(f"{number} {'x' * 15}"))  # two lines to a file
    kept = {path.name: path.read_text() for path in handler.path.parent.iterdir()}
    assert {name: re.findall(r"storage-1 (\d)", text) for name, text in kept.items()} == {
        "x.log": ["6"],
        "x.log.1": ["4", "5"],
        "x.log.2": ["2", "3"],
    }


def test_standard_error_moves_along_if_it_led_to_the_file(
    handler: FileHandler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = os.open(handler.path, os.O_WRONLY | os.O_APPEND)
    others = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT)
    monkeypatch.setattr(logs, "_STANDARD", (ours, others))
    for number in range(3):
        handler.emit(record(f"{number} {'x' * 15}"))
    os.write(ours, b"the last words")
    assert handler.path.read_text().endswith("the last words")
    assert not handler.leads_to(others)
    os.close(ours)
    os.close(others)


def test_lines_that_the_disk_does_not_take_are_counted(
    handler: FileHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    handler.emit(record("hello"))
    assert handler.lost_count == 1


def test_the_last_lines_of_a_file_are_for_people(tmp_path: Path) -> None:
    file = tmp_path / "x.log"
    assert last_lines(file) == []
    file.write_bytes(b"".join(b"line %d \xff\n" % number for number in range(5_000)))
    assert last_lines(file, 2) == ["line 4998 \ufffd", "line 4999 \ufffd"]


def test_last_words_are_the_whole_last_entry(tmp_path: Path) -> None:
    file = tmp_path / "host-1.log"
    assert last_words(file, "host-1") == []
    failed = [
        "2026-11-22T16:51:00.093Z ERROR host-1 app=shop:app cannot be loaded:",
        "Traceback (most recent call last):",
        "ModuleNotFoundError: No module named 'shop'",
    ]
    before = "2026-11-22T16:51:00.086Z INFO host-1 template 1: it was killed"
    file.write_text("\n".join([before, *failed, "", ""]))
    assert last_words(file, "host-1") == failed
    assert last_words(file, "host-1", 3) == failed[1:]  # the blank one counts as a line

    file.write_text("\n".join([before, "host-1: app='shop' is not MODULE:NAME", ""]))
    assert last_words(file, "host-1") == ["host-1: app='shop' is not MODULE:NAME"]
