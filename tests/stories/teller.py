"""Plays a story on the simulator's cluster, and writes down what callers are told.

A story is text: comments, commands after `> `, and below each command what came of it. Commands:

    cluster of S sequencers              the first one; three storage nodes, two engines
    ANN appends DATA [tag T] [key K] [unless T AFTER] [timeout N]
    ANN begins to append ...             the same, and nobody waits for it
    ANN is told                          what became of what she began, in order
    ANN reads [tag T] [linearizable]     all there is
    ANN follows [tag T]; ANN has seen    a follow from the start; what it has yielded so far
    ANN dies                             with whatever she waited for
    kill NODE; power off NODE; start NODE; pause NODE; resume NODE; new disk for NODE
    fill NODE; free NODE; slow NODE by N     its disk: full, with room again, N seconds per sync
    flip a bit of NODE                       in what its journal holds
    cut A to B; mend A to B; cut off A; mend all
    wait N; who is primary; who holds what

`the primary` names a node, as do `a backup`, `another backup`, and `ann's engine`. Time is virtual,
and said roughly: what stays the same when a constant changes a little. The oracle watches every
fold of a story, too (`tests/sim/oracle.py`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from bokilog.client.admin import ClientLog
from bokilog.client.node import Client
from bokilog.errors import AppendUnknown, BokilogError, ConditionFailed
from bokilog.ids import NodeId
from bokilog.record import Record
from tests.sim.cluster import SPACE, Cluster
from tests.sim.loop import ProcessLoop, World
from tests.sim.swarm import Knobs
from tests.sim.workload import SimPort

SEED = 1
BOUND_S = 60.0
"""Nobody waits longer than that."""
BOOK = "book"
PROMPT = "> "


class Caller:
    """Somebody with a connection."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self.loop = ProcessLoop(cluster.world, name)
        self.began: list[tuple[str, float, asyncio.Task[object]]] = []
        self.followed: list[Record] = []
        self._following: asyncio.Task[None] | None = None
        self._world = cluster.world
        self._cluster = cluster
        self.log = self.loop.inside(self._connect)
        core = self.log.client.core
        assert cluster.world.run(lambda: core.welcome is not None, limit_s=BOUND_S)
        self.book = self.log.book(BOOK)

    def _connect(self) -> ClientLog:
        return ClientLog(
            Client(
                lambda events: SimPort(self._cluster, self.name, self.loop, events),
                timeout_s=BOUND_S / 2,
            )
        )

    @property
    def engine(self) -> NodeId:
        welcome = self.log.client.core.welcome
        assert welcome is not None
        return NodeId(welcome.node)

    def begin(self, what: str, call: Awaitable[object]) -> asyncio.Task[object]:
        async def awaited() -> object:
            return await call

        task = self.loop.create_task(awaited())
        self.began.append((what, self._world.now_s, task))
        return task

    def follow(self, tag: str | None) -> None:
        async def follow() -> None:
            async for record in self.book.follow(tag=tag):
                assert isinstance(record, Record)
                self.followed.append(record)

        self._following = self.loop.create_task(follow())

    def die(self) -> None:
        port = self.log.client.core.port
        self.loop.end()
        if port is not None:
            port.close()


@dataclass
class Story:
    """One story as it goes on."""

    cluster: Cluster = field(init=False)
    callers: dict[str, Caller] = field(default_factory=dict)

    def play(self, text: str) -> str:
        """The story with what really came of each command."""
        lines: list[str] = []
        for line in text.splitlines():
            if line.startswith(PROMPT):
                lines += [line, *(f"    {each}" for each in self._do(line.removeprefix(PROMPT)))]
            elif not line.startswith("    "):
                lines.append(line)
        self._end()
        return "\n".join(lines) + "\n"

    @property
    def world(self) -> World:
        return self.cluster.world

    def _do(self, command: str) -> list[str]:
        for pattern, action in _COMMANDS:
            found = re.fullmatch(pattern, command)
            if found is not None:
                said = action(self, *found.groups())
                assert not self.world.violations, self.world.violations
                return [] if said is None else said
        raise AssertionError(f"nobody knows what to do about {command!r}")

    def _end(self) -> None:
        for caller in self.callers.values():
            caller.die()
        for process in list(self.cluster.processes.values()):
            process.end()
        assert not self.world.violations, self.world.violations

    # --- the cluster ------------------------------------------------------------------------------

    def begin(self, sequencers: str) -> list[str]:
        knobs = Knobs(sequencer_count=int(sequencers), heartbeat_s=0.2, checkpoint_s=10.0)
        self.cluster = Cluster(World(SEED), knobs)
        for node in self.cluster.nodes:
            self.cluster.start(node)
        assert self.world.run(lambda: self.cluster.published() is not None, limit_s=BOUND_S)
        return self.primary()

    def node(self, name: str) -> NodeId:
        space = self.cluster.views.latest().space(SPACE)
        if name == "the primary":
            return space.primary
        if name in ("a backup", "another backup"):
            return sorted(space.backups)[name == "another backup"]
        if name.endswith("'s engine"):
            return self.callers[name.removesuffix("'s engine")].engine
        assert name in self.cluster.nodes, f"there is no {name}"
        return NodeId(name)

    def primary(self) -> list[str]:
        view = self.cluster.views.latest()
        return [f"{view.space(SPACE).primary}, in term {view.term}"]

    def kill(self, name: str) -> list[str] | None:
        return self._crash(name, power=False)

    def power_off(self, name: str) -> list[str] | None:
        return self._crash(name, power=True)

    def _crash(self, name: str, *, power: bool) -> list[str] | None:
        node = self.node(name)
        self.cluster.crash(node, power=power)
        return [f"{node} is dead"] if name != node else None

    def start(self, name: str) -> None:
        self.cluster.start(self.node(name))

    def pause(self, name: str) -> list[str] | None:
        node = self.node(name)
        self.cluster.processes[node].loop.pause()
        return [f"{node} stands still"] if name != node else None

    def resume(self, name: str) -> None:
        self.cluster.processes[self.node(name)].loop.resume()

    def new_disk(self, name: str) -> None:
        node = self.node(name)
        assert node not in self.cluster.processes, f"{node} runs"
        self.cluster.disks[node].wipe()

    def fill(self, name: str) -> None:
        self.cluster.disks[self.node(name)].fill()

    def free(self, name: str) -> None:
        self.cluster.disks[self.node(name)].free()

    def flip(self, name: str) -> None:
        assert self.cluster.disks[self.node(name)].flip()

    def slow(self, name: str, seconds: str) -> None:
        for journal in self.cluster.disks[self.node(name)].journals.values():
            journal._knobs = replace(journal._knobs, sync_s=float(seconds))

    def cut(self, source: str, target: str) -> None:
        self.cluster.network.cut(self._end_of(source), self._end_of(target))

    def mend(self, source: str, target: str) -> None:
        self.cluster.network.mend(self._end_of(source), self._end_of(target))

    def cut_off(self, name: str) -> list[str] | None:
        node = self.node(name)
        for other in (*self.cluster.nodes, *self.callers):
            if other != node:
                self.cluster.network.cut(node, other)
                self.cluster.network.cut(other, node)
        return [f"{node} hears nobody, and nobody hears it"] if name != node else None

    def mend_all(self) -> None:
        self.cluster.network.heal()

    def _end_of(self, name: str) -> str:
        return name if name in self.callers else self.node(name)

    def wait(self, seconds: str) -> None:
        end_s = self.world.now_s + float(seconds)
        self.world.run(lambda: self.world.now_s >= end_s, limit_s=float(seconds))

    def who_holds_what(self) -> list[str]:
        """Records of the LogBook that each storage node has folded."""
        published = self.cluster.published()
        found = []
        for node in self.cluster.storage:
            replica = self.cluster.replica(node)
            if replica is None:
                found.append(f"{node} is dead")
            else:
                at = replica.index.position.count
                found.append(f"{node} {'has everything' if at == published else 'is behind'}")
        return found

    # --- callers ----------------------------------------------------------------------------------

    def caller(self, name: str) -> Caller:
        caller = self.callers.get(name)
        if caller is None:
            caller = self.callers[name] = Caller(self.cluster, name)
        return caller

    def append(self, name: str, data: str, options: str) -> list[str]:
        self.begin_append(name, data, options)
        return self.told(name)

    def begin_append(self, name: str, data: str, options: str) -> None:
        caller = self.caller(name)
        asked = dict(re.findall(r"(tag|key|timeout) (\S+)", options))
        tested = re.search(r"unless (\S+) (\d+)", options)
        call = caller.book.append(
            data.encode(),
            tags=asked.get("tag", ()),
            key=asked.get("key"),
            unless={tested[1]: int(tested[2])} if tested else None,
            timeout_s=float(asked["timeout"]) if "timeout" in asked else None,
        )
        assert not caller.begin(data, call).done()

    def told(self, name: str) -> list[str]:
        caller, found = self.caller(name), []
        began, caller.began = caller.began, []
        for what, since_s, task in began:
            self.world.run(task.done, limit_s=BOUND_S)
            outcome = _outcome(task) if task.done() else "nothing yet"
            subject = "" if len(began) == 1 else f"{what}: "
            found.append(f"{subject}{outcome}, {_roughly(self.world.now_s - since_s)}")
        return found

    def read(self, name: str, tag: str | None, linearizable: str | None) -> list[str]:
        caller = self.caller(name)

        async def scan() -> list[Record]:
            scanned = caller.book.scan(
                tag=tag, consistency="linearizable" if linearizable else "session"
            )
            return [record async for record in scanned]

        task = caller.begin("", scan())
        caller.began.pop()
        since_s = self.world.now_s
        self.world.run(task.done, limit_s=BOUND_S)
        if not task.done():
            return ["nothing yet"]
        error = task.exception()
        if error is not None:
            return [f"{type(error).__name__}, {_roughly(self.world.now_s - since_s)}"]
        found = task.result()
        assert isinstance(found, list)
        return [_records(found)]

    def follow(self, name: str, tag: str | None) -> None:
        self.caller(name).follow(tag)

    def seen(self, name: str) -> list[str]:
        return [_records(self.caller(name).followed)]

    def dies(self, name: str) -> None:
        self.callers.pop(name).die()


def _outcome(task: asyncio.Task[object]) -> str:
    error = task.exception()
    if error is None:
        return f"at {task.result()}"
    assert isinstance(error, BokilogError), repr(error)
    if isinstance(error, ConditionFailed):
        return f"ConditionFailed: {error.tag} stands at {error.winner}"
    if isinstance(error, AppendUnknown):
        return "AppendUnknown: it may or may not be there"
    return f"{type(error).__name__}{': it did not happen' if error.definite else ''}"


def _records(found: list[Record]) -> str:
    return ", ".join(f"{record.seqnum} {record.data.decode()}" for record in found) or "nothing"


def _roughly(seconds: float) -> str:
    known = ((0.05, "at once"), (0.5, "after a moment"), (1.5, "within 1.5 s"), (2, "within 2 s"))
    for limit_s, text in known:
        if seconds <= limit_s:
            return text
    return f"after about {round(seconds)} s"


Action = Callable[..., list[str] | None]
_NAME = r"(the primary|a backup|another backup|[\w-]+(?:'s engine)?)"
_COMMANDS: tuple[tuple[str, Action], ...] = (
    (r"cluster of (\d) sequencers?", Story.begin),
    (r"(\w+) begins to append (\w+)(.*)", Story.begin_append),
    (r"(\w+) appends (\w+)(.*)", Story.append),
    (r"(\w+) is told", Story.told),
    (r"(\w+) reads(?: tag (\w+))?( linearizably)?", Story.read),
    (r"(\w+) follows(?: tag (\w+))?", Story.follow),
    (r"(\w+) has seen", Story.seen),
    (r"(\w+) dies", Story.dies),
    (rf"kill {_NAME}", Story.kill),
    (rf"power off {_NAME}", Story.power_off),
    (rf"start {_NAME}", Story.start),
    (rf"pause {_NAME}", Story.pause),
    (rf"resume {_NAME}", Story.resume),
    (rf"new disk for {_NAME}", Story.new_disk),
    (rf"fill {_NAME}", Story.fill),
    (rf"free {_NAME}", Story.free),
    (rf"flip a bit of {_NAME}", Story.flip),
    (rf"slow {_NAME} by ([\d.]+)", Story.slow),
    (rf"cut {_NAME} to {_NAME}", Story.cut),
    (rf"mend {_NAME} to {_NAME}", Story.mend),
    (rf"cut off {_NAME}", Story.cut_off),
    (r"mend all", Story.mend_all),
    (r"wait ([\d.]+)", Story.wait),
    (r"who is primary", Story.primary),
    (r"who holds what", Story.who_holds_what),
)
