"""Arguments and results of one function, to bytes by its signature and back.

Decides which encoding a value travels in, and which argument is the wrong one. What msgpack gives
back exactly as it was travels as msgpack; values of annotated types (dataclasses, models, dates,
sets) travel in their plain form (`client/codecs.py`), which other languages read too; whatever has
none goes by cloudpickle, which only Python programs of the same app read. A single `bytes` argument
travels as it is.

Invariants: between Python programs a call gets and gives what a local call would, as far as the
annotations are kept; what comes from outside is checked against them, and a misfit is named.

Does not know: calls, links, contexts (a parameter for one is left out before it gets here).
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter as Declared
from typing import Final, NamedTuple, TypeAlias

import cloudpickle

from bokilog.call_errors import InvalidArguments, ResultUnusable
from bokilog.client.codecs import PlainForm, anything_goes, plain_form, to_json
from bokilog.codec import pack_exact, unpack
from bokilog.errors import BokilogError, InvalidSettings, RemoteProtocolError
from bokilog.functions.runtime.messages import Encoding
from bokilog.record import Buffer

Encoded: TypeAlias = tuple[Encoding, bytes]
Arguments: TypeAlias = tuple[list[object], dict[str, object]]
"""(positional, by name)"""

_NO_FIT = (TypeError, ValueError, OverflowError, BokilogError, RecursionError)
"""What an encoding raises for a value that it has not."""
_NEVER: Final = 1 << 30
"""More arguments than any call has."""


class Kind(NamedTuple):
    """What a type means for values of it."""

    exact: bool
    """msgpack has them as they are."""
    form: PlainForm | None
    """None: nothing to change or check (exact), or no plain form (else)."""
    only: type | None = None
    """If the type is a class: a value of a subclass would come back as less than it was."""


class Parameter(NamedTuple):
    """One parameter of the remote signature."""

    name: str
    by_name: bool
    """May be given by name."""
    required: bool
    kind: Kind
    annotation: str


ANYTHING: Final = Kind(exact=True, form=None)
OPAQUE: Final = Kind(exact=False, form=None)


def kind_of(annotation: object) -> Kind:
    """What an annotation means; `inspect.Parameter.empty` is anything.

    >>> kind_of(int | None).exact, kind_of(set[int]).exact
    (True, False)
    """
    if annotation is Declared.empty or anything_goes(annotation):
        return ANYTHING
    try:
        is_class = isinstance(annotation, type) and typing.get_origin(annotation) is None
        only = typing.cast("type", annotation) if is_class else None
        return Kind(_is_exact(annotation), plain_form(annotation), only)
    except InvalidSettings:
        return OPAQUE


def _is_exact(annotation: object) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _is_exact(arguments[0])
    if origin in (typing.Union, types.UnionType, list):
        return all(map(_is_exact, arguments))
    if origin is dict:
        return arguments[0] in (str, int) and _is_exact(arguments[1])
    if origin is typing.Literal:
        return all(type(each) in (str, int, bool, type(None)) for each in arguments)
    plain = (None, type(None), bool, int, float, str, bytes, list, dict)
    return annotation in plain or anything_goes(annotation)


class Values:
    """How the arguments and the result of one function travel.

    Args:
        function: its name, for errors.
        parameters: of the remote signature, in order.
        result: the annotation of the result, or of what it yields.
    """

    __slots__ = (
        "_by_name",
        "_exact",
        "_function",
        "_parameters",
        "_positional_count",
        "_positional_max",
        "_raw",
        "_required_count",
        "_result",
        "_var_named",
        "_var_positional",
        "signature",
    )

    def __init__(
        self, function: str, parameters: Sequence[Declared], *, result: object = Declared.empty
    ) -> None:
        self._function = function
        self._result = kind_of(result)
        self.signature = str(inspect.Signature(list(parameters), return_annotation=result))
        """As people write it."""
        self._parameters: list[Parameter] = []
        self._by_name: dict[str, Parameter] = {}
        self._var_positional: Parameter | None = None
        self._var_named: Parameter | None = None
        self._positional_count = self._required_count = 0
        for declared in parameters:
            self._take(declared)
        several = self._var_positional is not None
        self._positional_max = _NEVER if several else self._positional_count
        kinds = [each.kind for each in self._every()]
        self._exact = all(kind.exact for kind in kinds)
        self._raw = (
            len(self._parameters) == len(kinds) == 1
            and self._positional_max == 1
            and parameters[0].annotation is bytes
        )

    def _take(self, declared: Declared) -> None:
        parameter = Parameter(
            declared.name,
            declared.kind in (Declared.POSITIONAL_OR_KEYWORD, Declared.KEYWORD_ONLY),
            declared.default is Declared.empty,
            kind_of(declared.annotation),
            inspect.formatannotation(declared.annotation),
        )
        if declared.kind is Declared.VAR_POSITIONAL:
            self._var_positional = parameter
        elif declared.kind is Declared.VAR_KEYWORD:
            self._var_named = parameter
        else:
            self._parameters.append(parameter)
            if declared.kind is Declared.KEYWORD_ONLY:
                # A required one is never there without names: the short way is closed by it.
                self._required_count += _NEVER * parameter.required
            else:
                self._positional_count += 1
                self._required_count += parameter.required
        if parameter.by_name:
            self._by_name[parameter.name] = parameter

    def _every(self) -> list[Parameter]:
        several = (self._var_positional, self._var_named)
        return [*self._parameters, *(each for each in several if each is not None)]

    # --- arguments ---

    def encode_arguments(
        self, positional: Sequence[object], named: Mapping[str, object]
    ) -> Encoded:
        """Arguments as they travel.

        Raises:
            InvalidArguments: they do not fit the signature, or one of them cannot travel at all.
        """
        self._check(positional, named)
        if self._raw and len(positional) == 1 and type(positional[0]) is bytes:
            return Encoding.RAW, positional[0]
        try:
            if self._exact:
                return Encoding.MSGPACK, pack_exact([list(positional), dict(named)])
            plain = [
                [_to_plain(self._kind_at(at), each) for at, each in enumerate(positional)],
                {name: _to_plain(self._kind_of(name), each) for name, each in named.items()},
            ]
            return Encoding.MSGPACK, pack_exact(plain)
        except _NO_FIT:
            return Encoding.PICKLE, self._pickled(positional, named)

    def decode_arguments(self, encoding: int, payload: Buffer) -> Arguments:
        """Arguments as they came, checked against the signature.

        Raises:
            InvalidArguments: naming the one that is missing, not known, or not of its type.
        """
        positional, named = self._decoded(encoding, payload)
        self._check(positional, named)
        if encoding == Encoding.PICKLE:
            return positional, named
        for at, value in enumerate(positional):
            positional[at] = self._from_plain(self._name_at(at), self._kind_at(at), value)
        for name, value in named.items():
            named[name] = self._from_plain(name, self._kind_of(name), value)
        return positional, named

    def _decoded(self, encoding: int, payload: Buffer) -> Arguments:
        if encoding == Encoding.PICKLE:
            positional, named = self._unpickled(payload)
            return list(positional), dict(named)
        if encoding == Encoding.RAW:
            if not self._raw:
                problem = f"cannot come as raw bytes: the function takes {self.signature}"
                raise InvalidArguments(self._function, self._name_at(0), problem)
            return [bytes(payload)], {}
        value = self._plain_value(encoding, payload)
        if isinstance(value, dict):
            return [], self._with_names(value)
        if encoding == Encoding.JSON and isinstance(value, list):
            return value, {}
        if isinstance(value, list) and len(value) == 2:
            positional, named = value
            if isinstance(positional, list) and isinstance(named, dict):
                return positional, self._with_names(named)
        problem = f"is {type(value).__name__}: arguments come as an object by name, or as an array"
        raise InvalidArguments(self._function, "body", problem)

    def _plain_value(self, encoding: int, payload: Buffer) -> object:
        try:
            if encoding == Encoding.MSGPACK:
                return _unpacked(payload)
            if encoding == Encoding.JSON:
                return _from_json(payload) if len(payload) else {}
        except RemoteProtocolError as error:  # not the other side of a link: the caller's own bytes
            raise InvalidArguments(self._function, "body", f"is {error.problem}") from None
        except (ValueError, RecursionError) as error:
            name = Encoding(encoding).name
            raise InvalidArguments(self._function, "body", f"is no {name}: {error}") from None
        raise InvalidArguments(self._function, "body", f"has the unknown encoding {encoding}")

    def _with_names(self, named: dict[object, object]) -> dict[str, object]:
        for name in named:
            if not isinstance(name, str):
                raise InvalidArguments(self._function, f"{name!r:.40}", "is no name of an argument")
        return typing.cast("dict[str, object]", named)

    def _check(self, positional: Sequence[object], named: Mapping[str, object]) -> None:
        count = len(positional)
        if not named and self._required_count <= count <= self._positional_max:
            return
        if count > self._positional_max:
            problem = f"is one too many: the function takes {self.signature}"
            raise InvalidArguments(self._function, f"#{self._positional_max + 1}", problem)
        for name in named:
            if name not in self._by_name and self._var_named is None:
                near = get_close_matches(name, self._by_name, n=1)
                hint = f": did you mean {near[0]!r}?" if near else ""
                raise InvalidArguments(self._function, name, f"is not known{hint}")
        for at, parameter in enumerate(self._parameters):
            there = at < min(count, self._positional_count)
            given = parameter.by_name and parameter.name in named
            if there and given:
                raise InvalidArguments(self._function, parameter.name, "was given twice")
            if not there and not given and parameter.required:
                problem = f"is missing: the function takes {self.signature}"
                raise InvalidArguments(self._function, parameter.name, problem)

    def _kind_at(self, at: int) -> Kind:
        if at < self._positional_count:
            return self._parameters[at].kind
        return self._var_positional.kind if self._var_positional is not None else ANYTHING

    def _name_at(self, at: int) -> str:
        return self._parameters[at].name if at < self._positional_count else f"#{at + 1}"

    def _kind_of(self, name: str) -> Kind:
        parameter = self._by_name.get(name, self._var_named)
        return parameter.kind if parameter is not None else ANYTHING

    def _from_plain(self, name: str, kind: Kind, value: object) -> object:
        if kind.form is None:
            if kind.exact:
                return value
            known = self._by_name.get(name)
            of_type = f" ({known.annotation})" if known is not None else ""
            raise InvalidArguments(
                self._function, name, f"has a type{of_type} that only Python callers can give"
            )
        try:
            return kind.form.from_plain(value)
        except Exception as error:  # a user's type may refuse in any way; here it is one error
            problem = f"is not usable: {error}"
            raise InvalidArguments(self._function, name, problem) from error

    def _pickled(self, positional: Sequence[object], named: Mapping[str, object]) -> bytes:
        try:
            return _to_pickle((list(positional), dict(named)))
        except Exception:
            each = [(self._name_at(at), value) for at, value in enumerate(positional)]
            for name, value in (*each, *named.items()):
                try:
                    _to_pickle(value)
                except Exception as error:  # pickling runs code of the value's type
                    problem = f"cannot be sent: {type(value).__name__}: {error}"
                    raise InvalidArguments(self._function, name, problem) from error
            raise

    def _unpickled(self, payload: Buffer) -> tuple[Sequence[object], Mapping[str, object]]:
        try:
            positional, named = _from_pickle(payload)
        except Exception as error:  # unpickling runs code of the values' types
            problem = f"cannot be unpickled here: {type(error).__name__}: {error}"
            raise InvalidArguments(self._function, "body", problem) from error
        return positional, named

    # --- results ---

    def encode_result(self, value: object, asked: int = Encoding.MSGPACK) -> Encoded:
        """A result, or an item of a stream, for a caller whose arguments came as `asked`.

        Raises:
            ResultUnusable: it cannot be sent in any way that this caller reads.
        """
        if type(value) is bytes:
            return Encoding.RAW, value
        try:
            if asked in (Encoding.JSON, Encoding.RAW):
                return Encoding.JSON, to_json(value)
            if self._result.exact:
                return Encoding.MSGPACK, pack_exact(value)
            return Encoding.MSGPACK, pack_exact(self._plain_result(value))
        except _NO_FIT as error:
            if asked in (Encoding.JSON, Encoding.RAW):
                raise ResultUnusable(self._function, f"has no form in JSON: {error}") from error
        try:
            return Encoding.PICKLE, _to_pickle(value)
        except Exception as error:  # pickling runs code of the value's type
            problem = f"({type(value).__name__}) cannot be sent: {error}"
            raise ResultUnusable(self._function, problem) from error

    def _plain_result(self, value: object) -> object:
        plain = _to_plain(self._result, value)
        form, only = self._result.form, self._result.only
        as_said = type(value) is only if only is not None else form and _same(form, plain, value)
        if not as_said:
            # Not quite what the annotation says: the caller gets it as it is all the same.
            raise TypeError("not as annotated")
        return plain

    def decode_result(self, encoding: int, payload: Buffer) -> object:
        """What `encode_result` gave.

        Raises:
            ResultUnusable: it is none of this function here.
        """
        if encoding == Encoding.RAW:
            return bytes(payload)
        try:
            if encoding == Encoding.PICKLE:
                return _from_pickle(payload)
            plain = _from_json(payload) if encoding == Encoding.JSON else _unpacked(payload)
            form = self._result.form
            return plain if form is None or self._result.exact else form.from_plain(plain)
        except Exception as error:  # types of the user decide what is raised
            problem = f"cannot be read here: {type(error).__name__}: {error}"
            raise ResultUnusable(self._function, problem) from error


def _to_plain(kind: Kind, value: object) -> object:
    if kind.exact:
        return value
    if kind.form is None:
        raise TypeError("no plain form")
    if kind.only is not None and type(value) is not kind.only and isinstance(value, kind.only):
        raise TypeError("a subclass")
    return kind.form.to_plain(value)


def _same(form: PlainForm, plain: object, value: object) -> bool:
    try:
        return bool(form.from_plain(plain) == value)
    except Exception:  # types of the user decide what is raised
        return False


def _unpacked(payload: Buffer) -> object:
    value: object = unpack(payload)
    return value


def _from_json(payload: Buffer) -> object:
    value: object = json.loads(bytes(payload))
    return value


def _to_pickle(value: object) -> bytes:
    data: bytes = cloudpickle.dumps(value)
    return data


def _from_pickle(payload: Buffer) -> tuple[Sequence[object], Mapping[str, object]]:
    return cloudpickle.loads(payload)  # type: ignore[no-any-return]  # checked by whoever asked
