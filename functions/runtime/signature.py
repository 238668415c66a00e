"""What callers give and get of a function, read from the user's code.

Decides which annotations count where some cannot be made out, which parameter gets the call's
`Context` (it is no part of what callers pass), and what a generator's result is: what it yields.

Invariant: looking runs none of the user's code but the annotations that are texts. Names that a
module says further down have to be there by then, so a function is looked at when it is first used.

Does not know: calls, or how values travel (`values.py` does).
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from bokilog.errors import InvalidSettings
from bokilog.functions.runtime.context import Context
from bokilog.functions.runtime.values import Arguments, Values

P = ParamSpec("P")
L = TypeVar("L")


class Signature:
    """A function's signature, as its callers see it.

    Args:
        values: how its arguments and result travel.
        context_name: the parameter that gets the call's `Context`; None: none does.
        context_at: its place among all parameters.
    """

    __slots__ = ("_context_at", "context_name", "values")

    def __init__(self, values: Values, context_name: str | None, context_at: int) -> None:
        self.values = values
        self.context_name = context_name
        self._context_at = context_at

    def with_context(
        self, context: Context, positional: list[object], named: dict[str, object]
    ) -> Arguments:
        """The arguments with the call's context, where the function asks for one."""
        if self.context_name is not None:
            if len(positional) > self._context_at:
                positional.insert(self._context_at, context)
            else:
                named[self.context_name] = context
        return positional, named


def signature_of(function: str, body: Callable[P, L], *, yields: bool) -> Signature:
    """Look at the user's code.

    Args:
        function: its name, for errors.
        body: the code.
        yields: it is a generator, of either kind.

    Raises:
        InvalidSettings: a parameter for the context cannot be given by name.
    """
    hints = _hints_of(body)
    parameters: list[inspect.Parameter] = []
    context_name, context_at = None, 0
    for at, each in enumerate(inspect.signature(body).parameters.values()):
        annotation = hints.get(each.name, inspect.Parameter.empty)
        if _is_context(annotation):
            if each.kind in (each.POSITIONAL_ONLY, each.VAR_POSITIONAL, each.VAR_KEYWORD):
                problem = "is a Context that cannot be given by name"
                raise InvalidSettings(f"{function}({each.name})", str(each), problem)
            context_name, context_at = each.name, at
        else:
            parameters.append(each.replace(annotation=annotation))
    result = hints.get("return", inspect.Parameter.empty)
    if yields:
        result = next(iter(typing.get_args(result)), inspect.Parameter.empty)
    return Signature(Values(function, parameters, result=result), context_name, context_at)


def _hints_of(body: Callable[P, L]) -> dict[str, object]:
    """The annotations that can be made out; a name that is there for type checkers only is none."""
    try:
        return typing.get_type_hints(body, include_extras=True)
    except NameError:
        texts = getattr(body, "__annotations__", {})
    found: dict[str, object] = {}
    for name, annotation in texts.items():
        known = {**getattr(body, "__globals__", {}), "Context": Context}
        try:
            found[name] = eval(annotation, known) if isinstance(annotation, str) else annotation
        except Exception:  # whatever a half-known annotation raises
            if isinstance(annotation, str) and annotation.endswith("bokilog.Context"):
                found[name] = Context
    return found


def _is_context(annotation: object) -> bool:
    return annotation is Context or Context in typing.get_args(annotation)
