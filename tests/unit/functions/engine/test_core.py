"""The engine as a whole: what is for whom, views, status; and stories of many links and terms."""

import pytest

from bokilog.effects import (
    BatchEnded,
    LinkDown,
    LoadView,
    Persisted,
    Send,
    TimerFired,
    ViewInstalled,
)
from bokilog.errors import InvalidSettings
from bokilog.functions.engine.settings import EngineSettings
from bokilog.ids import LogSpaceId, Term
from bokilog.messages import (
    Metalog,
    MetalogPosition,
    ResumeShard,
    ShardHeld,
    Status,
    StatusRequest,
    TermChanged,
)
from bokilog.metalog import Run
from tests.unit.functions.engine.world import (
    BULK,
    CLIENT,
    NUMBER,
    PRIMARY,
    SPACE,
    STORAGE,
    Sim,
    append,
    at,
    cut,
    engine,
    opening,
    run,
    shard,
    view,
)


def test_a_newer_term_makes_it_load_the_view_and_an_older_one_does_not() -> None:
    sim = Sim().start()
    assert sim.get(PRIMARY, TermChanged(2)) == [LoadView(2)]
    assert sim.get(PRIMARY, TermChanged(1)) == []


@pytest.mark.parametrize(
    "message",
    [run(1, cut(10, (0, 1)), term=2), MetalogPosition(SPACE, at(3, 2), 1), ShardHeld(shard(2), 0)],
)
def test_p17_messages_of_a_newer_term_are_held_and_make_it_load_the_view(message: object) -> None:
    sim = Sim().start()
    assert sim.get(PRIMARY, message) == [LoadView(2)]  # type: ignore[arg-type]
    assert sim.core.stats().held_messages == 1
    sim.install(view(2, end=at(1)))
    assert sim.core.stats().held_messages == 0


def test_p17_what_a_lost_link_brought_for_a_later_term_is_forgotten() -> None:
    """The next link starts from a position: old runs in between would hide entries."""
    sim = Sim().start()
    sim.get(PRIMARY, run(1, cut(10, (0, 1)), term=2))
    sim.do(LinkDown(PRIMARY))
    assert sim.core.stats().held_messages == 0


def test_a_view_that_is_installed_already_changes_nothing() -> None:
    sim = Sim().start()
    assert sim.do(ViewInstalled(view(1))) == []


def test_what_is_not_for_an_engine_is_ignored_and_counted() -> None:
    sim = Sim().start()
    assert sim.get(CLIENT, ResumeShard(shard())) == []
    assert sim.get(PRIMARY, Metalog(Run(LogSpaceId(9), Term(1), 0, ()))) == []
    assert sim.get(PRIMARY, MetalogPosition(9, at(1), 1)) == []
    assert sim.get(STORAGE[0], ShardHeld(shard()._replace(space=LogSpaceId(9)), 0)) == []
    assert sim.core.stats().ignored == 3
    assert sim.do(Persisted(1)) == []
    assert sim.do(TimerFired("nobody's")) == []


def test_status_tells_of_every_log_space() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a"))
    (told,) = sim.get(CLIENT, StatusRequest(4))
    assert isinstance(told, Send) and isinstance(told.message, Status)
    facts = told.message.facts
    assert (facts["role"], facts["node"], facts["incarnation"]) == ("engine", "engine-1", NUMBER)
    assert (facts["term"], facts["clients"], facts["unordered_frames"]) == (1, 1, 1)
    assert facts["spaces"] == {
        SPACE: {
            "standing": "open",
            "position": [1, 1],
            "records_ordered": 0,
            "unordered_frames": 1,
            "unordered_bytes": 65,
            "awaited_verdicts": 0,
            "read_only": "",
            "replicas": {"storage-1": 1},
            "index_replica": "storage-1",
            "index_position": [0, 0],
            "index_lag_records": 0,
            "tail": 1,
            "followed_books": 0,
        }
    }


def test_the_trace_remembers_events_without_payloads() -> None:
    sim = Sim(engine(trace_events=3)).start()
    sim.now_s = 2.5
    sim.get(CLIENT, append(0, "a"))
    sim.do(BatchEnded(0))
    assert list(sim.core.trace)[-2:] == [(0.0, PRIMARY, "Metalog"), (2.5, CLIENT, "AppendFrame")]
    assert len(sim.core.trace) == 3


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidSettings, match="retry_s=0"):
        EngineSettings(retry_s=0)
    with pytest.raises(InvalidSettings, match="facts_bytes=-1"):
        EngineSettings(facts_bytes=-1)


def test_an_engine_whose_links_come_before_its_view_opens_its_shard_all_the_same() -> None:
    sim = Sim()
    sim.up(PRIMARY, BULK[0], STORAGE[0])
    assert len(sim.install(view())) == 3
    sim.get(PRIMARY, run(0, opening()))
    assert sim.core.producers[SPACE].standing.value == "open"
