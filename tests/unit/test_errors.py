"""The taxonomy: codes never change, nothing is lost on the wire, every text names its values."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given, strategies as st

from bokilog import call_errors, errors
from bokilog.codec import pack, unpack
from bokilog.errors import BY_CODE, BokilogError, RemoteProtocolError, from_wire, to_wire

# A code is a promise to every process that runs another version: add lines, never change one.
CODES = {
    10: "InvalidTag",
    11: "TooManyTags",
    12: "InvalidName",
    13: "InvalidData",
    14: "RecordTooLarge",
    15: "UnitTooLarge",
    16: "InvalidUnit",
    17: "InvalidCondition",
    18: "TooManyConditions",
    19: "InvalidKey",
    20: "InvalidRange",
    21: "InvalidSettings",
    22: "UnknownLogBook",
    23: "LogBookConflict",
    24: "NotSupported",
    25: "InvalidToken",
    30: "KeyReused",
    31: "FormatTooNew",
    32: "Closed",
    33: "WrongLoop",
    34: "TagsEnded",
    40: "ConditionFailed",
    41: "AppendUnknown",
    42: "ReadTimeout",
    43: "UnitMalformed",
    50: "WrongTerm",
    51: "Sealed",
    52: "NotPrimary",
    53: "Overloaded",
    54: "NotReady",
    55: "NodeUnreachable",
    56: "ReadOnly",
    57: "DirectoryInUse",
    70: "Trimmed",
    71: "DataLost",
    72: "CorruptRecord",
    73: "CorruptJournal",
    74: "DecodeError",
    75: "HistoryChanged",
    76: "BackupUnusable",
    90: "LocalProtocolError",
    91: "RemoteProtocolError",
    100: "FunctionFailed",
    101: "UnknownFunction",
    102: "InvalidArguments",
    103: "CallTimeout",
    104: "CallCancelled",
    105: "WorkerLost",
    106: "CallTooDeep",
    107: "ResultUnusable",
    108: "UnknownCall",
    109: "AppFailed",
}
SAMPLES: dict[str, object] = {
    "int": 7,
    "float": 0.25,
    "str": "orders",
    "str | None": "order:42",
}
FAMILIES = (errors.UsageError, errors.UnavailableError, errors.DataError)


def sample(error: type[BokilogError]) -> BokilogError:
    return error(*(SAMPLES[kind] for kind in error.attributes.values()))


LEAVES = pytest.mark.parametrize("error", BY_CODE.values(), ids=lambda error: error.__name__)


def test_wire_codes_never_change() -> None:
    assert {code: error.__name__ for code, error in BY_CODE.items()} == CODES


def test_every_error_has_a_code_or_is_a_family() -> None:
    everything = {**vars(errors), **vars(call_errors)}.values()
    defined = {value for value in everything if isinstance(value, type)}
    taxonomy = {value for value in defined if issubclass(value, BokilogError)}
    assert taxonomy == {BokilogError, *FAMILIES, *BY_CODE.values()}


def test_an_error_that_quotes_half_a_surrogate_pair_can_be_sent() -> None:
    parts = to_wire(call_errors.InvalidArguments("f", "na\u00efve \ud800", "is not known"))
    assert parts[2] == "na\u00efve \\ud800"
    assert from_wire(unpack(pack(parts))).args == tuple(parts[1:])


@LEAVES
def test_an_error_comes_back_from_the_wire_as_it_was(error: type[BokilogError]) -> None:
    sent = sample(error)
    received = from_wire(to_wire(sent))
    assert type(received) is error
    assert to_wire(received) == to_wire(sent)
    assert str(received) == str(sent)


@LEAVES
def test_an_error_survives_pickle_and_copy(error: type[BokilogError]) -> None:
    raised = sample(error)
    for again in (pickle.loads(pickle.dumps(raised)), copy.copy(raised)):
        assert type(again) is error
        assert vars(again) == vars(raised)


@LEAVES
def test_the_text_names_every_attribute(error: type[BokilogError]) -> None:
    for name, kind in error.attributes.items():
        if name == "trace":
            continue  # pages of it: shown where somebody asks for it
        assert str(SAMPLES[kind]) in str(sample(error))


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), (("a", 1, 2), {}), (("a",), {"tag": "b"}), (("a", 1), {"b": 2})]
)
def test_an_error_takes_each_of_its_attributes_once(
    values: tuple[object, ...], named: dict[str, object]
) -> None:
    with pytest.raises(TypeError, match="ConditionFailed"):
        errors.ConditionFailed(*values, **named)  # type: ignore[arg-type]


def test_a_default_is_an_attribute_like_any_other() -> None:
    error = errors.Overloaded(0.25)
    assert vars(error) == {"retry_after_s": 0.25, "what": "the append"}
    assert error.args == (0.25, "the append")


def test_keywords_make_the_same_error() -> None:
    named = errors.ConditionFailed(tag="fence", winner=9)
    assert named.args == errors.ConditionFailed("fence", 9).args == ("fence", 9)
    assert named.tag == "fence"
    assert named.winner == 9


def test_a_whole_logbook_condition_has_no_tag() -> None:
    failed = from_wire(to_wire(errors.ConditionFailed(None, 3)))
    assert isinstance(failed, errors.ConditionFailed)
    assert failed.tag is None
    assert str(failed) == "condition on the whole LogBook failed: seqnum 3 is there already"
    invalid = errors.InvalidCondition(None, "-1 is no seqnum")
    assert str(invalid) == "condition on the whole LogBook: -1 is no seqnum"
    assert str(errors.InvalidCondition("a", "x" * 9_000)).startswith("condition on tag 'a': xx")
    assert len(str(errors.ConditionFailed("a" * 9_000, 3))) < 1_000


def test_what_a_caller_may_conclude() -> None:
    indefinite = {error.__name__ for error in BY_CODE.values() if not error.definite}
    calls = {"FunctionFailed", "CallTimeout", "CallCancelled", "WorkerLost", "ResultUnusable"}
    assert indefinite == {"AppendUnknown", "RemoteProtocolError", *calls}
    retryable = {error for error in BY_CODE.values() if error.retryable}
    unavailable = {e for e in BY_CODE.values() if issubclass(e, errors.UnavailableError)}
    assert retryable == {*unavailable, errors.ReadTimeout, call_errors.WorkerLost}


def test_a_read_timeout_is_a_timeout_error() -> None:
    with pytest.raises(TimeoutError, match=r"read_next did not finish within timeout_s=1\.5"):
        raise errors.ReadTimeout("read_next", 1.5)


@pytest.mark.parametrize("family", [BokilogError, *FAMILIES])
def test_a_family_cannot_be_raised(family: type[BokilogError]) -> None:
    with pytest.raises(TypeError, match="family"):
        family()


def test_a_long_value_does_not_hide_the_message() -> None:
    text = str(errors.InvalidTag("x" * 5000, "is too long"))
    assert len(text) < 300
    assert "5000 characters" in text
    assert text.endswith("is too long")


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [None],
        ["InvalidTag"],
        [9999],
        [0],
        [70],
        [70, "12"],
        [70, 1, 2],
        [40, 5, "winner"],
        [[40], "a", 1],
    ],
)
def test_garbage_becomes_a_protocol_error(parts: list[object]) -> None:
    assert type(from_wire(parts)) is RemoteProtocolError


PLAIN = st.none() | st.integers() | st.text(max_size=5) | st.floats() | st.lists(st.integers())


@given(st.lists(PLAIN, max_size=5))
def test_no_bytes_of_a_peer_make_decoding_raise(parts: list[object]) -> None:
    assert isinstance(from_wire(parts), BokilogError)


@given(st.sampled_from(sorted(BY_CODE)), st.lists(PLAIN, max_size=4))
def test_no_attributes_of_a_peer_make_showing_raise(code: int, values: list[object]) -> None:
    assert str(from_wire([code, *values]))
