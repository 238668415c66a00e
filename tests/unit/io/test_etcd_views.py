"""What a store in etcd does when etcd is not there: it says so in time, and names it."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bokilog.errors import NodeUnreachable
from bokilog.ids import NodeId, Term
from bokilog.io.etcd_views import EtcdViews
from bokilog.io.open_views import open_views
from bokilog.view import View
from tests.etcd import EtcdServer

ONE = NodeId("sequencer-1")
FIRST = View(cluster_id="c", history_id="h", term=Term(0), nodes=(), spaces=(), ends=())


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path_factory.mktemp("etcd") / "data") as server:
        yield server


@pytest.fixture
def nobody() -> Iterator[str]:
    """An endpoint that refuses connections for as long as it is not given to anybody else."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"


def test_an_unreachable_etcd_is_named_within_the_deadline(nobody: str) -> None:
    with closing(open_views(f"etcd://{nobody},{nobody}/mine", timeout_s=0.1)) as store:
        started_s = time.monotonic()
        with pytest.raises(NodeUnreachable) as caught:
            store.latest_term()
        assert time.monotonic() - started_s < 5
    assert str(caught.value).startswith(
        f"cannot reach the view store etcd://{nobody},{nobody}/mine: "
    )
    assert caught.value.retryable


def test_every_call_on_an_unreachable_etcd_says_so(nobody: str) -> None:
    with closing(EtcdViews([nobody], "/x", call_timeout_s=0.02)) as store:
        for call in (
            store.latest,
            lambda: store.load(Term(0)),
            store.intent,
            store.lease_holder,
            lambda: store.store_intent(Term(0), "x"),
            lambda: store.try_lease(ONE),
            lambda: store.register_incarnation(ONE),
            lambda: store.latest_incarnation(ONE),
        ):
            with pytest.raises(NodeUnreachable, match=nobody):
                call()
        store.wait_changed(None, 0.02)


def test_a_store_that_is_closed_interrupts_who_waits(nobody: str) -> None:
    store = EtcdViews([nobody], "/x", call_timeout_s=15)
    problems: list[Exception] = []

    def ask() -> None:
        try:
            store.latest_term()
        except Exception as error:
            problems.append(error)

    asking = threading.Thread(target=ask)
    waiting = threading.Thread(target=store.wait_changed, args=(None, 15))
    asking.start()
    waiting.start()
    while store._at == 0 and not store._clients:
        time.sleep(0.001)
    store.close()
    asking.join(5)
    waiting.join(5)
    assert not asking.is_alive() and not waiting.is_alive()
    assert [str(problem) for problem in problems] == [f"the view store etcd://{nobody}/x is closed"]


@pytest.mark.service("etcd")
def test_a_member_that_is_down_does_not_matter(etcd: EtcdServer, nobody: str) -> None:
    with closing(open_views(f"etcd://{nobody},{etcd.endpoint}/two")) as store:
        assert store.latest_term() is None
        assert store.register_incarnation(ONE) == 1


@pytest.mark.service("etcd")
@pytest.mark.slow
def test_a_paused_etcd_is_noticed_and_answers_again_when_it_goes_on(etcd: EtcdServer) -> None:
    with closing(EtcdViews([etcd.endpoint], "/paused", call_timeout_s=0.5)) as store:
        assert store.latest_term() is None
        etcd.signal(signal.SIGSTOP)
        with pytest.raises(NodeUnreachable, match=etcd.endpoint):
            store.latest_term()
        etcd.signal(signal.SIGCONT)
        assert store.latest_term() is None


@pytest.mark.service("etcd")
@pytest.mark.slow
@pytest.mark.kill
def test_an_etcd_that_is_started_again_is_found_with_what_it_had(tmp_path: Path) -> None:
    with (
        EtcdServer(tmp_path / "data") as server,
        closing(open_views(server.url("again"))) as store,
    ):
        assert store.register_incarnation(ONE) == 1
        store.wait_changed(None, 0.02)  # the watch stands, and breaks
        server.kill()
        server.start()
        assert store.latest_incarnation(ONE) == 1
        with closing(open_views(server.url("again"))) as other:
            assert other.compare_and_swap(None, FIRST)
        store.wait_changed(None, 15)  # and is made anew
        assert store._seen == 0  # type: ignore[attr-defined]


@pytest.mark.service("etcd")
@pytest.mark.slow
def test_a_lease_is_kept_through_a_short_pause_and_lost_after_a_long_one(etcd: EtcdServer) -> None:
    with closing(EtcdViews([etcd.endpoint], "/pause", lease_ttl_s=1)) as store:
        assert store.try_lease(ONE)
        etcd.signal(signal.SIGSTOP)
        paused_s = time.monotonic()

        def use_up() -> None:
            while store.try_lease(ONE):
                assert time.monotonic() - paused_s < 10

        with pytest.raises(NodeUnreachable):
            use_up()
        assert time.monotonic() - paused_s > 0.9
        etcd.signal(signal.SIGCONT)
