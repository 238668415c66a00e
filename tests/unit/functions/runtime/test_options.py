"""Options of a function: what is out of range or misspelt is refused by name."""

from __future__ import annotations

import pytest

from bokilog.errors import InvalidSettings
from bokilog.functions.runtime.options import FunctionOptions


def test_options_travel_as_plain_values() -> None:
    options = FunctionOptions(timeout_s=5, retries=2, schedule="every 30s", overlap="allow")
    assert FunctionOptions.from_plain(options.to_plain()) == options


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("timeout_s", 0, "0.001..86400"),
        ("timeout_s", float("nan"), "0.001..86400"),
        ("retries", -1, "0..100"),
        ("retries", True, "is not a number"),
        ("retries", 1.5, "is not a whole number"),
        ("memory_bytes", 1e6, "is not a whole number"),
        ("fresh", "no", "is not True or False"),
        ("schedule", None, "is not a text"),
        ("time_zone", 1, "is not a text"),
        ("max_concurrency", "many", "is not a number"),
        ("overlap", "maybe", "skip, allow, cancel_running"),
        ("min_workers", 17, "more than max_workers=16"),
        ("timeout", 5, "did you mean 'timeout_s'?"),
        ("colour", "red", "is no option of a function"),
    ],
)
def test_a_bad_option_is_named(name: str, value: object, told: str) -> None:
    with pytest.raises(InvalidSettings, match=name) as refused:
        FunctionOptions.from_plain({name: value})
    assert told in str(refused.value)
