"""One run: a cluster, its clients, and a nemesis; then everything heals and has to catch up.

Decides which fault strikes when, from the seed. First phase: safety under faults. Second phase: a
write quorum works, and every append has to complete; then all nodes do, and every replica and every
follow has to come to the end of the order.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bokilog.errors import BokilogError, CorruptRecord, HistoryChanged
from bokilog.functions.engine.core import EngineCore
from bokilog.ids import NodeId
from bokilog.sequencer.core import SequencerCore
from bokilog.sequencer.member import MemberCore
from bokilog.sequencer.next_view import has_vote
from bokilog.storage_nodes.core import StorageCore
from tests.sim.cluster import Cluster
from tests.sim.disk import Atlas, Disk
from tests.sim.history import History, Track
from tests.sim.loop import World
from tests.sim.losses import Losses
from tests.sim.operator import Operator
from tests.sim.swarm import Knobs, draw
from tests.sim.turns import Turns
from tests.sim.verdicts import (
    Judge,
    absent_though_lost,
    broken_rules,
    first,
    served,
    unlike_the_order,
)
from tests.sim.workload import Calls, SimClient

LOOK_S = 0.05
"""How often it is looked whether everything has settled."""
OLD_DISK_SHARE = 0.3
"""Of exchanges of a sequencer's disk for which there is one that it had before."""
CLOCK_JUMPS_MS = (-600_000, -5_000, 300, 5_000, 600_000, 3_700_000, 8 * 24 * 3_600_000)


@dataclass(slots=True)
class Report:
    """What became of a run."""

    seed: int
    knobs: Knobs
    violations: list[str]
    digest: str
    steps: int
    messages: int
    appends: int
    """Acknowledged."""
    reads: int
    """Answered."""
    faults: dict[str, int]
    reached: dict[str, int]
    """How often paths were taken that many runs go without."""
    lines: list[str]

    @property
    def ok(self) -> bool:
        return not self.violations


class Simulation:
    """Everything of one run."""

    def __init__(self, seed: int, knobs: Knobs | None = None, *, traced: bool = False) -> None:
        self.knobs = knobs or draw(seed)
        self.world = World(seed, traced=traced)
        self.cluster = Cluster(self.world, self.knobs)
        oracles = self.cluster.oracles
        self.history = History(
            self.world,
            lambda: tuple(oracle.now for oracle in oracles.values()),
            spaces=len(oracles),
        )
        self.clients: dict[int, SimClient] = {}
        self.nemesis = Nemesis(self)
        self._lives = 0

    def run(self) -> Report:
        """Both phases and all checks."""
        try:
            self._play()
        finally:
            for client in self.clients.values():
                client.die()
            for process in list(self.cluster.processes.values()):
                process.end()
        return self._report()

    def _play(self) -> None:
        world = self.world
        for node in self.cluster.nodes:
            self.cluster.start(node)
        for number in range(self.knobs.client_count):
            self.start_client(number)
        self.nemesis.start()
        world.run_until(self.knobs.duration_s)
        if not world.violations:
            self._settle()
        if not world.violations:
            self._check()

    def start_client(self, number: int) -> None:
        self._lives += 1
        client = SimClient(self.cluster, self.knobs, self.history, number, self._lives)
        self.clients[number] = client
        client.start()

    def new_clients(self) -> None:
        """Nobody goes on who has seen anything."""
        for number in sorted(self.clients):
            self.clients[number].die()
            self.start_client(number)

    # --- the second phase -------------------------------------------------------------------------

    def _settle(self) -> None:
        """No more faults: a write quorum, then everybody, and nothing may be left waiting."""
        self.nemesis.heal()
        for client in self.clients.values():
            client.stopping = True
        auditor = self._auditor()
        try:
            self._demand_all(auditor)
        finally:
            auditor.die()

    def _demand_all(self, auditor: SimClient) -> None:
        self._demand("every call is answered", lambda: self.history.unanswered == 0)
        self._demand("an append goes through", lambda: auditor.stopping)
        self.nemesis.start_all()
        self._demand("every replica stands at the end", lambda: self.cluster.together)
        self._demand("every replica has all records", lambda: not self._copying())
        self._demand("every follow is at the end", lambda: not any(self._behind()))
        self._demand("damaged objects are made good", self._whole)
        self._demand("replicas of the last view are there, too", self._all_there)

    def _demand(self, what: str, holds: Callable[[], bool]) -> None:
        world, limit_s = self.world, self.knobs.settle_s
        end_s = world.now_s + limit_s
        while not world.violations and not holds():
            if world.now_s >= end_s:
                world.violation(f"within {limit_s} s not: {what}\n{self.stuck()}")
                return
            world.run_until(world.now_s + LOOK_S)

    def _behind(self) -> list[str]:
        """What follows that go on have still to yield."""
        judge = Judge(self.history, self.cluster.oracles)
        reasons = [judge.behind(each) for each in self.history.followings if not each.over]
        return [reason for reason in reasons if reason is not None]

    def _copying(self) -> bool:
        """Whether some replica has yet to get records of its fold from its peers (P33)."""
        cluster = self.cluster
        replicas = [
            cluster.replica(node, space)
            for space in cluster.spaces
            for node in cluster.replicas(space)
        ]
        return any(each is None or each.filling.busy for each in replicas)

    def _whole(self) -> bool:
        """Who reads a damaged frame in the object store has it repaired."""
        if not self.knobs.cold_hot_bytes:
            return True
        whole = True
        for space in self.cluster.spaces:
            for node in self.cluster.replicas(space):
                replica = self.cluster.replica(node, space)
                if replica is None:
                    return False
                for book in self.cluster.oracles[space].timelines:
                    found = served(replica, book, self.cluster.cold_bytes(node))
                    if isinstance(found, CorruptRecord):
                        replica._upkeep.suspect(found.seqnum)
                        whole = False
        return whole

    def _all_there(self) -> bool:
        """Meanwhile a spare may have taken the place of a replica that was slow to come back."""
        return self.cluster.together and not self._copying()

    def _auditor(self) -> SimClient:
        """A new client: appends once to each LogBook, and reads all of it."""
        self._lives += 1
        auditor = SimClient(self.cluster, self.knobs, self.history, 99, self._lives)
        auditor.spawn(self._audit(auditor))
        return auditor

    async def _audit(self, auditor: SimClient) -> None:
        await auditor._up()
        await self._show_old_tokens(auditor)
        session = auditor._log.client.default_session
        track = Track(auditor.life)
        for name in self.knobs.book_names:
            book = auditor._log.book(name, session=session)
            calls = Calls(auditor, book, track, session, auditor._chance)
            done = await calls._append_one(auditor.data(), "t0")
            for _ in range(50):
                if done.ok:
                    break
                done = await calls._append_one(auditor.data(), "t0")
            if not done.ok:
                self.world.violation(f"no append goes through: {done}\n{self.stuck()}")
            await calls._page(linearizable=True)
        auditor.stopping = True

    async def _show_old_tokens(self, auditor: SimClient) -> None:
        """Whoever has seen what a person has given up is told so (P15)."""
        for token in self.history.old_tokens[-3:]:
            try:
                session = auditor._log.session(token)
                found = await auditor._log.book(auditor.book_name(), session=session).read_prev()
            except HistoryChanged:
                continue
            except BokilogError as error:
                self.world.violation(f"a token of a history that ended: {error!r}")
            else:
                self.world.violation(f"a token of a history that ended reads {found}")

    def stuck(self) -> str:
        """What everybody says of itself, for people."""
        lines = [f"{len(self.history.operations)} calls"]
        lines += self._behind()
        lines += [str(each) for each in self.history.operations if each.ended is None][-10:]
        for node, process in self.cluster.processes.items():
            core = getattr(process.core, "_engine", process.core)
            assert isinstance(core, SequencerCore | MemberCore | StorageCore | EngineCore)
            lines.append(f"{node}: {core.facts()}")
        return "\n".join(lines)

    # --- the checks -------------------------------------------------------------------------------

    def _check(self) -> None:
        for reason in first(broken_rules(self.history, self.cluster.oracles)):
            self.world.violation(reason)
        for space, oracle in self.cluster.oracles.items():
            for node in self.cluster.replicas(space):
                replica = self.cluster.replica(node, space)
                assert replica is not None
                if replica.folds_given_up or replica.disagreement:
                    text = f"{node} took its fold of log space {space} for wrong, and it was not"
                    self.world.violation(text)
                fetch = self.cluster.cold_bytes(node)
                for reason in first(unlike_the_order(node, replica, oracle, fetch)):
                    self.world.violation(reason)
                for reason in first(absent_though_lost(node, replica, oracle)):
                    self.world.violation(reason)

    def _report(self) -> Report:
        operations = self.history.operations
        return Report(
            seed=self.world.seed,
            knobs=self.knobs,
            violations=self.world.violations,
            digest=self.world.digest,
            steps=self.world.steps,
            messages=self.cluster.network.messages_count,
            appends=sum(each.kind == "append" and each.ok for each in operations),
            reads=sum(each.kind != "append" and each.ok for each in operations),
            faults=self.nemesis.struck,
            reached=self.world.reached,
            lines=self.world.lines,
        )


class Nemesis:
    """Faults, as often as the knobs say."""

    def __init__(self, simulation: Simulation) -> None:
        self.struck: dict[str, int] = {}
        self._simulation = simulation
        self._cluster = simulation.cluster
        self._world = simulation.world
        self._knobs = simulation.knobs
        self._chance = simulation.world.chance("nemesis")
        self._atlas = Atlas(
            self._world,
            self._cluster.replicas(),
            self._knobs.write_quorum,
            self._cluster.sequencers,
        )
        self._taken_out: list[Disk] = []
        """Disks that were in a sequencer's machine before."""
        self._exchanges = 0
        self._over = False
        self._gone: NodeId | None = None
        """A storage node that is not started again."""
        self._losses = Losses(
            self._cluster,
            simulation.history,
            stop=self._stop_all,
            start_later=self._start_later,
            new_clients=simulation.new_clients,
        )
        self._strikes: dict[str, Callable[[], None]] = {
            "kill_storage": lambda: self._kill(self._cluster.storage),
            "lose_storage": self._lose_storage,
            "kill_sequencer": lambda: self._kill(self._cluster.sequencers),
            "kill_engine": lambda: self._kill(self._cluster.engines),
            "kill_client": self._kill_client,
            "reset": self._reset,
            "cut_one_way": lambda: self._cut(both=False),
            "cut": lambda: self._cut(both=True),
            "isolate": self._isolate,
            "partition": self._partition,
            "clog": self._clog,
            "pause": self._pause,
            "full": self._fill,
            "failed_sync": self._fail_sync,
            "wipe": self._wipe,
            "exchange": self._exchange,
            "flip": self._flip,
            "clock": self._jump,
            "checkpoint": self._checkpoint,
            "blackout": self._black_out,
            "store_away": self._store_away,
            "flip_object": self._flip_object,
            "in_turn": lambda: self._turns.begin(),
        }
        self._turns = Turns(self._cluster, self._start_later)
        durabilities = self._knobs.durabilities
        others = frozenset(self._cluster.storage) - self._atlas.victims
        self._never_restarted = others if "memory" in durabilities else frozenset[str]()
        """Storage nodes that stop only with all others: what they hold in memory is all there may
        be of it."""
        self._never_powerless = others if "flush" in durabilities else frozenset[str]()
        """The same of machines, with what they have not synced."""

    def start(self) -> None:
        for name, often in sorted(self._knobs.faults.items()):
            if often > 0:
                self._next(name, often)
        if self._knobs.shrinks:
            at_s = self._knobs.duration_s * self._chance.uniform(0.2, 0.8)
            self._world.later(at_s, self._shrink)
        if self._knobs.loses:
            self._losses.start()

    def _next(self, name: str, often: float) -> None:
        self._world.later(self._chance.expovariate(often), lambda: self._strike(name, often))

    def _strike(self, name: str, often: float) -> None:
        if self._over:
            return
        self.struck[name] = self.struck.get(name, 0) + 1
        self._world.note(f"fault {name}")
        self._strikes[name]()
        self._next(name, often)

    # --- the end of it ----------------------------------------------------------------------------

    def heal(self) -> None:
        """No fault is left; a node that may stay away does so for now."""
        self._over = self._turns.over = self._losses.over = True
        self._losses.away.clear()
        cluster = self._cluster
        cluster.network.heal()
        cluster.objects.come_back()
        self._knobs.cold_error_share = self._knobs.cold_lost_share = 0.0
        self._knobs.slow_share = self._knobs.sync_slow_share = 0.0
        for node in cluster.sequencers:
            cluster.set_clock(node, 0)
        for process in list(cluster.processes.values()):
            process.loop.resume()
        for node in cluster.nodes:
            disk = cluster.disks.get(node)
            if disk is not None:
                disk.heal()
                if disk.failed or disk.damaged:
                    cluster.crash(node, power=False)
        # A disk that was lost is whole again once its node has caught up: no other may go before.
        lost = self._simulation.history.damaged or self.struck.get("wipe")
        lost = lost or len(self._knobs.durabilities) > 1 or bool(self._knobs.loses)
        replicas = cluster.replicas()
        candidates = [node for node in replicas if not lost or node in self._atlas.victims]
        spare = len(replicas) - self._knobs.write_quorum
        away = self._chance.sample(candidates, min(spare, len(candidates)))
        if self._chance.random() >= self._knobs.away_share:
            away = []
        if self._knobs.loses:
            away = []  # the furthest fold may be on one disk, and all have to say what they lack
        if "memory" in self._knobs.durabilities:
            away = []  # whether it still holds what the others lost only itself can say (P20)
        if self._gone is not None and self._gone not in cluster.processes:
            away = [self._gone]
        for node in away:
            cluster.crash(node, power=True)
        for node in cluster.nodes:
            if node not in away:
                self._start(node)

    def start_all(self) -> None:
        for node in self._cluster.nodes:
            self._start(node)

    # --- faults -----------------------------------------------------------------------------------

    def _start(self, node: NodeId) -> None:
        """A node whose journal is damaged does not start: its disk is replaced by an empty one."""
        cluster = self._cluster
        if node in cluster.processes or node in self._losses.away:
            return
        disk = cluster.disks.get(node)
        if disk is not None and disk.damaged:
            self._world.note(f"{node} gets another disk")
            disk.wipe()
        cluster.start(node)

    def _start_later(self, node: NodeId) -> None:
        delay_s = self._chance.expovariate(1 / self._knobs.down_s)
        self._world.later(delay_s, lambda: None if self._over else self._start(node))

    def _kill(self, nodes: tuple[NodeId, ...]) -> None:
        node = self._chance.choice(nodes)
        power = self._chance.random() < self._knobs.power_share
        if node in self._cluster.processes and node not in self._never_restarted:
            self._cluster.crash(node, power=power and node not in self._never_powerless)
            self._start_later(node)

    def _black_out(self) -> None:
        """All storage nodes are started again at once: nothing is left in memory."""
        for node in self._cluster.storage:
            if node in self._cluster.processes:
                self._cluster.crash(node, power=False)
        for node in self._cluster.storage:
            self._start_later(node)

    def _shrink(self) -> None:
        """The cluster is stopped, or its power fails; it goes on with one sequencer."""
        if self._over:
            return
        cluster = self._cluster
        self._stop_all()
        if Operator(cluster).shrink(1):
            self._world.reach("the cluster goes on with one sequencer")
        else:
            self._world.later(0.3 * self._knobs.duration_s, self._shrink)
        for node in cluster.nodes:
            if node != self._gone:
                self._start_later(node)

    def _stop_all(self) -> None:
        """The whole cluster is stopped, or power fails."""
        for node in self._cluster.nodes:
            power = self._chance.random() < self._knobs.power_share
            self._cluster.crash(node, power=power and node not in self._never_powerless)

    def _lose_storage(self) -> None:
        """A replica is gone until everything heals; another one only once that one was replaced."""
        replicas = self._cluster.replicas()
        if self._gone is not None and self._gone in replicas:
            return
        self._gone = self._chance.choice(replicas)
        self._cluster.crash(self._gone, power=True)

    def _kill_client(self) -> None:
        simulation = self._simulation
        number = self._chance.choice(sorted(simulation.clients))
        simulation.clients[number].die()
        simulation.start_client(number)

    def _two(self) -> tuple[str, str]:
        cluster = self._cluster
        clients = [f"client-{number}" for number in self._simulation.clients]
        ends: list[tuple[str, str]] = [
            (node, peer)
            for node in (*cluster.sequencers, *cluster.storage, *cluster.engines)
            for peer in (*cluster.sequencers, *cluster.storage)
            if node != peer
        ]
        ends += [(client, engine) for client in clients for engine in cluster.engines]
        first_end, second = self._chance.choice(ends)
        return (first_end, second) if self._chance.random() < 0.5 else (second, first_end)

    def _reset(self) -> None:
        wires = self._cluster.network.wires_of(*self._two())
        if wires:
            self._cluster.network.reset(self._chance.choice(wires))

    def _cut(self, *, both: bool) -> None:
        source, target = self._two()
        network = self._cluster.network
        lasting_s = self._chance.expovariate(1 / 0.2)
        for a, b in ((source, target), (target, source)) if both else ((source, target),):
            network.cut(a, b)
            self._world.later(lasting_s, partial(self._mend, a, b))
        if self._chance.random() < 0.5:
            for wire in network.wires_of(source, target):
                network.reset(wire)

    def _isolate(self) -> None:
        """A sequencer hears nothing of the others, or of anybody but engines and clients."""
        cluster = self._cluster
        node = self._chance.choice(cluster.sequencers)
        others = [*cluster.sequencers, *(cluster.storage if self._chance.random() < 0.3 else ())]
        self._split([node], [other for other in others if other != node])

    def _partition(self) -> None:
        """Every node is on one side or the other; clients reach both."""
        sides: tuple[list[NodeId], list[NodeId]] = [], []
        for node in self._cluster.nodes:
            self._chance.choice(sides).append(node)
        self._split(*sides)

    def _split(self, here: list[NodeId], there: list[NodeId]) -> None:
        lasting_s = self._chance.expovariate(1 / 0.4)
        for node in here:
            for other in there:
                for a, b in ((node, other), (other, node)):
                    self._cluster.network.cut(a, b)
                    self._world.later(lasting_s, partial(self._mend, a, b))

    def _mend(self, source: str, target: str) -> None:
        if not self._over:
            self._cluster.network.mend(source, target)

    def _clog(self) -> None:
        source, target = self._two()
        until_s = self._world.now_s + self._chance.expovariate(1 / 0.2)
        self._cluster.network.clog(source, target, until_s)

    def _pause(self) -> None:
        node = self._chance.choice(self._cluster.nodes)
        process = self._cluster.processes.get(node)
        if process is not None and not process.loop.paused:
            process.loop.pause()
            self._world.later(self._chance.expovariate(1 / 0.2), process.loop.resume)

    def _fill(self) -> None:
        disk = self._cluster.disks[self._chance.choice(sorted(self._cluster.disks))]
        disk.fill()
        self._world.later(self._chance.expovariate(1 / 0.3), disk.free)

    def _fail_sync(self) -> None:
        """The node is read-only from then on, until somebody starts it again."""
        node = self._chance.choice(sorted(set(self._cluster.disks) - self._never_restarted))
        self._cluster.disks[node].fail_next_sync()

        def look() -> None:
            if not self._over and self._cluster.disks[node].failed:
                self._cluster.crash(node, power=False)
                self._start_later(node)

        self._simulation.history.damaged = True  # what was folded and not synced is nowhere
        self._world.later(0.2 + self._chance.expovariate(1 / self._knobs.down_s), look)

    def _wipe(self) -> None:
        node = NodeId(self._chance.choice(sorted(self._atlas.victims)))
        self._cluster.crash(node, power=True)
        self._cluster.disks[node].wipe()
        self._start_later(node)

    def _exchange(self) -> None:
        """A sequencer, always the same one, gets another disk: an empty one, or one that it had
        before. Not while another one has no vote yet: two of three would have none (P14)."""
        node, cluster = self._atlas.exchanged, self._cluster
        view = cluster.views.latest()
        voting = [each for each in cluster.sequencers if each != node]
        if node is None or not all(
            has_vote(view, each, cluster.disks[each].disk_id) for each in voting
        ):
            return
        cluster.crash(node, power=True)
        present = cluster.disks[node]
        if self._taken_out and self._chance.random() < OLD_DISK_SHARE:
            another = self._chance.choice(self._taken_out)
            self._taken_out.remove(another)
            self._world.reach("an earlier disk of a sequencer is there again")
        else:
            self._exchanges += 1
            another = present.replaced(self._exchanges)
        self._taken_out.append(present)
        cluster.disks[node] = another
        cluster.watch.disk_exchanged()
        self._start_later(node)

    def _flip(self) -> None:
        node = NodeId(self._chance.choice(sorted(self._atlas.victims)))
        if self._cluster.disks[node].flip():
            self._simulation.history.damaged = True

    def _store_away(self) -> None:
        """Nobody reaches the object store for a while: calls are refused, or never answered."""
        objects = self._cluster.objects
        objects.go_away(silent=self._chance.random() < 0.5)
        self._world.later(self._chance.expovariate(1 / 0.5), objects.come_back)

    def _flip_object(self) -> None:
        node = NodeId(self._chance.choice(sorted(self._atlas.victims)))
        if self._cluster.objects.flip(self._cluster.disks[node]):
            self._world.reach("an object is damaged")
            self._simulation.history.damaged = True

    def _jump(self) -> None:
        node = self._chance.choice(self._cluster.sequencers)
        self._cluster.set_clock(node, self._chance.choice(CLOCK_JUMPS_MS))

    def _checkpoint(self) -> None:
        node = self._chance.choice(self._cluster.storage)
        for space in self._cluster.spaces:
            replica = self._cluster.replica(node, space)
            if replica is not None:
                replica.checkpoint_timer()


def simulate(seed: int, knobs: Knobs | None = None, *, traced: bool = False) -> Report:
    """One seed from its start to its verdict.

    What lies in cycles is collected when the run is over: it is little, to look for it all the time
    took a tenth of the run, and no seed decides when that is.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return _simulate(seed, knobs, traced=traced)
    finally:
        gc.collect(0)
        if was_enabled:
            gc.enable()


def _simulate(seed: int, knobs: Knobs | None, *, traced: bool) -> Report:
    simulation = Simulation(seed, knobs, traced=traced)
    try:
        return simulation.run()
    except (BokilogError, AssertionError) as error:
        simulation.world.violation(f"{type(error).__name__}: {error}")
        raise
