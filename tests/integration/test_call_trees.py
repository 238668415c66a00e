"""Read-your-writes along whole trees of calls, over two function nodes, asked by curl.

Every call reads what its caller had written or seen before it, and a caller sees what its calls
have done once they are back, failed ones too; calls side by side promise each other nothing. The
session goes on from one node's gateway to the other's in a header.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import pytest

from bokilog.io.free_ports import free_ports
from bokilog.shapes.local_cluster import LocalCluster
from tests.integration.apps.tree_app import Events, Tree

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.service("curl")]
APPS = Path(__file__).parent / "apps"
SESSION = "bokilog-session"


class Answer(NamedTuple):
    """What curl printed."""

    status: int
    headers: dict[str, str]
    body: object


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The HTTP addresses of two function nodes that run the app."""
    http_port = free_ports()
    with LocalCluster(
        tmp_path_factory.mktemp("trees"),
        storage_nodes=3,
        function_nodes=2,
        port=free_ports(2),
        app="tree_app:app",
        app_dir=APPS,
        http_port=http_port,
    ):
        yield f"http://127.0.0.1:{http_port}", f"http://127.0.0.1:{http_port + 1}"


def curl(url: str, body: object, *headers: str) -> Answer:
    said = [word for header in headers for word in ("-H", header)]
    command = ["curl", "-sS", "-i", "--max-time", "60", url, *said]
    command += ["-H", "Content-Type: application/json", "--data-binary", json.dumps(body)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    head, _, rest = done.stdout.partition("\n\n")
    status, *lines = head.splitlines()
    pairs = (line.partition(":") for line in lines)
    return Answer(
        int(status.split()[1]),
        {name.lower(): value.strip() for name, _, value in pairs},
        json.loads(rest),
    )


def tree_of(chance: random.Random, names: Iterator[str], depth: int) -> Tree:
    tree: Tree = []
    for _ in range(chance.randint(2, 4)):
        kind = chance.choice(("append", "append", "read", "call", "both") if depth else ("append",))
        match kind:
            case "append":
                tree.append(["append", next(names)])
            case "read":
                tree.append(["read"])
            case "call":
                tree.append(["call", tree_of(chance, names, depth - 1)])
            case _:
                parts = [tree_of(chance, names, depth - 1) for _ in range(2)]
                tree.append(["both", *parts])
    tree.append(["read"])
    return tree


def known_after(events: Events, known: frozenset[str]) -> frozenset[str]:
    """What whoever waited for these events has to see from then on; checks every read in them."""
    for event in events:
        match event:
            case ["append", str() as name]:
                known |= {name}
            case ["read", list() as seen]:
                assert known <= set(seen), f"a read lacks {sorted(known - set(seen))}"
                known |= set(cast("list[str]", seen))
            case ["call", list() as below]:
                known = known_after(cast("Events", below), known)
            case ["both", list() as left, list() as right]:
                sides = [known_after(cast("Events", side), known) for side in (left, right)]
                known = sides[0] | sides[1]
            case _:
                raise AssertionError(event)
    return known


@pytest.mark.parametrize("seed", range(6))
def test_every_call_sees_what_came_before_it(gateways: tuple[str, str], seed: int) -> None:
    chance = random.Random(seed)
    names = (f"{seed}-{number}" for number in range(10_000))
    known: frozenset[str] = frozenset()
    headers: list[str] = []
    for turn in range(3):
        tree = tree_of(chance, names, depth=3)
        asked = {"book": f"tree-{seed}", "tree": tree}
        answer = curl(f"{gateways[turn % 2]}/f/grow", asked, *headers)
        assert answer.status == 200, answer.body
        known = known_after(cast("Events", answer.body), known)
        headers = [f"{SESSION}: {answer.headers[SESSION]}"]


def test_a_failed_call_was_seen_too(gateways: tuple[str, str]) -> None:
    answer = curl(f"{gateways[0]}/f/after_a_failure", {"book": "falls"})
    assert answer.body == ["before the fall"]


def test_a_checker_that_sees_too_little_fails() -> None:
    events: Events = [["append", "a"], ["call", [["read", []]]]]
    with pytest.raises(AssertionError, match="lacks"):
        known_after(events, frozenset())


def test_curl_is_told_what_is_wrong(gateways: tuple[str, str]) -> None:
    answer = curl(f"{gateways[1]}/f/grow", {"book": "b", "tree": "no list"})
    assert answer.status == 400
    assert cast("dict[str, str]", answer.body)["argument"] == "tree"
    assert answer.headers["content-type"] == "application/problem+json"
