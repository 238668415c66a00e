"""Messages keep their kinds and bytes, and what does not fit never reaches a core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pytest

from bokilog.codec import pack, unpack
from bokilog.columns import Columns
from bokilog.errors import RemoteProtocolError
from bokilog.frame import Frame
from bokilog.ids import LogSpaceId, Term
from bokilog.limits import AUX_BYTES_MAX, TAG_BYTES_MAX
from bokilog.messages import (
    KINDS,
    AppendFrame,
    Message,
    Propose,
    Read,
    ReadReply,
    Replicate,
    SetAux,
    StoredFrame,
)
from bokilog.metalog import (
    CloseShard,
    Cut,
    DeleteBook,
    EndTags,
    ForgetKeys,
    Hold,
    OpenShard,
    Proposer,
    Release,
    Run,
    StartOver,
    Trim,
    encode_run,
    entry_to_plain,
)
from bokilog.record import Buffer
from bokilog.wire import decode, encode
from tests.unit.message_examples import EXAMPLES

BY_NAME = {type(message).__name__: message for message in EXAMPLES}

KIND_OF = {
    "Hello": 1,
    "Welcome": 2,
    "AppendFrame": 10,
    "FrameOrdered": 11,
    "FrameVerdicts": 12,
    "FrameRefused": 13,
    "FrameLost": 14,
    "Leaving": 15,
    "Read": 20,
    "ReadReply": 21,
    "RequestFailed": 22,
    "SeqnumAt": 23,
    "BookState": 24,
    "SetAux": 25,
    "Answer": 26,
    "CancelRead": 27,
    "StillReading": 28,
    "OpenShardRequest": 40,
    "ShardProgress": 41,
    "FollowMetalog": 42,
    "Metalog": 43,
    "MetalogPosition": 44,
    "Propose": 45,
    "TailRequest": 46,
    "Tail": 47,
    "IndexReport": 48,
    "ReplicateRun": 49,
    "RunsHeld": 50,
    "ReplicateFrom": 51,
    "FetchRuns": 52,
    "Runs": 53,
    "HoldCeiling": 54,
    "CeilingHeld": 55,
    "ConfirmTerm": 56,
    "TermConfirmed": 57,
    "MetalogGone": 58,
    "RunsGone": 59,
    "Replicate": 60,
    "ResumeShard": 61,
    "ShardHeld": 62,
    "FetchFrames": 63,
    "FramesSent": 64,
    "FetchSnapshot": 65,
    "SnapshotPart": 66,
    "FetchStored": 67,
    "StoredFrame": 68,
    "StoredSent": 69,
    "FollowIndex": 70,
    "IndexStream": 71,
    "FramesLacking": 72,
    "FoldMarks": 73,
    "MetalogBegins": 74,
    "SyncMetalog": 75,
    "MetalogSynced": 76,
    "SyncRuns": 77,
    "RunsSynced": 78,
    "Heartbeat": 80,
    "Seal": 81,
    "Sealed": 82,
    "Extend": 83,
    "Extended": 84,
    "StatusRequest": 90,
    "Status": 91,
    "TermChanged": 92,
}

WITH_ATTACHMENTS = {"AppendFrame", "Replicate", "StoredFrame", "ReadReply"}

# Head and attachments, in hexadecimal, of the message of that name in message_examples.py.
GOLDEN = {
    "Hello": (
        "96a6656e67696e65a8656e67696e652d3105a2633103c3",
        "",
    ),
    "Welcome": (
        "97ab73657175656e6365722d3106a26331a2683103919401032863919201a473796e63",
        "",
    ),
    "AppendFrame": (
        "920102",
        (
            "9807c092a174c0c4080200000001000000c4105c73d5249c7173a81bf8b9469a21408cc400919201"
            "9192a1740990 616263"
        ),
    ),
    "FrameOrdered": (
        "9501020b920328cf0000018bcfe56800",
        "",
    ),
    "FrameVerdicts": (
        (
            "940102920328989400000bc0940101a17409940201c009940302040294040304a16b940504c0c094"
            "0605a22477c0940706c0c0"
        ),
        "",
    ),
    "FrameRefused": (
        "9301029235cb3fe0000000000000",
        "",
    ),
    "FrameLost": (
        "930102b0746865206469736b20697320676f6e65",
        "",
    ),
    "Leaving": (
        "91b369742069732061626f757420746f2073746f70",
        "",
    ),
    "Read": (
        "9e070108a174016364ce00100000c2920328ccfac3ffff",
        "",
    ),
    "ReadReply": (
        "9b0792032863030cc3920a0b92a17492a161a16292050692c0c40178920201",
        "616263",
    ),
    "RequestFailed": (
        "9307924603920328",
        "",
    ),
    "CancelRead": (
        "920107",
        "",
    ),
    "StillReading": (
        "9107",
        "",
    ),
    "SeqnumAt": (
        "940701cf0000018bcfe56800920328",
        "",
    ),
    "BookState": (
        "95070108920328c2",
        "",
    ),
    "SetAux": (
        "950701080bc403617578",
        "",
    ),
    "Answer": (
        "93079203289403020b9193a67265706f727404cf0000018bcfe56800",
        "",
    ),
    "OpenShardRequest": (
        "940103a8656e67696e652d3105",
        "",
    ),
    "ShardProgress": (
        "950103a66469736b2d61029292052c920600",
        "",
    ),
    "FollowMetalog": (
        "930192032805",
        "",
    ),
    "Metalog": (
        "794bb344246ef4f294010327919400050b9193050002",
        "",
    ),
    "MetalogPosition": (
        "930192032863",
        "",
    ),
    "Propose": (
        "93070196030008a17405920507",
        "",
    ),
    "TailRequest": (
        "920701",
        "",
    ),
    "Tail": (
        "94070192032863",
        "",
    ),
    "IndexReport": (
        "950192032892021ecfffffffffffffffffc3",
        "",
    ),
    "ReplicateRun": (
        "9204c416794bb344246ef4f294010327919400050b9193050002",
        "",
    ),
    "RunsHeld": (
        "93010328",
        "",
    ),
    "ReplicateFrom": (
        "93010327",
        "",
    ),
    "FetchRuns": (
        "9401032728",
        "",
    ),
    "Runs": (
        (
            "93010392c416794bb344246ef4f294010327919400050b9193050002c4161e0d30c432b23dea9401"
            "0328919400050b9193050002"
        ),
        "",
    ),
    "RunsGone": (
        "93010327",
        "",
    ),
    "HoldCeiling": (
        "930103ce01000000",
        "",
    ),
    "CeilingHeld": (
        "930103ce01000000",
        "",
    ),
    "SyncRuns": (
        "93010328",
        "",
    ),
    "RunsSynced": (
        "93010328",
        "",
    ),
    "ConfirmTerm": (
        "93010311",
        "",
    ),
    "TermConfirmed": (
        "93010311",
        "",
    ),
    "MetalogGone": (
        "920128",
        "",
    ),
    "SyncMetalog": (
        "93010328",
        "",
    ),
    "MetalogSynced": (
        "93010328",
        "",
    ),
    "MetalogBegins": (
        "920128",
        "",
    ),
    "Replicate": (
        "",
        (
            "626b4631010100000100000002000000030000000000000000000000000000000200000002000000"
            "2e000000000000000300000000000000244f340719ec4d7f 9807c092a174c0c4080200000001000"
            "000c4105c73d5249c7173a81bf8b9469a21408cc4009192019192a1740990 616263"
        ),
    ),
    "ResumeShard": (
        "9193010305",
        "",
    ),
    "ShardHeld": (
        "92930103052c",
        "",
    ),
    "FetchFrames": (
        "9593010305022c0b3c",
        "",
    ),
    "FramesSent": (
        "920103",
        "",
    ),
    "FetchSnapshot": (
        "93010203",
        "",
    ),
    "SnapshotPart": (
        "960102039203289292c404426b6579c40576616c756592c40143c400c3",
        "",
    ),
    "FetchStored": (
        "93010b3c",
        "",
    ),
    "StoredFrame": (
        "910b",
        (
            "626b4631010100000100000002000000030000000000000000000000000000000200000002000000"
            "2e000000000000000300000000000000244f340719ec4d7f 9807c092a174c0c4080200000001000"
            "000c4105c73d5249c7173a81bf8b9469a21408cc4009192019192a1740990 616263"
        ),
    ),
    "StoredSent": (
        "95010b3c920328920d14",
        "",
    ),
    "FollowIndex": (
        "94010592070891940305000b",
        "",
    ),
    "FramesLacking": ("95010305282c", ""),
    "FoldMarks": ("920191930328cfffffffffffffffff", ""),
    "IndexStream": (
        (
            "9a019203279203286392960b92070892010293a174c092a161a162910105960e07c091a174900592"
            "9307c0039307a174049194030500989400000bc0940101a17409940201c009940302040294040304"
            "a16b940504c0c0940605a22477c0940706c0c09293079203c0c09308c092460391079109"
        ),
        "",
    ),
    "Heartbeat": (
        "99ab73657175656e6365722d32a973657175656e6365720ca66469736b2d610403cf0000018bcfe56800c2c3",
        "",
    ),
    "Seal": (
        "9103",
        "",
    ),
    "Sealed": (
        "9403a66469736b2d610c929600032863cf0000018bcfe56800ce010000009601021e010001",
        "",
    ),
    "Extend": (
        "930392930003289301021eab73657175656e6365722d33",
        "",
    ),
    "Extended": (
        "9403a66469736b2d610c92930003289301021e",
        "",
    ),
    "StatusRequest": (
        "9107",
        "",
    ),
    "Status": (
        "920782a4726f6c65a773746f72616765a6737061636573810181a47461696c63",
        "",
    ),
    "TermChanged": (
        "9104",
        "",
    ),
}


def parts(message: Message) -> tuple[int, bytes, list[memoryview]]:
    """As a peer receives it: everything is views of what was read."""
    kind, head, attachments = encode(message)
    return kind, head, [memoryview(bytes(part)) for part in attachments]


def joined(attachments: Sequence[Buffer]) -> str:
    return " ".join(bytes(part).hex() for part in attachments)


def comparable(message: Message) -> object:
    """Frames and columns have no equality of their own."""
    if isinstance(message, AppendFrame):
        return message.space, message.number, fields(message.columns), b"".join(message.payload)
    if isinstance(message, Replicate | StoredFrame):
        frame: Frame = message.frame
        return frame.shard, frame.first, frame.header, fields(frame.columns), message[:-1]
    return message


def fields(columns: Columns) -> list[object]:
    return [getattr(columns, name) for name in Columns.__slots__]


# --- what stays -----------------------------------------------------------------------------------


def test_kinds_never_change() -> None:
    assert {message.__name__: kind for message, kind in KINDS.items()} == KIND_OF


def test_every_message_has_a_kind_an_example_and_golden_bytes() -> None:
    names = {message.__name__ for message in get_args(Message)}
    assert names == set(KIND_OF) == set(BY_NAME) == set(GOLDEN)


@pytest.mark.parametrize("name", KIND_OF)
def test_bytes_of_version_1_stay(name: str) -> None:
    kind, head, attachments = encode(BY_NAME[name])
    assert (kind, head.hex(), joined(attachments)) == (KIND_OF[name], *GOLDEN[name])


@pytest.mark.parametrize("name", KIND_OF)
def test_a_message_comes_back_as_it_was(name: str) -> None:
    message = BY_NAME[name]
    assert comparable(decode(*parts(message))) == comparable(message)


@pytest.mark.parametrize("name", KIND_OF)
def test_old_bytes_are_read(name: str) -> None:
    head, attachments = GOLDEN[name]
    views = [memoryview(bytes.fromhex(part)) for part in attachments.split()]
    message = decode(KIND_OF[name], bytes.fromhex(head), views)
    assert comparable(message) == comparable(BY_NAME[name])


PROPOSER = Proposer(5, 7)
RUN = Run(
    LogSpaceId(1),
    Term(3),
    39,
    (
        Cut(5, 11, ((1, 0, 2), (2, 300, 70000))),  # type: ignore[arg-type]
        OpenShard(5, 3, "engine-1", ("storage-1", "storage-2")),
        CloseShard(5, 2, 44),
        Trim(5, 8, None, 9, PROPOSER),
        Hold(5, 8, "report", 9, 3_600_000, PROPOSER),
        Release(5, 8, "report", PROPOSER),
        DeleteBook(5, 8, PROPOSER),
        ForgetKeys(5),
        EndTags(5, 8, "$w", PROPOSER),
        StartOver(5, 13),
    ),
)


def test_a_run_of_version_1_keeps_its_bytes() -> None:
    assert encode_run(RUN).hex() == GOLDEN_RUN


def test_kinds_of_entries_never_change() -> None:
    assert [entry_to_plain(entry)[0] for entry in RUN.entries] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


GOLDEN_RUN = (
    "5b7e75369e400f6d940103279a9400050b92930100029302cd012cce0001117095010503a8656e67"
    "696e652d3192a973746f726167652d31a973746f726167652d32940205022c96030508c009920507"
    "97040508a67265706f727409ce0036ee8092050795050508a67265706f7274920507940605089205"
    "0792070595080508a224779205079309050d"
)

# --- what is refused ------------------------------------------------------------------------------


def test_an_unknown_kind_is_refused() -> None:
    for kind in (0, 3, 79, 89, 255):
        with pytest.raises(RemoteProtocolError, match=f"kind {kind} is unknown"):
            decode(kind, pack([]), [])


@pytest.mark.parametrize("name", sorted(set(KIND_OF) - {"Metalog", "Replicate"}))
def test_a_message_with_other_fields_is_refused_by_name(name: str) -> None:
    kind, head, attachments = parts(BY_NAME[name])
    plain = unpack(head)
    misfits: list[object] = [[*plain, 0], plain[:-1], [], None, {}, 1]
    for wrong in misfits:
        with pytest.raises(RemoteProtocolError, match=f"{name}: "):
            decode(kind, pack(wrong), attachments)


@pytest.mark.parametrize("name", sorted(set(KIND_OF) - WITH_ATTACHMENTS))
def test_attachments_where_none_belong_are_refused(name: str) -> None:
    kind, head, _ = parts(BY_NAME[name])
    with pytest.raises(RemoteProtocolError, match=f"{name}: "):
        decode(kind, head, [memoryview(b"x")])


def refused(name: str, place: int, value: object) -> None:
    """`name` with another value in one field is a protocol error."""
    kind, head, attachments = parts(BY_NAME[name])
    plain = unpack(head)
    plain[place] = value
    with pytest.raises(RemoteProtocolError, match=f"{name}: "):
        decode(kind, pack(plain), attachments)


NO_NUMBERS: list[object] = [None, True, -1, 2**63, 1.5, "1", b"1", [1]]
NO_POSITIONS: list[object] = [None, 1, [], [3], [3, 40, 0], [3, -1], [3, None], [True, 40], "ab"]
NO_TEXTS: list[object] = [None, 1, b"x", ["x"]]


@pytest.mark.parametrize(
    ("name", "place", "values"),
    [
        ("Hello", 0, NO_TEXTS),
        ("Hello", 2, NO_NUMBERS),
        ("Hello", 5, [0, 1, None]),
        ("Welcome", 5, [None, [[1, 3, 40]], [[1, 3, 40, -1]], [1], [[1, 3, 40, "9"]], [[]], {}]),
        ("Welcome", 6, [None, [[1]], [[1, 2]], [["1", "sync"]], ["sync"], [[1, "sync", 0]]]),
        ("FrameOrdered", 3, NO_POSITIONS),
        ("FrameOrdered", 4, NO_NUMBERS),
        ("FrameRefused", 2, [None, 1, "text", {}]),
        ("FrameLost", 2, NO_TEXTS),
        ("Leaving", 0, NO_TEXTS),
        ("Read", 3, [1, b"t", "x" * (TAG_BYTES_MAX + 1), "é" * (TAG_BYTES_MAX // 2 + 1)]),
        ("Read", 4, NO_NUMBERS),
        ("Read", 9, NO_POSITIONS),
        ("Read", 12, [-2, None, True, 2**63]),
        ("RequestFailed", 1, [None, 1]),
        ("SetAux", 4, ["aux", None, bytes(AUX_BYTES_MAX + 1)]),
        ("Answer", 2, [None, 1, {}]),
        ("ShardProgress", 4, [None, [5, 44], [[5]], [[5, 44, 0]], [[5, -1]], [[True, 1]], [[]]]),
        ("ShardProgress", 4, [[["5", 44]], [None], {}, [[5, 2**63]]]),
        ("FollowMetalog", 1, NO_POSITIONS),
        ("IndexReport", 3, [None, -1, True, 1.5]),
        ("ResumeShard", 0, [None, 1, [1, 3], [1, 3, -1], [1, 3, 5, 0], [1, None, 5]]),
        ("FollowIndex", 2, [None, [True], [-1], ["7"], [[7]], {}]),
        ("FollowIndex", 3, [None, [[3, 5, 0]], [[3, 5, 0, -1]], [[3, 5, 0, 11, 0]], [3], [[]]]),
        ("IndexStream", 8, [None, [True], [-1]]),
        ("Status", 1, [None, [], {1: 2}, {b"a": 1}]),
        ("TermChanged", 0, NO_NUMBERS),
    ],
)
def test_fields_of_the_wrong_kind_are_refused(name: str, place: int, values: list[object]) -> None:
    for value in values:
        refused(name, place, value)


@pytest.mark.parametrize(
    "outcome",
    [
        *([], [0], [0, 0, 1], [0, 0, 1, None, None], None, 0),
        *([-1, 0, 1, None], [True, 0, 1, None], ["0", 0, 1, None]),
        *([0, 7, 1, None], [0, -1, 1, None], [0, None, 1, None], [0, True, 1, None]),
        *([0, 0, None, None], [0, 0, "1", None], [0, 0, -1, None], [0, 0, True, None]),
        *([0, 1, 5, 9], [0, 1, "t", None], [0, 1, "t", -9], [0, 1, b"t", 9]),
        *([0, 2, 4, None], [0, 2, None, 2], [0, 3, 4, 5], [0, 3, None, "k"], [0, 5, None, None]),
        *([0, 4, "x", None], [0, 6, None, []]),
    ],
)
def test_verdicts_are_checked_as_deep_as_a_client_looks(outcome: object) -> None:
    refused("FrameVerdicts", 3, [outcome])
    refused("IndexStream", 6, [[3, 5, 0, [outcome]]])


@pytest.mark.parametrize(
    ("place", "rows"),
    [
        (4, [[], [11], [11, 7, None, ["t"], []], [11, 7, None, ["t"], [], 5, 0], None, 11]),
        (
            4,
            [[-1, 7, None, ["t"], [], 5], [11, None, None, ["t"], [], 5], [11, 7, 1, ["t"], [], 5]],
        ),
        (4, [[11, [7, 8], None, ["t"], [], 5], [11, [True], None, ["t"], [], 5]]),
        (4, [[11, 7, [2], ["t"], [], 5], [11, 7, [0, 1], ["t"], [], 5], [11, 7, None, [], [], 5]]),
        (4, [[11, 7, None, [1], [], 5], [11, 7, None, [""], [], 5], [11, 7, None, "t", [], 5]]),
        (4, [[11, 7, None, ["t"], [1], 5], [11, 7, None, ["t"], [-1], 5]]),
        (4, [[11, 7, None, ["t"], None, 5], [11, 7, None, ["t"], [], None]]),
        (5, [[], [7], [7, None], [7, None, -1], [7, 1, 3], [-7, None, 3], [7, None, 3, 0], None]),
        (6, [[], [3, 5, 0], [3, 5, 0, None], [3, 5, -1, []], [3, None, 0, []], None]),
        (7, [[], [7], [7, []], [7, None, None], [7, [], [70]], [-7, [], None], [7, 1, None], None]),
        (7, [[7, None, "error"], [7, [], None, 0]]),
    ],
)
def test_rows_of_the_index_stream_are_checked(place: int, rows: list[object]) -> None:
    for row in rows:
        refused("IndexStream", place, [row])
    refused("IndexStream", place, None)
    refused("IndexStream", place, {})


@pytest.mark.parametrize(
    ("place", "values"),
    [
        (1, NO_POSITIONS),
        (2, NO_NUMBERS),
        (5, [0, None]),
        (6, [None, [10], [10, -1], [10, True], [10, 11, 12]]),
        (7, [None, ["t"], ["t", 1], ["t", [""]], ["t", "b", "c"], "ab", []]),
        (8, [None, [5], [5, None]]),
        (9, [[None], [None, "x"], 1, [None, b"x", None]]),
        (10, [None, [3], [2, 0], [2, 2], [4, -1], [-1, 4], [True, 2]]),
    ],
)
def test_columns_of_a_reply_are_as_long_as_each_other(place: int, values: list[object]) -> None:
    for value in values:
        refused("ReadReply", place, value)


def test_a_reply_without_records_has_no_payload() -> None:
    reply = BY_NAME["ReadReply"]
    assert isinstance(reply, ReadReply)
    reply = reply._replace(seqnums=[], tags=[], timestamps_ms=[], auxes=None, payload=[])
    kind, head, attachments = parts(reply)
    assert not attachments
    assert decode(kind, head, attachments) == reply
    with pytest.raises(RemoteProtocolError):
        decode(kind, head, [memoryview(b"x")])


@pytest.mark.parametrize(
    "entry",
    [
        *(None, [], [10, 5, 1], [9, 5], [-1, 5], [True, 5], ["0", 5], [0], [7], [7, 5, 0]),
        *([7, None], [7, -1], [7, True]),
        *([0, 5, 11, None], [0, 5, 11, [[1, 2]]], [0, 5, 11, [[1, 2, 2]]], [0, 5, 11, [[1, 3, 2]]]),
        *([0, 5, 11, [[1, -1, 2]]], [0, 5, -1, []], [0, 5, 11, [1]], [0, 5, 11, ["abc"]]),
        *([1, 5, 3, "engine-1", None], [1, 5, 3, "engine-1", [1]], [1, 5, 3, 4, []]),
        *([3, 5, 8, 1, 9, [5, 7]], [3, 5, 8, "t", None, [5, 7]], [3, 5, 8, "t", 9, [5]]),
        *([3, 5, 8, "t", 9, None], [3, 5, 8, "t", 9, [5, -7]], [3, 5, 8, "t", 9, [5, 7, 9]]),
        *([4, 5, 8, None, 9, 1, [5, 7]], [5, 5, 8, ["x"], [5, 7]], [6, 5, "8", [5, 7]]),
        *([8, 5, 8, None, [5, 7]],),
    ],
)
def test_entries_of_the_wrong_kind_are_refused(entry: object) -> None:
    refused("Propose", 2, entry)


def test_a_frame_is_checked_before_it_gets_anywhere() -> None:
    kind, head, (columns, payload) = parts(BY_NAME["AppendFrame"])
    for attachments in ([], [columns], [payload, columns], [columns, payload[:-1]]):
        with pytest.raises(RemoteProtocolError):
            decode(kind, head, attachments)
    for name in ("Replicate", "StoredFrame"):
        kind, head, (header, columns, payload) = parts(BY_NAME[name])
        for attachments in ([], [header, columns], [columns, header, payload]):
            with pytest.raises(RemoteProtocolError):
                decode(kind, head, attachments)
        if name == "Replicate":
            with pytest.raises(RemoteProtocolError):
                decode(kind, b"x", [header, columns, payload])


def test_the_largest_values_pass() -> None:
    read = BY_NAME["Read"]
    assert isinstance(read, Read)
    read = read._replace(tag="x" * TAG_BYTES_MAX, until=2**63 - 1, bytes_start=0, bytes_until=5)
    assert decode(*parts(read)) == read
    aux = SetAux(1, 1, 1, 1, bytes(AUX_BYTES_MAX))
    assert decode(*parts(aux)) == aux


def test_each_kind_of_entry_can_be_sent() -> None:
    for entry in RUN.entries:
        message = Propose(1, 1, entry)
        assert decode(*parts(message)) == message


def test_p29_a_payload_that_does_not_match_its_checksums_is_refused() -> None:
    """A group of a journal counts whole or not at all (P30): bad bytes of one client would take
    acknowledged records of others with them, so they get no LocalIds."""
    kind, head, (columns, payload) = parts(BY_NAME["AppendFrame"])
    flipped = bytearray(payload)
    flipped[0] ^= 1
    with pytest.raises(RemoteProtocolError, match="record 0 does not match its checksum"):
        decode(kind, head, [columns, memoryview(bytes(flipped))])
