"""P22: after `EndTags(book, prefix)` units that write or test under the prefix are void.

1. A library ends `$w`. 2. A zombie of it appends under `$w` without condition or key. 3. Were it
answered once its frame is ordered, it would be told that a record stands in the log which no reader
will ever see. So a unit with a library's tag waits for the fold's verdict, like one with a key.
"""

from __future__ import annotations

import random

import pytest

from bokilog.client.books import Route
from bokilog.client.lane import Lane
from bokilog.client.session import Session
from bokilog.client.units import Unit
from bokilog.columns import Columns, Tags
from bokilog.effects import Effect, Received, Send
from bokilog.errors import TagsEnded
from bokilog.frame import (
    FLAG_VERDICT,
    decode_frame,
    decode_head,
    encode_header,
)
from bokilog.ids import START
from bokilog.messages import (
    VERDICT_TAGS_ENDED,
    VERDICT_VISIBLE,
    AppendFrame,
    FollowIndex,
    FrameOrdered,
    FrameVerdicts,
    IndexStream,
    Propose,
)
from bokilog.metalog import EndTags, Proposer
from bokilog.wire import decode, encode
from tests.frames import SHARD, columns_of, frame_of
from tests.protocol.storage_rig import ENGINE, NUMBER, StorageRig, cut, frame, messages
from tests.sim.checkers import records_of
from tests.sim.clients import BOOK
from tests.sim.core_clients import CoreClient, Outcome
from tests.sim.world import ENGINES, SEQUENCER, SPACE, STORAGE, World
from tests.unit.functions.engine import world as engine_world
from tests.unit.functions.engine.world import Sim, at

NOBODY = Proposer(0, 0)


# --- which units these are ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "unit_records", "units"),
    [
        (["a", "b$"], None, ()),
        (["a", "$w"], None, (1,)),
        ([None, ["a", "b"]], None, ()),
        ([None, ["a", "$w"], "$"], None, (1, 2)),
        (["a", "$w/1", "$w/2", "b", "$v"], [1, 2, 2], (1, 2)),
    ],
)
def test_p22_units_with_a_librarys_tag_are_known_from_the_columns(
    tags: list[Tags], unit_records: list[int] | None, units: tuple[int, ...]
) -> None:
    columns = columns_of([b"x"] * len(tags), tags=tags, unit_records=unit_records)
    header = encode_header(shard=SHARD, first=0, columns=columns)
    for each in (columns, Columns.decode(columns.encode())):
        assert each.system_units == units
        assert each.needs_verdict == bool(units)
    assert decode_head(header).flags == (FLAG_VERDICT if units else 0)


def test_a_frame_that_was_not_flagged_for_its_tags_is_read_all_the_same() -> None:
    """Frames of before that are in journals; what their units need is known from the columns."""
    columns = columns_of([b"x"], tags=["$w"])
    columns.system_units = ()
    old = b"".join(map(bytes, frame_of(columns, [b"x"]).buffers()))
    assert decode_head(old).flags == 0
    assert decode_frame(old).columns.needs_verdict


# --- the client -----------------------------------------------------------------------------------


def test_p22_the_client_waits_for_the_verdict_of_a_unit_under_a_librarys_tag() -> None:
    lane = Lane(1, lambda: None)
    route = Route(name="b", number=BOOK, space=1, durability="sync")
    outcomes = [Outcome(data) for data in (b"a", b"b", b"c")]
    for outcome, tag in zip(outcomes, ("t", "$w/1", "$v"), strict=True):
        lane.append(route, Session("h"), outcome.data, tag, outcome)
    lane.seal(1000.0)
    assert lane.head() is not None
    number = lane.take_head().number
    assert lane.ordered(FrameOrdered(1, number, 10, START, 0)) is None
    assert [outcome.seqnum for outcome in outcomes] == [10, None, None]
    told: list[list[object]] = [[1, VERDICT_TAGS_ENDED, "$w", None], [2, VERDICT_VISIBLE, 12, None]]
    done, homeless = lane.verdicts(FrameVerdicts(1, number, START, told))
    assert done is not None and not homeless
    assert isinstance(outcomes[1].error, TagsEnded) and outcomes[1].error.definite
    assert outcomes[2].seqnum == 12
    assert lane.idle


def test_p22_a_resent_unit_under_a_librarys_tag_still_waits_for_its_verdict() -> None:
    lane = Lane(1, lambda: None)
    outcome = Outcome(b"a")
    unit = Unit(
        datas=[b"a"],
        tags=["$w"],
        conditions=(),
        key=None,
        session=Session("h"),
        waiter=outcome,
    )
    lane.add(unit, Route(name="b", number=BOOK, space=1, durability="sync"))
    lane.seal(1000.0)
    lane.put_back(lane.take_head().number)
    frame_again = lane.take_head()
    lane.ordered(FrameOrdered(1, frame_again.number, 10, START, 0))
    assert not outcome.done()


# --- the engine -----------------------------------------------------------------------------------


def told(effects: list[Effect]) -> list[type]:
    return [type(each.message) for each in effects if isinstance(each, Send)]


def test_p22_the_engine_asks_the_fold_for_the_verdict_until_it_has_it() -> None:
    sim = Sim().start()
    sim.get(engine_world.CLIENT, engine_world.append(1, "$w", "a"))
    ordered = sim.get(engine_world.PRIMARY, engine_world.run(1, engine_world.cut(10, (0, 2))))
    assert told(ordered) == [FrameOrdered]
    assert sim.core.producers[engine_world.SPACE].under_way.awaited.rows() == [
        [1, engine_world.NUMBER, 0, 10]
    ]
    outcomes: list[list[object]] = [[0, VERDICT_VISIBLE, 10, None]]
    row: list[object] = [1, engine_world.NUMBER, 0, outcomes]
    news = IndexStream(engine_world.SPACE, at(0), at(2), 12, [], [], [row], [], [], [])
    assert sim.get(engine_world.STORAGE[0], news) == [
        Send(engine_world.CLIENT, FrameVerdicts(engine_world.SPACE, 1, at(2), outcomes))
    ]


# --- the fold -------------------------------------------------------------------------------------


def test_p22_the_fold_tells_the_verdict_and_tells_it_again_to_whoever_missed_it() -> None:
    rig = StorageRig().begin()
    rig.get(ENGINE, FollowIndex(rig.replica.space.id, NUMBER, [], []))
    rig.hold(frame(0, b"a", b"b", tags=["$w", "t"]), frame(2, b"c", tags=["$w/1"]))
    streams = messages(rig.order(cut(1, 0, 2)), IndexStream)
    visible: list[object] = [0, VERDICT_VISIBLE, 1, None]
    ended: list[object] = [0, VERDICT_TAGS_ENDED, "$w", None]
    assert [s.verdicts for s in streams if isinstance(s, IndexStream)] == [
        [[1, NUMBER, 0, [visible]]]
    ]
    streams = messages(rig.order(EndTags(0, 7, "$w", NOBODY), cut(3, 2, 3)), IndexStream)
    assert [s.verdicts for s in streams if isinstance(s, IndexStream)] == [
        [[1, NUMBER, 2, [ended]]]
    ]
    rig.checkpoint()
    again = FollowIndex(rig.replica.space.id, NUMBER, [], [[1, NUMBER, 0, 1], [1, NUMBER, 2, 3]])
    (stream,) = messages(rig.get(ENGINE, again), IndexStream)
    assert isinstance(stream, IndexStream)
    assert [list(map(list, row[3])) for row in stream.verdicts] == [[visible], [ended]]  # type: ignore[call-overload]


def test_p22_such_a_frame_is_the_same_over_the_wire() -> None:
    columns = columns_of([b"x"], tags=["$w"])
    kind, head, parts = encode(AppendFrame(1, 1, columns, [b"x"]))
    again = decode(kind, head, [memoryview(bytes(part)) for part in parts])
    assert isinstance(again, AppendFrame) and again.columns.system_units == (0,)


# --- all of it ------------------------------------------------------------------------------------


def fault(world: World, rng: random.Random) -> None:
    """Not of the sequencer: the entry that ends the tags was given to it directly, and once."""
    what = rng.random()
    if what < 0.15:
        world.restart(rng.choice(STORAGE), keep_unsynced=rng.random() < 0.5)
    elif what < 0.4:
        world.break_link(rng.choice(ENGINES), rng.choice((SEQUENCER, *STORAGE)))


@pytest.mark.parametrize("seed", range(6))
def test_p22_nothing_is_acknowledged_under_ended_tags_whatever_breaks(seed: int) -> None:
    world = World(seed)
    rng = world.random
    client = CoreClient(101, world)
    client.connect(ENGINES[0])
    under: list[Outcome] = []
    for turn in range(40):
        for _ in range(rng.randrange(1, 4)):
            tag = rng.choice(("t", "$v", "$w/1", ["t", "$w/1"]))
            outcome = client.append(tag)
            if "$w/1" in tag:
                under.append(outcome)
        if turn == 20:
            end = Propose(1, SPACE, EndTags(0, BOOK, "$w", NOBODY))
            world.deliver(SEQUENCER, Received(ENGINES[1], end))
        for _ in range(rng.randrange(60)):
            world.step()
        fault(world, rng)
    assert world.run(lambda: not client.waiting), world.trace[-20:]
    assert world.run(lambda: len({world.index(node).position for node in STORAGE}) == 1)

    served = {data: seqnum for seqnum, (data, _) in records_of(world, STORAGE[0]).items()}
    for outcome in client.outcomes:
        assert served.get(outcome.data) == outcome.seqnum, outcome
        assert outcome.error is None or (outcome in under and isinstance(outcome.error, TagsEnded))
    ended = [outcome.error is not None for outcome in under]
    assert ended == sorted(ended), "one was acknowledged after the tags had ended"
    assert set(ended) == {False, True}
