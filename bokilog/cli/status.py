"""`bokilog status`: what runs, how far it is, and what each process says of itself.

Decides how three sources become one picture: the supervisor's file (who runs, how often it was
restarted), the view store (term, primary, replicas) and each live process, asked over its socket
(positions, tails). A source that is silent leaves its part out; it never makes the command fail.

The JSON form is part of the contract: `processes` with role, id, pid, state, primary, restarts;
`views` with the store and why it does not answer, `view`, `log_spaces` with position, tail and the
lag of each replica in metalog entries, and `disk`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

import click

from bokilog.cli.asking import ask
from bokilog.cli.cluster import directory_option
from bokilog.cli.output import print_json
from bokilog.errors import BokilogError
from bokilog.framing import WireMessage
from bokilog.io.open_views import open_views
from bokilog.messages import KINDS, Hello, Status, StatusRequest
from bokilog.shapes.cluster_layout import Layout, read_layout
from bokilog.shapes.supervisor_state import ProcessFacts, SupervisorFacts, is_alive, read_state
from bokilog.view import View
from bokilog.wire import decode, encode

ASK_TIMEOUT_S: Final = 2.0
_REQUEST: Final = 1


@click.command()
@directory_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def status(directory: Path, as_json: bool) -> None:
    """Show what runs and how far it is."""
    facts = asyncio.run(collect(read_layout(directory)))
    if as_json:
        print_json(facts)
    else:
        show(facts)


async def collect(layout: Layout) -> dict[str, object]:
    """The whole picture, as plain values."""
    state = read_state(layout.run_dir)
    views, view = await asyncio.to_thread(_ask_views, layout)
    processes = state.processes if state is not None else ()
    answers = dict(zip(processes, await asyncio.gather(*map(_ask, processes)), strict=True))
    return {
        "directory": str(layout.directory),
        "url": layout.url,
        "supervisor": _supervisor(state),
        "views": views,
        "view": _view(view),
        "control": _control(answers.values()),
        "processes": [_process(each, answers[each], view) for each in processes],
        "log_spaces": [] if view is None else _log_spaces(view, answers),
        "disk": _disk(layout),
    }


async def ask_status(address: str, *, timeout_s: float = ASK_TIMEOUT_S) -> dict[str, object]:
    """What the process at `address` says of itself.

    Raises:
        NodeUnreachable: nobody answered there.
        NotReady: it accepted the connection and did not answer.
    """

    def answer(wire: WireMessage) -> dict[str, object] | None:
        if wire[0] != KINDS[Status]:
            return None
        message = decode(*wire)
        assert isinstance(message, Status)
        return message.facts

    said = [encode(Hello("control", "status", 0, "", 0, False)), encode(StatusRequest(_REQUEST))]
    return await ask(address, said, answer, timeout_s=timeout_s)


async def _ask(process: ProcessFacts) -> dict[str, object] | str:
    """Its facts, or why there are none."""
    if process.pid is None or not is_alive(process.pid, process.birth):
        return "not running"
    if process.role == "host":
        return {}  # that it runs is all that concerns the log
    try:
        return await ask_status(process.address)
    except BokilogError as error:
        return str(error)


# --- the picture ----------------------------------------------------------------------------------


def _supervisor(state: SupervisorFacts | None) -> dict[str, object]:
    if state is None:
        return {"state": "never started", "pid": None}
    if not state.alive:
        return {"state": "stopped" if state.state == "stopped" else "dead", "pid": None}
    return {"state": state.state, "pid": state.pid, "started_at_ms": state.started_at_ms}


def _ask_views(layout: Layout) -> tuple[dict[str, object], View | None]:
    """The view store and its last view, or why there is none; with the lease, when it has one."""
    with closing(open_views(layout.views, timeout_s=ASK_TIMEOUT_S)) as views:
        facts: dict[str, object] = {"store": views.where, "problem": None, "controller": None}
        try:
            view = views.latest()
            intent = views.intent()
            facts["controller"] = views.lease_holder() or None
            facts["ending"] = None if intent is None else intent[1]
        except BokilogError as error:
            facts["problem"] = str(error)
            return facts, None
        if view is None:  # the first one is stored when the directory is made
            facts["problem"] = f"no view is stored in {views.where}: bring its views back"
    return facts, view


def _view(view: View | None) -> dict[str, object] | None:
    if view is None:
        return None
    return {"term": view.term, "cluster_id": view.cluster_id, "history_id": view.history_id}


def _control(answers: Iterable[dict[str, object] | str]) -> dict[str, object] | None:
    """What the active controller of view changes says, or one that says why there is none; None:
    with one sequencer there is none to be."""
    found = [
        _table(answer["controller"])
        for answer in answers
        if isinstance(answer, dict) and "controller" in answer
    ]
    if not found:
        return None
    last = [_table(each["last_change"]) for each in found if each["last_change"]]
    known = max(last, key=lambda each: (each["term"], bool(each["reason"])), default=None)
    chosen = next((each for each in found if each["active"]), found[0])
    return {str(name): value for name, value in chosen.items()} | {"last_change": known}


def _process(
    process: ProcessFacts, answer: dict[str, object] | str, view: View | None
) -> dict[str, object]:
    alive = process.pid is not None and is_alive(process.pid, process.birth)
    primary = view is not None and any(space.primary == process.id for space in view.spaces)
    return {
        "role": process.role,
        "id": process.id,
        "pid": process.pid if alive else None,
        "state": process.state if alive or process.pid is None else "dead",
        "primary": primary,
        "restarts": process.restarts,
        "exit": process.exit,
        "address": process.address,
        "facts": answer if isinstance(answer, dict) else None,
        "problem": answer if isinstance(answer, str) else None,
    }


def _log_spaces(
    view: View, answers: Mapping[ProcessFacts, dict[str, object] | str]
) -> list[dict[str, object]]:
    by_node = {process.id: answer for process, answer in answers.items()}
    found: list[dict[str, object]] = []
    for space in view.spaces:
        said = _space_facts(by_node.get(space.primary), space.id)
        published = _count(said.get("published", said.get("position")))
        folded = {
            node: _count(_space_facts(by_node.get(node), space.id).get("position"))
            for node in space.replicas
        }
        found.append(
            {
                "id": space.id,
                "durability": space.durability,
                "primary": space.primary,
                "replicas": list(space.replicas),
                "write_quorum": space.write_quorum,
                "position": said.get("position"),
                "tail": said.get("tail"),
                "lag": {node: _lag(published, count) for node, count in folded.items()},
            }
        )
    return found


def _space_facts(answer: dict[str, object] | str | None, space: int) -> dict[object, object]:
    spaces = _table(answer.get("spaces")) if isinstance(answer, dict) else {}
    return _table(spaces.get(space))


def _table(value: object) -> dict[object, object]:
    return dict(value) if isinstance(value, dict) else {}


def _count(position: object) -> int | None:
    """The count of a position, `[term, count]`."""
    return position[1] if isinstance(position, list) and len(position) == 2 else None


def _lag(published: int | None, folded: int | None) -> int | None:
    """Metalog entries that a replica has not folded; the two were asked at about the same time."""
    return None if published is None or folded is None else max(0, published - folded)


def _disk(layout: Layout) -> dict[str, object]:
    usage = shutil.disk_usage(layout.directory)
    used = {node.id: _bytes_in(node.data_dir) for node in layout.nodes if node.data_dir}
    return {"free_bytes": usage.free, "total_bytes": usage.total, "used_bytes": used}


def _bytes_in(directory: Path) -> int:
    """What the files of a node take on the disk, as far as they stay long enough to be counted."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
            except OSError:
                continue
    return total


# --- for people -----------------------------------------------------------------------------------


def show(facts: dict[str, object]) -> None:
    """Print the picture of `collect` for people."""
    supervisor = _table(facts["supervisor"])
    started = supervisor.get("started_at_ms")
    since = f" for {_age(started)}" if isinstance(started, int) else ""
    term = _table(facts["view"]).get("term")
    disk = _table(facts["disk"])
    click.echo(f"{facts['directory']}: {supervisor.get('state')}{since}, term {_or_dash(term)}")
    click.echo(f"{facts['url']}; {_size(disk.get('free_bytes'))} free on disk")
    _print_views(_table(facts["views"]))
    _print_control(_table(facts["control"]))
    click.echo()
    _print_processes(_items(facts["processes"]), _table(disk.get("used_bytes")))
    _print_log_spaces(_items(facts["log_spaces"]))


def _print_control(control: Mapping[object, object]) -> None:
    """What changed last, who is suspected, and what a change waits for."""
    if not control:
        return
    last = _table(control["last_change"])
    if last.get("reason"):
        took = f"in {last['took_s']} s"
        click.echo(f"term {last['term']} began {took} with {last['primary']} ({last['reason']})")
    if not control["active"]:
        why = control["missing"] or "the view store gives nobody the lease"
        click.echo(f"no sequencer can change the view now: {why}")
    for node, said in _table(control["nodes"]).items():
        if _table(said)["why"]:
            click.echo(f"{node} is suspected: {_table(said)['why']}")
    if control["blocked"]:
        click.echo(f"a change of view ({control['reason']}) is blocked: {control['blocked']}")


def _print_views(views: Mapping[object, object]) -> None:
    holder = views.get("controller")
    click.echo(f"views in {views.get('store')}" + (f"; controller: {holder}" if holder else ""))
    if views.get("ending"):
        click.echo(f"the term is being ended: {views['ending']}")
    if views.get("problem"):
        click.echo(f"no view can change, the present one holds: {views['problem']}")


def _print_processes(processes: list[object], used: Mapping[object, object]) -> None:
    from rich.console import Console  # here, and below: --json needs none of it
    from rich.markup import escape
    from rich.table import Table

    if not processes:
        return
    table = Table(box=None, pad_edge=False)
    longest = max(len(str(_table(process)["id"])) for process in processes)
    table.add_column("process", no_wrap=True, min_width=longest)  # else all would be `stora...`
    for name in ("state", "pid", "restarts", "disk", ""):
        table.add_column(name, justify="right" if name in ("pid", "restarts", "disk") else "left")
    for process in map(_table, processes):
        table.add_row(
            str(process["id"]),
            _shown_state(str(process["state"])),
            _or_dash(process["pid"]),
            str(process["restarts"]),
            _size(used.get(process["id"])),
            escape(_remark(process)),
        )
    Console(highlight=False).print(table)
    click.echo()


def _print_log_spaces(spaces: list[object]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("log space", "class", "quorum", "position", "tail", "lag of replicas"):
        table.add_column(name, justify="right" if name in ("position", "tail") else "left")
    for space in map(_table, spaces):
        lags = _table(space["lag"])
        table.add_row(
            str(space["id"]),
            str(space["durability"]),
            f"{space['write_quorum']} of {len(lags)}",
            _or_dash(_count(space["position"])),
            _or_dash(space["tail"]),
            ", ".join(f"{node} {_or_dash(lag)}" for node, lag in lags.items()),
        )
    Console(highlight=False).print(table)


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def _shown_state(state: str) -> str:
    colour = {"running": "green", "starting": "yellow", "waiting": "yellow"}.get(state, "red")
    return f"[{colour}]{state}[/{colour}]"


def _remark(process: Mapping[object, object]) -> str:
    """What a person should know of a process beside its state."""
    if process["pid"] is None:
        return "" if process["exit"] is None else str(process["exit"])
    remarks = ["primary"] if process["primary"] else []
    spaces = _table(_table(process["facts"]).get("spaces"))
    reasons = {_table(space).get("read_only") for space in spaces.values()} - {None, ""}
    remarks += [f"read-only: {reason}" for reason in reasons]
    remarks += [
        f"log space {number}: {_table(space)[name]}"
        for number, space in spaces.items()
        for name in ("rebuilding", "held_up", "disagreement")
        if _table(space).get(name)
    ]
    remarks += [
        f"log space {number}: cold store: {_table(space)['cold_problem']}"
        for number, space in spaces.items()
        if _table(space).get("cold_problem")
    ]
    if process["role"] == "storage":
        remarks += _spare_remarks(spaces)
    if process["problem"] is not None:
        remarks.append(f"does not answer: {process['problem']}")
    return ", ".join(remarks)


def _spare_remarks(spaces: Mapping[object, object]) -> list[str]:
    """Of a storage node: which log spaces it holds no longer, since another one took its place; and
    whether it holds none."""
    others = {number: each for number, each in spaces.items() if not _table(each).get("replica")}
    remarks = ["spare"] if spaces and len(others) == len(spaces) else []
    former = [str(number) for number, each in others.items() if _count(_table(each)["position"])]
    if former:
        remarks.append(f"replaced in log space {', '.join(former)}: its files there stay unused")
    return remarks


def _size(size_bytes: object) -> str:
    if not isinstance(size_bytes, int):
        return "-"
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _age(started_at_ms: int) -> str:
    seconds = max(0, int(time.time() - started_at_ms / 1000))
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
