"""Metrics: the facts of cores under names that stay, served on a port of their own."""

from __future__ import annotations

import asyncio

import pytest

from bokilog.errors import InvalidSettings
from bokilog.histogram import Histogram
from bokilog.io.metrics import METRICS, MetricsEndpoint, families


def facts() -> dict[str, object]:
    histogram = Histogram()
    histogram.observe(0.0003)
    histogram.observe(99.0)
    return {
        "role": "sequencer",
        "node": "sequencer-1",
        "primary": True,
        "ignored": 2,
        "spaces": {
            0: {"position": [3, 17], "tail": 5, "cut_seconds": histogram.plain()},
            1: {"position": [3, 1], "tail": 1, "durability": "flush"},
        },
    }


def test_facts_become_samples_with_their_labels() -> None:
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families(facts())
        for sample in family.samples
    }
    node = ("node", "sequencer-1")
    assert samples["bokilog_sequencer_primary", (node, ("space", ""))] == 1
    assert samples["bokilog_sequencer_ignored_total", (node, ("space", ""))] == 2
    assert samples["bokilog_sequencer_position", (node, ("space", "0"))] == 17
    assert samples["bokilog_sequencer_tail", (node, ("space", "1"))] == 1
    of_cuts = ("le", "0.0005"), node, ("space", "0")
    assert samples["bokilog_sequencer_cut_seconds_bucket", of_cuts] == 1
    all_of_them = ("le", "+Inf"), node, ("space", "0")
    assert samples["bokilog_sequencer_cut_seconds_bucket", all_of_them] == 2


def test_every_metric_says_what_it_is() -> None:
    for named in METRICS.values():
        for metric in named.values():
            assert metric.kind in ("counter", "gauge", "histogram")
            assert metric.help.endswith(".")


async def ask(address: str, request: bytes) -> bytes:
    _, host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.asyncio
async def test_an_endpoint_answers_scrapes_and_nothing_else() -> None:
    endpoint = await MetricsEndpoint.start("tcp:127.0.0.1:0", facts=facts)
    try:
        answer = await ask(endpoint.address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b'bokilog_sequencer_tail{node="sequencer-1",space="0"} 5.0' in answer
        assert b"process_resident_memory_bytes" in answer
        other = await ask(endpoint.address, b"POST /metrics HTTP/1.1\r\n\r\n")
        assert other.startswith(b"HTTP/1.1 404")
        assert await ask(endpoint.address, b"x" * 20_000) == b""
    finally:
        await endpoint.aclose()


@pytest.mark.asyncio
async def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="tcp:HOST:PORT"):
        await MetricsEndpoint.start("unix:/tmp/metrics.sock", facts=facts)
