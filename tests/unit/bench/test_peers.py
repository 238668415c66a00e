"""Which client each peer's name stands for, and what is said when something is missing."""

from pathlib import Path

import pytest

from bokilog.bench.orders import Order, Outcome
from scripts.bench import bars, servers
from scripts.bench.peers import peer_of, units


class FakeClient:
    """Stands in for a client's process."""

    def __init__(self) -> None:
        self.asked: list[Order] = []
        self.pid = 1

    def ask(self, order: Order) -> Outcome:
        self.asked.append(order)
        return Outcome()


@pytest.mark.parametrize("name", sorted(bars.PEERS))
def test_every_peer_of_the_table_can_be_made(name: str, tmp_path: Path) -> None:
    peer = peer_of(name, FakeClient(), tmp_path)  # type: ignore[arg-type]  # a fake
    assert peer.name == name


def test_a_peer_without_a_server_gets_a_fresh_file_each_turn(tmp_path: Path) -> None:
    client = FakeClient()
    peer = peer_of(bars.SQLITE_UNITS, client, tmp_path)  # type: ignore[arg-type]  # a fake
    peer.begin()
    (tmp_path / bars.SQLITE_UNITS / "data-wal").touch()
    peer.run(2.0)
    peer.end()
    opened, appended, closed = client.asked
    assert (opened.do, opened.batch_count) == ("sqlite", 256)
    assert opened.place == str(tmp_path / bars.SQLITE_UNITS / "data")
    assert (appended.do, appended.outstanding, appended.seconds) == ("append", 1, 2.0)
    assert closed.do == "close"
    assert list((tmp_path / bars.SQLITE_UNITS).iterdir()) == []
    assert peer.pids() == {"client": 1}


def test_a_pipeline_is_one_call_at_a_time(tmp_path: Path) -> None:
    client = FakeClient()
    name = "redis-py.always.1024B.pipeline-of-256"
    peer_of(name, client, tmp_path).run(1.0)  # type: ignore[arg-type]  # a fake
    assert client.asked[0].outstanding == 1


def test_rates_are_named_by_what_they_count() -> None:
    assert units(bars.REDIS) == "appends/s"
    assert units(bars.SQLITE_UNITS) == units("redis-py.always.1024B.pipeline-of-256") == "records/s"


def test_what_is_missing_comes_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servers, "program", lambda name: None)
    monkeypatch.setattr(servers, "find_spec", lambda name: None)
    lines = servers.missing()
    assert lines["redis-server"] == "apt-get install --no-install-recommends redis-server"
    assert lines["nats"] == lines["redis"] == "pip install '.[bench]'"
    assert all("\n" not in line for line in lines.values())


def test_servers_listen_on_loopback_and_redis_syncs_as_told(tmp_path: Path) -> None:
    command = servers.redis(tmp_path, 6000, appendfsync="always")
    assert command[command.index("--bind") + 1] == "127.0.0.1"
    assert command[command.index("--appendfsync") + 1] == "always"
    assert "127.0.0.1" in servers.nats(tmp_path, 6001)
