"""A view store in etcd: transactions decide, for a cluster on several machines.

Decides how the promises of `view_store.py` are kept by keys below one prefix:

    PREFIX/term                 the last stored term, as decimal text
    PREFIX/views/00000001       a view, the same JSON as in a file
    PREFIX/swaps/00000001       a random name of the call that stored it
    PREFIX/intent               the intent to end the last stored term; the next view deletes it
    PREFIX/incarnations/last    the largest incarnation given out in this cluster
    PREFIX/incarnations/NODE    the one that NODE registered last
    PREFIX/lease                the node that has the lease; bound to an etcd lease

Invariants: a view, the term and the end of its intent are one transaction, whose condition is that
the term is the expected one and the view's key is new. An answer that was lost is no doubt: the
same call, made again, finds its own name under `swaps`. Reads are linearizable, so no answer is
older than the question. Every call has a deadline, and tries all endpoints in turn until then; what
it raises names them.

aetcd is made for an event loop and the callers of a view store block in threads, so one thread of
this object runs a loop for it. That loop also follows the term by a watch, once somebody waits.

Does not know what views mean, nor how an etcd is run. Source: differs from Boki, which uses
ZooKeeper; etcd has the same compare-and-swap, and one program to install.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Final, NamedTuple, TypeVar

import aetcd

from bokilog.errors import (
    BokilogError,
    Closed,
    CorruptJournal,
    NodeUnreachable,
    NotReady,
    WrongTerm,
)
from bokilog.ids import NodeId, Term
from bokilog.io.view_store import (
    LEASE_TTL_S,
    check_next,
    check_node_name,
    decode_intent,
    decode_view,
    encode_intent,
    encode_view,
)
from bokilog.view import View

# Longer than an etcd takes to elect a leader, and than a process has to live so that its death does
# not count as an early one for the supervisor.
CALL_TIMEOUT_S: Final = 5.0
# One endpoint, before the next is tried.
_ATTEMPT_TIMEOUT_S: Final = 2.0
_RETRY_S: Final = 0.05
_WATCH_RETRY_S: Final = 0.5
_CLOSE_TIMEOUT_S: Final = 0.5
# Above the call's own deadline: only a loop that hangs reaches it.
_MARGIN_S: Final = 1.0
# gRPC waits up to two minutes before it dials again, and never notices a peer without power.
_CHANNEL: Final = {
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1_000,
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 3_000,
}
_UNREACHED = (aetcd.ConnectionFailedError, aetcd.ConnectionTimeoutError, TimeoutError)
_FINAL = (aetcd.InvalidArgumentError, aetcd.exceptions.UnauthenticatedError)
_log = logging.getLogger(__name__)
T = TypeVar("T")


class _Lease(NamedTuple):
    """The lease as this object has it; certainly until `until_s` of the monotonic clock."""

    node: NodeId
    number: int
    until_s: float


class EtcdViews:
    """A `ViewStore` below a prefix of an etcd; connects when the first call is made.

    Args:
        endpoints: `host:port` each, members of one etcd cluster.
        prefix: of all keys, such as `/bokilog`.
        call_timeout_s: how long a call may take; none blocks for longer.
        lease_ttl_s: whole seconds; etcd itself gives at least one and a half election timeouts.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        prefix: str,
        *,
        call_timeout_s: float = CALL_TIMEOUT_S,
        lease_ttl_s: int = LEASE_TTL_S,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._prefix = prefix.rstrip("/")
        self._call_timeout_s = call_timeout_s
        self._lease_ttl_s = lease_ttl_s
        self._loop = _Loop()
        self._clients: dict[str, aetcd.Client] = {}
        self._at = 0  # the endpoint that answered last
        self._lease: _Lease | None = None
        self._lease_turn = threading.Lock()
        self._swaps: dict[bytes, str] = {}  # of which no answer came: what is stored, to its name
        self._watching = False
        self._seen = -2  # the last term that the watch told; -1: an empty store
        self._changed = threading.Condition()

    @property
    def where(self) -> str:
        """The URL that opens it."""
        return f"etcd://{','.join(self._endpoints)}{self._prefix}"

    @property
    def remote(self) -> bool:
        """Yes: an event loop must not wait for it."""
        return True

    # --- views ------------------------------------------------------------------------------------

    def latest_term(self) -> Term | None:
        """As `ViewStore.latest_term`: one short read."""
        key = self._key("term")
        found = self._call(lambda client: client.get(key))
        return None if found is None else Term(self._number(key, found.value))

    def load(self, term: Term) -> View | None:
        """The view of that term, or None.

        Raises:
            FormatTooNew: a later version stored it.
            CorruptJournal: what is stored is damaged.
        """
        key = self._view_key(term)
        found = self._call(lambda client: client.get(key))
        if found is None:
            return None
        what = self._shown(key)
        view = decode_view(found.value, what)
        if view.term != term:
            raise CorruptJournal(what, 0, f"it holds the view of term {view.term}")
        return view

    def latest(self) -> View | None:
        """The last stored view, or None."""
        term = self.latest_term()
        return None if term is None else self.load(term)

    def compare_and_swap(self, expected_term: Term | None, view: View) -> bool:
        """As `ViewStore.compare_and_swap`.

        Raises:
            InvalidSettings: `view` does not follow `expected_term`.
            NodeUnreachable, NotReady: the view may be stored or not. The same call, made again on
                this object, tells: it returns True if an earlier one had stored it.
        """
        check_next(expected_term, view)
        data = encode_view(view)
        name = self._swaps.get(data) or secrets.token_hex(8)
        self._swaps[data] = name
        stored = self._call(lambda client: self._swap(client, expected_term, view.term, data, name))
        del self._swaps[data]
        return stored

    async def _swap(
        self, client: aetcd.Client, expected: Term | None, term: Term, data: bytes, name: str
    ) -> bool:
        make = client.transactions
        last, view = self._key("term"), self._view_key(term)
        swap = self._key(f"swaps/{term:08d}")
        stored, answers = await client.transaction(
            compare=[
                make.create(last) == 0
                if expected is None
                else make.value(last) == b"%d" % expected,
                make.create(view) == 0,
            ],
            success=[
                make.put(view, data),
                make.put(last, b"%d" % term),
                make.put(swap, name.encode()),
                make.delete(self._key("intent")),
            ],
            failure=[make.get(swap)],
        )
        return bool(stored) or _value(answers[0]) == name.encode()

    # --- incarnations -----------------------------------------------------------------------------

    def register_incarnation(self, node: NodeId, *, above: int = 0) -> int:
        """As `ViewStore.register_incarnation`; the counter is the cluster's, so shards differ (P1).

        A number whose answer was lost stays unused.
        """
        check_node_name(node)
        return self._call(lambda client: self._next_incarnation(client, node, above))

    async def _next_incarnation(self, client: aetcd.Client, node: NodeId, above: int) -> int:
        make = client.transactions
        last, own = self._key("incarnations/last"), self._key(f"incarnations/{node}")
        while True:
            found = await client.get(last)
            known = 0 if found is None else self._number(last, found.value)
            number = max(known, above) + 1
            stored, _ = await client.transaction(
                compare=[
                    make.create(last) == 0 if found is None else make.value(last) == found.value
                ],
                success=[make.put(key, b"%d" % number) for key in (last, own)],
                failure=[],
            )
            if stored:
                return number

    def latest_incarnation(self, node: NodeId) -> int:
        """As `ViewStore.latest_incarnation`."""
        check_node_name(node)
        key = self._key(f"incarnations/{node}")
        found = self._call(lambda client: client.get(key))
        return 0 if found is None else self._number(key, found.value)

    # --- the intent -------------------------------------------------------------------------------

    def store_intent(self, term: Term, reason: str) -> None:
        """As `ViewStore.store_intent`."""
        latest = self._call(lambda client: self._put_intent(client, term, reason))
        if latest != term:
            raise WrongTerm(-1 if latest is None else latest)

    async def _put_intent(self, client: aetcd.Client, term: Term, reason: str) -> Term | None:
        """The last stored term; an intent is stored, this one or an earlier, iff it is `term`."""
        make = client.transactions
        last, intent = self._key("term"), self._key("intent")
        stored, answers = await client.transaction(
            compare=[make.value(last) == b"%d" % term, make.create(intent) == 0],
            success=[make.put(intent, encode_intent(term, reason))],
            failure=[make.get(last)],
        )
        if stored:
            return term
        found = _value(answers[0])
        return None if found is None else Term(self._number(last, found))

    def intent(self) -> tuple[Term, str] | None:
        """As `ViewStore.intent`."""
        key = self._key("intent")
        found = self._call(lambda client: client.get(key))
        return None if found is None else decode_intent(found.value, self._shown(key))

    # --- the lease --------------------------------------------------------------------------------

    def try_lease(self, node: NodeId) -> bool:
        """As `ViewStore.try_lease`; asks etcd once in a third of the lease's time.

        While etcd does not answer, a lease is kept for as long as etcd certainly keeps it.
        """
        check_node_name(node)
        with self._lease_turn:
            asked_s, lease = time.monotonic(), self._lease
            if lease is not None and lease.node != node:
                return False
            if lease is not None and lease.until_s - asked_s > self._lease_ttl_s * 2 / 3:
                return True
            until_s = asked_s + self._lease_ttl_s
            timeout_s = min(self._call_timeout_s, self._lease_ttl_s / 3)
            try:
                number = self._call(
                    lambda client: self._hold_lease(client, node, lease), timeout_s=timeout_s
                )
            except (NodeUnreachable, NotReady):
                if lease is not None and time.monotonic() < lease.until_s:
                    return True
                self._lease = None
                raise
            self._lease = None if number is None else _Lease(node, number, until_s)
            return number is not None

    async def _hold_lease(
        self, client: aetcd.Client, node: NodeId, lease: _Lease | None
    ) -> int | None:
        """Keep or take the lease; the number of etcd's, None: it is somebody else's."""
        key = self._key("lease")
        if lease is not None:
            kept = await client.refresh_lease(lease.number)
            found = await client.get(key)
            if kept.TTL > 0 and found is not None and found.lease == lease.number:
                return lease.number
        elif await client.get(key) is None:
            new = await client.lease(self._lease_ttl_s)
            make = client.transactions
            stored, _ = await client.transaction(
                compare=[make.create(key) == 0],
                success=[make.put(key, node.encode(), lease=new.id)],
                failure=[],
            )
            if stored:
                return int(new.id)
            await client.revoke_lease(new.id)
        return None

    def release_lease(self, node: NodeId) -> None:
        """As `ViewStore.release_lease`; where etcd does not answer, it ends by its time."""
        with self._lease_turn:
            lease = self._lease
            if lease is None or lease.node != node:
                return
            self._lease = None
            try:
                self._call(
                    lambda client: client.revoke_lease(lease.number), timeout_s=_CLOSE_TIMEOUT_S
                )
            except BokilogError as error:
                _log.info("the lease of %s ends by its time: %s", node, error)

    def lease_holder(self) -> str:
        """As `ViewStore.lease_holder`."""
        key = self._key("lease")
        found = self._call(lambda client: client.get(key))
        return "" if found is None else found.value.decode(errors="replace")

    # --- waiting ----------------------------------------------------------------------------------

    def wait_changed(self, term: Term | None, timeout_s: float) -> None:
        """As `ViewStore.wait_changed`: by a watch, which the first call starts."""
        known = -1 if term is None else term
        with self._changed:
            if not self._watching:
                self._watching = True
                try:
                    self._loop.start(self._watch())
                except concurrent.futures.CancelledError:
                    return
            self._changed.wait_for(lambda: self._seen > known or self._loop.closed, timeout_s)

    async def _watch(self) -> None:
        """Follow the term for as long as the loop runs; a watch that breaks is made anew."""
        turn = 0
        while True:
            client = self._client(self._endpoints[turn % len(self._endpoints)])
            try:
                await self._follow(client)
            except (aetcd.ClientError, TimeoutError) as error:
                _log.debug("the watch on %s ended: %s", self.where, error)
            finally:
                await client.close()
            turn += 1
            await asyncio.sleep(_WATCH_RETRY_S)

    async def _follow(self, client: aetcd.Client) -> None:
        key = self._key("term")
        async with asyncio.timeout(_ATTEMPT_TIMEOUT_S):
            events = await client.watch(key)
            found = await client.get(key)  # after the watch stands, so that nothing falls between
        self._note(b"-1" if found is None else found.value)
        async for event in events:
            self._note(event.kv.value)

    def _note(self, value: bytes) -> None:
        if value.lstrip(b"-").isdigit():  # damage is told by whoever reads the key
            with self._changed:
                self._seen = int(value)
                self._changed.notify_all()

    # --- calls ------------------------------------------------------------------------------------

    def close(self) -> None:
        """As `ViewStore.close`."""
        lease = self._lease
        if lease is not None and not self._loop.closed:
            self.release_lease(lease.node)
        self._loop.close(self._close_clients)
        with self._changed:
            self._changed.notify_all()

    async def _close_clients(self) -> None:
        for client in self._clients.values():
            await client.close()

    def _call(
        self,
        operation: Callable[[aetcd.Client], Awaitable[T]],
        *,
        timeout_s: float | None = None,
    ) -> T:
        """The result of `operation`, which may run several times, on any endpoint.

        Raises:
            NodeUnreachable: no endpoint answered in time.
            NotReady: etcd answered that it cannot.
            Closed: the store was closed.
        """
        limit_s = self._call_timeout_s if timeout_s is None else timeout_s
        try:
            return self._loop.run(self._try_all(operation, limit_s), timeout_s=limit_s + _MARGIN_S)
        except concurrent.futures.CancelledError:
            raise Closed(f"the view store {self.where}") from None
        except TimeoutError as error:
            raise self._failure(error, limit_s) from None

    async def _try_all(
        self, operation: Callable[[aetcd.Client], Awaitable[T]], timeout_s: float
    ) -> T:
        deadline_s = time.monotonic() + timeout_s
        told: Exception | None = None
        while True:
            endpoint = self._endpoints[self._at]
            if endpoint not in self._clients:
                self._clients[endpoint] = self._client(endpoint)
            left_s = max(0.0, deadline_s - time.monotonic())
            try:
                async with asyncio.timeout(min(_ATTEMPT_TIMEOUT_S, left_s)):
                    return await operation(self._clients[endpoint])
            except (aetcd.ClientError, TimeoutError) as error:
                # An attempt that the deadline cut short says less than the one before it.
                told = error if str(error) or told is None else told
                if isinstance(error, _FINAL) or time.monotonic() + _RETRY_S > deadline_s:
                    raise self._failure(told, timeout_s) from None
            self._at = (self._at + 1) % len(self._endpoints)
            await asyncio.sleep(_RETRY_S)

    def _failure(self, error: Exception, timeout_s: float) -> BokilogError:
        if isinstance(error, _UNREACHED):
            reason = str(error) or "no answer"
            told = f"{reason} (tried for {timeout_s:.1f} s)"
            return NodeUnreachable(f"the view store {self.where}", told)
        return NotReady(f"the view store {self.where} says: {error}")

    def _client(self, endpoint: str) -> aetcd.Client:
        host, _, port = endpoint.rpartition(":")
        return aetcd.Client(
            host=host, port=int(port), timeout=_ATTEMPT_TIMEOUT_S, options=dict(_CHANNEL)
        )

    # --- keys -------------------------------------------------------------------------------------

    def _key(self, name: str) -> bytes:
        return f"{self._prefix}/{name}".encode()

    def _view_key(self, term: Term) -> bytes:
        return self._key(f"views/{term:08d}")

    def _shown(self, key: bytes) -> str:
        return f"etcd://{','.join(self._endpoints)}{key.decode()}"

    def _number(self, key: bytes, value: bytes) -> int:
        if not value.isdigit():
            raise CorruptJournal(self._shown(key), 0, f"it holds no number but {value!r:.60}")
        return int(value)


def _value(answer: list[tuple[bytes, object]]) -> bytes | None:
    """What a read inside a transaction found."""
    return answer[0][0] if answer else None


class _Loop:
    """An event loop in a thread of its own, which starts with the first call."""

    def __init__(self) -> None:
        self.closed = False
        self._turn = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[object, object, T], *, timeout_s: float) -> T:
        """What `work` returns or raises.

        Raises:
            CancelledError: of `concurrent.futures`: the loop was closed.
        """
        task = self.start(work)
        try:
            return task.result(timeout_s)
        except concurrent.futures.TimeoutError:
            task.cancel()
            raise

    def start(self, work: Coroutine[object, object, T]) -> concurrent.futures.Future[T]:
        """Let `work` run there; as `run`."""
        with self._turn:
            if self.closed:
                work.close()
                raise concurrent.futures.CancelledError
            if self._loop is None:
                self._loop = asyncio.SelectorEventLoop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="bokilog-etcd", daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self, last: Callable[[], Coroutine[object, object, None]]) -> None:
        """Cancel what runs, run `last`, end the thread. Closing twice changes nothing."""
        with self._turn:
            closed, self.closed = self.closed, True
            loop, thread = self._loop, self._thread
        if closed or loop is None or thread is None:
            return
        ended = asyncio.run_coroutine_threadsafe(_end(last), loop)
        try:
            ended.result(_CLOSE_TIMEOUT_S)
        except (concurrent.futures.TimeoutError, aetcd.ClientError) as error:
            _log.debug("etcd's connections did not close in order: %r", error)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_CLOSE_TIMEOUT_S)
        if not thread.is_alive():
            loop.close()


async def _end(last: Callable[[], Coroutine[object, object, None]]) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await last()
