"""`NamedTuple` as typing has it, made without a compiler.

`typing.NamedTuple` compiles the constructor of each class when it is imported. The log has some two
hundred such classes, and a third of what a first `bokilog.open()` took in a fresh interpreter was
that. Here one constructor is compiled per number of fields, and a class gets a copy of it with the
names of its own fields.

Decides nothing else: what is declared, how instances look, compare, unpack and match, and what they
cost, is as with typing's (the tests hold the two against each other), and for type checkers it is
typing's. Differs: annotations stay as they are written, no class has a docstring of its own accord,
and there are no generic ones, for which typing's is at hand.
"""

from collections.abc import Callable, Iterable
from types import CodeType, FunctionType
from typing import NamedTuple as TypingNamedTuple, Self

TYPE_CHECKING = False  # as typing has it


class Row(tuple[object, ...]):
    """What all of these classes have in common."""

    __slots__ = ()
    # Not annotated: then it would be a field of all of them to whoever reads type hints.
    _fields = tuple[str, ...]()

    @classmethod
    def _make(cls, values: Iterable[object], count: int = 0) -> Self:
        """One of the values of its fields, in their order; `count`: how many there are."""
        made = _new(cls, values)
        if len(made) != count:
            raise TypeError(f"Expected {count} arguments, got {len(made)}")
        return made

    def _replace(self, /, **changed: object) -> Self:
        """The same but for some fields."""
        made = self._make(map(changed.pop, self._fields, self))
        if changed:
            raise ValueError(f"Got unexpected field names: {list(changed)!r}")
        return made

    def _asdict(self) -> dict[str, object]:
        """Its values by the names of their fields."""
        return dict(zip(self._fields, self, strict=True))

    def __repr__(self) -> str:
        said = ", ".join(map("{}={!r}".format, self._fields, self))
        return f"{self.__class__.__name__}({said})"

    def __getnewargs__(self) -> tuple[object, ...]:
        return tuple(self)


class _Declaring(type):
    """Turns `class X(NamedTuple)` into a class of rows, which is of no metaclass itself."""

    def __new__(
        cls, name: str, bases: tuple[type, ...], body: dict[str, object]
    ) -> "type[Row] | _Declaring":
        if not bases or bases == (Row,):
            return super().__new__(cls, name, bases, body)
        if len(bases) > 1:
            raise TypeError("can only inherit from a NamedTuple type")
        annotations = body.get("__annotations__", {})
        assert isinstance(annotations, dict)
        fields = tuple(annotations)
        defaults = {field: body[field] for field in fields if field in body}
        if tuple(defaults) != fields[len(fields) - len(defaults) :]:
            raise TypeError(f"non-default field of {name} cannot follow a field with a default")
        body.update(zip(fields, _getters(len(fields)), strict=True))
        body["_fields"] = body["__match_args__"] = fields
        body["_field_defaults"] = defaults
        body["__slots__"] = ()
        body["_make"] = classmethod(FunctionType(_MAKE, globals(), "_make", (len(fields),)))
        body["__new__"] = _constructor(name, fields, tuple(defaults.values()))
        return type(name, (Row,), body)


class _Typings(TypingNamedTuple):
    """What typing makes of one field."""

    field: object


_new = tuple.__new__
_MAKE: CodeType = vars(Row)["_make"].__func__.__code__
_GETTER: Callable[[int, str], object] = type(vars(_Typings)["field"])
"""Of a field by its place: in C, and known to the interpreter's specialised instructions."""
_constructors: dict[int, CodeType] = {}
"""By their number of fields."""
_known_getters: list[object] = []
"""They know no class, so that all share them."""


def _constructor(name: str, fields: tuple[str, ...], defaults: tuple[object, ...]) -> FunctionType:
    code = _constructors.get(len(fields))
    if code is None:
        names = "".join(f"f{number}, " for number in range(len(fields)))
        made: FunctionType = eval(f"lambda _cls, {names}: _tuple_new(_cls, ({names}))")
        code = _constructors[len(fields)] = made.__code__
    qualified = f"{name}.__new__"
    code = code.replace(co_varnames=("_cls", *fields), co_name="__new__", co_qualname=qualified)
    return FunctionType(code, {"_tuple_new": _new, "__builtins__": {}}, "__new__", defaults or None)


def _getters(count: int) -> list[object]:
    missing = range(len(_known_getters), count)
    _known_getters.extend(_GETTER(number, f"Alias for field number {number}") for number in missing)
    return _known_getters[:count]


if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:

    class NamedTuple(Row, metaclass=_Declaring):
        """To be inherited from, once: `class Point(NamedTuple): x: int`."""

        __slots__ = ()
