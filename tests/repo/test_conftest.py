"""A check that needs a missing program is skipped out loud, or fails where none may be skipped."""

from pathlib import Path

import pytest

# Other plugins have no say here, and cost time to load.
ALONE = ("-p", "no:asyncio", "-p", "no:hypothesispytest", "-p", "no:bokilog")
CONFTEST = Path(__file__).parents[1] / "conftest.py"
CHECKS = """
import pytest

@pytest.mark.service("no-such-server")
def test_needs_what_is_missing():
    raise AssertionError("it ran")

@pytest.mark.service("sh")
def test_needs_what_is_here():
    pass
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makeini("[pytest]\nmarkers = service(name): x\n")
    pytester.makepyfile(CHECKS)
    return pytester


def test_a_missing_service_is_one_visible_line(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(*ALONE)
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["not run: 1 check needing no-such-server*", "*1 passed, 1 skip*"])


def test_a_missing_service_fails_where_all_must_run(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess(*ALONE, "--all-services")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*no-such-server not found*"])
