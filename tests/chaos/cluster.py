"""A local cluster with a proxy between all of its processes, and between them and each client.

Nothing of the cluster knows: views and settings name the addresses that they always name, there the
proxy listens, and each process is told on its command line to listen elsewhere.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from bokilog.cli.status import ask_status
from bokilog.errors import UnavailableError
from bokilog.io.file_views import FileViews
from bokilog.io.free_ports import free_ports
from bokilog.shapes.cluster_layout import HOST, NodePlan
from bokilog.shapes.local_cluster import LocalCluster
from bokilog.shapes.supervisor import node_command
from bokilog.view import View
from tests.chaos.namespaces import Namespaces
from tests.chaos.proxy import Gate, Proxy

SETTINGS = """\
[storage]
checkpoint_s = 1.0
[sequencer]
keep_metalog = true
"""
"""No entry of a metalog is let go: `order.py` reads all of them."""


class ProxiedCluster:
    """Three sequencers, three storage nodes, two engines; enter it to start it.

    Args:
        directory: of the cluster; what it holds is kept and used.
        clients: names of clients: each has gates of its own to every engine.
        namespaces: whether what nodes send to each other goes through network namespaces, too.
    """

    def __init__(
        self, directory: Path, *, clients: Sequence[str], namespaces: bool = False
    ) -> None:
        self.local = LocalCluster(
            directory,
            sequencers=3,
            storage_nodes=3,
            function_nodes=2,
            port=free_ports(2),
            command=self._command,
        )
        layout = self.local.layout
        file = layout.settings_file
        if SETTINGS not in file.read_text():
            file.write_text(SETTINGS + file.read_text())
        nodes = [node for node in layout.nodes if node.role != "engine"]
        self.sequencers = tuple(node.id for node in nodes if node.role == "sequencer")
        self.storage = tuple(node.id for node in nodes if node.role == "storage")
        self.victim = self.storage[sum(directory.name.encode()) % len(self.storage)]
        """The storage node whose disk may be lost."""
        self.engines = tuple(node.id for node in layout.nodes if node.role == "engine")
        self.clients = tuple(clients)
        self.namespaces: Namespaces | None = None
        if namespaces:
            self.namespaces = Namespaces(
                layout.run_dir / "net",
                {node.id: [_behind(each) for each in node.addresses] for node in nodes},
                self.engines,
            )
        self._to_wipe: set[str] = set()
        self._gates = [
            Gate(acceptor=node.id, listen=address, target=self._target(node.id, place, address))
            for node in nodes
            for place, address in enumerate(node.addresses)
        ]
        self._node_gates_count = len(self._gates)
        self._gates += [
            Gate(
                acceptor=engine,
                listen=f"tcp:{HOST}:0",
                target=f"tcp:{HOST}:{port}",
                dialler=client,
            )
            for client in clients
            for engine, port in zip(self.engines, layout.ports, strict=True)
        ]
        self._stack = ExitStack()
        self._urls: dict[str, str] = {}
        self.proxy: Proxy

    @property
    def nodes(self) -> tuple[str, ...]:
        return (*self.sequencers, *self.storage, *self.engines)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self.namespaces is not None:
                stack.enter_context(self.namespaces)
            self.proxy = stack.enter_context(Proxy(self._gates))
            stack.enter_context(self.local)
            self._stack = stack.pop_all()
        ports = [each.rpartition(":")[2] for each in self.proxy.addresses[self._node_gates_count :]]
        count = len(self.engines)
        for number, client in enumerate(self.clients):
            seeds = [f"{HOST}:{port}" for port in ports[number * count : (number + 1) * count]]
            first = number % count
            self._urls[client] = f"bokilog://{','.join(seeds[first:] + seeds[:first])}"
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def url(self, client: str) -> str:
        """Every engine is a seed; which is the first differs from client to client."""
        return self._urls[client]

    def direct_urls(self) -> list[str]:
        """Of each engine by itself, past the proxy."""
        return [f"bokilog://{HOST}:{port}" for port in self.local.layout.ports]

    def view(self) -> View:
        found = FileViews(self.local.layout.settings.views_dir).latest()
        assert found is not None
        return found

    def primary(self) -> str:
        return self.view().spaces[0].primary

    def peers(self, node: str) -> list[str]:
        """Whom a node is connected with."""
        if node in self.engines:
            return [*self.sequencers, *self.storage, *self.clients]
        if node in self.clients:
            return [*self.engines]
        return [each for each in self.nodes if each != node]

    def wipe(self, node: str) -> None:
        """A storage node's next start finds an empty data directory."""
        self._to_wipe.add(node)

    async def whole(self) -> bool:
        """Whether every storage node says that it lacks nothing."""
        nodes = [node for node in self.local.layout.nodes if node.id in self.storage]
        try:
            said = await asyncio.gather(*(ask_status(_behind(each.addresses[0])) for each in nodes))
        except UnavailableError:
            return False
        spaces = [facts.get("spaces") for facts in said]
        return all(
            isinstance(each, dict) and not any(space["rebuilding"] for space in each.values())
            for each in spaces
        )

    def _target(self, node: str, place: int, address: str) -> str:
        return _behind(address) if self.namespaces is None else self.namespaces.via(node, place)

    def _command(self, node: NodePlan, settings_file: Path) -> Sequence[str]:
        """The process before it has ended: a disk can be replaced."""
        if node.id in self._to_wipe and node.data_dir is not None:
            self._to_wipe.discard(node.id)
            shutil.rmtree(node.data_dir, ignore_errors=True)
        return _behind_the_proxy(node, settings_file)

    def all_ready(self) -> bool:
        return all(self.local.is_ready(node) for node in self.nodes)

    def heal(self) -> None:
        """Nothing is cut, delayed or paused any more."""
        self.proxy.heal()
        for node in self.nodes:
            self.local.kill(node, signal.SIGCONT)


def _behind(address: str) -> str:
    return f"{address.removesuffix('.sock')}.real.sock"


def _behind_the_proxy(node: NodePlan, settings_file: Path) -> Sequence[str]:
    command = node_command(node, settings_file)
    if node.role == "engine":
        return command
    names = ("address", "bulk_address")
    pairs = zip(names, node.addresses, strict=False)
    said = [word for name, each in pairs for word in ("--set", f"{name}={_behind(each)}")]
    return (*command, *said)
