"""The work of each stage: plain functions of Arrow tables, and where the flights come from.

Decides what is computed, nothing of when, where or how often: a stage function gets its inputs and
returns one table per output partition. It may run several times, in several processes at once, so
it keeps no state and its answer depends on its `Call` alone. Every total is a sum of integers: the
answer is the same in whatever order rows and partial sums arrive.

In the tables "NA" is null. A flight without a departure delay was cancelled: it is counted and is
no part of a mean. A flight in an hour without weather counts in the bands "unknown".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import xxhash

KEY: Final = ("origin", "time_hour")
MEASURES: Final = ("flights", "departed", "delay_minutes")
UNKNOWN: Final = "unknown"

_HOUR = pa.timestamp("s", tz="UTC")
_FLIGHTS = {
    "origin": pa.string(),
    "time_hour": _HOUR,
    "carrier": pa.string(),
    "dep_delay": pa.int32(),
}
_WEATHER = {
    "origin": pa.string(),
    "time_hour": _HOUR,
    "visib": pa.float64(),
    "wind_speed": pa.float64(),
}
_AIRLINES = {"carrier": pa.string(), "name": pa.string()}


class Bands(NamedTuple):
    """A measure cut into bands: band i is [edges[i-1], edges[i]); one more is for null."""

    column: str
    edges: tuple[int, ...]
    unit: str

    @property
    def labels(self) -> tuple[str, ...]:
        """One per band, the unknown one last."""
        first, last = self.edges[0], self.edges[-1]
        inner = [f"{a}-{b}" for a, b in zip(self.edges[:-1], self.edges[1:], strict=True)]
        return (f"<{first}", *inner, f"{last}+", UNKNOWN)


VISIBILITY: Final = Bands("visib", (1, 3, 6, 10), "miles")
WIND: Final = Bands("wind_speed", (5, 10, 15, 20), "mph")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What one task gets."""

    data: Path
    """The folder with the source tables."""
    task: int
    tasks: int
    partitions: int
    inputs: Mapping[str, Sequence[pa.Table]]
    """By parent stage: its pieces for this task, in the order of the parent's tasks."""


# --- the stages -----------------------------------------------------------------------------------


def scan_flights(call: Call) -> list[pa.Table]:
    """One slice of the flights, partitioned by airport and hour."""
    path = call.data / "flights.csv"
    table = read_slice(path, _FLIGHTS, number=call.task, of=call.tasks)
    return hash_partitions(table, KEY, call.partitions)


def scan_weather(call: Call) -> list[pa.Table]:
    """One slice of the hourly weather, partitioned alike."""
    path = call.data / "weather.csv"
    table = read_slice(path, _WEATHER, number=call.task, of=call.tasks)
    return hash_partitions(table, KEY, call.partitions)


def scan_airlines(call: Call) -> list[pa.Table]:
    """The names of the carriers, whole."""
    return [read_slice(call.data / "airlines.csv", _AIRLINES, number=call.task, of=call.tasks)]


def join(call: Call) -> list[pa.Table]:
    """One partition of flights with the weather of their hour, summed at once by both groupings.

    Partial sums leave the task instead of joined rows: a few hundred rows instead of all of them.
    """
    flights = pa.concat_tables(call.inputs["scan_flights"])
    weather = pa.concat_tables(call.inputs["scan_weather"])
    joined = flights.join(weather, keys=list(KEY), join_type="left outer")
    return [by_weather(joined), by_carrier(joined)]


def aggregate(call: Call) -> list[pa.Table]:
    """The partial sums of one grouping, added up."""
    partial = pa.concat_tables(call.inputs["join"])
    keys = [name for name in partial.column_names if name not in MEASURES]
    sums = partial.group_by(keys).aggregate([(name, "sum") for name in MEASURES])
    return [
        sums.select([*keys, *(f"{name}_sum" for name in MEASURES)]).rename_columns(
            [*keys, *MEASURES]
        )
    ]


def sort(call: Call) -> list[pa.Table]:
    """The answer: delay by weather, in the order of the bands; by carrier, the latest first."""
    weather, carriers = call.inputs["aggregate"]
    (airlines,) = call.inputs["scan_airlines"]
    return [answer_by_weather(weather), answer_by_carrier(carriers, airlines)]


FUNCTIONS: Final[Mapping[str, Callable[[Call], list[pa.Table]]]] = {
    function.__name__: function
    for function in (scan_flights, scan_weather, scan_airlines, join, aggregate, sort)
}


# --- scan -----------------------------------------------------------------------------------------


def read_slice(path: Path, types: Mapping[str, pa.DataType], *, number: int, of: int) -> pa.Table:
    """The rows of a CSV file whose first byte lies in slice `number` of `of` equal ones.

    Every row is in exactly one slice, whatever the sizes: no quoted line breaks, as in our files.
    """
    with path.open("rb") as file:
        names = file.readline().decode().strip().split(",")
        body = file.tell()
        size = path.stat().st_size
        start = _row_start(file, number * size // of, body=body)
        until = _row_start(file, (number + 1) * size // of, body=body)
        file.seek(start)
        data = file.read(until - start)
    if not data:
        return pa.schema(list(types.items())).empty_table()
    return pa_csv.read_csv(
        pa.BufferReader(data),
        read_options=pa_csv.ReadOptions(column_names=names),
        convert_options=pa_csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            null_values=["NA"],
            strings_can_be_null=True,
        ),
    )


def _row_start(file: BinaryIO, position: int, *, body: int) -> int:
    """Where the first row begins at or after `position`, behind the line of names."""
    if position <= body:
        return body
    file.seek(position - 1)
    file.readline()  # the rest of the row that began before, or just its line break
    return file.tell()


# --- partition ------------------------------------------------------------------------------------


def hash_partitions(table: pa.Table, keys: Sequence[str], partitions: int) -> list[pa.Table]:
    """The rows by the hash of their key's text: the same in every process, on every machine.

    Only distinct keys are hashed in Python: there is a weather hour for every ten flights or so.
    """
    texts = [_text(table.column(name)) for name in keys]
    joined = pc.binary_join_element_wise(*texts, "|", null_handling="replace", null_replacement="")
    encoded = joined.combine_chunks().dictionary_encode()
    numbers = pa.array([_partition(key, partitions) for key in encoded.dictionary.to_pylist()])
    number = numbers.cast(pa.int32()).take(encoded.indices)
    return [table.filter(pc.equal(number, wanted)) for wanted in range(partitions)]


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return column.cast(pa.string())


def _partition(key: str, partitions: int) -> int:
    return xxhash.xxh3_64_intdigest(key.encode()) % partitions


# --- aggregate ------------------------------------------------------------------------------------


def by_weather(joined: pa.Table) -> pa.Table:
    """Sums by visibility and wind band; the bands are numbers here."""
    for bands in (VISIBILITY, WIND):
        joined = joined.append_column(f"{bands.column}_band", band(joined[bands.column], bands))
    return _sums(joined, [f"{bands.column}_band" for bands in (VISIBILITY, WIND)])


def by_carrier(joined: pa.Table) -> pa.Table:
    """Sums by carrier."""
    return _sums(joined, ["carrier"])


def band(column: pa.ChunkedArray, bands: Bands) -> pa.ChunkedArray:
    """The number of the band of each value."""
    number = None
    for edge in bands.edges:
        above = pc.greater_equal(column, float(edge)).cast(pa.int8())
        number = above if number is None else pc.add(number, above)
    return pc.fill_null(number, pa.scalar(len(bands.edges) + 1, pa.int8()))


def _sums(table: pa.Table, keys: list[str]) -> pa.Table:
    groups = table.group_by(keys).aggregate(
        [([], "count_all"), ("dep_delay", "count"), ("dep_delay", "sum")]
    )
    columns = [groups[name] for name in ("count_all", "dep_delay_count", "dep_delay_sum")]
    columns = [pc.fill_null(column.cast(pa.int64()), 0) for column in columns]  # no departure: null
    return pa.table(
        [*(groups[name] for name in keys), *columns],
        names=[*keys, *MEASURES],
    )


# --- sort -----------------------------------------------------------------------------------------


def answer_by_weather(sums: pa.Table) -> pa.Table:
    """Visibility and wind as labels, in their order."""
    keys = [f"{bands.column}_band" for bands in (VISIBILITY, WIND)]
    ordered = sums.sort_by([(key, "ascending") for key in keys])
    labels = [
        pa.array(bands.labels).take(ordered[key].combine_chunks())
        for bands, key in zip((VISIBILITY, WIND), keys, strict=True)
    ]
    return pa.table([*labels, *_measures(ordered)], names=["visibility", "wind", *_MEASURED])


def answer_by_carrier(sums: pa.Table, airlines: pa.Table) -> pa.Table:
    """Carriers with their names, the one with the largest mean delay first."""
    named = sums.join(airlines, keys="carrier", join_type="left outer")
    table = pa.table(
        [named["carrier"], named["name"], *_measures(named)], names=["carrier", "name", *_MEASURED]
    )
    return table.sort_by([("mean_delay_minutes", "descending"), ("carrier", "ascending")])


_MEASURED: Final = ("flights", "cancelled", "delay_minutes", "mean_delay_minutes")


def _measures(sums: pa.Table) -> list[pa.ChunkedArray]:
    departed = sums["departed"].cast(pa.float64())
    some = pc.if_else(pc.equal(departed, 0.0), pa.scalar(None, pa.float64()), departed)
    mean = pc.divide(sums["delay_minutes"].cast(pa.float64()), some)
    return [
        sums["flights"],
        pc.subtract(sums["flights"], sums["departed"]),
        sums["delay_minutes"],
        mean,
    ]
