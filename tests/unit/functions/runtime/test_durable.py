"""The door of durable calls is where functions look for it."""

from __future__ import annotations

import inspect

from bokilog.functions.calls import spawning
from bokilog.functions.runtime import durable


def test_what_records_durable_calls_takes_what_functions_say() -> None:
    assert durable.recorder() is spawning.spawn
    said = inspect.signature(durable.Spawn.__call__).parameters
    taken = inspect.signature(spawning.spawn).parameters
    assert set(said) - {"self"} <= set(taken)
