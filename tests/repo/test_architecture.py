"""ARCHITECTURE.md says what the tree says: no module missing, no word, test or bound made up."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
FOLDERS = ("bokilog", "client", "examples", "functions", "scripts", "sequencer", "storage_nodes")
LINKED = ("client", "functions", "sequencer", "storage_nodes")
"""Folders at the top that are linked into the package `bokilog`."""


def section(title: str) -> str:
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"ARCHITECTURE.md has no section {title!r}"
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of every table row of a section, without the heads."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    heads = {index - 1 for index, row in enumerate(cells) if set(row[0]) == {"-"}}
    return [
        row for index, row in enumerate(cells) if index not in {*heads, *(h + 1 for h in heads)}
    ]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def modules() -> list[Path]:
    """Every source file; rglob does not follow the links inside of bokilog/."""
    found = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    return [*found, *(ROOT / "scripts" / name for name in ("demo", "test", "bootstrap.sh"))]


def path(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def says_something(file: Path) -> bool:
    """Whether it has more than a docstring, as the `__init__.py` of most folders has not."""
    return file.name != "__init__.py" or len(ast.parse(file.read_text()).body) > 1


SOURCES = {path(file): file.read_text() for file in modules()}


def test_the_map_lists_every_module_once() -> None:
    listed = Counter(quoted(row[0])[0] for row in rows("The map"))
    assert [name for name, count in listed.items() if count > 1] == []
    there = {path(file) for file in modules() if says_something(file)}
    assert sorted(there - set(listed)) == [], "add a row to the map in ARCHITECTURE.md"
    assert sorted(set(listed) - there) == [], "the map in ARCHITECTURE.md names what is not there"


def test_every_file_that_the_page_names_is_there() -> None:
    ours = {file.name for file in (ROOT / "tests").rglob("*.py")} | {
        name.rpartition("/")[2] for name in SOURCES
    }
    named = {name for name in quoted(PAGE) if re.fullmatch(r"[\w/.]+\.(py|md|toml|sh)", name)}
    missing = [
        name for name in named if not (ROOT / name).is_file() and ("/" in name or name not in ours)
    ]
    assert sorted(missing) == []


def test_every_link_leads_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("row", rows("Words"), ids=lambda row: row[0])
def test_every_word_is_used_in_code(row: list[str]) -> None:
    names = quoted(row[2])
    assert names
    for name in names:
        assert any(re.search(rf"\b{name}\b", text) for text in SOURCES.values()), name


@pytest.mark.parametrize("row", rows("Invariants"), ids=lambda row: row[0])
def test_every_invariant_is_cited_where_it_is_kept_and_has_its_test(row: list[str]) -> None:
    rule, _, kept, test = row
    assert re.search(rf"\b{rule}\b", SOURCES[quoted(kept)[0]]), f"{kept} does not cite {rule}"
    file, _, name = quoted(test)[0].partition("::")
    assert re.search(rf"^ *(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), test


def test_every_rule_is_spoken_of() -> None:
    spoken = set(re.findall(r"\bP\d+\b", section("Invariants")))
    assert spoken == {f"P{number}" for number in range(1, 35)}


@pytest.mark.parametrize("row", rows("Bounds"), ids=lambda row: row[0])
def test_every_bound_is_as_large_as_the_page_says(row: list[str]) -> None:
    _, size, where, answer = row
    name, file = quoted(where)
    value = value_of(module(file), name)
    assert any(form in size for form in forms(value)), f"{name} is {value}, the page says {size}"
    assert answer, "what happens when it is full?"


def test_formats_are_those_of_the_code() -> None:
    named = [
        (*found, line)
        for line in [*section("On disk").splitlines()]
        for found in re.findall(r"`(\w+)` in `?\n?`?([\w/.]+\.py)`, (\d+)", line)
    ]
    assert len(named) >= 5
    for name, file, version, line in named:
        assert value_of(module(file), name) == int(version), line


def module(file: str) -> ModuleType:
    prefix = "bokilog." if file.partition("/")[0] in LINKED else ""
    return import_module(prefix + file.removesuffix(".py").replace("/", "."))


def value_of(home: ModuleType, name: str) -> int:
    """A constant of the module, or the default of a field of one of its dataclasses."""
    if hasattr(home, name):
        return int(getattr(home, name))
    defaults = {
        field.name: field.default
        for each in vars(home).values()
        if isinstance(each, type) and dataclasses.is_dataclass(each)
        for field in dataclasses.fields(each)
    }
    found = defaults[name]
    assert isinstance(found, int), f"{name} of {home.__name__} has no number"
    return found


def forms(value: int) -> list[str]:
    """How a page may write a number."""
    sizes = [f"{value >> shift:,} {unit}" for shift, unit in ((20, "MiB"), (10, "KiB"))]
    return [f"{value:,}", *(size for size in sizes if not size.startswith("0"))]
