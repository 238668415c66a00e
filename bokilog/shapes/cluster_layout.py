"""The directory of a local cluster: which processes it has, where they listen, and its first view.

    D/cluster.toml    settings; the part above the marker line is the operator's
    D/views/          the view store (`io/file_views.py`), unless the views are in etcd
    D/run/            sockets, a file per live process, the supervisor's state
    D/logs/           a log per process, rotated by size
    D/data/NODE/      what a node keeps

Decides names, addresses and log spaces. Nodes talk over unix sockets; engines also listen for
clients on a port each, from `port` on. With an app, each engine has a host of functions beside it,
which is no node of the view: it is a client of its engine, with a port for HTTP. There is one log
space per durability class, with up to three storage nodes as replicas and a majority of them as
write quorum; they are fixed when the cluster is made, since moving a LogBook between log spaces
would move its tag state (P5).

Invariants: laying out an existing directory again keeps its data, its views and the operator's part
of the settings; how many engines there are, their port and the cost of a sync may change between
starts. Of sequencers and storage nodes there may be other numbers only once a view says so, which
others store (`node_changes.py`). The first view has term 0: the sequencer stores the next one at
each of its starts (P12), so none ever acts in term 0.

Does not know processes (`supervisor.py`).
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from shlex import quote
from typing import Final, Literal, TypeAlias

from bokilog.errors import DirectoryInUse, InvalidSettings
from bokilog.ids import START, LogSpaceId, NodeId, Term
from bokilog.io.directory import check_path, make_directory, write_synced
from bokilog.io.open_views import open_views, parse_views_url
from bokilog.io.settings import ClusterSettings, check_app, read_settings
from bokilog.record import DURABILITIES
from bokilog.view import End, LogSpace, Node, Role, View

SETTINGS: Final = "cluster.toml"
HOST: Final = "127.0.0.1"
REPLICAS_MAX: Final = 3  # more copies than that cost more than they save
MARKER: Final = (
    "# ---- below this line: written by `bokilog up`, which replaces it at every start ----"
)
_HEAD: Final = """\
# Settings of this local cluster. Up to the marker line the file is yours: sections [sequencer],
# [storage] and [engine], with the fields of sequencer/settings.py, storage_nodes/settings.py and
# functions/engine/settings.py, for example
#
#     [storage]
#     memory_bytes = "512 MiB"

"""
_FOLDERS: Final = ("views", "run", "logs", "data")
PlanRole: TypeAlias = Role | Literal["host"]
"""Hosts are processes of the cluster, and no nodes of its view."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """One process of the cluster."""

    id: NodeId
    role: PlanRole
    addresses: tuple[str, ...]
    """Where it listens: the first for everything (`bokilog status` asks there); the second, of a
    storage node for frames (P32), of an engine for clients."""
    data_dir: Path | None
    """None: it keeps nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A directory that is ready to be started."""

    directory: Path
    settings: ClusterSettings
    nodes: tuple[NodePlan, ...]
    """In the order in which they are started: those first that others dial."""

    @property
    def settings_file(self) -> Path:
        """What every process is started with."""
        return self.directory / SETTINGS

    @property
    def run_dir(self) -> Path:
        """Sockets and the files of live processes."""
        return self.settings.run_dir

    @property
    def data_dir(self) -> Path:
        """What nodes keep, a folder each."""
        return self.directory / "data"

    @property
    def logs_dir(self) -> Path:
        """Logs of processes."""
        return self.directory / "logs"

    @property
    def views(self) -> str | Path:
        """The view store, for `open_views`."""
        return self.settings.views_url or self.settings.views_dir

    @property
    def ports(self) -> range:
        """The ports of the engines."""
        first = self.settings.port
        return range(first, first + self.settings.function_nodes)

    @property
    def metrics_ports(self) -> dict[NodeId, int]:
        """Where Prometheus finds each node that has a port for that."""
        first = self.settings.metrics_port
        nodes = [node.id for node in self.nodes if node.role != "host"] if first else []
        return {node: first + number for number, node in enumerate(nodes)}

    @property
    def http_ports(self) -> range:
        """The ports of the hosts' gateways; none without an app."""
        first = self.settings.http_port
        return range(first, first + (self.settings.function_nodes if self.settings.app else 0))

    @property
    def http_url(self) -> str:
        """Where calls come in over HTTP; empty without an app."""
        return f"http://{HOST}:{self.settings.http_port}" if self.settings.app else ""

    @property
    def url(self) -> str:
        """What clients connect to: every engine is a seed."""
        return "bokilog://" + ",".join(f"{HOST}:{port}" for port in self.ports)


Fill = Callable[[Layout, View], tuple[End, ...]]
"""Given where everything belongs and the view to come, the ends that take the place of its own."""
Change = Callable[[Layout], None]
"""Makes stored views say what a layout says, or says why that cannot be."""


def lay_out(
    directory: Path | str,
    *,
    storage_nodes: int | None = None,
    sequencers: int | None = None,
    function_nodes: int | None = None,
    port: int | None = None,
    sync: str | None = None,
    sync_delay_ms: float | None = None,
    views_url: str | None = None,
    app: str | None = None,
    app_dir: Path | str | None = None,
    http_port: int | None = None,
    metrics_port: int | None = None,
    fill: Fill | None = None,
    change: Change | None = None,
) -> Layout:
    """Make the directory of a cluster, or make an existing one ready for its next start.

    Args:
        directory: made if it is not there.
        storage_nodes: processes that hold records; None, here and below: as the directory has it,
            and the default of `ClusterSettings` in a new one.
        sequencers: processes that order them; with three, one may fail.
        function_nodes: engines, which clients connect to.
        port: of the first engine.
        sync: `fdatasync` or `none`.
        sync_delay_ms: added to every sync.
        views_url: an etcd that keeps the views (`io/open_views.py`), instead of the directory.
        app: `module:app`, whose functions every function node runs; empty: none.
        app_dir: the folder that it is imported from; None with an app: the current one.
        http_port: of the first host's gateway.
        metrics_port: of the first node's metrics; the others' follow. 0: none has any.
        fill: puts data into a new cluster's directory before its first view is stored, and says
            where its log spaces stand; a cluster that has a view is refused then.
        change: makes the views say so, when there are to be other numbers of sequencers or storage
            nodes than the directory has; without, that is refused.

    Raises:
        InvalidSettings: a value is out of range, or cannot change any more.
        NodeUnreachable: the etcd does not answer.
    """
    directory = _where_it_is(directory)
    said = {
        "storage_nodes": storage_nodes,
        "sequencers": sequencers,
        "function_nodes": function_nodes,
        "port": port,
        "sync": sync,
        "sync_delay_ms": sync_delay_ms,
        "views_url": views_url,
        "app": app,
        "app_dir": str(Path(app_dir or ".").absolute()) if app else None,
        "http_port": http_port,
        "metrics_port": metrics_port,
    }
    settings = _cluster_settings(directory, said, fixed=change is None)
    if settings.sequencers % 2 == 0:
        fewer = settings.sequencers - 1
        problem = f"is even: a majority of it survives no more failures than one of {fewer}"
        raise InvalidSettings("sequencers", str(settings.sequencers), problem)
    if settings.app:
        check_app(settings.app)
    layout = Layout(directory=directory, settings=settings, nodes=_nodes(directory, settings))
    _check_overlaps(layout)
    make_directory(directory)
    for folder in _FOLDERS:
        make_directory(directory / folder)
    if change is not None:
        change(layout)
    _store_first_view(layout, fill)
    write_synced(layout.settings_file, _to_toml(_operators_part(layout.settings_file), layout))
    return layout


def _check_overlaps(layout: Layout) -> None:
    """No two nodes listen on one port: the second would say that another process does."""
    used: dict[int, str] = {}
    for option, ports in (
        ("port", layout.ports),
        ("http_port", layout.http_ports),
        ("metrics_port", layout.metrics_ports.values()),
    ):
        for port in ports:
            if port in used:
                problem = f"reaches {port}, which {used[port]} has: take another range"
                raise InvalidSettings(option, str(min(ports)), problem)
            used[port] = option


def read_layout(directory: Path | str) -> Layout:
    """The layout of a directory as it was started last; changes nothing.

    Raises:
        InvalidSettings: there is no cluster in it.
    """
    directory = _where_it_is(directory)
    if not (directory / SETTINGS).exists():
        start = f"bokilog up --dir {quote(str(directory))}"
        problem = f"holds no cluster (no {SETTINGS}): start one with `{start}`"
        raise InvalidSettings("dir", str(directory), problem)
    settings = _cluster_settings(directory, {})
    return Layout(directory=directory, settings=settings, nodes=_nodes(directory, settings))


def _where_it_is(directory: Path | str) -> Path:
    """The place itself, past symbolic links: whichever name it is given, nodes are found there."""
    given = Path(directory).expanduser().absolute()
    check_path("dir", given)
    place = Path(os.path.realpath(given))
    check_path("dir", place)
    return place


# --- settings -------------------------------------------------------------------------------------


def _cluster_settings(
    directory: Path, said: Mapping[str, object], *, fixed: bool = True
) -> ClusterSettings:
    file = directory / SETTINGS
    exists = file.exists()
    if not exists and directory.exists():
        _check_ours(directory)
    settings = read_settings(
        ClusterSettings,
        section="cluster",
        file=file if exists else None,
        environment=os.environ,
        explicit={name: value for name, value in said.items() if value is not None},
    )
    if exists:
        made_with = read_settings(ClusterSettings, section="cluster", file=file)
        numbers = ("storage_nodes", "sequencers") if fixed else ()
        for name in (*numbers, "views_url"):
            old, new = getattr(made_with, name), getattr(settings, name)
            if old != new:
                problem = (
                    f"cannot change any more: the cluster in {str(directory)!r} was made with "
                    f"{old or 'its own'}; use another directory"
                )
                raise InvalidSettings(name, str(new), problem)
    if settings.views_url:
        parse_views_url(settings.views_url)
    return replace(
        settings,
        views_dir=directory / "views",
        run_dir=directory / "run",
        logs_dir=directory / "logs",
    )


def _check_ours(directory: Path) -> None:
    """A start that was killed early leaves our folders and nothing else."""
    ours = {*_FOLDERS, f"{SETTINGS}.tmp"}
    strange = sorted({entry.name for entry in directory.iterdir()} - ours)
    if strange:
        problem = f"is no directory of a cluster and is not empty: it holds {strange[0]!r}"
        raise InvalidSettings("dir", str(directory), problem)


def _operators_part(file: Path) -> str:
    if not file.exists():
        return _HEAD
    head, found, _ = file.read_text(encoding="utf-8").partition(MARKER)
    if not found:
        problem = f"has lost the line {MARKER!r}: put it back above [cluster]"
        raise InvalidSettings("settings", str(file), problem)
    return head


def _to_toml(head: str, layout: Layout) -> bytes:
    lines = [head + MARKER, "", "[cluster]"]
    for each in fields(ClusterSettings):
        value = getattr(layout.settings, each.name)
        if isinstance(value, Path):
            value = str(value.relative_to(layout.directory))
        lines.append(f"{each.name} = {_toml(value)}")
    for node in layout.nodes:
        lines += ["", f"[nodes.{node.id}]", f"role = {_toml(node.role)}"]
        if node.data_dir is not None:
            lines.append(f"data_dir = {_toml(str(node.data_dir.relative_to(layout.directory)))}")
        lines += _addresses(node, layout)
        if node.id in layout.metrics_ports:
            address = f"tcp:{HOST}:{layout.metrics_ports[node.id]}"
            lines.append(f"metrics_address = {_toml(address)}")
    return ("\n".join(lines) + "\n").encode()


def _addresses(node: NodePlan, layout: Layout) -> list[str]:
    if node.role == "engine":
        return [f"addresses = {_toml(list(node.addresses))}"]
    if node.role == "host":
        number = _number(node.id)
        engine = next(e for e in layout.nodes if e.role == "engine" and _number(e.id) == number)
        log_url = "bokilog+unix://" + engine.addresses[0].removeprefix("unix:")
        return [
            f"addresses = {_toml(list(node.addresses))}",
            f"log_url = {_toml(log_url)}",
            f"http_port = {_toml(layout.settings.http_port + number - 1)}",
        ]
    names = ("address", "bulk_address")
    return [f"{name} = {_toml(each)}" for name, each in zip(names, node.addresses, strict=False)]


def _number(node: str) -> int:
    return int(node.rpartition("-")[2])


def _toml(value: object) -> str:
    """Numbers, texts, truth values and lists of them are written alike in JSON and in TOML."""
    return json.dumps(value, ensure_ascii=False)


# --- nodes and the first view ---------------------------------------------------------------------


def _nodes(directory: Path, settings: ClusterSettings) -> tuple[NodePlan, ...]:
    run = settings.run_dir
    nodes = []
    for number in range(1, settings.sequencers + 1):
        name = NodeId(f"sequencer-{number}")
        nodes.append(_plan(directory, name, "sequencer", (f"unix:{run / name}.sock",)))
    for number in range(1, settings.storage_nodes + 1):
        name = NodeId(f"storage-{number}")
        addresses = (f"unix:{run / name}.sock", f"unix:{run / name}.bulk.sock")
        nodes.append(_plan(directory, name, "storage", addresses))
    for number in range(1, settings.function_nodes + 1):
        name = NodeId(f"engine-{number}")
        addresses = (f"unix:{run / name}.sock", f"tcp:{HOST}:{settings.port + number - 1}")
        nodes.append(_plan(directory, name, "engine", addresses))
    for number in range(1, settings.function_nodes + 1 if settings.app else 1):
        name = NodeId(f"host-{number}")
        nodes.append(_plan(directory, name, "host", (f"unix:{run / name}.sock",)))
    return tuple(nodes)


def _plan(directory: Path, name: NodeId, role: PlanRole, addresses: tuple[str, ...]) -> NodePlan:
    data_dir = None if role in ("engine", "host") else directory / "data" / name
    return NodePlan(id=name, role=role, addresses=addresses, data_dir=data_dir)


def _store_first_view(layout: Layout, fill: Fill | None) -> None:
    with closing(open_views(layout.views)) as views:
        latest = views.latest()
        if latest is None:
            if any(layout.data_dir.iterdir()):
                problem = (
                    f"holds no view, and {str(layout.data_dir)!r} is of a cluster that had some: "
                    "bring its views back"
                )
                raise InvalidSettings("views", views.where, problem)
            view = first_view(layout)
            if fill is not None:
                view = replace(view, ends=fill(layout, view))
            if not views.compare_and_swap(None, view):
                raise DirectoryInUse(str(layout.directory))  # another start was faster
            return
        where = views.where
    if fill is not None:
        raise InvalidSettings("views", where, "holds the views of a cluster already")
    _check_own_view(layout, latest, where)


def _check_own_view(layout: Layout, latest: View, where: str) -> None:
    """The stored view is about this directory."""
    planned = {node.id: node.addresses[0] for node in layout.nodes}
    for node in latest.nodes:
        if node.id not in planned and node.role != "engine":
            name = "sequencers" if node.role == "sequencer" else "storage_nodes"
            value = str(getattr(layout.settings, name))
            count = sum(each.role == node.role for each in latest.nodes)
            problem = f"leaves out {node.id}, which the view of term {latest.term} has: say {count}"
            raise InvalidSettings(name, value, problem)
        if _past_links(planned.get(node.id, node.address)) == _past_links(node.address):
            continue
        if layout.settings.views_url:
            problem = f"holds the views of another cluster ({node.id} at {node.address})"
            raise InvalidSettings("views_url", where, f"{problem}: give each its own prefix")
        problem = f"is not where the cluster was made: its view has {node.address!r}; move it back"
        raise InvalidSettings("dir", str(layout.directory), problem)
    # No process has run in a directory without data; the first start is in term 0.
    if layout.settings.views_url and latest.term > 0 and not any(layout.data_dir.iterdir()):
        problem = (
            f"is of a cluster in term {latest.term}, and {str(layout.data_dir)!r} holds no data: "
            "take the cluster's own directory, or another prefix"
        )
        raise InvalidSettings("views_url", where, problem)


def _past_links(address: str) -> str:
    """An address of a view that may name its directory through a symbolic link."""
    kind, _, path = address.partition(":")
    return f"unix:{os.path.realpath(path)}" if kind == "unix" else address


def nodes_of(layout: Layout) -> tuple[Node, ...]:
    """The planned processes as a view names them; hosts of functions are in none."""
    return tuple(
        Node(
            id=plan.id,
            role=plan.role,
            address=plan.addresses[0],
            bulk_address=plan.addresses[1] if plan.role == "storage" else "",
        )
        for plan in layout.nodes
        if plan.role != "host"
    )


def first_view(layout: Layout) -> View:
    """The view of term 0: all nodes, and log spaces that hold nothing yet."""
    storage = [node.id for node in layout.nodes if node.role == "storage"]
    sequencer, *backups = (node.id for node in layout.nodes if node.role == "sequencer")
    count = min(REPLICAS_MAX, len(storage))
    return View(
        cluster_id=secrets.token_hex(8),
        history_id=secrets.token_hex(4),
        term=Term(0),
        nodes=nodes_of(layout),
        spaces=tuple(
            LogSpace(
                id=LogSpaceId(number),
                durability=durability,
                primary=sequencer,
                backups=tuple(backups),
                replicas=tuple(storage[(number + place) % len(storage)] for place in range(count)),
                write_quorum=count // 2 + 1,
            )
            for number, durability in enumerate(DURABILITIES)
        ),
        ends=tuple(
            End(space=LogSpaceId(number), position=START, tail=1, timestamp_ms=0)
            for number in range(len(DURABILITIES))
        ),
    )
