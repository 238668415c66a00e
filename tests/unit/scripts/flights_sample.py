"""A small world of flights that has every case of the real one, and the same answer from DuckDB.

Airports, hours and carriers vary with coprime periods; every edge of every band occurs, with values
just below it; delays and wind are sometimes "NA"; some hours have no weather.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeAlias

import duckdb

_AIRPORTS = ("EWR", "JFK", "LGA")
_CARRIERS = ("AA", "B6", "UA", "ZZ")  # ZZ has no name
_VISIBILITY = ("0", "0.99", "1", "2.5", "3", "5", "6", "9", "10")
_WIND = ("0", "4.99", "5", "9.2", "10", "14.9", "15", "19.9", "20", "1048.36058", "NA")
HOURS = 48
# What a column is cannot be seen in a table where all of it is "NA".
TYPES = {
    "flights": {"dep_delay": "INTEGER"},
    "weather": {"visib": "DOUBLE", "wind_speed": "DOUBLE"},
    "airlines": {"name": "VARCHAR"},
}


Rows: TypeAlias = list[tuple[object, ...]]


class Sample(NamedTuple):
    """A folder with the three tables, and what DuckDB says of them: by weather, by carrier."""

    folder: Path
    answer: tuple[Rows, Rows]


def make_sample(folder: Path, *, flights: int = 400) -> Sample:
    write_sample(folder, flights=flights)
    return Sample(folder, duckdb_answer(folder))


def write_sample(folder: Path, *, flights: int) -> None:
    """The three tables, with more columns than are read, as in the real ones."""
    lines = ["year,dep_delay,carrier,flight,origin,dest,time_hour"]
    for i in range(flights):
        delay = "NA" if i % 17 == 0 else str(i % 97 - 20)
        origin, carrier = _AIRPORTS[i % 3], _CARRIERS[i % 7 % 4]
        lines.append(f"2013,{delay},{carrier},{i},{origin},IAH,{_hour(i * HOURS // flights)}")
    (folder / "flights.csv").write_text("\n".join(lines) + "\n")
    lines = ["origin,year,temp,wind_speed,visib,time_hour"]
    for i in range(3 * HOURS):
        if i % 13:
            wind, visibility = _WIND[i % len(_WIND)], _VISIBILITY[i % len(_VISIBILITY)]
            lines.append(f"{_AIRPORTS[i % 3]},2013,39.0,{wind},{visibility},{_hour(i // 3)}")
    (folder / "weather.csv").write_text("\n".join(lines) + "\n")
    (folder / "airlines.csv").write_text(
        "carrier,name\nAA,American Airlines Inc.\nB6,JetBlue Airways\nUA,United Air Lines Inc.\n"
    )


def _hour(number: int) -> str:
    return f"2013-01-{1 + number // 24:02}T{number % 24:02}:00:00Z"


def duckdb_answer(folder: Path) -> tuple[Rows, Rows]:
    """By weather and by carrier, in the order of the demonstration, from the same files."""
    with duckdb.connect() as db:
        db.execute("SET threads = 1")
        for name in ("flights", "weather", "airlines"):
            path = str(folder / f"{name}.csv")
            db.execute(
                f"CREATE VIEW {name} AS FROM read_csv('{path}', nullstr='NA', types={TYPES[name]})"
            )
        db.execute("CREATE TABLE joined AS " + _JOINED)
        return db.sql(_BY_WEATHER).fetchall(), db.sql(_BY_CARRIER).fetchall()


def _band(column: str, edges: tuple[int, ...]) -> str:
    """A CASE that says the band's label and its place."""
    cases = [f"WHEN {column} IS NULL THEN '{len(edges) + 1} unknown'"]
    cases.append(f"WHEN {column} < {edges[0]} THEN '0 <{edges[0]}'")
    for i, (low, high) in enumerate(pairwise(edges), 1):
        cases.append(f"WHEN {column} < {high} THEN '{i} {low}-{high}'")
    return f"CASE {' '.join(cases)} ELSE '{len(edges)} {edges[-1]}+' END"


_JOINED = f"""
SELECT carrier, dep_delay, {_band("visib", (1, 3, 6, 10))} AS visibility,
       {_band("wind_speed", (5, 10, 15, 20))} AS wind
FROM flights LEFT JOIN weather USING (origin, time_hour)
"""
_SUMS = """
count(*), count(*) - count(dep_delay), coalesce(sum(dep_delay), 0)::BIGINT,
sum(dep_delay)::DOUBLE / nullif(count(dep_delay), 0) AS mean
"""
_BY_WEATHER = f"""
SELECT visibility[3:], wind[3:], {_SUMS} FROM joined
GROUP BY visibility, wind ORDER BY visibility, wind
"""
_BY_CARRIER = f"""
SELECT carrier, name, {_SUMS} FROM joined LEFT JOIN airlines USING (carrier)
GROUP BY carrier, name ORDER BY mean DESC NULLS LAST, carrier
"""
