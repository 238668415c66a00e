"""A fold in memory, for the tests of what is folded, kept and read of it."""

from __future__ import annotations

import pytest

from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.memory_store import MemoryStore
from tests.unit.storage_nodes.folds import SPACE, Fold


@pytest.fixture
def store() -> MemoryStore:
    """What `fold` is stored in; it forgets what was not synced when it crashes."""
    return MemoryStore()


@pytest.fixture
def fold(store: MemoryStore) -> Fold:
    """Empty, in the first term."""
    return Fold(Index(SPACE, store))
