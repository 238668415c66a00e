"""Named tuples made without a compiler are as typing's, which stand beside them here."""

from __future__ import annotations

import copy
import inspect
import pickle
import typing
from collections.abc import Callable

import pytest

from bokilog.named import NamedTuple


class Ours(NamedTuple):
    """A class of our own, as the one below."""

    first: int
    second: str = "two"
    """What it is."""
    third: bytes = b""

    @property
    def both(self) -> str:
        return f"{self.first} {self.second}"

    @classmethod
    def of_nothing(cls) -> Ours:
        return cls(0)


class Theirs(typing.NamedTuple):
    """A class of our own, as the one below."""

    first: int
    second: str = "two"
    """What it is."""
    third: bytes = b""

    @property
    def both(self) -> str:
        return f"{self.first} {self.second}"

    @classmethod
    def of_nothing(cls) -> Theirs:
        return cls(0)


class Nothing(NamedTuple):
    """No fields."""


class Plain(NamedTuple):
    only: int


Class = type[Ours] | type[Theirs]
BOTH = pytest.mark.parametrize("kind", [Ours, Theirs])


@BOTH
def test_it_is_made_by_place_and_by_name(kind: Class) -> None:
    assert tuple(kind(1)) == (1, "two", b"")
    assert tuple(kind(third=b"3", first=1)) == (1, "two", b"3")
    assert kind.of_nothing() == (0, "two", b"")
    parameters = inspect.signature(kind).parameters.values()
    assert [each.name for each in parameters] == ["first", "second", "third"]
    assert [each.default for each in parameters] == [inspect.Parameter.empty, "two", b""]


WRONG: list[Callable[[Class], object]] = [
    lambda kind: kind(),  # type: ignore[call-arg]
    lambda kind: kind(1, "2", b"3", 4),  # type: ignore[call-arg]
    lambda kind: kind(1, fourth=4),  # type: ignore[call-arg]
    lambda kind: kind._make([1]),
]


@BOTH
@pytest.mark.parametrize("make", WRONG)
def test_wrong_arguments_are_refused(kind: Class, make: Callable[[Class], object]) -> None:
    with pytest.raises(TypeError):
        make(kind)


@BOTH
def test_it_unpacks_compares_matches_and_hashes_as_a_tuple(kind: Class) -> None:
    made = kind(1, "b")
    first, second, third = made
    assert (first, second, third, made.second, made[1]) == (1, "b", b"", "b", "b")
    assert (made == (1, "b", b""), hash(made)) == (True, hash((1, "b", b"")))
    assert made < kind(2)
    assert kind.__match_args__ == ("first", "second", "third")
    assert isinstance(made, tuple)
    assert not hasattr(made, "__dict__")
    with pytest.raises(AttributeError):
        made.first = 2  # type: ignore[misc]


@BOTH
def test_its_methods_are_there(kind: Class) -> None:
    made = kind(1)
    assert repr(made) == f"{kind.__name__}(first=1, second='two', third=b'')"
    assert made._replace(second="b") == (1, "b", b"")
    with pytest.raises(ValueError, match="unexpected field names"):
        made._replace(fourth=4)  # type: ignore[call-arg]
    assert made._asdict() == {"first": 1, "second": "two", "third": b""}
    assert made.both == "1 two"
    assert (kind._fields, kind._field_defaults) == (
        ("first", "second", "third"),
        {"second": "two", "third": b""},
    )
    assert list(typing.get_type_hints(kind)) == ["first", "second", "third"]
    assert kind.__doc__ == Theirs.__doc__


@BOTH
def test_it_is_pickled_and_copied(kind: Class) -> None:
    made = kind(1, "b")
    for again in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), copy.copy(made)):
        assert type(again) is kind
        assert again == made


def test_patterns_match_by_place_and_by_name() -> None:
    match Ours(1, "b"):
        case Ours(7):
            pytest.fail("of another value")
        case Ours(1, text, third=data):
            assert (text, data) == ("b", b"")
        case _:
            pytest.fail("it has that form")


def test_classes_of_as_many_fields_share_no_names() -> None:
    class Other(NamedTuple):
        name: str

    assert Other(name="a").name == "a"
    assert Plain(only=1).only == 1
    assert Other.__new__.__qualname__ == "Other.__new__"
    assert (Nothing(), repr(Nothing())) == ((), "Nothing()")
    assert type(Plain) is type


def test_a_wrong_class_is_refused() -> None:
    body = {"__annotations__": {"first": int, "second": int}, "first": 1}
    with pytest.raises(TypeError, match="non-default field of Wrong"):
        type(Row)("Wrong", (Row,), dict(body))
    with pytest.raises(TypeError, match="can only inherit"):
        type(Row)("Wrong", (Row, Plain), {})


Row: type = NamedTuple
"""As the interpreter sees it."""
