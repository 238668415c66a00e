"""Where views are kept: the contract of a view store, and a view as plain JSON.

Decides what a store promises and what a stored view looks like. The store is the one place outside
the log where the cluster agrees on anything, and it does so by a single operation: the next view is
stored iff the caller knew the last one.

Invariants: terms are stored in order, none left out; a stored view never changes and is never
removed (P15: its ends are needed as long as anybody may ask about its term); what a reader was
given survives a loss of power. A view carries a checksum of its content, since a flipped bit in an
end would make two nodes disagree about what is in the log.

Beside the views a store keeps what makes changing them orderly: the intent to end the present term
(P15), and a lease, so that one controller at a time is at work. The lease only keeps controllers
out of each other's way: safety rests on the compare-and-swap alone.

Does not know who decides views, nor where a store keeps them (`file_views.py`, `etcd_views.py`). It
stands on this floor, and not with the sequencer that decides views, because every kind of node
reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Final, Protocol, TypeVar

import xxhash

from bokilog.errors import CorruptJournal, FormatTooNew, InvalidSettings, NotSupported
from bokilog.ids import LogSpaceId, NodeId, Position, Term
from bokilog.record import check_durability
from bokilog.view import FOLD_VERSION, PROTOCOL_VERSION, End, LogSpace, Node, Role, View

FORMAT: Final = 1
# Who holds the lease and does not renew it for so long loses it: about as long as the silence after
# which a primary is suspected, so that a dead controller is no slower to replace than a primary.
LEASE_TTL_S: Final = 3
# Names of nodes become names of files and of keys.
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ROLES: Final[tuple[Role, ...]] = ("sequencer", "storage", "engine")
T = TypeVar("T")


class ViewStore(Protocol):
    """Views by term, incarnations by node, one intent and one lease.

    Calls block for as long as their I/O takes, but never past their deadline, and may be made from
    any thread. All of them raise NotReady or NodeUnreachable, naming the store, when it does not
    answer; the caller then goes on in the view it has.
    """

    @property
    def where(self) -> str:
        """The store for people: a path or a URL."""
        ...

    @property
    def remote(self) -> bool:
        """Whether calls wait for another machine, so that an event loop should not make them."""
        ...

    def latest_term(self) -> Term | None:
        """The last stored term, None in an empty store; cheap enough to ask ten times a second."""
        ...

    def load(self, term: Term) -> View | None:
        """The view of that term, or None if it is not stored (yet)."""
        ...

    def latest(self) -> View | None:
        """The last stored view, or None in an empty store."""
        ...

    def compare_and_swap(self, expected_term: Term | None, view: View) -> bool:
        """Store `view` as the next one iff the last stored term is `expected_term`.

        Args:
            expected_term: None: the store is empty.
            view: its term is `expected_term + 1`; 0 in an empty store, where the cluster begins.

        Returns:
            Whether it is stored. When the caller dies within the call, it may be or not.
        """
        ...

    def register_incarnation(self, node: NodeId, *, above: int = 0) -> int:
        """A number for this start of `node`: unique in the cluster, above all earlier ones (P3).

        Args:
            above: a number that the node has used by other means.
        """
        ...

    def latest_incarnation(self, node: NodeId) -> int:
        """The number that `node` registered last, the only one that counts; 0 if it never did."""
        ...

    def store_intent(self, term: Term, reason: str) -> None:
        """Say that `term` is going to be ended, and why (P15); it is stored when this returns.

        The first intent of a term stays: whoever takes over goes on with it.

        Raises:
            WrongTerm: `term` is not the last stored one (any more).
        """
        ...

    def intent(self) -> tuple[Term, str] | None:
        """The intent to end the last stored term; None without one. A later view ends it."""
        ...

    def try_lease(self, node: NodeId) -> bool:
        """Take the lease for `node`, or renew it; whether it has it now. Does not wait for it.

        Called again within a third of `LEASE_TTL_S`, a holder keeps it; one that is paused or cut
        off for longer than that loses it, and its next call says so. A store object holds it for
        one node at a time.
        """
        ...

    def release_lease(self, node: NodeId) -> None:
        """Let another node have the lease at once; nothing happens if `node` has it not here."""
        ...

    def lease_holder(self) -> str:
        """The node that has the lease, for people; empty if nobody has."""
        ...

    def wait_changed(self, term: Term | None, timeout_s: float) -> None:
        """Return once a term after `term` (None: any) is stored, or after `timeout_s`.

        May return early, and never raises: whoever waits asks `latest_term` afterwards anyway.
        """
        ...

    def close(self) -> None:
        """Give the lease back and end what runs for the store; calls under way end as `Closed`."""
        ...


def beginning(views: ViewStore, space: LogSpace) -> End:
    """Where a metalog begins: at the start; in a cluster that was made of a backup,
    where that was taken; after a loss, perhaps where the furthest fold stood (P15).

    Raises:
        CorruptJournal: the store does not have that view (any more).
    """
    view = views.load(Term(space.begun))
    if view is None:
        raise CorruptJournal(views.where, 0, f"the view of term {space.begun} is missing")
    return view.end(space.id)


def check_next(expected_term: Term | None, view: View) -> None:
    """Every store refuses a view that would leave a term out, or that has fewer nodes than its log
    spaces name."""
    wanted = 0 if expected_term is None else expected_term + 1
    if view.term != wanted:
        raise InvalidSettings("term", str(view.term), f"does not follow {expected_term}: {wanted}")
    roles = {node.id: node.role for node in view.nodes}
    for space in view.spaces:
        members: tuple[tuple[str, Role, tuple[NodeId, ...]], ...] = (
            ("replicas", "storage", space.replicas),
            ("sequencers", "sequencer", space.sequencers),
        )
        for name, role, nodes in members:
            missing = [node for node in nodes if roles.get(node) != role]
            if missing:
                problem = f"of log space {space.id} is no {role} node of the view"
                raise InvalidSettings(name, ", ".join(missing), problem)


def check_node_name(node: NodeId) -> None:
    """Every store refuses a name that not every store can keep."""
    if not _NODE.fullmatch(node) or node == "last":
        problem = "is not a name of 1 to 64 letters, digits, dots, hyphens and underscores"
        raise InvalidSettings("node_id", repr(node), problem)


# --- an intent as JSON ----------------------------------------------------------------------------


def encode_intent(term: Term, reason: str) -> bytes:
    """The intent as JSON, for programs and for people."""
    return json.dumps({"term": term, "reason": reason}).encode() + b"\n"


def decode_intent(data: bytes, what: str) -> tuple[Term, str]:
    """The intent of `encode_intent`; `what` names it in errors.

    Raises:
        CorruptJournal: it is damaged.
    """
    try:
        stored = _of(dict, json.loads(data))
        return Term(_of(int, stored["term"])), _of(str, stored["reason"])
    except (TypeError, ValueError, KeyError) as error:
        problem = f"it is no intent: {type(error).__name__}: {error}"
        raise CorruptJournal(what, 0, problem) from None


# --- a view as JSON -------------------------------------------------------------------------------


def encode_view(view: View) -> bytes:
    """The view as indented JSON, for programs and for people."""
    plain = asdict(view)
    stored = {"format": FORMAT, "checksum": _checksum(plain), "view": plain}
    return json.dumps(stored, indent=1).encode() + b"\n"


def decode_view(data: bytes, what: str) -> View:
    """The view of `encode_view`; `what` names it in errors.

    Raises:
        FormatTooNew: a later version wrote it.
        CorruptJournal: it is damaged.
    """
    try:
        stored = _of(dict, json.loads(data))
        found = _of(int, stored.get("format"))
        if found > FORMAT:
            raise FormatTooNew(f"view {what!r}", found, FORMAT)
        plain = _of(dict, stored["view"])
        if stored.get("checksum") != _checksum(plain):
            raise CorruptJournal(what, 0, "the view does not match its checksum")
        return _view(plain)
    except (TypeError, ValueError, KeyError) as error:
        problem = f"it is no view: {type(error).__name__}: {error}"
        raise CorruptJournal(what, 0, problem) from None


def check_versions(view: View) -> View:
    """A view that this version can take part in: never two folds on one log space (P25).

    Raises:
        FormatTooNew: its protocol or its fold is newer.
        NotSupported: its fold is older.
        InvalidSettings: it has fewer nodes than its log spaces name.
    """
    view.check_holders()
    if view.protocol_version > PROTOCOL_VERSION:
        raise FormatTooNew("the cluster's protocol", view.protocol_version, PROTOCOL_VERSION)
    if view.fold_version > FOLD_VERSION:
        raise FormatTooNew("the cluster's fold", view.fold_version, FOLD_VERSION)
    if view.fold_version < FOLD_VERSION:
        raise NotSupported(
            f"fold version {view.fold_version}", f"this version folds by {FOLD_VERSION} only"
        )
    return view


def _view(plain: dict[object, object]) -> View:
    return View(
        cluster_id=_of(str, plain["cluster_id"]),
        history_id=_of(str, plain["history_id"]),
        term=Term(_of(int, plain["term"])),
        nodes=_all(_node, plain["nodes"]),
        spaces=_all(_space, plain["spaces"]),
        ends=_all(_end, plain["ends"]),
        protocol_version=_of(int, plain["protocol_version"]),
        fold_version=_of(int, plain["fold_version"]),
        losses_accepted=_of(int, plain.get("losses_accepted", 0)),
    )


def _node(plain: dict[object, object]) -> Node:
    role = next((known for known in _ROLES if known == plain["role"]), None)
    if role is None:
        raise ValueError(f"role {plain['role']!r}")
    return Node(
        id=NodeId(_of(str, plain["id"])),
        role=role,
        address=_of(str, plain["address"]),
        bulk_address=_of(str, plain["bulk_address"]),
        incarnation=_of(int, plain.get("incarnation", 0)),
        disk_id=_of(str, plain.get("disk_id", "")),
    )


def _space(plain: dict[object, object]) -> LogSpace:
    return LogSpace(
        id=LogSpaceId(_of(int, plain["id"])),
        durability=check_durability(_of(str, plain["durability"])),
        primary=NodeId(_of(str, plain["primary"])),
        replicas=tuple(NodeId(_of(str, node)) for node in _of(list, plain["replicas"])),
        write_quorum=_of(int, plain["write_quorum"]),
        backups=tuple(NodeId(_of(str, node)) for node in _of(list, plain.get("backups", []))),
        begun=_of(int, plain.get("begun", 0)),
    )


def _end(plain: dict[object, object]) -> End:
    term, count = _of(list, plain["position"])
    return End(
        space=LogSpaceId(_of(int, plain["space"])),
        position=Position(Term(_of(int, term)), _of(int, count)),
        tail=_of(int, plain["tail"]),
        timestamp_ms=_of(int, plain["timestamp_ms"]),
        given_up=_of(bool, plain.get("given_up", False)),
    )


def _all(decode: Callable[[dict[object, object]], T], plain: object) -> tuple[T, ...]:
    return tuple(decode(_of(dict, item)) for item in _of(list, plain))


def _of(kind: type[T], value: object) -> T:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.60} is not {kind.__name__}")
    return value


def _checksum(plain: object) -> str:
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return xxhash.xxh3_64_hexdigest(canonical.encode())
