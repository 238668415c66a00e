"""A call, its appends and the calls it makes are one trace; without a provider nothing is spent."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import bokilog
from bokilog.functions.runtime import tracing
from bokilog.functions.runtime.tracing import spans

pytestmark = pytest.mark.asyncio


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """A provider for this test only: the process has one for ever otherwise."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


async def test_a_call_its_appends_and_its_children_are_one_trace(
    exported: InMemorySpanExporter,
) -> None:
    app = bokilog.App("traced")

    @app.function
    async def child(ctx: bokilog.Context, text: str) -> int:
        return await ctx.book("notes").append(text.encode())

    @app.function
    async def parent(text: str) -> int:
        return await child.remote(text)

    async with app.local():
        seqnum = await parent.remote("x")
    found: dict[str, ReadableSpan] = {span.name: span for span in exported.get_finished_spans()}
    assert found.keys() == {"parent", "child", "append notes"}
    contexts = {name: span.get_span_context() for name, span in found.items()}
    assert len({context.trace_id for context in contexts.values() if context}) == 1
    for name, above in (("child", "parent"), ("append notes", "child")):
        parent_span, above_context = found[name].parent, contexts[above]
        assert parent_span is not None
        assert above_context is not None
        assert parent_span.span_id == above_context.span_id
    attributes = found["append notes"].attributes
    assert attributes is not None
    assert (attributes["bokilog.book"], attributes["bokilog.seqnum"]) == ("notes", seqnum)


async def test_a_failure_is_part_of_its_span(exported: InMemorySpanExporter) -> None:
    app = bokilog.App("traced")

    @app.function
    async def fails() -> None:
        raise ValueError("as asked")

    async with app.local():
        with pytest.raises(ValueError, match="as asked"):
            await fails.remote()
    (span,) = exported.get_finished_spans()
    assert not span.status.is_ok
    assert [event.name for event in span.events] == ["exception"]


async def test_without_a_provider_there_are_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    assert spans() is None
    monkeypatch.delitem(sys.modules, "opentelemetry.sdk.trace")
    assert tracing.spans() is None
