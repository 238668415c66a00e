"""Messages of calls keep their kinds and bytes, and what does not fit reaches nobody."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from bokilog.errors import RemoteProtocolError
from bokilog.functions.runtime.messages import (
    KINDS,
    CallMessage,
    Cancel,
    Credit,
    Done,
    Fork,
    Forked,
    Greeted,
    Greeting,
    Item,
    Leaving,
    Output,
    Outputs,
    OutputsRequest,
    Pulse,
    Recall,
    Retire,
    Returned,
    Start,
    StartMany,
    TemplateFailed,
    TemplateReady,
    WorkerExited,
    WorkerReady,
    decode,
    encode,
)

ROWS: list[list[object]] = [["price", {"timeout_s": 30.0}, "(item: str) -> float", "Of one."]]
EXAMPLES: tuple[tuple[CallMessage, int, str, str], ...] = (
    (Greeting(1, "worker", "w", "shop", 7), 160, "9501a6776f726b6572a177a473686f7007", ""),
    (
        Greeted("host-1", "shop", 1, ROWS),
        161,
        (
            "94a6686f73742d31a473686f70019194a5707269636581a974696d656f75745f73cb403e000000000000"
            "b4286974656d3a2073747229202d3e20666c6f6174a74f66206f6e652e"
        ),
        "",
    ),
    (
        Start(3, "price", 0, 30_000, 1, 0, 0, "c1", "t", "", b"abc"),
        162,
        "9a03a5707269636500cd7530010000a26331a174a0",
        "616263",
    ),
    (
        StartMany(4, "price", 0, 0, 1, 0, "c2", "", "", [b"a", b"bc"]),
        163,
        "9904a57072696365000001 00a26332a0a0",
        "61 6263",
    ),
    (Item(3, 0, 0, b"x"), 164, "93030000", "78"),
    (Credit(3, 16), 165, "920310", ""),
    (Done(3, 0, "t", [], 5, 6, False, b"y"), 166, "970300a174900506c2", "79"),
    (Cancel(3, "gone"), 167, "9203a4676f6e65", ""),
    (WorkerReady(7, 99, [["fork", 450]]), 168, "9307639192a4666f726bcd01c2", ""),
    (Output(3, 1, "hi\n"), 169, "930301a368690a", ""),
    (Retire(7), 170, "9107", ""),
    (
        TemplateReady(1, 98, "shop", ROWS, [], ["/a.py"]),
        171,
        (
            "960162a473686f709194a5707269636581a974696d656f75745f73cb403e000000000000"
            "b4286974656d3a2073747229202d3e20666c6f6174a74f66206f6e652e9091a52f612e7079"
        ),
        "",
    ),
    (TemplateFailed(1, "boom", []), 172, "9301a4626f6f6d90", ""),
    (Fork("price", [7, 8]), 173, "92a57072696365920708", ""),
    (Forked([7, 8], [99, 100]), 174, "92920708926364", ""),
    (WorkerExited(7, 99, 247), 175, "930763ccf7", ""),
    (OutputsRequest("c1"), 176, "91a26331", ""),
    (Outputs("c1", [[1, "hi"]]), 177, "92a26331919201a26869", ""),
    (Recall(3), 178, "9103", ""),
    (Returned(3), 179, "9103", ""),
    (Pulse(7), 180, "9107", ""),
    (Leaving("h"), 181, "91a168", ""),
)


def test_every_message_has_its_number_and_an_example() -> None:
    assert {type(message) for message, *_ in EXAMPLES} == set(KINDS)
    assert len(set(KINDS.values())) == len(KINDS)


@pytest.mark.parametrize(
    ("message", "kind", "head", "attachments"), EXAMPLES, ids=lambda each: type(each).__name__
)
def test_golden_bytes(message: CallMessage, kind: int, head: str, attachments: str) -> None:
    encoded = encode(message)
    assert encoded[0] == kind
    assert encoded[1].hex() == head.replace(" ", "")
    assert [bytes(each).hex() for each in encoded[2]] == attachments.split()
    sent = (encoded[0], memoryview(encoded[1]), [memoryview(each) for each in encoded[2]])
    assert decode(sent) == message


@pytest.mark.parametrize(
    ("kind", "head", "attachments"),
    [
        (159, b"\x90", []),
        (165, b"\x91\x01", []),
        (165, b"\x92\x01\xff", []),
        (165, b"\x92\x01\x01", [memoryview(b"too much")]),
        (166, b"\x97\x03\x00\xa1t\x90\x05\x06\xc2", []),
        (160, b"\x95\x01\xa1w\xa1w\xa1s\xc0", []),
        (168, b"\x93\x07\x63\x91\x91\xa4fork", []),
        (161, b"\x94\xa1h\xa1a\x01\x91\x94\xa1f\x01\xa0\xa0", []),
    ],
)
def test_what_does_not_fit_is_refused(
    kind: int, head: bytes, attachments: list[memoryview]
) -> None:
    with pytest.raises(RemoteProtocolError):
        decode((kind, memoryview(head), attachments))


@given(st.sampled_from(sorted(KINDS.values())), st.binary(max_size=64))
def test_no_bytes_do_more_than_be_refused(kind: int, head: bytes) -> None:
    try:
        decode((kind, memoryview(head), []))
    except RemoteProtocolError:
        pass
