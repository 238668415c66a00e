"""What an app declares: names, options, local calls, what type checkers see."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, assert_type

import cloudpickle
import pytest

import bokilog
from bokilog import App, Context
from bokilog.errors import InvalidSettings, NotReady
from bokilog.functions.runtime.function import PICKLED, Function
from bokilog.functions.runtime.options import FunctionOptions
from bokilog.functions.runtime.streaming import MapResults, Stream

app = App("types")


@app.function
async def price(item: str, count: int = 1) -> float:
    """What it costs.

    More about it.
    """
    return len(item) * float(count)


@app.function(timeout_s=5, name="twice.as.much")
def twice(number: int) -> int:
    return 2 * number


@app.function
async def numbers(until: int) -> AsyncIterator[int]:
    for number in range(until):
        yield number


@app.function
def lines(ctx: Context, text: str) -> Iterator[str]:
    yield from text.splitlines()


@app.function(retries=3)
async def with_context(ctx: Context, text: str) -> bytes:
    return f"{ctx.function} {text}".encode()


async def type_checkers_see_what_was_declared() -> None:
    """Never run: mypy is the test."""
    await assert_type(price("tea"), Coroutine[object, object, float])
    assert_type(await price.remote("tea", count=2), float)
    assert_type(twice(1), int)
    assert_type(await twice.remote(1), int)
    assert_type(twice.call(1), int)
    assert_type(await (await price.spawn("tea")).result(), float)
    assert_type(price.map(["tea"]), MapResults[float])
    assert_type(numbers.stream(3), Stream[int])
    assert_type([each async for each in numbers(3)], list[int])
    assert_type(lines.stream("a"), Stream[str])
    assert_type(lines("a"), Iterator[str])
    assert_type(await with_context.remote("text"), bytes)
    assert_type(await with_context.with_options(key="a").remote("text"), bytes)
    assert_type(await app.submit(lambda: 3), int)
    assert_type(await app.submit(price_of_two, "a", "b"), float)
    await price.remote(1)  # type: ignore[arg-type]
    await price.remote()  # type: ignore[call-arg]
    await price.remote("tea", number=1)  # type: ignore[call-arg]
    await with_context.remote(1)  # type: ignore[arg-type]
    app.function(timeout="1")  # type: ignore[call-overload]


async def price_of_two(one: str, other: str) -> float:
    return float(len(one + other))


def test_a_declared_function_is_what_it_was_and_more() -> None:
    assert isinstance(price, Function)
    assert asyncio.run(price("tea", count=2)) == 6.0
    assert twice(4) == 8
    assert price.__name__ == "price"
    assert (price.__doc__ or "").startswith("What it costs.")
    assert price.help_line == "What it costs."
    assert price.values.signature == "(item: str, count: int = 1) -> float"


@pytest.mark.asyncio
async def test_what_cannot_be_called_is_not_sent_along() -> None:
    with pytest.raises(InvalidSettings, match="function=5 is no function"):
        await app.submit(5)  # type: ignore[call-overload]


def test_names_and_options_are_as_declared() -> None:
    names = {"price", "twice.as.much", "numbers", "lines", "with_context"}
    assert set(app.functions) == {PICKLED, *names}
    assert twice.options.timeout_s == 5
    assert with_context.options.retries == 3
    name, options, signature, help_line = app.functions["twice.as.much"].row
    assert (name, signature, help_line) == ("twice.as.much", "(number: int) -> int", "")
    assert isinstance(options, dict)
    assert options["timeout_s"] == 5


def test_a_context_is_no_part_of_the_remote_signature() -> None:
    assert with_context.values.signature == "(text: str) -> bytes"
    assert with_context.signature.context_name == "ctx"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"timeout_s": -1}, "timeout_s=-1 is not in"),
        ({"timeout": 1}, "did you mean 'timeout_s'"),
        ({"max_workers": 0}, "max_workers=0"),
        ({"name": "a b"}, "no name of a function"),
        ({"name": "price"}, "is a function of app 'types' already"),
    ],
)
def test_a_wrong_declaration_is_refused_where_it_stands(
    words: dict[str, Any], problem: str
) -> None:
    def body() -> None: ...

    with pytest.raises(InvalidSettings, match=problem):
        app.function(**words)(body)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="is no function"):
        app.function(3)  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, 3])
def test_names_of_apps_fit_into_those_of_logbooks(name: Any) -> None:
    with pytest.raises(InvalidSettings):
        App(name)


def test_inits_take_no_arguments() -> None:
    with pytest.raises(InvalidSettings, match="takes arguments"):
        App("x").init(lambda x: x)  # type: ignore[misc, arg-type]


def test_without_a_connection_a_call_says_how_to_get_one() -> None:
    with pytest.raises(NotReady, match=r"app\.connect\(url\)"):
        asyncio.run(price.remote("tea"))


def test_options_of_one_call_are_checked_as_the_functions_own() -> None:
    with pytest.raises(InvalidSettings, match="timeout_s=-3"):
        price.with_options(timeout_s=-3)
    changed = price.with_options(timeout_s=3, retries=2, key="k")
    assert (changed.call_options.timeout_s, changed.call_options.retries) == (3, 2)
    assert price.call_options.timeout_s is None
    assert asyncio.run(changed("tea")) == 3.0


def test_the_page_has_every_option_with_its_default() -> None:
    page = (Path(__file__).parents[4] / "docs" / "functions.md").read_text()
    for field in dataclasses.fields(FunctionOptions):
        default = f'"{field.default}"' if isinstance(field.default, str) else field.default
        assert f"| `{field.name}` | {default} |" in page


def test_a_pickled_function_finds_the_app_of_the_process_it_comes_to() -> None:
    assert bokilog.App is App
    here = App("elsewhere")
    data = cloudpickle.dumps(App("elsewhere"))
    here.run_here()
    assert cloudpickle.loads(data) is here


@pytest.mark.parametrize(
    ("schedule", "zone", "told"),
    [
        ("every nonsense", "UTC", "every nonsense"),
        ("61 * * * *", "UTC", "61"),
        ("*/5 * * * *", "Mars/Base", "Mars/Base"),
    ],
)
def test_a_schedule_that_is_none_is_refused_where_it_is_declared(
    schedule: str, zone: str, told: str
) -> None:
    app = App("shop")
    with pytest.raises(InvalidSettings, match=re.escape(told)):

        @app.function(schedule=schedule, time_zone=zone)
        async def beat() -> None: ...


def test_a_scheduled_function_needs_no_arguments() -> None:
    app = App("shop")
    with pytest.raises(InvalidSettings, match="without arguments: 'shop'"):

        @app.function(schedule="every 30s")
        async def beat(shop: str) -> None: ...


def test_what_yields_nothing_is_no_stream() -> None:
    with pytest.raises(InvalidSettings, match=r"'price' is no generator: `remote` gives what"):
        price.stream("coat")
