"""Checks: one canonical form out, or an error that names the value and the limit."""

from __future__ import annotations

import array
import itertools
import math
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from bokilog import errors, limits, record
from bokilog.record import Entry, Record, Unit

BIG = limits.RECORD_BYTES_MAX


class Name(str):
    """A str that is not exactly str, as enums and paths of frameworks are."""


@pytest.mark.parametrize(
    ("tags", "checked"),
    [
        ("order:42", ("order:42",)),
        (Name("order:42"), ("order:42",)),
        ((), ()),
        ([], ()),
        (["b", "a", "b"], ("b", "a")),
        (("a",), ("a",)),
        ({"a": 1}, ("a",)),
        ((tag for tag in "ab"), ("a", "b")),
        ("é" * 128, ("é" * 128,)),
        ("x" * 256, ("x" * 256,)),
        (["t"] * 500, ("t",)),
        ([str(n) for n in range(64)], tuple(str(n) for n in range(64))),
        ("a b\n\0c", ("a b\n\0c",)),
    ],
)
def test_tags_become_a_tuple_without_doubles(tags: record.Tags, checked: tuple[str, ...]) -> None:
    assert record.check_tags(tags) == checked


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ("", "is empty"),
        (["ok", ""], "is empty"),
        ("x" * 257, "257 bytes of UTF-8: the limit is 256 bytes"),
        ("é" * 129, "258 bytes of UTF-8: the limit is 256 bytes"),
        ("$steps", "libraries'"),
        (["a", "$b"], "libraries'"),
        ("\ud800", "surrogate"),
        (b"bytes", "is bytes"),
        ([b"bytes"], "is bytes, not str"),
        ([1], "is int, not str"),
        (None, "is NoneType"),
        (5, "is int"),
    ],
)
def test_a_bad_tag_is_named(tags: record.Tags, text: str) -> None:
    with pytest.raises(errors.InvalidTag, match=text):
        record.check_tags(tags)


def test_too_many_tags_are_counted() -> None:
    with pytest.raises(errors.TooManyTags, match="65 tags: the limit is 64"):
        record.check_tags([str(n) for n in range(65)])


def test_libraries_may_use_their_tags() -> None:
    assert record.check_tags(["$w", "x"], allow_system=True) == ("$w", "x")
    assert record.check_tags("$w", allow_system=True) == ("$w",)
    assert record.check_tag("$w") == "$w"


def test_text_of_a_class_of_its_own_becomes_plain_text() -> None:
    red: str = Name("red")
    texts = [
        *record.check_tags(red),
        *record.check_tags(["a", red]),
        record.check_tag(red),
        record.check_conditions({red: 1})[0][0],
        record.check_key(red),
        record.check_book_name(red),
        record.check_hold_name(red),
    ]
    assert texts == ["red", "a", *["red"] * 6]
    assert {type(text) for text in texts} == {str}


@given(st.lists(st.text(min_size=1, max_size=20), max_size=20))
def test_checking_tags_again_changes_nothing(tags: list[str]) -> None:
    try:
        checked = record.check_tags(tags, allow_system=True)
    except errors.InvalidTag:
        assert any(not tag.isprintable() for tag in tags)  # half of a surrogate pair
    else:
        assert set(checked) == set(tags)
        assert record.check_tags(checked, allow_system=True) == checked


def test_bytes_are_passed_on_uncopied() -> None:
    data = b"as it is"
    assert record.check_data(data) is data


@pytest.mark.parametrize(
    "buffer",
    [bytearray(b"ab"), memoryview(b"ab"), memoryview(b"a-b-")[::2], array.array("B", b"ab")],
)
def test_buffers_are_copied_at_the_call(buffer: record.Buffer) -> None:
    assert record.check_data(buffer) == b"ab"


def test_a_copy_does_not_follow_its_buffer() -> None:
    buffer = bytearray(b"before")
    checked = record.check_data(buffer)
    buffer[:] = b"after!"
    assert checked == b"before"


@pytest.mark.parametrize("data", ["text", 5, None, ["a"], 1.5])
def test_what_is_not_bytes_is_refused(data: record.Buffer) -> None:
    with pytest.raises(errors.InvalidData, match=type(data).__name__):
        record.check_data(data)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_record_beyond_the_limit_is_refused(kind: Callable[[int], record.Buffer]) -> None:
    with pytest.raises(errors.RecordTooLarge, match=f"{BIG + 1} bytes: the limit is {BIG}"):
        record.check_data(kind(BIG + 1))


def test_a_record_at_the_limit_is_accepted() -> None:
    assert len(record.check_data(bytes(BIG))) == BIG


def test_aux_has_its_own_limit() -> None:
    assert record.check_aux(bytearray(b"x")) == b"x"
    with pytest.raises(errors.RecordTooLarge, match="aux data of 65537 bytes: the limit is 65536"):
        record.check_aux(bytes(65537))


def test_a_unit_becomes_columns() -> None:
    unit = record.check_unit([Entry(b"ab", "x"), Entry(bytearray(b"c"), ["y", "y"]), Entry(b"")])
    assert unit == Unit([b"ab", b"c", b""], [("x",), ("y",), ()], 3)


@pytest.mark.parametrize(
    ("entries", "error", "text"),
    [
        ([], errors.InvalidUnit, "at least one"),
        ([b"bytes"], errors.InvalidUnit, "Entry, not of bytes"),
        (Entry(b"alone"), errors.InvalidUnit, "give it in a list"),
        ([(b"bytes", ())], errors.InvalidUnit, "Entry, not of tuple"),
        ([Entry(b"")] * 1001, errors.UnitTooLarge, "1001 records: the limit is 1000 records"),
        ([Entry(b"a"), Entry(b"b", "")], errors.InvalidTag, "is empty"),
        ([Entry(bytes(BIG)), Entry(b"1")], errors.UnitTooLarge, f"{BIG + 1} bytes: the limit"),
    ],
)
def test_a_bad_unit_is_refused(
    entries: list[Entry], error: type[errors.UsageError], text: str
) -> None:
    with pytest.raises(error, match=text):
        record.check_unit(entries)


def test_a_unit_that_never_ends_is_refused_all_the_same() -> None:
    with pytest.raises(errors.UnitTooLarge, match="1001 records"):
        record.check_unit(itertools.repeat(Entry(b"x")))


def test_conditions_keep_the_callers_order() -> None:
    assert record.check_conditions({"b": 2, None: 0, "$a": 1}) == (("b", 2), (None, 0), ("$a", 1))
    assert record.check_conditions(None) == record.check_conditions({}) == ()


@pytest.mark.parametrize(
    ("unless", "error"),
    [
        ({"a": -1}, errors.InvalidCondition),
        ({"a": 2**53}, errors.InvalidCondition),
        ({"a": True}, errors.InvalidCondition),
        ({"a": None}, errors.InvalidCondition),
        ({"a": 1.0}, errors.InvalidCondition),
        ([("a", 1)], errors.InvalidCondition),
        ("a", errors.InvalidCondition),
        ({"": 1}, errors.InvalidTag),
        ({5: 1}, errors.InvalidTag),
        ({str(n): 0 for n in range(65)}, errors.TooManyConditions),
    ],
)
def test_a_bad_condition_is_refused(unless: record.Unless, error: type[errors.UsageError]) -> None:
    with pytest.raises(error):
        record.check_conditions(unless)


@pytest.mark.parametrize("key", ["", "k" * 257, "é" * 129, "\udfff", 5, b"k"])
def test_a_bad_key_is_refused(key: str) -> None:
    with pytest.raises(errors.InvalidKey):
        record.check_key(key)


def test_good_keys_and_names_pass() -> None:
    assert record.check_key(None) is None
    assert record.check_key("é" * 128) == "é" * 128
    assert record.check_book_name("b" * 128) == "b" * 128
    assert record.check_hold_name("$report") == "$report"


@pytest.mark.parametrize("name", ["", "b" * 129, "$system", "\ud83d", 7, None])
def test_a_bad_book_name_is_refused(name: str) -> None:
    with pytest.raises(errors.InvalidName, match="LogBook"):
        record.check_book_name(name)


@pytest.mark.parametrize(
    "check",
    [
        lambda: record.check_seqnum("seqnum", 0, least=1),
        lambda: record.check_seqnum("seqnum", -1),
        lambda: record.check_seqnum("seqnum", 2**53 + 1),
        lambda: record.check_seqnum("seqnum", True),
        lambda: record.check_range(5, 4),
        lambda: record.check_range(-1, None),
        lambda: record.check_byte_range(-1, None),
        lambda: record.check_byte_range(3, 2),
        lambda: record.check_page(0, 1),
        lambda: record.check_page(10_001, 1),
        lambda: record.check_page(1, 0),
        lambda: record.check_page(1, 2**40),
        lambda: record.check_timestamp_ms(-1),
        lambda: record.check_duration("wait_s", -0.1),
        lambda: record.check_duration("wait_s", math.nan),
        lambda: record.check_duration("wait_s", True),
        lambda: record.check_duration("wait_s", 10**400),
        lambda: record.check_bound("timeout_s", None),  # type: ignore[arg-type]
        lambda: record.check_hold_ttl(0),
        lambda: record.check_hold_ttl(math.inf),
        lambda: record.check_hold_ttl(math.nan),
    ],
)
def test_what_is_out_of_range_is_refused(check: Callable[[], object]) -> None:
    with pytest.raises(errors.InvalidRange):
        check()


@pytest.mark.parametrize(
    "check",
    [
        lambda number: record.check_seqnum("seqnum", number),
        lambda number: record.check_byte_range(number, 0),
        lambda number: record.check_page(number, 1),
        lambda number: record.check_duration("timeout_s", number),
        lambda number: record.check_hold_ttl(number),
        lambda number: record.check_retention(number, None),
        lambda number: record.check_timestamp_ms(number),
        lambda number: record.check_conditions({"t": number}),
        lambda number: record.check_key(number),
        lambda number: record.check_tags([number]),
        lambda number: record.check_data([number]),
    ],
)
def test_a_number_too_long_to_be_text_is_refused_like_any_other(
    check: Callable[[int], object],
) -> None:
    with pytest.raises(errors.UsageError):
        check(10**5_000)


def test_what_is_refused_is_told_in_a_line() -> None:
    with pytest.raises(errors.InvalidData) as told:
        record.check_data(["x"] * 1_000_000)
    assert len(str(told.value)) < 300


def test_a_buffer_that_was_released_is_refused() -> None:
    view = memoryview(b"x")
    view.release()
    with pytest.raises(errors.InvalidData, match="memoryview"):
        record.check_data(view)


def test_edges_of_ranges_are_accepted() -> None:
    record.check_range(0, 0)
    record.check_range(2**53, 2**53)
    record.check_byte_range(0, None)
    record.check_page(10_000, limits.PAGE_BYTES_MAX)
    assert record.check_duration("wait_s", None) is None
    assert record.check_duration("wait_s", math.inf) == math.inf


def test_settings_are_one_of_a_few_words() -> None:
    assert [record.check_durability(word) for word in ("sync", "flush", "memory")]
    with pytest.raises(errors.InvalidSettings, match="'none' is none of sync, flush, memory"):
        record.check_durability("none")
    with pytest.raises(errors.InvalidSettings, match="consistency"):
        record.check_consistency("eventual")


def test_records_are_equal_whatever_their_aux() -> None:
    one, other = Record(1, b"a", ("t",), 5, None), Record(1, b"a", ("t",), 5, b"aux")
    assert one == other
    assert hash(one) == hash(other)
    assert one != Record(2, b"a", ("t",), 5, None)
    assert one != "a record"


def test_a_record_shows_itself_briefly() -> None:
    assert repr(Record(7, b"z" * 999, ("t",), 5, None)).count("z") == 64


def test_a_record_survives_pickle_without_its_codec() -> None:
    kept = pickle.loads(pickle.dumps(Record(1, b"5", ("t",), 5, b"aux").typed(int)))
    assert (kept, kept.aux, kept.value) == (Record(1, b"5", ("t",), 5, None), b"aux", b"5")


def test_value_decodes_when_asked() -> None:
    assert Record(1, b"42", (), 5, None).value == b"42"
    assert Record(1, b"42", (), 5, None).typed(int).value == 42


def test_a_failing_codec_is_one_kind_of_error() -> None:
    broken = Record(9, b"x", (), 5, None).typed(int)
    with pytest.raises(errors.DecodeError, match=r"seqnum 9.*ValueError") as caught:
        _ = broken.value
    assert caught.value.seqnum == 9
    assert isinstance(caught.value.__cause__, ValueError)
