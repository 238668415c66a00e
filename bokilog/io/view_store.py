"""Where views are kept: the contract of a view store, and a view as plain JSON.

Decides what a store promises and what a stored view looks like. The store is the one place outside
the log where the cluster agrees on anything, and it does so by a single operation: the next view is
stored iff the caller knew the last one.

Invariants: terms are stored in order, none left out; a stored view never changes and is never
removed (P15: its ends are needed as long as anybody may ask about its term); what a reader was
given survives a loss of power. A view carries a checksum of its content, since a flipped bit in an
end would make two nodes disagree about what is in the log.

Does not know who decides views, nor where a store keeps them (`file_views.py`). It stands on this
floor, and not with the sequencer that decides views, because every kind of node reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Final, Protocol, TypeVar

import xxhash

from bokilog.errors import CorruptJournal, FormatTooNew, InvalidSettings, NotSupported
from bokilog.ids import LogSpaceId, NodeId, Position, Term
from bokilog.record import check_durability
from bokilog.view import FOLD_VERSION, PROTOCOL_VERSION, End, LogSpace, Node, Role, View

FORMAT: Final = 1
_ROLES: Final[tuple[Role, ...]] = ("sequencer", "storage", "engine")
T = TypeVar("T")


class ViewStore(Protocol):
    """Views by term, and incarnations by node.

    Calls block for as long as their I/O takes and may be made from any thread.
    """

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

    def register_incarnation(self, node: NodeId) -> int:
        """A number for this start of `node`: unique in the cluster, above all earlier ones (P3)."""
        ...

    def latest_incarnation(self, node: NodeId) -> int:
        """The number that `node` registered last, the only one that counts; 0 if it never did."""
        ...


def check_next(expected_term: Term | None, view: View) -> None:
    """Every store refuses a view that would leave a term out."""
    wanted = 0 if expected_term is None else expected_term + 1
    if view.term != wanted:
        raise InvalidSettings("term", str(view.term), f"does not follow {expected_term}: {wanted}")


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
    """
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
    )


def _end(plain: dict[object, object]) -> End:
    term, count = _of(list, plain["position"])
    return End(
        space=LogSpaceId(_of(int, plain["space"])),
        position=Position(Term(_of(int, term)), _of(int, count)),
        tail=_of(int, plain["tail"]),
        timestamp_ms=_of(int, plain["timestamp_ms"]),
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
