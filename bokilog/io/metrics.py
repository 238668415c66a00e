"""What a process tells Prometheus: the numbers of `bokilog status` under names that stay.

Decides which facts of a core are metrics, what they are called, and how they are served: one GET on
a port of their own, answered from the core's facts at that moment, so that nothing is counted twice
and an endpoint that nobody asks costs nothing. The text itself, and the numbers of the process, are
`prometheus_client`'s, which is imported only where an endpoint is wanted.

Does not know what the numbers mean to their core.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from bokilog.errors import InvalidSettings
from bokilog.histogram import BOUNDS_S
from bokilog.io.addresses import TcpAddress, parse_address

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_log = logging.getLogger(__name__)
Facts = Mapping[str, object]
REQUEST_BYTES_MAX: Final = 8 << 10
REQUEST_TIMEOUT_S: Final = 5.0
_PREFIX: Final = "bokilog"


class Named(NamedTuple):
    """One metric: `kind` is counter, gauge or histogram (`histogram.py`)."""

    kind: str
    help: str


def _counter(text: str) -> Named:
    return Named("counter", text)


def _gauge(text: str) -> Named:
    return Named("gauge", text)


METRICS: Final[Mapping[str, Mapping[str, Named]]] = {
    "engine": {
        "clients": _gauge("Connected clients."),
        "links": _gauge("Links to nodes that stand."),
        "unordered_frames": _gauge("Frames of clients on their way into the order."),
        "unordered_bytes": _gauge("Their bytes."),
        "frames_refused": _counter("Frames refused for want of room; their clients send again."),
        "frames_lost": _counter("Frames whose outcome is unknown."),
        "frames_resent": _counter("Frames sent again to a replica or in a new term."),
        "records_ordered": _counter("Records of its clients that got seqnums, in this term."),
        "reads_waiting": _gauge("Reads that wait for the stream or for a record."),
        "reads_local": _counter("Reads answered from facts and cache."),
        "reads_passed": _counter("Reads passed on to a storage node."),
        "reads_fetched": _counter("Reads answered from facts, with bytes fetched."),
        "facts_bytes": _gauge("Memory of facts."),
        "facts_evicted": _counter("Facts dropped for want of room."),
        "cache_bytes": _gauge("Memory of cached records."),
        "cache_hits": _counter("Records found in the cache."),
        "cache_misses": _counter("Records that had to be fetched."),
        "shared_hits": _counter("Records that workers read from the engine's memory themselves."),
        "shared_misses": _counter("Records that they looked for there in vain."),
        "requests_waiting": _gauge("Questions to primaries under way."),
        "awaited_verdicts": _gauge("Units that wait for their verdicts."),
        "position": _gauge("Metalog entries known here, in this term."),
        "index_lag_records": _gauge("Records ordered that the followed index has not told of."),
        "followed_books": _gauge("LogBooks whose records are followed."),
    },
    "storage": {
        "ignored": _counter("Messages of ended terms."),
        "position": _gauge("Metalog entries folded, in this term."),
        "stored": _gauge("Metalog entries whose fold is stored, in this term."),
        "tail": _gauge("First seqnum not yet folded."),
        "waiting_entries": _gauge("Entries that cannot be folded yet: the lag of this replica."),
        "waiting_reads": _gauge("Reads that wait."),
        "pending_bytes": _gauge("Memory of frames that are not folded."),
        "segments": _gauge("Journal files."),
        "segments_compacted": _counter("Journal files emptied by compaction."),
        "compacted_bytes": _counter("Bytes copied by compaction."),
        "scrubbed_bytes": _counter("Bytes read again for flipped bits."),
        "frames_damaged": _counter("Frames with flipped bits."),
        "frames_repaired": _counter("Of these, mended from a peer."),
        "records_lost": _counter("Records that no replica has any more."),
        "indexes_loaded": _counter("Folds loaded from peers."),
        "free_bytes": _gauge("Room on the disk."),
    },
    "sequencer": {
        "ignored": _counter("Messages of ended terms."),
        "primary": _gauge("1 where it orders, 0 where it only holds."),
        "position": _gauge("Metalog entries made or held, in this term."),
        "published": _gauge("Metalog entries published, in this term."),
        "tail": _gauge("First seqnum not yet given."),
        "shards": _gauge("Open shards."),
        "cut_seconds": Named("histogram", "From a cut to its publication: the cut is durable."),
    },
}
"""Facts by role. A position [term, count] is its count; what stands in `spaces` is labelled."""


class MetricsEndpoint:
    """Answers GET /metrics on an address of this machine; made by `start`."""

    def __init__(self, text: Callable[[], bytes]) -> None:
        self._text = text
        self._server: asyncio.Server | None = None
        self.address = ""
        """Where it listens, with its real port."""

    @classmethod
    async def start(cls, address: str, *, facts: Callable[[], Facts]) -> MetricsEndpoint:
        """Serve the metrics of a core from now on.

        Args:
            address: `tcp:HOST:PORT`; port 0 is any free one.
            facts: of the core, as `bokilog status` shows them; asked at each request.

        Raises:
            InvalidSettings: the address is not of that kind.
        """
        where = parse_address(address)
        if not isinstance(where, TcpAddress):
            raise InvalidSettings("metrics_address", address, "is not tcp:HOST:PORT")
        endpoint = cls(text_of(facts))
        endpoint._server = await asyncio.start_server(
            endpoint._serve, where.host, where.port, limit=REQUEST_BYTES_MAX
        )
        host, port = endpoint._server.sockets[0].getsockname()[:2]
        endpoint.address = f"tcp:{host}:{port}"
        _log.info("metrics at http://%s:%d/metrics", host, port)
        return endpoint

    async def aclose(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(request))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # not a request that anybody should wait for
        finally:
            writer.close()

    def _answer(self, request: bytes) -> bytes:
        words = request.split(b" ", 2)
        path = words[1].partition(b"?")[0] if len(words) == 3 else b""
        if words[0] != b"GET" or path not in (b"/metrics", b"/"):
            return _response("404 Not Found", b"GET /metrics is all there is\n")
        return _response("200 OK", self._text())


def _response(status: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def text_of(facts: Callable[[], Facts]) -> Callable[[], bytes]:
    """What gives the text of `/metrics`: the facts of a core, and the numbers of its process."""
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

    class Collector:
        def collect(self) -> Iterator[Metric]:
            return families(facts())

    registry = CollectorRegistry()
    registry.register(Collector())
    ProcessCollector(registry=registry)

    def text() -> bytes:
        return generate_latest(registry)

    return text


def families(facts: Facts) -> Iterator[Metric]:
    """The metrics in a core's facts."""
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    role = str(facts["role"])
    node = str(facts["node"])
    spaces = facts.get("spaces")
    by_space = spaces if isinstance(spaces, dict) else {}
    for fact, named in METRICS[role].items():
        name = f"{_PREFIX}_{role}_{fact}"
        samples = [((node, ""), facts[fact])] if fact in facts else []
        samples += [
            ((node, str(space)), told[fact])
            for space, told in by_space.items()
            if isinstance(told, dict) and fact in told
        ]
        if not samples:
            continue
        labels = ("node", "space")
        family: Metric
        if named.kind == "histogram":
            histograms = HistogramMetricFamily(name, named.help, labels=labels)
            for label, value in samples:
                buckets, sum_s = _cumulative(value)
                histograms.add_metric(label, buckets, sum_s)
            family = histograms
        else:
            kind = CounterMetricFamily if named.kind == "counter" else GaugeMetricFamily
            numbers = kind(name, named.help, labels=labels)
            for label, value in samples:
                numbers.add_metric(label, _number(value))
            family = numbers
        yield family


def _number(value: object) -> float:
    """A number, a truth value, or the count of a position."""
    if isinstance(value, list) and len(value) == 2:
        value = value[1]
    return float(value) if isinstance(value, (int, float)) else 0.0


def _cumulative(value: object) -> tuple[list[tuple[str, float]], float]:
    """`Histogram.plain` as Prometheus has it."""
    assert isinstance(value, list)
    sum_s, *counts = value
    total = 0
    buckets = []
    for bound, count in zip([*map(str, BOUNDS_S), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets, sum_s
