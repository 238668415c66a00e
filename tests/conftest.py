"""What holds for all tests.

Examples of property tests are drawn from the tests alone, so that the same code is judged the same.
Checks marked `service(name)` run, say in one line that they did not, or fail: without
`--all-services` a check whose program is missing is skipped, and the end of the run names what is
missing. With it (scripts/test --all, CI) the same check fails: none goes missing quietly.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings

from bokilog.shapes.local_cluster import LocalCluster
from tests.integration.cluster import new_cluster

# Debian keeps daemons in sbin, which is not on everybody's PATH.
_SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
_NOT_RUN = pytest.StashKey[Counter[str]]()

# A search at random: --hypothesis-profile=default.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-services", action="store_true", help="fail, not skip, where a service is missing"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_NOT_RUN] = Counter()


def pytest_runtest_setup(item: pytest.Item) -> None:
    names = [str(name) for mark in item.iter_markers("service") for name in mark.args]
    missing = [name for name in names if shutil.which(name, path=_SEARCH) is None]
    if not missing:
        return
    if item.config.getoption("--all-services"):
        pytest.fail(f"{', '.join(missing)} not found, and --all-services was given", pytrace=False)
    item.config.stash[_NOT_RUN].update(missing)
    pytest.skip(f"needs {', '.join(missing)}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for name, count in sorted(terminalreporter.config.stash[_NOT_RUN].items()):
        checks = "1 check" if count == 1 else f"{count} checks"
        terminalreporter.write_line(f"not run: {checks} needing {name} (see scripts/test --all)")


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Real processes that tests share; started when the first of them asks."""
    with new_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
