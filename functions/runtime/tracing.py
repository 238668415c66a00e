"""Spans of OpenTelemetry: a call, its appends and the calls it makes are one trace.

Decides what is a span and how its trace travels: as a W3C `traceparent` in `Start.trace`, through
hosts, records of durable calls and HTTP, which need not know what it is. Spans are made only where
the app's process has a tracer provider of the SDK, which the app sets up in `@app.worker_init` (its
exporters start threads, so not before the fork); else nothing is imported and nothing is spent.

Does not know who exports spans.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from bokilog.client.logbook import ClientLogBook
from bokilog.record import Entry, Tags, Unless

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

    from bokilog.functions.runtime.messages import Start

T = TypeVar("T")
NAME: Final = "bokilog"
_HEADER: Final = "traceparent"


class Spans:
    """What makes spans in one process."""

    __slots__ = ("book_kind", "tracer")

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.book_kind = TracedLogBook
        """The class of LogBooks whose appends are spans."""

    @contextmanager
    def of_call(self, start: Start, app: str) -> Iterator[str]:
        """The span of a call that runs here, current meanwhile; gives the trace of its children."""
        from opentelemetry import propagate
        from opentelemetry.trace import SpanKind

        parent = propagate.extract({_HEADER: start.trace}) if start.trace else None
        attributes: dict[str, str | int] = {
            "faas.invocation_id": start.call_id,
            "bokilog.app": app,
            "bokilog.attempt": start.attempt,
        }
        with self.tracer.start_as_current_span(
            start.function, context=parent, kind=SpanKind.SERVER, attributes=attributes
        ) as span:
            yield traceparent(span)


def spans() -> Spans | None:
    """What makes spans here; None where no provider of the SDK was set up."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or "opentelemetry.sdk.trace" not in sys.modules:
        return None
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import get_tracer_provider

    provider = get_tracer_provider()
    return Spans(provider.get_tracer(NAME)) if isinstance(provider, TracerProvider) else None


def traceparent(span: Span) -> str:
    """The W3C form of a span's place in its trace."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


class TracedLogBook(ClientLogBook[T]):
    """A LogBook whose appends are spans."""

    __slots__ = ()

    async def append(
        self,
        data: T,
        tags: Tags = (),
        *,
        unless: Unless | None = None,
        key: str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """As `LogBook.append`."""
        with _append_span(self.name) as span:
            seqnum = await super().append(data, tags, unless=unless, key=key, timeout_s=timeout_s)
            span.set_attribute("bokilog.seqnum", seqnum)
            return seqnum

    async def append_batch(
        self,
        entries: Iterable[Entry[T]],
        *,
        unless: Unless | None = None,
        key: str | None = None,
        timeout_s: float | None = None,
    ) -> range:
        """As `LogBook.append_batch`."""
        with _append_span(self.name) as span:
            seqnums = await super().append_batch(
                entries, unless=unless, key=key, timeout_s=timeout_s
            )
            span.set_attribute("bokilog.seqnum", seqnums.start)
            return seqnums


@contextmanager
def _append_span(book: str) -> Iterator[Span]:
    from opentelemetry.trace import SpanKind, get_tracer

    with get_tracer(NAME).start_as_current_span(
        f"append {book}", kind=SpanKind.CLIENT, attributes={"bokilog.book": book}
    ) as span:
        yield span
