"""Output is told apart by call, in order, and bounded."""

from __future__ import annotations

import contextvars
import io
import sys
import threading

import pytest

from bokilog.functions.runtime import output
from bokilog.functions.runtime.output import NO_CALL, Captured, Stream, install

current_call = contextvars.ContextVar("current_call", default=NO_CALL)


class Sink:
    def __init__(self) -> None:
        self.sent: list[tuple[int, int, str]] = []
        self.woken = 0
        self.captured = Captured(
            current_call.get, lambda *piece: self.sent.append(piece), self.wake
        )
        self.original = io.StringIO()
        self.stream = Stream(output.STDOUT, self.original)
        self.stream.captured = self.captured

    def wake(self, flush: object) -> None:
        self.woken += 1

    def write_for(self, call: int, text: str) -> None:
        def write() -> None:
            current_call.set(call)
            print(text, end="", file=self.stream)

        contextvars.copy_context().run(write)


def test_each_call_has_its_own_lines_and_one_wake_takes_them_all() -> None:
    sink = Sink()
    sink.write_for(1, "a")
    sink.write_for(2, "b")
    sink.write_for(1, "c")
    print("d", end="", file=sink.stream)
    assert sink.woken == 1
    sink.captured.flush()
    assert sink.sent == [(1, 1, "ac"), (2, 1, "b"), (NO_CALL, 1, "d")]
    sink.write_for(1, "e")
    assert sink.woken == 2


def test_names_of_files_that_are_no_utf_8_can_be_printed() -> None:
    sink = Sink()
    sink.write_for(1, "na\u00efve \udcff")
    sink.captured.flush()
    assert sink.sent == [(1, 1, "na\u00efve \\udcff")]


def test_a_call_that_is_over_has_sent_what_it_wrote() -> None:
    sink = Sink()
    sink.captured.forget(1)
    assert sink.sent == []
    sink.write_for(1, "a")
    sink.captured.forget(1)
    assert sink.sent == [(1, 1, "a")]


def test_more_than_is_kept_is_dropped_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "KEPT_CHARACTERS_MAX", 10)
    sink = Sink()
    for _ in range(5):
        sink.write_for(1, "abcd")
    sink.captured.flush()
    sink.write_for(1, "more")
    sink.captured.flush()
    assert sink.sent == [(1, 1, "abcdabcdab\n(more than 10 characters: dropped)\n")]


def test_what_no_call_writes_is_bounded_per_turn_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "KEPT_CHARACTERS_MAX", 10)
    sink = Sink()
    for _ in range(2):
        sink.write_for(NO_CALL, "abcd")
        sink.captured.flush()
        sink.write_for(NO_CALL, "efgh")
        sink.captured.flush()
    assert "".join(piece[2] for piece in sink.sent) == "abcdefgh" * 2


def test_long_output_is_sent_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PIECE_CHARACTERS_MAX", 4)
    sink = Sink()
    sink.write_for(1, "abcdefghij")
    sink.captured.flush()
    assert [piece[2] for piece in sink.sent] == ["abcd", "efgh", "ij"]


def test_threads_of_a_call_write_for_it_and_others_for_none() -> None:
    sink = Sink()

    def from_call() -> None:
        current_call.set(3)
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(sink.stream.write, "inside"))
        thread.start()
        thread.join()

    contextvars.copy_context().run(from_call)
    thread = threading.Thread(target=sink.stream.write, args=("outside",))
    thread.start()
    thread.join()
    sink.captured.flush()
    assert sink.sent == [(3, 1, "inside"), (NO_CALL, 1, "outside")]


def test_before_a_worker_starts_everything_goes_where_it_always_went(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    installed = install()
    assert install() == installed
    print("to stdout")
    print("to stderr", file=sys.stderr)
    sys.stdout.flush()
    assert (out.getvalue(), err.getvalue()) == ("to stdout\n", "to stderr\n")
    assert not sys.stdout.isatty()


def test_bytes_written_to_the_buffer_are_shown_as_text() -> None:
    sink = Sink()
    assert sink.stream.buffer.write(b"na\xc3\xafve \xff\n") == 9
    sink.stream.buffer.flush()
    sink.captured.flush()
    assert sink.sent == [(NO_CALL, 1, "na\u00efve \\xff\n")]


def test_before_a_worker_starts_bytes_go_where_they_always_went_after_the_text() -> None:
    raw = io.BytesIO()
    stream = Stream(output.STDOUT, io.TextIOWrapper(raw, encoding="utf-8"))
    stream.write("text ")
    stream.buffer.write(b"\xff")
    stream.buffer.flush()
    assert raw.getvalue() == b"text \xff"


def test_reconfigure_reaches_the_original_and_is_no_error_without_one() -> None:
    original = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stream = Stream(output.STDOUT, original)
    stream.reconfigure(encoding="utf-8", line_buffering=True)
    assert (stream.encoding, original.line_buffering) == ("utf-8", True)
    Sink().stream.reconfigure(encoding="utf-8")
