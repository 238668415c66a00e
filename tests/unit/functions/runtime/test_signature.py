"""What callers see of a function: parameters without the context, results of generators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

import bokilog
from bokilog import Context
from bokilog.errors import InvalidSettings
from bokilog.functions.runtime.signature import Signature, signature_of

if TYPE_CHECKING:
    from decimal import Decimal


def look(body: Callable[..., object], *, yields: bool = False) -> Signature:
    return signature_of("shop.price", body, yields=yields)


def with_context(signature: Signature, *positional: object, **named: object) -> Any:
    context: Any = "the context"
    return signature.with_context(context, list(positional), named)


def test_a_function_without_a_context_gets_its_arguments_only() -> None:
    def price(item: str, count: int = 1) -> float:
        raise NotImplementedError

    found = look(price)
    assert found.context_name is None
    assert found.values.signature == "(item: str, count: int = 1) -> float"
    assert with_context(found, "tea", count=2) == (["tea"], {"count": 2})


def test_the_context_goes_to_its_place_or_by_its_name_where_callers_gave_less() -> None:
    def price(item: str, ctx: Context, count: int = 1) -> float:
        raise NotImplementedError

    found = look(price)
    assert found.context_name == "ctx"
    assert found.values.signature == "(item: str, count: int = 1) -> float"
    assert with_context(found, "tea", 2) == (["tea", "the context", 2], {})
    assert with_context(found, item="tea") == ([], {"item": "tea", "ctx": "the context"})


def test_a_context_that_may_be_none_is_one_too() -> None:
    def price(item: str, ctx: Context | None = None) -> float:
        raise NotImplementedError

    assert look(price).context_name == "ctx"


def positional_only(ctx: Context, /) -> None: ...
def several(*ctx: Context) -> None: ...
def by_any_name(**ctx: Context) -> None: ...


@pytest.mark.parametrize("body", [positional_only, several, by_any_name])
def test_a_context_that_cannot_be_given_by_name_is_refused(body: Callable[..., object]) -> None:
    with pytest.raises(InvalidSettings, match=r"shop\.price\(ctx\).*cannot be given by name"):
        look(body)


def test_the_result_of_a_generator_is_what_it_yields() -> None:
    def lines(text: str) -> Iterator[str]:
        raise NotImplementedError

    assert look(lines, yields=True).values.signature == "(text: str) -> str"
    assert "Iterator" in look(lines).values.signature


def test_names_for_type_checkers_only_hide_no_other_annotation() -> None:
    def price(ctx: bokilog.Context, limit: Decimal, count: int) -> float:
        raise NotImplementedError

    found = look(price)
    assert found.context_name == "ctx"
    assert found.values.signature == "(limit, count: int) -> float"
