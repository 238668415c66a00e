"""What every view store promises: one suite, for the one in files and the one in etcd."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from bokilog.errors import BokilogError, Closed, CorruptJournal, InvalidSettings, WrongTerm
from bokilog.ids import LogSpaceId, NodeId, Position, Term
from bokilog.io import file_views
from bokilog.io.file_views import FileViews
from bokilog.io.open_views import open_views, parse_views_url
from bokilog.io.view_store import ViewStore
from bokilog.view import End, LogSpace, Node, View
from tests.etcd import EtcdServer

ONE, TWO = NodeId("sequencer-1"), NodeId("sequencer-2")
LEASE_TTL_S = 1
_PREFIXES = itertools.count()


class Place:
    """Somewhere to keep views; each `open` is another process's idea of it."""

    def __init__(self, where: str, damage: Callable[[str, bytes], None]) -> None:
        self.where = where
        self.damage = damage
        self._opened: list[ViewStore] = []

    def open(self) -> ViewStore:
        if "://" in self.where:
            # Not at the top: the rest of the suite runs without the client library, too.
            from bokilog.io.etcd_views import EtcdViews

            place = parse_views_url(self.where)
            store: ViewStore = EtcdViews(place.endpoints, place.prefix, lease_ttl_s=LEASE_TTL_S)
        else:
            store = FileViews(self.where)
        self._opened.append(store)
        return store

    def close(self) -> None:
        for store in self._opened:
            store.close()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path_factory.mktemp("etcd") / "data") as server:
        yield server


@pytest.fixture(params=["file", pytest.param("etcd", marks=pytest.mark.service("etcd"))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "file":
        found = Place(
            str(tmp_path / "views"), lambda name, data: _damage_file(tmp_path, name, data)
        )
    else:
        server: EtcdServer = request.getfixturevalue("etcd")
        url = server.url(f"test-{next(_PREFIXES)}")
        found = Place(url, lambda name, data: _damage_etcd(url, name, data))
    yield found
    found.close()


@pytest.fixture
def store(place: Place) -> ViewStore:
    opened = place.open()
    assert opened.compare_and_swap(None, view(0))
    return opened


def view(term: int, *, tail: int = 1) -> View:
    storage = NodeId("storage-1")
    return View(
        cluster_id="c",
        history_id="h",
        term=Term(term),
        nodes=(
            Node(id=ONE, role="sequencer", address="unix:run/sequencer-1.sock"),
            Node(id=storage, role="storage", address="unix:a", bulk_address="unix:b"),
        ),
        spaces=(
            LogSpace(
                id=LogSpaceId(0),
                durability="sync",
                primary=ONE,
                replicas=(storage,),
                write_quorum=1,
            ),
        ),
        ends=(
            End(space=LogSpaceId(0), position=Position(Term(term), 7), tail=tail, timestamp_ms=1),
        ),
    )


def _damage_file(folder: Path, name: str, data: bytes) -> None:
    names = {"view": "00000001.view", "intent": "intent.json", "incarnation": "incarnations/x.json"}
    (folder / "views" / names[name]).write_bytes(data)


def _damage_etcd(url: str, name: str, data: bytes) -> None:
    store = open_views(url)
    names = {"view": "views/00000001", "intent": "intent", "incarnation": "incarnations/x"}
    key = store._key(names[name])  # type: ignore[attr-defined]
    store._call(lambda client: client.put(key, data))  # type: ignore[attr-defined]
    store.close()


# --- views ----------------------------------------------------------------------------------------


def test_an_empty_store_has_no_view(place: Place) -> None:
    store = place.open()
    assert (store.latest_term(), store.latest(), store.load(Term(1))) == (None, None, None)
    assert (store.intent(), store.lease_holder()) == (None, "")


def test_a_view_with_fewer_nodes_than_its_log_spaces_name_is_refused(
    place: Place, store: ViewStore
) -> None:
    """Also when a node of that name is there in another role."""
    known = view(1)
    wanted = replace(known.spaces[0], replicas=(NodeId("storage-1"), NodeId("storage-2")))
    with pytest.raises(InvalidSettings, match="replicas=storage-2 of log space 0 is no storage"):
        store.compare_and_swap(Term(0), replace(known, spaces=(wanted,)))
    wanted = replace(known.spaces[0], backups=(NodeId("storage-1"),))
    with pytest.raises(
        InvalidSettings, match="sequencers=storage-1 of log space 0 is no sequencer"
    ):
        store.compare_and_swap(Term(0), replace(known, spaces=(wanted,)))
    assert store.latest_term() == 0


def test_a_stored_view_is_read_as_it_was(place: Place, store: ViewStore) -> None:
    assert store.compare_and_swap(Term(0), view(1, tail=5))
    other = place.open()
    assert other.latest() == view(1, tail=5)
    assert (other.latest_term(), other.load(Term(0)), other.load(Term(2))) == (1, view(0), None)


def test_p13_a_term_is_decided_once(place: Place, store: ViewStore) -> None:
    other = place.open()
    assert other.compare_and_swap(Term(0), view(1, tail=5))
    assert not store.compare_and_swap(Term(0), view(1, tail=6))
    assert not store.compare_and_swap(None, view(0, tail=6))
    assert not store.compare_and_swap(Term(0), view(1, tail=5))  # the same content is no excuse
    assert store.latest() == other.latest() == view(1, tail=5)


def test_p13_of_many_threads_at_once_one_wins(place: Place, store: ViewStore) -> None:
    won: list[int] = []

    def swap(opened: ViewStore, tail: int) -> None:
        if opened.compare_and_swap(Term(0), view(1, tail=tail)):
            won.append(tail)

    # Some share a store object, some have their own.
    stores = [store, store, place.open(), place.open()]
    _all_at_once([partial(swap, *pair) for pair in zip(stores, range(1, 5), strict=True)])
    assert len(won) == 1
    assert store.latest() == view(1, tail=won[0])


@pytest.mark.slow
def test_p13_of_several_processes_at_once_one_wins_each_term(place: Place) -> None:
    place.open().compare_and_swap(None, view(0))
    processes = [_child(place, f"swap 10 {tail}") for tail in (1, 2, 3)]
    won = [[int(word) for word in process.communicate()[0].split()] for process in processes]
    assert sorted(term for terms in won for term in terms) == list(range(1, 11))
    store = place.open()
    for tail, terms in zip((1, 2, 3), won, strict=True):
        assert [store.load(Term(term)) for term in terms] == [view(t, tail=tail) for t in terms]


def test_p15_no_term_is_left_out(store: ViewStore) -> None:
    with pytest.raises(InvalidSettings, match="term=2 does not follow 0"):
        store.compare_and_swap(Term(0), view(2))
    with pytest.raises(InvalidSettings, match="term=1 does not follow None"):
        store.compare_and_swap(None, view(1))
    assert not store.compare_and_swap(Term(1), view(2))
    assert store.latest_term() == 0


def test_a_damaged_view_is_refused(place: Place, store: ViewStore) -> None:
    store.compare_and_swap(Term(0), view(1))
    place.damage("view", b'{"format": 1, "vi')
    with pytest.raises(CorruptJournal, match="00000001"):
        place.open().load(Term(1))


# --- incarnations ---------------------------------------------------------------------------------


def test_p3_incarnations_are_unique_and_only_the_latest_counts(
    place: Place, store: ViewStore
) -> None:
    assert [store.register_incarnation(node) for node in (ONE, TWO, ONE)] == [1, 2, 3]
    other = place.open()
    assert (other.latest_incarnation(ONE), other.latest_incarnation(TWO)) == (3, 2)
    assert other.latest_incarnation(NodeId("engine-9")) == 0
    assert other.register_incarnation(ONE, above=9) == 10
    assert store.register_incarnation(TWO, above=4) == 11


def test_p3_starts_at_once_get_different_numbers(place: Place, store: ViewStore) -> None:
    numbers: list[int] = []

    def start(opened: ViewStore) -> None:
        numbers.append(opened.register_incarnation(ONE))

    _all_at_once([partial(start, each) for each in (store, store, place.open(), place.open())])
    assert sorted(numbers) == [1, 2, 3, 4]
    assert store.latest_incarnation(ONE) == 4


def test_a_damaged_incarnation_is_refused(place: Place, store: ViewStore) -> None:
    store.register_incarnation(NodeId("x"))
    place.damage("incarnation", b"-")
    with pytest.raises(CorruptJournal):
        store.latest_incarnation(NodeId("x"))


@pytest.mark.parametrize("name", ["", "../x", "a/b", "last", "x" * 65])
def test_names_that_no_store_can_keep_are_refused(store: ViewStore, name: str) -> None:
    for call in (store.register_incarnation, store.latest_incarnation, store.try_lease):
        with pytest.raises(InvalidSettings, match="node_id="):
            call(NodeId(name))


# --- the intent -----------------------------------------------------------------------------------


def test_p15_an_intent_is_seen_by_all_and_the_first_one_stays(
    place: Place, store: ViewStore
) -> None:
    store.store_intent(Term(0), "sequencer-1 is silent")
    other = place.open()
    assert other.intent() == (0, "sequencer-1 is silent")
    other.store_intent(Term(0), "another reason")
    assert store.intent() == (0, "sequencer-1 is silent")


def test_p15_a_later_view_ends_an_intent(place: Place, store: ViewStore) -> None:
    store.store_intent(Term(0), "first")
    place.open().compare_and_swap(Term(0), view(1))
    assert store.intent() is None
    store.store_intent(Term(1), "second")
    assert store.intent() == (1, "second")


@pytest.mark.parametrize("term", [0, 2])
def test_p15_an_intent_is_about_the_last_stored_term(store: ViewStore, term: int) -> None:
    store.compare_and_swap(Term(0), view(1))
    with pytest.raises(WrongTerm, match="the term is 1 now"):
        store.store_intent(Term(term), "late")
    assert store.intent() is None


def test_an_empty_store_takes_no_intent(place: Place) -> None:
    with pytest.raises(WrongTerm):
        place.open().store_intent(Term(0), "early")


def test_a_damaged_intent_is_refused(place: Place, store: ViewStore) -> None:
    store.store_intent(Term(0), "x")
    place.damage("intent", b'{"term": "0"}')
    with pytest.raises(CorruptJournal, match="intent"):
        store.intent()


# --- the lease ------------------------------------------------------------------------------------


def test_one_node_at_a_time_has_the_lease(place: Place, store: ViewStore) -> None:
    other = place.open()
    assert store.try_lease(ONE)
    assert not other.try_lease(TWO)
    assert store.try_lease(ONE)
    assert not store.try_lease(TWO)  # nor does this process take it for another node
    assert store.lease_holder() == other.lease_holder() == "sequencer-1"


def test_a_released_lease_moves_at_once(place: Place, store: ViewStore) -> None:
    other = place.open()
    assert store.try_lease(ONE)
    store.release_lease(TWO)  # not its own
    assert not other.try_lease(TWO)
    store.release_lease(ONE)
    assert other.lease_holder() == ""
    assert other.try_lease(TWO)
    assert store.lease_holder() == "sequencer-2"
    assert not store.try_lease(ONE)


def test_a_store_that_is_closed_gives_its_lease_back(place: Place, store: ViewStore) -> None:
    other = place.open()
    assert other.try_lease(TWO)
    other.close()
    other.close()
    assert store.try_lease(ONE)


@pytest.mark.slow
@pytest.mark.kill
def test_the_lease_of_a_killed_holder_moves(place: Place, store: ViewStore) -> None:
    holder = _child(place, "hold sequencer-2")
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert store.lease_holder() == "sequencer-2"
    assert not store.try_lease(ONE)
    holder.kill()
    holder.communicate()
    _until(lambda: store.try_lease(ONE))
    assert store.lease_holder() == "sequencer-1"


@pytest.mark.slow
@pytest.mark.kill
def test_the_lease_of_a_paused_holder_moves_and_it_notices(
    place: Place, store: ViewStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_views, "LEASE_TTL_S", LEASE_TTL_S)
    holder = _child(place, "hold sequencer-2")
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    holder.send_signal(signal.SIGSTOP)
    _until(lambda: store.try_lease(ONE))
    holder.send_signal(signal.SIGCONT)
    assert holder.stdout.readline() == b"lost\n"
    assert store.try_lease(ONE)
    holder.kill()
    holder.communicate()


# --- waiting --------------------------------------------------------------------------------------


def test_who_waits_for_a_change_wakes_with_it(place: Place, store: ViewStore) -> None:
    other, woken = place.open(), threading.Event()

    def wait() -> None:
        other.wait_changed(Term(0), 15)
        woken.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    store.compare_and_swap(Term(0), view(1))
    waiter.join(10)
    assert woken.is_set()
    assert other.latest_term() == 1


def test_a_wait_for_what_is_there_is_none_and_one_without_a_change_ends(store: ViewStore) -> None:
    store.wait_changed(None, 15)
    started_s = time.monotonic()
    store.wait_changed(Term(0), 0.02)
    assert time.monotonic() - started_s < 5


# --- etcd only ------------------------------------------------------------------------------------


@pytest.mark.service("etcd")
def test_a_call_on_a_closed_store_says_so(etcd: EtcdServer) -> None:
    store = open_views(etcd.url("closed"))
    assert store.latest_term() is None
    store.close()
    with pytest.raises(Closed, match="the view store etcd://"):
        store.latest_term()
    store.wait_changed(None, 15)


@pytest.mark.service("etcd")
def test_a_swap_whose_answer_was_lost_is_known_when_it_is_made_again(
    etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_views(etcd.url("lost"))
    swap = store._swap  # type: ignore[attr-defined]

    async def deaf(*arguments: object) -> bool:
        assert await swap(*arguments)
        raise TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(store, "_swap", deaf)
        patch.setattr(store, "_call_timeout_s", 0.04)
        with pytest.raises(BokilogError, match="cannot reach the view store etcd://"):
            store.compare_and_swap(None, view(0))
    assert store.compare_and_swap(None, view(0))
    assert not store.compare_and_swap(None, view(0))
    store.close()


# --- helpers --------------------------------------------------------------------------------------

_CHILD = """
import sys, time
from bokilog.ids import NodeId, Term
from tests.unit.io.test_view_store_contract import Place, view
store = Place(sys.argv[1], lambda name, data: None).open()
what, *rest = sys.argv[2].split()
if what == "swap":
    while (term := store.latest_term()) < int(rest[0]):
        if store.compare_and_swap(term, view(term + 1, tail=int(rest[1]))):
            print(term + 1)
else:
    assert store.try_lease(NodeId(rest[0]))
    print("held", flush=True)
    while store.try_lease(NodeId(rest[0])):
        time.sleep(0.05)
    print("lost", flush=True)
    time.sleep(60)
"""


def _child(place: Place, what: str) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, place.where, what], stdout=subprocess.PIPE, cwd=root
    )


def _all_at_once(works: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _until(holds: Callable[[], bool], timeout_s: float = 15.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
