"""Each rule of PROTOCOL.md has a test that is named after it, `test_pNN_...` or `test_pN_...`.

The table says which rules the present version must keep. Those of `NEXT` are about several
sequencers, index snapshots and re-replication; a test that is named by one may come before them.
"""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
_NAME = re.compile(r"^ *(?:async )?def test_p(\d+)_", re.MULTILINE)

NOW = {
    1: "shards are never reused",
    2: "a closed shard has its count",
    3: "incarnations, directories",
    4: "frames in order",
    5: "LogBooks, their numbers and deletion",
    6: "whose progress counts",
    7: "syncs that fail, tails without a known sync",
    8: "who was away catches up",
    9: "frontiers",
    10: "timestamps of cuts",
    11: "when an entry may be published",
    12: "a start is a new term",
    13: "ends of terms",
    15: "sealing by a stored intent",
    14: "promises of replicated sequencers",
    17: "the term gate",
    18: "which entries an engine gets",
    19: "one position after a crash",
    20: "tag state outlives records",
    21: "when a segment goes",
    22: "conditions and keys",
    23: "verdicts, and what is never sent again",
    25: "trims and holds",
    26: "linearizable reads",
    27: "what may be answered at which position",
    28: "waiting reads",
    29: "checksums",
    30: "groups, torn tails, corruption",
    31: "directories, generations",
    32: "bounds that name their overflow",
    34: "garbage columns",
}
NEXT = {
    16: "dropping metalog, index snapshots",
    24: "index data of a unit from any replica, `Lost`",
    33: "wiped storage nodes",
}


def rules_with_tests() -> dict[int, list[str]]:
    """Rule to the files that test it by name."""
    found: dict[int, list[str]] = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        for number in set(map(int, _NAME.findall(file.read_text(encoding="utf-8")))):
            found.setdefault(number, []).append(str(file.relative_to(TESTS)))
    return found


def test_every_rule_is_needed_now_or_next() -> None:
    assert sorted([*NOW, *NEXT]) == list(range(1, 35))


def test_every_rule_needed_now_has_a_test_named_by_it() -> None:
    tested = rules_with_tests()
    missing = {f"P{number}": what for number, what in NOW.items() if number not in tested}
    assert not missing, f"no test is named after {missing}"


def test_no_test_is_named_by_a_rule_that_does_not_exist() -> None:
    unknown = {number: files for number, files in rules_with_tests().items() if number > 34}
    assert not unknown
