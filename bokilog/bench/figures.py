"""From what was measured to what is said: percentiles, medians, ratios, and whether a bar holds.

Decides how figures of several rounds become one, and the form of the JSON and of the table, which
are part of the contract (DESIGN section 8). A ratio compares two medians of the same run; its
spread is that of the ratios within each round, since rounds are interleaved and a slow second slows
both sides.

Pure: knows neither clocks nor processes.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

Relation = Literal["at least", "at most"]
SHOWN_DIGITS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One contender's turn in one round."""

    rate: float
    """Operations (records, for batches) per second."""
    p50_us: float = math.nan
    p99_us: float = math.nan
    cpu_us: Mapping[str, float] = field(default_factory=dict)
    """Per process, CPU microseconds per operation; empty where the system does not say."""
    values: Mapping[str, float] = field(default_factory=dict)
    """What else the contender tells of its turn."""

    @property
    def cpu_total_us(self) -> float:
        """Over all processes; NaN where the system does not say."""
        return sum(self.cpu_us.values()) if self.cpu_us else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One figure, and what it is held against."""

    name: str
    value: float
    unit: str
    spread: tuple[float, float] | None = None
    """Smallest and largest of the rounds."""
    against: str | None = None
    ratio: float | None = None
    """`value` divided by the figure named in `against`."""
    ratio_spread: tuple[float, float] | None = None
    bar: float | None = None
    relation: Relation = "at least"
    """Of the ratio to the bar."""
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the ratio clears the bar; None without a bar. What is not a number never does."""
        if self.bar is None:
            return None
        if self.ratio is None or math.isnan(self.ratio):
            return False
        return self.ratio >= self.bar if self.relation == "at least" else self.ratio <= self.bar


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all are not above; NaN of nothing.

    Args:
        ordered: ascending.
        share: in (0, 1].
    """
    if not ordered:
        return math.nan
    return ordered[min(len(ordered) - 1, max(0, math.ceil(len(ordered) * share) - 1))]


def median(values: Iterable[float]) -> float:
    """The median of what is a number; NaN if nothing is."""
    numbers = [value for value in values if not math.isnan(value)]
    return statistics.median(numbers) if numbers else math.nan


def spread(values: Iterable[float]) -> tuple[float, float] | None:
    """Smallest and largest of what is a number; None if nothing is."""
    numbers = [value for value in values if not math.isnan(value)]
    return (min(numbers), max(numbers)) if numbers else None


def figure(name: str, values: Sequence[float], unit: str, *, note: str = "") -> Result:
    """The median of several rounds, held against nothing."""
    return Result(name=name, value=median(values), unit=unit, spread=spread(values), note=note)


def compare(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    against: str,
    others: Sequence[float],
    bar: float | None = None,
    relation: Relation = "at least",
    note: str = "",
) -> Result:
    """The median of several rounds as a multiple of another one of the same rounds.

    Args:
        name: of the figure.
        values: one per round.
        unit: of both.
        against: name of the other figure.
        others: one per round; one value for all where it was taken once or is fixed.
        bar: what the ratio has to clear.
        relation: in which direction.
        note: for people.
    """
    other = median(others)
    known = bool(other) and not math.isnan(other)
    pairs = others if len(others) == len(values) else [other] * len(values)
    ratios = [value / each for value, each in zip(values, pairs, strict=True) if each]
    return Result(
        name=name,
        value=median(values),
        unit=unit,
        spread=spread(values),
        against=against,
        ratio=median(values) / other if known else None,
        ratio_spread=spread(ratios),
        bar=bar,
        relation=relation,
        note=note,
    )


def rates(samples: Sequence[Sample]) -> list[float]:
    """Operations per second of each round."""
    return [sample.rate for sample in samples]


def p50s(samples: Sequence[Sample]) -> list[float]:
    """Median latency of each round."""
    return [sample.p50_us for sample in samples]


def cpu_totals(samples: Sequence[Sample]) -> list[float]:
    """CPU over all processes of each round."""
    return [sample.cpu_total_us for sample in samples]


def describe(name: str, samples: Sequence[Sample], *, unit: str) -> list[Result]:
    """Throughput, latency and the budget of one contender: CPU per process, then in all."""
    results = [
        figure(name, rates(samples), unit),
        figure(f"{name}.p50", p50s(samples), "us"),
        figure(f"{name}.p99", [sample.p99_us for sample in samples], "us"),
    ]
    per_process = dict.fromkeys(process for sample in samples for process in sample.cpu_us)
    per_what = unit.partition("/")[0].removesuffix("s")
    for process in per_process:
        used = [sample.cpu_us.get(process, math.nan) for sample in samples]
        results.append(figure(f"{name}.cpu.{process}", used, f"us/{per_what}"))
    if len(per_process) > 1:
        results.append(figure(f"{name}.cpu", cpu_totals(samples), f"us/{per_what}"))
    for key in dict.fromkeys(key for sample in samples for key in sample.values):
        told = [sample.values.get(key, math.nan) for sample in samples]
        results.append(figure(f"{name}.{key}", told, key.rpartition("_")[2]))
    return [result for result in results if not math.isnan(result.value)]


def without_repeats(results: Sequence[Result]) -> list[Result]:
    """Each figure once: where it is held against something, not also by itself."""
    compared = {result.name for result in results if result.against is not None}
    return [each for each in results if each.against is not None or each.name not in compared]


# --- the two forms --------------------------------------------------------------------------------


def to_json(results: Iterable[Result]) -> str:
    """`{"results": [...]}`; what is not a number is null, as JSON has no other word for it."""
    return json.dumps({"results": [_plain(result) for result in results]}, allow_nan=False)


def to_line(results: Iterable[Result], *, run: Mapping[str, object]) -> str:
    """One run as one line of JSON: what it was, then its results as in `to_json`."""
    return json.dumps({**run, "results": [_plain(result) for result in results]}, allow_nan=False)


def _plain(result: Result) -> dict[str, object]:
    return {
        "name": result.name,
        "value": _number(result.value),
        "unit": result.unit,
        "against": result.against,
        "ratio": _number(result.ratio),
        "bar": result.bar,
        "holds": result.holds,
        "relation": result.relation if result.bar is not None else None,
        "spread": _numbers(result.spread),
        "ratio_spread": _numbers(result.ratio_spread),
        "note": result.note or None,
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _numbers(values: tuple[float, float] | None) -> list[float | None] | None:
    return None if values is None else [_number(value) for value in values]


def to_cells(result: Result) -> tuple[str, str, str, str, str]:
    """One row of the table for people: figure, value, against, ratio with bar, verdict."""
    value = f"{shown(result.value)} {result.unit}"
    if result.spread is not None and result.spread[0] != result.spread[1]:
        value += f" ({shown(result.spread[0])}..{shown(result.spread[1])})"
    ratio = ""
    if result.ratio is not None:
        ratio = f"{shown(result.ratio)}x"
    if result.bar is not None:
        sign = ">=" if result.relation == "at least" else "<="
        ratio = f"{ratio or 'none'} (bar {sign} {shown(result.bar)}x)"
    verdict = {None: "", True: "holds", False: "FAILS"}[result.holds]
    return result.name, value, result.against or "", ratio, verdict


def shown(value: float) -> str:
    """A figure for people: three digits, thousands apart."""
    if not math.isfinite(value):
        return "unknown"
    if value == 0:
        return "0"
    digits = SHOWN_DIGITS - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(0, digits)}f}"
