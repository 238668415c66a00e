"""What `bokilog verify` says of a stored fold, beside what whole clusters show."""

from __future__ import annotations

from dataclasses import replace

from bokilog.ids import Position, Term
from bokilog.journal import Location
from bokilog.storage_nodes.fold_check import FoldCheck
from bokilog.view import first_end
from tests.protocol.storage_rig import SPACE, StorageRig, at


class NoFrames:
    """A journal that lies next to a fold without records."""

    segments: frozenset[int] = frozenset()
    newest = 0

    def head(self, location: Location) -> None:
        raise AssertionError("no row leads anywhere")


def findings(*ends: int) -> list[str]:
    """Of a fold that is stored at entry 1 of term 1, by where the terms from then on ended."""
    rig = StorageRig().begin()
    rig.checkpoint()
    assert rig.index.generations.stored_position == at(1)
    check = FoldCheck(rig.index.store, file="index-1", heads=NoFrames(), later_trims={})
    views = {
        Term(term): replace(first_end(SPACE), position=Position(Term(term - 1), count))
        for term, count in enumerate((0, *ends), 1)
    }
    assert check.run(SPACE, ends=views) is not None
    return [finding.problem for finding in check.findings.found]


def test_p13_a_fold_past_any_end_since_its_term_is_damage() -> None:
    past = ["the fold stands at (1, 1), past the end of its term: 0"]
    assert findings() == findings(1) == findings(1, 4) == []
    assert findings(0) == findings(0, 5) == findings(1, 0) == past
