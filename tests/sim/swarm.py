"""Every knob of a run, drawn from its seed.

A fault of a kind is off in many runs altogether: what hides behind a common fault shows only where
that one is missing. Sizes are tiny, so that bounds are met within a second of virtual time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields

from bokilog.ids import LogSpaceId
from bokilog.record import Durability


@dataclass(slots=True, kw_only=True)
class Knobs:
    """One run. The defaults are a calm world; `draw` makes the others."""

    duration_s: float = 3.0
    """Of the first phase, under faults."""
    settle_s: float = 40.0
    """Of the second, at most: everything works, and everybody has to catch up."""

    # the cluster
    durabilities: tuple[Durability, ...] = ("sync",)
    """One log space each; the first is of class `sync`."""
    sequencer_count: int = 1
    heartbeat_s: float = 0.05
    store_lost_share: float = 0.0
    """Of answers of the view store."""
    storage_count: int = 3
    """Of replicas."""
    spare_count: int = 0
    """Further storage nodes, one of which takes the place of a replica that is gone for longer than
    `replace_after_s`."""
    replace_after_s: float = 0.0
    shrinks: bool = False
    """At some time the cluster is stopped, and goes on with one sequencer."""
    loses: str = ""
    """What is lost for good at some time, all at once, so that a person has to accept it (P15): the
    disks of a majority of `sequencers`, of a `write quorum` of storage nodes, of `all storage`
    nodes, or of a majority of sequencers and a write quorum, of `both`."""
    write_quorum: int = 2
    engine_count: int = 2
    client_count: int = 3
    facts: bool = True
    followed_books_max: int = 4096
    cache_bytes: int = 1 << 20
    unordered_frames_max: int = 16_384
    retry_s: float = 0.5
    segment_bytes: int = 1 << 26
    metalog_segment_bytes: int = 0
    """Of sequencers; 0: the same."""
    releases: bool = False
    """Whether segments that nobody needs go: then a node that comes back empty cannot fold from the
    start, and loads what a peer has folded."""
    load_entries: int = 1_000
    """One that lacks more than so many entries does so in any case."""
    cold_hot_bytes: int = 0
    """Of a storage node's journal that stay there; what is older goes to the object store. 0: there
    is none."""
    cold_cache_bytes: int = 1 << 20
    cold_latency_s: float = 0.002
    cold_retry_s: float = 0.2
    cold_error_share: float = 0.0
    """Of calls on the object store: they fail, or their answers are lost."""
    cold_lost_share: float = 0.0
    """Of uploads that it says it has."""
    retention_bytes: int | None = None
    """Of every LogBook."""
    node_cache_bytes: int = 1 << 20
    pending_bytes: int = 1 << 20
    checkpoint_s: float = 0.3
    postings_max: int = 200

    # time
    latency_s: float = 0.0005
    slow_share: float = 0.0
    slow_s: float = 0.05
    clog_s: float = 0.01
    sync_s: float = 0.001
    sync_slow_share: float = 0.0
    inline_sync: bool = False
    lag_s: float = 0.0002
    """How long a process takes to look at its inbox."""
    busy_share: float = 0.0
    """Of the times it looks: it was busy for up to `busy_s` before, so that whatever came meanwhile
    is one batch."""
    busy_s: float = 0.01
    view_lag_s: float = 0.0
    """How long at most a remote view store takes to tell of a view, so that it comes with other
    events in one batch; 0: each node has the store on its machine, and it is asked at once."""

    # faults: how often per second of the first phase
    faults: dict[str, float] = field(default_factory=dict)
    down_s: float = 0.2
    """How long a crashed process stays away, on average."""
    away_share: float = 0.3
    """Of runs in which a spare node is still down when everybody else is healed."""
    power_share: float = 0.5
    """Of crashes that take the machine with them."""

    # the workload
    workers: int = 2
    """Per client."""
    pause_s: float = 0.02
    """Between two operations of a worker, on average."""
    followers: int = 1
    """Per client."""
    timeout_s: float = 5.0
    tags: int = 3
    books: int = 2
    data_bytes: int = 40
    weights: dict[str, float] = field(default_factory=lambda: dict(WEIGHTS))

    @property
    def book_names(self) -> list[str]:
        """Of the LogBooks, each with its class."""
        classes = self.durabilities
        return [f"{classes[number % len(classes)]}-{number}" for number in range(self.books)]

    def durability_of(self, name: str) -> Durability:
        """The class that a LogBook of that name is meant to have."""
        return next(each for each in self.durabilities if name.startswith(each))

    def space_of(self, name: str) -> LogSpaceId:
        """Its log space, if it has that class."""
        return LogSpaceId(self.durabilities.index(self.durability_of(name)))

    def described(self) -> str:
        """What differs from the calm world."""
        calm = Knobs()
        changed = {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if getattr(self, each.name) != getattr(calm, each.name)
        }
        return " ".join(f"{name}={value!r}" for name, value in changed.items())


WEIGHTS: dict[str, float] = {
    "append": 10,
    "burst": 2,
    "batch": 3,
    "unless": 4,
    "key": 3,
    "read_next": 4,
    "read_prev": 4,
    "read": 2,
    "page": 2,
    "linearizable": 3,
    "tail": 2,
    "trim": 0.5,
    "trim_tag": 0.3,
    "hold": 0.4,
    "release": 0.2,
    "token": 1,
}

MORE_WEIGHTS: dict[str, float] = {
    "key_batch": 2,
    "aux": 2,
    "seqnum_at": 1,
    "delete": 0.2,
}
"""The same, for drawn worlds only: planted bugs are known by seeds of worlds without them."""

FAULTS: dict[str, float] = {
    "kill_storage": 0.6,
    "kill_sequencer": 0.25,
    "kill_engine": 0.3,
    "kill_client": 0.3,
    "reset": 2.0,
    "cut_one_way": 0.5,
    "cut": 0.3,
    "isolate": 0.4,
    "partition": 0.4,
    "clog": 0.5,
    "pause": 0.4,
    "full": 0.3,
    "failed_sync": 0.15,
    "wipe": 0.2,
    "flip": 0.6,
    "clock": 0.3,
    "checkpoint": 1.0,
}
"""How often per second, where they are on."""

CLASS_FAULTS: dict[str, float] = {"blackout": 0.4}
"""Of worlds that have other classes than `sync`: all storage nodes at once."""

COLD_FAULTS: dict[str, float] = {"store_away": 0.4, "flip_object": 1.0}
"""Of worlds with an object store."""

CLASSES: tuple[tuple[Durability, ...], ...] = (
    ("sync",),
    ("sync",),
    ("sync", "flush"),
    ("sync", "memory"),
    ("sync", "flush", "memory"),
)


SPARES_SHARE = 0.2
"""Of runs with several sequencers."""
COLD_SHARE = 0.3
"""Of all runs."""
HASTE_SHARE = 0.15
"""Of all runs."""
NUMBERS_SHARE = 0.15
"""Of all runs."""
LEARNING_SHARE = 0.25
"""Of runs with several sequencers."""
SHRINK_SHARE = 0.1
"""Of them, too."""
TURNS_SHARE = 0.3
"""Of runs with a `memory` log space."""
LOSS_SHARE = 0.04
"""Of those of them that have no spares and are not made smaller."""
LOSSES = ("sequencers", "sequencers", "sequencers", "write quorum", "all storage", "both")


def draw(seed: int, *, losses: bool = False) -> Knobs:
    """The knobs of a seed; `losses`: of a world in which a person accepts a loss."""
    chance = random.Random(f"{seed} swarm")
    knobs = Knobs(
        duration_s=chance.choice((0.5, 1.0, 2.0)),
        sequencer_count=chance.choice((1, 3, 3)),
        heartbeat_s=chance.choice((0.02, 0.05, 0.1)),
        store_lost_share=chance.choice((0.0, 0.0, 0.1)),
        facts=chance.random() < 0.75,
        followed_books_max=chance.choice((1, 2, 4096)),
        cache_bytes=chance.choice((0, 500, 4_000, 1 << 20)),
        unordered_frames_max=chance.choice((2, 16, 16_384, 16_384)),
        retry_s=chance.choice((0.1, 0.5, 1.0)),
        node_cache_bytes=chance.choice((0, 2_000, 1 << 20)),
        pending_bytes=chance.choice((300, 2_000, 1 << 20)),
        checkpoint_s=chance.choice((0.03, 0.2, 1.0, 10.0)),
        postings_max=chance.choice((10, 100, 100_000)),
        latency_s=chance.choice((0.0001, 0.0005, 0.002)),
        slow_share=chance.choice((0.0, 0.01, 0.1)),
        slow_s=chance.choice((0.005, 0.05, 0.2)),
        sync_s=chance.choice((0.0002, 0.001, 0.005)),
        sync_slow_share=chance.choice((0.0, 0.02, 0.2)),
        inline_sync=chance.random() < 0.25,
        lag_s=chance.choice((0.0, 0.0002, 0.002)),
        down_s=chance.choice((0.02, 0.2, 0.5)),
        power_share=chance.choice((0.0, 0.5, 1.0)),
        workers=chance.choice((1, 2, 4)),
        pause_s=chance.choice((0.015, 0.04, 0.1)),
        followers=chance.choice((0, 1, 2)),
        timeout_s=chance.choice((0.3, 2.0, 10.0)),
        tags=chance.choice((1, 3, 6)),
        books=chance.choice((1, 2, 3)),
        data_bytes=chance.choice((4, 40, 400)),
    )
    knobs.weights = {
        name: weight * chance.choice((0.0, 0.5, 1.0, 1.0, 3.0)) for name, weight in WEIGHTS.items()
    }
    knobs.weights["append"] = WEIGHTS["append"]
    amount = chance.choice((0.0, 0.5, 1.0, 1.0, 2.0))
    knobs.faults = {
        name: often * amount * chance.choice((0.0, 0.5, 1.0, 2.0)) for name, often in FAULTS.items()
    }
    if chance.random() < 0.4:
        knobs.releases = True
        knobs.segment_bytes = chance.choice((1 << 12, 1 << 14))
        if chance.random() < 0.5:
            knobs.faults["wipe"] = knobs.faults["flip"] = 0.0
    knobs.load_entries = chance.choice((0, 3, 20, 1_000))
    knobs.weights |= {
        name: weight * chance.choice((0.0, 0.5, 1.0, 3.0)) for name, weight in MORE_WEIGHTS.items()
    }
    knobs.durabilities = chance.choice(CLASSES)
    if len(knobs.durabilities) > 1:
        knobs.books += len(knobs.durabilities) - 1
        knobs.faults |= {
            name: often * amount * chance.choice((0.0, 1.0, 2.0))
            for name, often in CLASS_FAULTS.items()
        }
    if knobs.sequencer_count > 1 and knobs.durabilities == ("sync",):
        _draw_spares(knobs, random.Random(f"{seed} spares"))
    if "memory" in knobs.durabilities:
        _draw_turns(knobs, random.Random(f"{seed} turns"))
    _draw_cold(knobs, random.Random(f"{seed} cold"))
    if knobs.sequencer_count > 1:
        _draw_learning(knobs, random.Random(f"{seed} learning"))
        _draw_operator(knobs, random.Random(f"{seed} operator"))
    _draw_losses(knobs, random.Random(f"{seed} loss"), certain=losses)
    _draw_batches(knobs, random.Random(f"{seed} batches"))
    _draw_exchanges(knobs, random.Random(f"{seed} exchanges"))
    _draw_haste(knobs, random.Random(f"{seed} haste"))
    _draw_numbers(knobs, random.Random(f"{seed} numbers"))
    return knobs


def _draw_batches(knobs: Knobs, chance: random.Random) -> None:
    """Whether a batch is mostly one event, a few now and then, or many."""
    knobs.busy_share = chance.choice((0.0, 0.0, 0.03, 0.2, 0.6))
    knobs.busy_s = chance.choice((0.002, 0.01, 0.03))
    knobs.view_lag_s = chance.choice((0.0, 0.0, 0.01, 0.1))


def _draw_exchanges(knobs: Knobs, chance: random.Random) -> None:
    """One of three sequencers gets other disks now and then; none goes while others are lost."""
    if knobs.sequencer_count > 1 and not (knobs.shrinks or knobs.loses):
        knobs.faults["exchange"] = chance.choice((0.0, 0.0, 0.5, 2.0))


def _draw_haste(knobs: Knobs, chance: random.Random) -> None:
    """Terms end as soon as they have begun: nobody hears of all of them in time."""
    if chance.random() >= HASTE_SHARE:
        return
    knobs.faults["kill_sequencer"] = chance.choice((8.0, 20.0))
    knobs.down_s = chance.choice((0.01, 0.02, 0.05))
    knobs.checkpoint_s = min(knobs.checkpoint_s, 0.1)


def _draw_numbers(knobs: Knobs, chance: random.Random) -> None:
    """Other numbers of nodes than are usual. What one replica loses is lost for good."""
    if chance.random() >= NUMBERS_SHARE or knobs.loses or knobs.spare_count:
        return
    knobs.engine_count = chance.choice((1, 2, 4))
    if knobs.sequencer_count > 1 and not knobs.shrinks:
        knobs.sequencer_count = chance.choice((3, 5))
    knobs.storage_count = knobs.write_quorum = chance.choice((1, 2))
    if knobs.storage_count == 1:
        for name in ("wipe", "flip", "failed_sync", "flip_object", "in_turn"):
            knobs.faults[name] = 0.0


def _draw_cold(knobs: Knobs, chance: random.Random) -> None:
    """Small segments that go to an object store soon, and caches that do not spare it."""
    if chance.random() >= COLD_SHARE:
        return
    knobs.releases = True
    knobs.segment_bytes = chance.choice((1 << 14, 1 << 15))  # headers count as dead: 4 KiB each
    knobs.cold_hot_bytes = chance.choice((1, 1, 1 << 15))
    knobs.cold_cache_bytes = chance.choice((0, 1_000, 1 << 20))
    knobs.cold_latency_s = chance.choice((0.001, 0.01, 0.1))
    knobs.cold_retry_s = chance.choice((0.05, 0.5))
    knobs.cold_error_share = chance.choice((0.0, 0.0, 0.1, 0.3))
    knobs.cold_lost_share = chance.choice((0.0, 0.0, 0.2, 0.5))
    knobs.retention_bytes = chance.choice((None, None, 1_000, 10_000))
    knobs.node_cache_bytes = chance.choice((0, 2_000))
    knobs.cache_bytes = chance.choice((0, 500))
    knobs.checkpoint_s = chance.choice((0.03, 0.1, 0.3))
    knobs.duration_s += chance.choice((1.0, 2.0))
    knobs.data_bytes = chance.choice((40, 400, 1_000))
    knobs.pause_s = 0.015
    knobs.weights["append"] = 30
    knobs.weights["trim"] *= chance.choice((0.0, 0.2, 1.0))
    knobs.weights["page"] = 8
    knobs.faults |= {
        name: often * chance.choice((0.0, 1.0, 2.0)) for name, often in COLD_FAULTS.items()
    }


def _draw_learning(knobs: Knobs, chance: random.Random) -> None:
    """Sequencers let go of metalog with deletions in it and start again, and so do engines: these
    have to wait for what an index replica knows."""
    if chance.random() >= LEARNING_SHARE:
        return
    knobs.releases = True
    knobs.metalog_segment_bytes = 1 << 12
    knobs.checkpoint_s = chance.choice((0.03, 0.1))
    knobs.duration_s += 1.0
    knobs.weights["delete"] = chance.choice((0.5, 2.0))
    knobs.faults["kill_sequencer"] = chance.choice((1.0, 2.0))
    knobs.faults["kill_engine"] = chance.choice((1.0, 2.0))
    knobs.faults["clog"] = chance.choice((0.5, 3.0))


def _draw_operator(knobs: Knobs, chance: random.Random) -> None:
    """Somebody stops the cluster, changes it, and starts it again."""
    if chance.random() < SHRINK_SHARE:
        knobs.shrinks = True
        knobs.duration_s += 0.5


def _draw_losses(knobs: Knobs, chance: random.Random, *, certain: bool) -> None:
    """What is lost is lost at once, and by nothing else: no other disk may go before what is left
    is on several again."""
    wanted = chance.random() < LOSS_SHARE and knobs.sequencer_count > 1
    if not certain and (not wanted or knobs.shrinks or knobs.spare_count):
        return
    knobs.loses = chance.choice(LOSSES)
    knobs.sequencer_count, knobs.shrinks = 3, False
    knobs.spare_count, knobs.replace_after_s = 0, 0.0
    for name in ("wipe", "flip", "failed_sync", "lose_storage", "flip_object", "in_turn"):
        knobs.faults[name] = 0.0
    if knobs.loses != "sequencers":
        knobs.cold_hot_bytes = 0
    knobs.duration_s += 1.0
    knobs.checkpoint_s = chance.choice((0.03, 0.1, 0.3, 1.0))
    if chance.random() < 0.6:
        knobs.releases = True
        knobs.metalog_segment_bytes = 1 << 12
        knobs.segment_bytes = min(knobs.segment_bytes, 1 << 14)


def _draw_turns(knobs: Knobs, chance: random.Random) -> None:
    """Replicas of a `memory` log space are started again one after the other."""
    if chance.random() >= TURNS_SHARE:
        return
    knobs.faults["in_turn"] = chance.choice((1.0, 4.0))
    knobs.faults["blackout"] *= chance.choice((0.0, 0.0, 1.0))
    knobs.faults["kill_sequencer"] *= chance.choice((0.0, 1.0, 4.0))
    knobs.down_s = chance.choice((0.02, 0.05, 0.2))
    knobs.duration_s += 1.0


def _draw_spares(knobs: Knobs, chance: random.Random) -> None:
    """A replica that is replaced counts as lost, so no other one loses its disk in such a run."""
    if chance.random() >= SPARES_SHARE:
        return
    knobs.spare_count = chance.choice((1, 1, 2))
    knobs.replace_after_s = max(chance.choice((0.3, 0.6)), 8 * knobs.heartbeat_s)
    for name in ("wipe", "flip", "failed_sync"):
        knobs.faults[name] = 0.0
    knobs.faults["lose_storage"] = chance.choice((1.0, 3.0))
    knobs.duration_s += 1.0
