"""Faults of real processes, drawn from a seed: kills, pauses, cuts, resets, delays, lost disks.

Decides which fault strikes when, and how long it lasts. Each one is over by itself; `heal` ends all
at once. A process is killed only once it has served for a while: the supervisor gives up on one
that dies again and again right after its start (`bokilog/shapes/supervisor.py`), and rightly so.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random

from tests.chaos.cluster import ProxiedCluster

SERVED_S_MIN = 3.0
GAP_S = (0.2, 1.5)
PAUSE_S = (0.2, 0.5, 1.0, 4.0, 6.0)
"""Up to twice the suspicion time: a primary that only stood still is replaced, and comes back."""
CUT_S = (0.3, 1.0, 3.0, 6.0)
DELAY_S = (0.005, 0.05, 0.2)


class Nemesis:
    """Strikes until it is told to stop.

    Args:
        cluster: running.
        rng: of this round.
        clients: what can be done to clients by name: kill one (it comes back), or pause it.
    """

    def __init__(
        self,
        cluster: ProxiedCluster,
        rng: Random,
        *,
        kill_client: Callable[[str], Awaitable[None]],
        signal_client: Callable[[str, signal.Signals], None],
        say: Callable[[str], None],
    ) -> None:
        self.done: Counter[str] = Counter()
        self._cluster = cluster
        self._rng = rng
        self._kill_client = kill_client
        self._signal_client = signal_client
        self._say = say
        self._killed_s: dict[str, float] = {}
        self._lasting: set[asyncio.Task[None]] = set()
        self._unplugged: set[str] = set()
        self._dropping: set[tuple[str, str]] = set()

    async def strike_for(self, seconds: float) -> None:
        """One fault after another, some of them at the same time."""
        strikes: dict[str, tuple[float, Callable[[], Awaitable[None]]]] = {
            "kill": (4, self._kill_one),
            "kill primary": (2, self._kill_primary),
            "kill several": (1.5, self._kill_several),
            "stop": (1, self._stop_one),
            "pause": (2.5, self._pause),
            "pause primary": (1, self._pause_primary),
            "cut one way": (2, self._cut_one_way),
            "cut": (2, self._cut_both_ways),
            "isolate": (1.5, self._isolate),
            "reset": (2, self._reset),
            "delay": (2, self._delay),
            "kill client": (1.5, self._kill_a_client),
            "pause client": (0.7, self._pause_a_client),
            "wipe": (0.8, self._wipe),
        }
        if self._cluster.namespaces is not None:
            strikes["unplug"] = 2, self._unplug
            strikes["drop packets"] = 2, self._drop
        weights = [weight for weight, _ in strikes.values()]
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            name = self._rng.choices(list(strikes), weights)[0]
            await strikes[name][1]()
            await asyncio.sleep(self._rng.uniform(*GAP_S))

    async def heal(self) -> None:
        """Everything that lasts is over."""
        for task in self._lasting:
            task.cancel()
        if self._lasting:
            await asyncio.wait(self._lasting)
        self._cluster.heal()

    # --- processes --------------------------------------------------------------------------------

    async def _kill_one(self) -> None:
        self._kill([self._rng.choice(self._cluster.nodes)])

    async def _kill_primary(self) -> None:
        self._kill([self._cluster.primary()])

    async def _kill_several(self) -> None:
        cluster, rng = self._cluster, self._rng
        groups = (cluster.storage, cluster.sequencers, cluster.nodes, cluster.nodes)
        group = rng.choice(groups)
        self._kill(rng.sample(group, rng.randrange(2, len(group) + 1)))

    async def _stop_one(self) -> None:
        """In order, as for an upgrade; the supervisor starts it again."""
        self._kill([self._rng.choice(self._cluster.nodes)], signal.SIGTERM)

    def _kill(self, nodes: Sequence[str], number: signal.Signals = signal.SIGKILL) -> None:
        local, now_s = self._cluster.local, time.monotonic()
        chosen = [
            node
            for node in nodes
            if local.is_ready(node) and now_s - self._killed_s.get(node, 0.0) > SERVED_S_MIN
        ]
        if not chosen:
            return
        word = "kill" if number is signal.SIGKILL else "stop"
        self._note(word, chosen)
        for node in chosen:
            self._killed_s[node] = now_s
            local.kill(node, number)

    async def _pause(self) -> None:
        nodes = self._rng.sample(self._cluster.nodes, self._rng.choice((1, 1, 2)))
        self._pause_for(nodes)

    async def _pause_primary(self) -> None:
        self._pause_for([self._cluster.primary()])

    def _pause_for(self, nodes: Sequence[str]) -> None:
        local = self._cluster.local

        def pause() -> None:
            for node in nodes:
                local.kill(node, signal.SIGSTOP)

        def resume() -> None:
            for node in nodes:
                local.kill(node, signal.SIGCONT)

        self._last("pause", nodes, self._rng.choice(PAUSE_S), pause, resume)

    async def _wipe(self) -> None:
        """A storage node dies and comes back with an empty disk: one per round, since W-1 disks may
        be lost at once, and a round ends once all are whole again. In one directory always the same
        node: what nobody can read any more is not copied back, and the check reads that too."""
        node = self._cluster.victim
        ready = self._cluster.local.is_ready(node)
        recently = time.monotonic() - self._killed_s.get(node, 0.0) <= SERVED_S_MIN
        if self.done["wipe"] or not ready or recently:
            return
        self._note("wipe", (node,))
        self._cluster.wipe(node)
        self._kill([node])

    # --- the network ------------------------------------------------------------------------------

    async def _unplug(self) -> None:
        """A node's network cable, so to speak."""
        namespaces, node = self._cluster.namespaces, self._rng.choice(self._cluster.nodes)
        if namespaces is None or node in self._unplugged:
            return
        self._unplugged.add(node)

        def plug() -> None:
            namespaces.plug(node)
            self._unplugged.discard(node)

        seconds = self._rng.choice(CUT_S)
        self._last("unplug", (node,), seconds, lambda: namespaces.unplug(node), plug)

    async def _drop(self) -> None:
        """Packets of one node to another one get lost."""
        namespaces, rng = self._cluster.namespaces, self._rng
        source = rng.choice(self._cluster.nodes)
        target = rng.choice([*self._cluster.sequencers, *self._cluster.storage])
        if namespaces is None or source == target or (source, target) in self._dropping:
            return
        self._dropping.add((source, target))

        def deliver() -> None:
            namespaces.deliver(source, target)
            self._dropping.discard((source, target))

        self._last(
            "drop packets",
            (source, target),
            rng.choice(CUT_S),
            lambda: namespaces.drop(source, target),
            deliver,
        )

    def _pair(self) -> tuple[str, str]:
        one = self._rng.choice((*self._cluster.nodes, *self._cluster.clients))
        return one, self._rng.choice(self._cluster.peers(one))

    async def _cut_one_way(self) -> None:
        self._cut("cut one way", [self._pair()])

    async def _cut_both_ways(self) -> None:
        one, other = self._pair()
        self._cut("cut", [(one, other), (other, one)])

    async def _isolate(self) -> None:
        node = self._rng.choice((self._cluster.primary(), *self._cluster.nodes))
        peers = self._cluster.peers(node)
        lanes = [(node, peer) for peer in peers]
        if self._rng.random() < 0.7:
            lanes += [(peer, node) for peer in peers]
        self._cut("isolate", lanes)

    def _cut(self, name: str, lanes: Sequence[tuple[str, str]]) -> None:
        proxy = self._cluster.proxy

        def cut() -> None:
            for lane in lanes:
                proxy.cut(*lane)

        def mend() -> None:
            for lane in lanes:
                proxy.mend(*lane)

        self._last(name, lanes[0], self._rng.choice(CUT_S), cut, mend)

    async def _reset(self) -> None:
        one, other = self._pair()
        self._note("reset", (one, other))
        self._cluster.proxy.reset(one, other)

    async def _delay(self) -> None:
        node = self._rng.choice(self._cluster.nodes)
        delay_s, proxy = self._rng.choice(DELAY_S), self._cluster.proxy

        def delay(by_s: float) -> None:
            for peer in self._cluster.peers(node):
                proxy.delay(node, peer, by_s)
                proxy.delay(peer, node, by_s)

        shown = (node, f"by {delay_s} s")
        self._last(
            "delay", shown, self._rng.choice(CUT_S), lambda: delay(delay_s), lambda: delay(0)
        )

    # --- clients ----------------------------------------------------------------------------------

    async def _kill_a_client(self) -> None:
        client = self._rng.choice(self._cluster.clients)
        self._note("kill client", (client,))
        await self._kill_client(client)

    async def _pause_a_client(self) -> None:
        client = self._rng.choice(self._cluster.clients)
        self._last(
            "pause client",
            (client,),
            self._rng.choice(PAUSE_S),
            lambda: self._signal_client(client, signal.SIGSTOP),
            lambda: self._signal_client(client, signal.SIGCONT),
        )

    # --- what lasts -------------------------------------------------------------------------------

    def _last(
        self,
        name: str,
        whom: Sequence[str],
        seconds: float,
        begin: Callable[[], None],
        end: Callable[[], None],
    ) -> None:
        async def lasting() -> None:
            begin()
            try:
                await asyncio.sleep(seconds)
            finally:
                end()

        self._note(name, (*whom, f"for {seconds} s"))
        task = asyncio.create_task(lasting())
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)

    def _note(self, name: str, whom: Sequence[str]) -> None:
        self.done[name] += 1
        self._say(f"{name}: {' '.join(whom)}")
