"""One engine in a cluster whose links break and whose primaries change, drawn from a seed.

Safety after every step (`check()`, no two frames under one LocalId, replies compared with the
truth); progress once all is healed: every frame is ordered exactly once, where its client was told,
in the order in which it was issued.
"""

import pytest

from tests.unit.functions.engine.fakes import Cluster

STEPS = 500


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("facts_bytes", [0, 6_000, 60_000])
def test_every_frame_is_ordered_once_and_every_read_is_right(seed: int, facts_bytes: int) -> None:
    cluster = Cluster(seed * 1000 + facts_bytes, facts_bytes=facts_bytes)
    for _ in range(STEPS):
        cluster.step()
    cluster.heal()
    check_outcome(cluster)


def check_outcome(cluster: Cluster) -> None:
    placed = {data: seqnum for seqnum, (_, data) in cluster.log.records.items() if data != b"other"}
    own = [data for _, data in cluster.log.records.values() if data != b"other"]
    assert len(own) == len(placed), "a record stands twice in the log"
    for client in cluster.clients:
        assert not client.in_flight and not client.refused and not client.lost
        assert set(client.ordered) == set(client.content)
        for number, frame in client.content.items():
            first = client.ordered[number]
            assert [placed[bytes(data)] for data in frame.payload] == [
                first + index for index in range(len(frame.payload))
            ]
            assert (number in client.decided) == frame.columns.needs_verdict
        order = [client.ordered[number] for number in sorted(client.ordered)]
        assert order == sorted(order), "not in the order issued (P4)"
        assert not client.reads
    stats = cluster.engine.stats()
    assert (stats.unordered_frames, stats.unordered_bytes, stats.reads_waiting) == (0, 0, 0)
