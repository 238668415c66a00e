"""What tests of the engine are made of: views, columns, short forms of effects, and tiny fakes of
its peers.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from bokilog.columns import Columns, Tags, record_sum
from bokilog.cut import CutSpan
from bokilog.effects import (
    Effect,
    Event,
    LinkUp,
    Received,
    Send,
    ViewInstalled,
)
from bokilog.functions.engine.core import EngineCore
from bokilog.functions.engine.settings import EngineSettings
from bokilog.ids import START, LogSpaceId, NodeId, Position, Shard, Term
from bokilog.limits import NO_END
from bokilog.messages import AppendFrame, Message, Metalog, Read, ReadReply, Replicate
from bokilog.metalog import Cut, Entry, OpenShard, Run
from bokilog.record import Durability
from bokilog.view import End, LogSpace, View

SPACE = LogSpaceId(1)
BOOK = 7
NUMBER = 5
CLIENT = 1
ENGINE, PRIMARY = NodeId("engine-1"), NodeId("sequencer-1")
STORAGE = tuple(NodeId(f"storage-{number}") for number in (1, 2, 3))
BULK = tuple(("bulk", node) for node in STORAGE)


def view(
    term: int = 1,
    *,
    end: Position = START,
    tail: int = 1,
    primary: NodeId = PRIMARY,
    replicas: tuple[NodeId, ...] = STORAGE[:1],
    durability: Durability = "sync",
) -> View:
    space = LogSpace(
        id=SPACE, durability=durability, primary=primary, replicas=replicas, write_quorum=1
    )
    ended = End(space=SPACE, position=end, tail=tail, timestamp_ms=0)
    return View(
        cluster_id="c", history_id="h", term=Term(term), nodes=(), spaces=(space,), ends=(ended,)
    )


def columns(
    *tags: Tags,
    books: int | list[int] = BOOK,
    unit_records: list[int] | None = None,
    data: list[bytes] | None = None,
    unless: dict[int, list[tuple[str | None, int]]] | None = None,
) -> Columns:
    names: list[Tags] = list(tags) or [None]
    datas = data or [b"x"] * len(names)
    return Columns(
        books=books,
        unit_records=unit_records,
        tags=names,
        lengths=array("I", map(len, datas)),
        sums=array("Q", (record_sum(each)[0] for each in datas)),
        blocks=array("Q"),
        unless=list((unless or {}).items()),
        keys=[],
    )


def append(
    number: int,
    *tags: Tags,
    books: int | list[int] = BOOK,
    unit_records: list[int] | None = None,
    data: list[bytes] | None = None,
    unless: dict[int, list[tuple[str | None, int]]] | None = None,
) -> AppendFrame:
    cols = columns(*tags, books=books, unit_records=unit_records, data=data, unless=unless)
    return AppendFrame(SPACE, number, cols, data or [b"x"] * len(cols.tags))


def read(
    request: int = 1,
    *,
    tag: str | None = None,
    start: int = 0,
    until: int = NO_END,
    limit: int = 10,
    max_bytes: int = 1 << 20,
    reverse: bool = False,
    position: Position = START,
    wait_ms: int = 0,
    linearizable: bool = False,
    book: int = BOOK,
    bytes_start: int = -1,
    bytes_until: int = -1,
) -> Read:
    return Read(
        *(request, SPACE, book, tag, start, until, limit, max_bytes, reverse, position, wait_ms),
        *(linearizable, bytes_start, bytes_until),
    )


def reply(
    request: int,
    seqnums: Iterable[int],
    *,
    position: Position,
    tail: int,
    next_seqnum: int,
    more: bool = False,
    trim_until: int = 0,
    tags: list[Tags] | None = None,
) -> ReadReply:
    found = list(seqnums)
    return ReadReply(
        *(request, position, tail, trim_until, next_seqnum, more, found),
        *(tags or ["t"] * len(found), [1000] * len(found), None),
        [b"data-%d" % seqnum for seqnum in found],
    )


def shard(term: int = 1) -> Shard:
    return Shard(SPACE, Term(term), NUMBER)


def at(count: int, term: int = 1) -> Position:
    return Position(Term(term), count)


def run(first: int, *entries: Entry, term: int = 1) -> Metalog:
    return Metalog(Run(SPACE, Term(term), first, entries))


def opening(*replicas: NodeId, number: int = NUMBER) -> OpenShard:
    return OpenShard(1000, number, ENGINE, replicas or STORAGE[:1])


def cut(seqnum: int, *spans: tuple[int, int], number: int = NUMBER) -> Cut:
    return Cut(1000, seqnum, tuple(CutSpan(number, start, until) for start, until in spans))


def engine(**settings: int | float) -> EngineCore:
    return EngineCore(EngineSettings(**settings), ENGINE, NUMBER)  # type: ignore[arg-type]


class Sim:
    """An engine, driven event by event, whose invariants are checked after each."""

    def __init__(self, core: EngineCore | None = None) -> None:
        self.core = core or engine()
        self.now_s = 0.0

    def do(self, event: Event) -> list[Effect]:
        effects = self.core.handle(event, self.now_s)
        self.core.check()
        return effects

    def get(self, source: object, message: Message) -> list[Effect]:
        return self.do(Received(source, message))

    def up(self, *peers: object) -> list[Effect]:
        return [effect for peer in peers for effect in self.do(LinkUp(peer))]

    def install(self, new: View) -> list[Effect]:
        return self.do(ViewInstalled(new))

    def start(self, *replicas: NodeId) -> Sim:
        """In term 1, with an open shard on these replicas, all links up, and one client."""
        nodes = replicas or STORAGE[:1]
        self.up(PRIMARY, CLIENT, *nodes, *(("bulk", node) for node in nodes))
        self.install(view(replicas=nodes))
        self.get(PRIMARY, run(0, opening(*nodes)))
        return self


def short(effects: list[Effect]) -> list[object]:
    """Effects with frames as (to, shard, first, until), so that whole lists compare."""
    return [
        (
            effect.to,
            effect.message.frame.shard,
            effect.message.frame.first,
            effect.message.frame.until,
        )
        if isinstance(effect, Send) and isinstance(effect.message, Replicate)
        else effect
        for effect in effects
    ]


def sends(effects: list[Effect], to: object | None = None) -> list[object]:
    """Only what is sent, in short form, without timers."""
    kept = [each for each in effects if isinstance(each, Send) and to in (None, each.to)]
    return short([*kept])
