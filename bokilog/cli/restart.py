"""`bokilog restart`: the processes of a running cluster are started again, one after the other.

Decides the order and when it is the next one's turn. Storage nodes go first, then the sequencers
that are not primary, then the primary, which hands over before it stops, then the engines, whose
clients move to another one. The next process is told to stop once the one before serves again and
the whole cluster is well: every process answers, every sequencer has a vote and no change of view
is under way, and every storage node has caught up. So a write quorum and a majority stay, and
callers see nothing but latency.

Does not start anything: the cluster's supervisor does. Does not know what a process does with the
signal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Final

import click

from bokilog.cli.cluster import directory_option
from bokilog.cli.connection import QUIET_S
from bokilog.cli.options import Duration
from bokilog.cli.status import collect
from bokilog.errors import InvalidSettings, NotReady
from bokilog.shapes.cluster_layout import Layout, read_layout
from bokilog.shapes.supervisor_state import ProcessFacts, is_alive, read_state

TIMEOUT_S: Final = 60.0
LAG_ENTRIES_MAX: Final = 1_000
"""A storage node that is so many metalog entries behind has caught up: the rest takes it less time
than the next process needs to stop."""
_POLL_S: Final = 0.05
_ROLES: Final = ("storage", "sequencer", "engine", "host")


@click.command()
@click.argument("nodes", metavar="[NODE]...", nargs=-1)
@directory_option
@click.option(
    "--rolling/--at-once",
    default=True,
    show_default=True,
    help="One after the other, each once all are well; or all together, with an interruption.",
)
@click.option(
    "--timeout-s",
    type=Duration(min=0, min_open=True),
    default=TIMEOUT_S,
    show_default=True,
    help="How long each step may take.",
)
def restart(nodes: tuple[str, ...], directory: Path, rolling: bool, timeout_s: float) -> None:
    """Restart a running cluster, one process after the other.

    All of it, or the NODEs named, so that they run what is installed now. Callers see latency and
    no errors if their timeouts are longer than a restart takes; with three sequencers and several
    function nodes among the seeds that is a moment, else a second or two.
    """
    layout = read_layout(directory)
    started_s = time.monotonic()
    chosen = asyncio.run(Restart(layout, timeout_s=timeout_s).run(nodes, rolling=rolling))
    processes = "1 process" if len(chosen) == 1 else f"{len(chosen)} processes"
    click.echo(f"restarted {processes} in {time.monotonic() - started_s:.1f} s")


class Restart:
    """One restart of a cluster's processes.

    Args:
        layout: of the cluster's directory.
        timeout_s: how long each process may take to come back, and then the cluster to be well.
    """

    def __init__(self, layout: Layout, *, timeout_s: float) -> None:
        self._layout = layout
        self._timeout_s = timeout_s

    async def run(self, nodes: Sequence[str], *, rolling: bool) -> list[str]:
        """Restart the nodes, or all if none is named; returns them in the order of their turns.

        Raises:
            InvalidSettings: a node is not of this cluster.
            NotReady: nothing runs, or it was not well in time; nothing more is stopped then.
        """
        known = [node.id for node in self._layout.nodes]
        for node in nodes:
            if node not in known:
                raise InvalidSettings("node", repr(node), f"is none of {', '.join(known)}")
        chosen = await self._in_order(nodes or known)
        if not rolling:
            await self._restart(chosen)
            return chosen
        await self._until_well()
        for node in chosen:
            await self._restart([node])
            await self._until_well()
        return chosen

    async def _in_order(self, nodes: Sequence[str]) -> list[str]:
        """Storage nodes, backups, the primary, engines."""
        self._processes()  # raises if nothing runs
        facts = await collect(self._layout)
        primaries = {str(each["id"]) for each in _dicts(facts["processes"]) if each["primary"]}
        order = [node for node in self._layout.nodes if node.id in nodes]
        order.sort(key=lambda node: (_ROLES.index(node.role), node.id in primaries))
        return [node.id for node in order]

    # --- one step ---------------------------------------------------------------------------------

    async def _restart(self, nodes: Sequence[str]) -> None:
        """Tell processes to stop; returns once others in their place serve."""
        before = self._processes()
        for node in nodes:
            process = before[node]
            if process.pid is None or not is_alive(process.pid, process.birth):
                raise NotReady(f"{node} does not run: see bokilog status")
            click.echo(f"restarting {node} (pid {process.pid})")
            os.kill(process.pid, signal.SIGTERM)
        deadline_s = time.monotonic() + self._timeout_s
        waiting = list(nodes)
        while waiting := [node for node in waiting if not self._is_back(before[node])]:
            if time.monotonic() > deadline_s:
                names = ", ".join(waiting)
                raise NotReady(f"{names} did not serve again within {self._timeout_s:g} s")
            await asyncio.sleep(_POLL_S)

    def _is_back(self, before: ProcessFacts) -> bool:
        now = self._processes()[before.id]
        return now.restarts > before.restarts and now.state == "running"

    def _processes(self) -> dict[str, ProcessFacts]:
        state = read_state(self._layout.run_dir)
        if state is None or not state.alive or state.state == "stopped":
            where = self._layout.directory
            start = f"bokilog up --dir {quote(str(where))}"
            raise NotReady(f"nothing runs in {where}: start it with {start}")
        return {each.id: each for each in state.processes}

    async def _until_well(self) -> None:
        began_s = time.monotonic()
        told = False
        while problem := what_is_wrong(await collect(self._layout)):
            waited_s = time.monotonic() - began_s
            if waited_s > self._timeout_s:
                raise NotReady(f"not well after {self._timeout_s:g} s: {problem}")
            if waited_s > QUIET_S and not told:
                told = True
                click.echo(f"waiting up to {self._timeout_s:g} s: {problem}", err=True)
            await asyncio.sleep(_POLL_S)


# --- whether a cluster is well --------------------------------------------------------------------


def what_is_wrong(facts: dict[str, object]) -> str:
    """Why the next process has to wait, by what `bokilog status` knows; empty: it has not."""
    for process in _dicts(facts["processes"]):
        if process["state"] != "running":
            return f"{process['id']} is {process['state']}"
        if process["problem"]:
            return f"{process['id']}: {process['problem']}"
    views = facts["views"]
    if isinstance(views, dict) and views["problem"]:  # whoever starts now has nothing to go by
        return str(views["problem"])
    control = facts["control"]
    if isinstance(control, dict):
        if control["state"] != "watching" or control["reason"]:
            return f"the view is changing: {control['reason'] or control['state']}"
        if control["missing"]:
            return str(control["missing"])
        for name, node in control["nodes"].items():
            if node["role"] == "sequencer" and not (node["alive"] and node["vote"]):
                return f"{name} has no vote"
    for space in _dicts(facts["log_spaces"]):
        lag = space["lag"]
        assert isinstance(lag, dict)
        for name, entries in lag.items():
            if entries is None or entries > LAG_ENTRIES_MAX:
                behind = "does not say how far it is" if entries is None else f"is {entries} behind"
                return f"{name} {behind} in log space {space['id']}"
    return _rebuilding(facts)


def _rebuilding(facts: dict[str, object]) -> str:
    for process in _dicts(facts["processes"]):
        said = process["facts"]
        spaces = said.get("spaces") if isinstance(said, dict) else None
        for number, space in spaces.items() if isinstance(spaces, dict) else ():
            if isinstance(space, dict) and space.get("rebuilding"):
                return f"{process['id']} still copies records of log space {number}"
    return ""


def _dicts(value: object) -> list[dict[str, object]]:
    assert isinstance(value, list)
    return value
