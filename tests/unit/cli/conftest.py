"""A log that remembers what the command line asked of it, in place of a connection."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bokilog.cli.main import main
from bokilog.record import BookInfo, Record, Trim

INFO = BookInfo(
    book="orders",
    number=5,
    durability="sync",
    retention_s=None,
    retention_bytes=None,
    key_horizon_s=604_800.0,
    trim_until=1,
    tail=9,
)
RECORDS = [
    Record(3, b"hello", ("a", "b"), 1_700_000_000_123, None),
    Record(7, b"\xff\x00", (), 1_700_000_000_456, b"aux"),
]


class RecordingLog:
    """`Log` and `LogBook` in one; every call is kept, results are the canned ones."""

    def __init__(self) -> None:
        self.urls: list[str | None] = []
        self.connect_timeouts_s: list[float] = []
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.result: Any = None
        self.error: BaseException | None = None

    def connect(self, url: str | None = None, *, connect_timeout_s: float = 10.0) -> "RecordingLog":
        self.urls.append(url)
        self.connect_timeouts_s.append(connect_timeout_s)
        return self

    async def __aenter__(self) -> "RecordingLog":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def book(self, name: str) -> "RecordingLog":
        self.calls.append(("book", (name,), {}))
        return self

    def scan(self, **options: Any) -> AsyncIterator[Record]:
        self.calls.append(("scan", (), options))
        return self._records()

    def follow(self, **options: Any) -> AsyncIterator[Record]:
        self.calls.append(("follow", (), options))
        return self._records()

    async def _records(self) -> AsyncIterator[Record]:
        for record in RECORDS:
            yield record

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments, options))
            if self.error is not None:
                raise self.error
            return self.result

        return call


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> RecordingLog:
    made = RecordingLog()
    monkeypatch.setattr("bokilog.client.connect.connect", made.connect)
    monkeypatch.delenv("BOKILOG_URL", raising=False)
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line: exit code, output, errors."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


__all__ = ["INFO", "RECORDS", "RecordingLog", "Trim"]
