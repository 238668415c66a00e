"""Whatever a peer sends: a message that a core can take, or one kind of error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from hypothesis import given, settings, strategies as st
from xxhash import xxh3_64_intdigest

from bokilog.codec import pack, unpack
from bokilog.errors import RemoteProtocolError
from bokilog.messages import KINDS, Message, Metalog, Replicate
from bokilog.metalog import decode_run, encode_run
from bokilog.wire import decode, encode
from tests.property.test_frame_properties import plain
from tests.unit.message_examples import EXAMPLES

MANY = settings(max_examples=40, deadline=None)
kinds = st.sampled_from(sorted(KINDS.values()))
PLAIN_EXAMPLES = [each for each in EXAMPLES if not isinstance(each, Metalog | Replicate)]


def tried(kind: int, head: bytes, attachments: Sequence[bytes]) -> Message | None:
    """What arrived, which can be sent on as it is, or None for the only error there may be."""
    problem = ""
    try:
        message = decode(kind, head, [memoryview(each) for each in attachments])
    except RemoteProtocolError as error:
        message, problem = None, error.problem
    assert len(problem) < 300, "an error does not repeat what a peer sent"
    if message is None:
        return None
    assert KINDS[type(message)] == kind
    encode(message)
    return message


def received(message: Message) -> tuple[int, bytes, list[bytes]]:
    kind, head, attachments = encode(message)
    return kind, head, list(map(bytes, attachments))


def try_run(fields: list[object]) -> None:
    """Its checksum is right; so is the rest, or it is refused."""
    body = pack(fields)
    try:
        run = decode_run(xxh3_64_intdigest(body).to_bytes(8, "little") + body)
    except RemoteProtocolError:
        return
    assert decode_run(encode_run(run)) == run


@MANY
@given(st.integers(0, 255), st.binary(max_size=60), st.lists(st.binary(max_size=40), max_size=3))
def test_any_bytes_are_a_message_or_refused(
    kind: int, head: bytes, attachments: list[bytes]
) -> None:
    tried(kind, head, attachments)


@MANY
@given(kinds, st.lists(plain, max_size=12), st.lists(st.binary(max_size=40), max_size=2))
def test_any_fields_are_a_message_or_refused(
    kind: int, fields: list[object], attachments: list[bytes]
) -> None:
    tried(kind, pack(fields), attachments)


@MANY
@given(st.sampled_from(PLAIN_EXAMPLES), st.data())
def test_a_message_with_something_exchanged_is_one_or_refused(
    message: Message, data: st.DataObject
) -> None:
    kind, head, attachments = received(message)
    fields = unpack(head)
    inside = cast("list[object]", fields)
    while data.draw(st.booleans()):
        lists = [place for place, part in enumerate(inside) if isinstance(part, list) and part]
        if not lists:
            break
        inside = cast("list[object]", inside[data.draw(st.sampled_from(lists))])
    inside[data.draw(st.integers(0, len(inside) - 1))] = data.draw(plain)
    tried(kind, pack(fields), attachments)


@MANY
@given(st.sampled_from(EXAMPLES), st.integers(0, 10**6), st.integers(1, 255), st.data())
def test_a_message_with_a_changed_byte_is_one_or_refused(
    message: Message, place: int, flip: int, data: st.DataObject
) -> None:
    kind, head, attachments = received(message)
    parts = [bytearray(part) for part in (head, *attachments)]
    filled = [part for part in parts if part]
    part = data.draw(st.sampled_from(filled))
    part[place % len(part)] ^= flip
    tried(kind, bytes(parts[0]), list(map(bytes, parts[1:])))


@MANY
@given(st.lists(plain, max_size=5))
def test_any_run_with_a_right_checksum_is_one_or_refused(fields: list[object]) -> None:
    try_run(fields)


@MANY
@given(st.lists(st.lists(plain, max_size=7), min_size=1, max_size=3), st.integers(0, 9))
def test_any_entries_are_entries_or_refused(entries: list[list[object]], kind: int) -> None:
    try_run([1, 2, 3, [[kind, *fields] for fields in entries]])
