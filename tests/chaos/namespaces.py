"""Network namespaces, one per node, and what the kernel does to packets between them.

What a node sends to another one goes through an agent in the one's namespace, by TCP over a bridge,
to an agent in the other's (`proxy.py` with fixed gates is both). So links can be taken down and
routes dropped as on real machines: packets are lost, TCP sends them again, ever more slowly, and
neither end is told anything. The namespaces are this run's own; nothing outside of them is changed.

Decides names and addresses in them. Needs root and `ip`; `missing()` says why it cannot be done.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.chaos.proxy import Gate, Proxy

NETWORK = "10.213.77"
FIRST_PORT = 7_000


def missing() -> str:
    """Why there can be no namespaces here; empty: there can."""
    if shutil.which("ip") is None:
        return "there is no `ip`"
    name = f"bokilog-{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"no network namespace can be made: {tried.stderr.strip()}"
    try:
        _ip("-n", name, "link", "add", "one", "type", "veth", "peer", "name", "other")
    except RuntimeError as error:
        return str(error)
    finally:
        _ip("netns", "del", name)
    return ""


class Namespaces:
    """A namespace per node and one for the bridge; a context manager that takes all of it away.

    Args:
        directory: for the sockets of agents.
        targets: by node, where it really listens; a gate's place in the list names it.
        diallers: nodes that dial.
    """

    def __init__(
        self, directory: Path, targets: dict[str, Sequence[str]], diallers: Sequence[str]
    ) -> None:
        self._directory = directory
        self._targets = targets
        self._nodes = list(dict.fromkeys([*targets, *diallers]))
        self._name = f"bokilog-{os.getpid()}"
        self._stack = ExitStack()

    def via(self, node: str, place: int) -> str:
        """Where a proxy reaches a node's address; `{dialler}` in it is the one who dials."""
        return f"unix:{self._directory}/{{dialler}}.{node}.{place}.sock"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._add(stack, self._bridge)
            _ip("-n", self._bridge, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._bridge, "link", "set", "bridge", "up")
            for node in self._nodes:
                self._connect(stack, node)
            for node in self._nodes:
                inside = ("ip", "netns", "exec", self._of(node))
                stack.enter_context(Proxy(self._gates(node), inside=inside))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- faults -----------------------------------------------------------------------------------

    def unplug(self, node: str) -> None:
        """Its link is down: whatever is sent to it or by it is lost."""
        _ip("-n", self._bridge, "link", "set", self._port(node), "down")

    def plug(self, node: str) -> None:
        """Its link is up again."""
        _ip("-n", self._bridge, "link", "set", self._port(node), "up")

    def drop(self, source: str, target: str) -> None:
        """Packets of one to the other are lost; the other direction works."""
        _ip("-n", self._of(source), "route", "replace", "blackhole", self._address(target))

    def deliver(self, source: str, target: str) -> None:
        """Its packets arrive again."""
        _ip("-n", self._of(source), "route", "del", "blackhole", self._address(target))

    # --- how it is made ---------------------------------------------------------------------------

    @property
    def _bridge(self) -> str:
        return f"{self._name}-bridge"

    def _of(self, node: str) -> str:
        return f"{self._name}-{node}"

    def _port(self, node: str) -> str:
        return f"port{self._nodes.index(node)}"

    def _address(self, node: str) -> str:
        return f"{NETWORK}.{self._nodes.index(node) + 1}"

    def _add(self, stack: ExitStack, name: str) -> None:
        _ip("netns", "add", name)
        stack.callback(_ip, "netns", "del", name)

    def _connect(self, stack: ExitStack, node: str) -> None:
        name, port = self._of(node), self._port(node)
        self._add(stack, name)
        _ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", port, "netns", self._bridge)
        _ip("-n", name, "addr", "add", f"{self._address(node)}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", self._bridge, "link", "set", port, "master", "bridge", "up")

    def _gates(self, node: str) -> list[Gate]:
        """The agent of a node: in by TCP to where it listens, out by TCP to the others."""
        found = [
            Gate(acceptor=node, dialler="peers", listen=self._tcp(node, place), target=target)
            for place, target in enumerate(self._targets.get(node, ()))
        ]
        for peer, targets in self._targets.items():
            for place in range(len(targets) if peer != node else 0):
                listen = self.via(peer, place).replace("{dialler}", node)
                target = self._tcp(peer, place)
                found.append(Gate(acceptor=peer, dialler=node, listen=listen, target=target))
        return found

    def _tcp(self, node: str, place: int) -> str:
        return f"tcp:{self._address(node)}:{FIRST_PORT + place}"


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
