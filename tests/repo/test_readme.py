"""What a newcomer reads is true: snippets run, tables are the code's, links lead somewhere.

Python blocks are whole programs or whole tests; each runs in a folder of its own, with a cluster to
connect to. Shell blocks run as they stand, but for the port: other tests have clusters too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bokilog import limits
from bokilog.cli.main import COMMANDS
from bokilog.io.free_ports import free_ports
from bokilog.shapes.local_cluster import LocalCluster

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md")]
)
README = (ROOT / "README.md").read_text()
COPIED = "<!-- copied from "
"""Before a block that is part of a file: it is compared with it instead of being run."""
PLUGIN = (
    *("-p", "no:bokilog", "-p", "bokilog.pytest_plugin", "-p", "no:hypothesispytest"),
    *("-o", "asyncio_default_fixture_loop_scope=function"),
)


def blocks(language: str) -> list[tuple[str, str]]:
    """(where it stands, its text) of every fenced block of a language."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text[: block.start()].count("\n") + 1
            found.append((f"{page.relative_to(ROOT)}:{line}", block[1]))
    return found


def is_copied(where: str) -> bool:
    name, _, line = where.partition(":")
    return (ROOT / name).read_text().splitlines()[int(line) - 2].startswith(COPIED)


def run(*command: str, cwd: Path, url: str) -> str:
    """What a command prints, run by this Python's environment."""
    environment = {
        **os.environ,
        "BOKILOG_URL": url,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONWARNINGS": "error",
    }
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PYTHON = blocks("python")
PROGRAMS = [each for each in PYTHON if "asyncio.run(" in each[1]]
TESTS = [each for each in PYTHON if "def test_" in each[1]]
COPIES = [each for each in PYTHON if is_copied(each[0])]
SHELL = [each for each in blocks("sh") if "bokilog " in each[1]]


def test_every_block_of_python_is_a_program_a_test_or_a_copy() -> None:
    assert sorted([*PROGRAMS, *TESTS, *COPIES]) == sorted(PYTHON)
    assert PROGRAMS
    assert TESTS


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("where", "program"), PROGRAMS, ids=[where for where, _ in PROGRAMS])
def test_every_program_runs(
    where: str, program: str, tmp_path: Path, shared_cluster: LocalCluster
) -> None:
    run(sys.executable, "-c", program, cwd=tmp_path, url=shared_cluster.url)


@pytest.mark.slow
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("examples/*.py")))
def test_every_example_runs(name: str, tmp_path: Path, shared_cluster: LocalCluster) -> None:
    example = str(ROOT / "examples" / name)
    here = run(sys.executable, example, cwd=tmp_path, url="")
    assert here == run(sys.executable, example, shared_cluster.url, cwd=tmp_path, url="")


@pytest.mark.parametrize(("where", "source"), TESTS, ids=[where for where, _ in TESTS])
def test_every_test_passes(where: str, source: str, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(source)
    pytester.runpytest_subprocess(*PLUGIN).assert_outcomes(passed=1)


@pytest.mark.parametrize(("where", "part"), COPIES, ids=[where for where, _ in COPIES])
def test_a_copy_is_in_the_file_that_it_names(where: str, part: str) -> None:
    page, _, line = where.partition(":")
    marker = (ROOT / page).read_text().splitlines()[int(line) - 2]
    file = marker.removeprefix(COPIED).partition(";")[0]
    assert part in (ROOT / file).read_text()


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.timeout(120)
def test_every_command_line_works(tmp_path: Path) -> None:
    """One block after the other, as somebody reads: each that starts a cluster finds none running,
    and goes on with what the block before it left."""
    port = free_ports(2)
    url = f"bokilog://127.0.0.1:{port}"
    up = f"bokilog up --port {port}"
    try:
        for number, (where, script) in enumerate(SHELL):
            if number:
                run("bokilog", "down", cwd=tmp_path, url=url)
            if "bokilog up" not in script:
                run("sh", "-c", f"{up} --detach", cwd=tmp_path, url=url)
            done = run("sh", "-e", "-c", script.replace("bokilog up", up), cwd=tmp_path, url=url)
            print(where, done, sep="\n")
    finally:
        run("bokilog", "down", cwd=tmp_path, url=url)
    shutil.rmtree(tmp_path / "bokilog-data")  # half a GiB of journals allocated ahead


def test_the_two_commands_are_there() -> None:
    (block,) = [
        text for where, text in blocks("sh") if "scripts/demo" in text and "README" in where
    ]
    for command in re.findall(r"^(scripts/\w+)", block, re.MULTILINE):
        assert os.access(ROOT / command, os.X_OK), command


def test_every_link_leads_to_a_file() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_file_that_is_named_is_there() -> None:
    for page in PAGES:
        for name in re.findall(r"`((?:[\w-]+/)+[\w.-]+\.\w+)`", page.read_text()):
            if not name.startswith(("views/", "data/", "run/", "logs/")):  # of a cluster
                assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_the_commands_are_those_of_the_command_line() -> None:
    table = [f"| `bokilog {name}` | {help_line} |" for name, (_, help_line) in COMMANDS.items()]
    assert table_after("commands") == table


def test_the_limits_are_those_of_the_code() -> None:
    def mib(size_bytes: int) -> str:
        return f"{size_bytes // limits.MIB} MiB"

    day_s = 24 * 3600
    exponent = (limits.SEQNUM_MAX + 1).bit_length() - 1
    assert table_after("limits") == [
        f"| record | {mib(limits.RECORD_BYTES_MAX)} |",
        f"| unit | {limits.UNIT_RECORDS_MAX:,} records, {mib(limits.UNIT_BYTES_MAX)} |",
        f"| tags of a record | {limits.TAGS_MAX}, each 1 to {limits.TAG_BYTES_MAX} bytes "
        "of UTF-8 |",
        f"| conditions of a unit | {limits.CONDITIONS_MAX} |",
        f"| key | {limits.KEY_BYTES_MAX} bytes, remembered for "
        f"{limits.KEY_HORIZON_S // day_s} days |",
        f"| name of a LogBook, of a hold | {limits.BOOK_NAME_BYTES_MAX} bytes |",
        f"| aux data beside a record | {limits.AUX_BYTES_MAX // limits.KIB} KiB |",
        f"| page | {limits.PAGE_RECORDS_MAX:,} records, {mib(limits.PAGE_BYTES_MAX)} |",
        f"| in flight per connection | {limits.INFLIGHT_RECORDS_MAX:,} records, "
        f"{mib(limits.INFLIGHT_BYTES_MAX)} |",
        f"| hold | {limits.HOLD_TTL_S_MAX // day_s} days |",
        f"| seqnum | 2^{exponent} - 1 |",
    ]
    assert limits.BOOK_NAME_BYTES_MAX == limits.HOLD_NAME_BYTES_MAX
    assert (1 << exponent) - 1 == limits.SEQNUM_MAX


def table_after(marker: str) -> list[str]:
    """The rows, without the head, of the table that follows a marker in the README."""
    _, found, rest = README.partition(f"<!-- {marker}:")
    assert found, f"the README has no marker {marker!r}"
    lines = rest.splitlines()[2:]
    table = lines[: lines.index("")]
    return table[2:]
