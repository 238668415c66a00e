"""A checker that cannot fail is worthless: every planted bug is found, and found quickly."""

from __future__ import annotations

import copy

import pytest

from tests.sim.mutations import MUTATIONS, Mutation
from tests.sim.simulation import simulate


def _name(mutation: Mutation) -> str:
    return mutation.name.replace(" ", "_")


def _violations(mutation: Mutation, seed: int) -> list[str]:
    try:
        return simulate(seed, copy.deepcopy(mutation.knobs)).violations
    except Exception as error:  # a planted bug may break anything, and that is to be noticed too
        return [repr(error)]


_RIGHT: set[tuple[int, str]] = set()
"""Worlds, by seed and knobs, that were seen to be right without a bug: some bugs share one."""


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=_name)
def test_the_planted_bug_is_caught(mutation: Mutation) -> None:
    with mutation.planted():
        for seed in mutation.seeds:
            if _violations(mutation, seed):
                return
    pytest.fail(f"{mutation.rule}: no seed of {mutation.seeds} shows that {mutation.name}")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=_name)
def test_the_same_world_without_the_bug_is_right(mutation: Mutation) -> None:
    """Else it would not be the bug that was caught."""
    world = mutation.seeds[0], repr(mutation.knobs)
    if world not in _RIGHT:
        assert not _violations(mutation, mutation.seeds[0])
        _RIGHT.add(world)


def test_every_mutation_has_a_name_of_its_own() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert len(names) == len(set(names)) >= 20
