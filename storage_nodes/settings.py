"""What an operator may tune of a storage node.

Decides nothing else. Hard limits are in `bokilog/limits.py`; where values come from is
`bokilog/io/settings.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bokilog.errors import InvalidSettings
from bokilog.io.addresses import parse_address
from bokilog.io.open_views import check_views
from bokilog.io.places import check_place
from bokilog.io.settings import SyncName, check_setting
from bokilog.limits import MIB, SEGMENT_BYTES, UNIT_BYTES_MAX, UNIT_COLUMNS_BYTES_MAX
from bokilog.storage_nodes.compaction import COMPACTION_BYTES_S
from bokilog.storage_nodes.scrub import SCRUB_BYTES_S

COLD_AFTER_S_MAX = 100 * 366 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """One storage node process."""

    node_id: str
    """Its name in the view, such as `storage-1`."""
    views_dir: Path | None = None
    """The view store that all nodes of the cluster see, when it is a directory."""
    views_url: str = ""
    """The same in etcd: `etcd://HOST:PORT[,HOST:PORT...][/PREFIX]`; it wins over `views_dir`."""
    data_dir: Path
    """Its own: journals and index."""
    address: str
    """Where engines and storage nodes dial: `unix:PATH` or `tcp:HOST:PORT`."""
    bulk_address: str = ""
    """Where frames are sent, so that progress and reads never wait behind them (P32); empty: the
    same address."""

    metrics_address: str = ""
    """Where Prometheus finds its metrics: `tcp:HOST:PORT`; empty: nowhere."""

    memory_bytes: int = 256 * MIB
    """For the index, over all log spaces: the generations of the fold that are not stored yet, the
    block cache and the write buffers of the store. An index of any size works; this is how much of
    it is at hand."""
    cache_bytes: int = 64 * MIB
    """Frames kept decoded per log space. Followers read what was just appended, so a few seconds of
    a fast writer are enough; everything else is one `pread`."""
    checkpoint_s: float = 10.0
    """At least this often the fold is stored, so that a restart has little to fold again (P19)."""
    checkpoint_postings_count: int = 2_000_000
    """The fold is also stored after this many index entries: about 64 MiB of them (P19)."""

    segment_bytes: int = SEGMENT_BYTES
    """Of journal files; what is freed at once when its records are gone."""
    headroom_bytes: int = 256 * MIB
    """Left free on the disk for trims, checkpoints and compaction when it is full (P32)."""
    pending_bytes: int = 256 * MIB
    """Per log space, frames in memory that are not folded yet; beyond it the oldest durable ones
    are read back from the journal when their turn comes (P32)."""
    compaction_bytes_s: int = COMPACTION_BYTES_S
    """Per log space, how fast live frames are copied out of segments that are mostly trimmed (P21):
    a tenth of what a slow disk writes, so that appends hardly notice. 0: none are."""
    scrub_bytes_s: int = SCRUB_BYTES_S
    """Per log space, how fast frames are read to find flipped bits (P30): a terabyte in three days.
    0: nothing is looked for."""
    rebuild_bytes_s: int = 32 * MIB
    """Per log space, how fast a node whose disk was lost copies frames from the others: appends and
    reads come first (P33)."""

    cold_url: str = ""
    """Where old journal segments go: `s3://BUCKET/PREFIX` (its credentials are in the usual
    environment, AWS_ACCESS_KEY_ID and so on) or a folder, `file:///PATH`. Every node and disk has a
    prefix of its own below it. Empty: all stay here."""
    cold_after_s: float = 86_400.0
    """A sealed segment whose last record is so old moves there. 0: age moves none."""
    hot_bytes: int = 0
    """Per log space, bytes of the journal that stay on this disk: beyond it the oldest sealed
    segments move, however young. 0: no bound."""
    cold_cache_bytes: int = 32 * MIB
    """Per log space, what was read from there and is kept at hand."""

    view_poll_s: float = 0.25
    """How often the view store is asked for a newer term, beside what peers tell."""

    sync: SyncName = "fdatasync"
    """How frames of class `sync` are made durable; `none` loses them with the machine's power, and
    is for tests and for measuring what syncs cost."""
    sync_delay_ms: float = 0.0
    """Added to every sync, to see how the cluster would do on a slower disk."""

    def __post_init__(self) -> None:
        check_views(self.views_url, self.views_dir)
        parse_address(self.address)
        if self.bulk_address:
            parse_address(self.bulk_address)
        if self.bulk_address == self.address:
            problem = "is `address` too: leave it empty for one connection"
            raise InvalidSettings("bulk_address", self.bulk_address, problem)
        check_setting("memory_bytes", self.memory_bytes, least=32 * MIB)
        check_setting("cache_bytes", self.cache_bytes, least=0)
        check_setting("checkpoint_s", self.checkpoint_s, least=0.1, most=3600)
        check_setting("checkpoint_postings_count", self.checkpoint_postings_count, least=1_000)
        check_setting("segment_bytes", self.segment_bytes, least=MIB, most=4096 * MIB)
        check_setting("headroom_bytes", self.headroom_bytes, least=0)
        check_setting(
            "pending_bytes",
            self.pending_bytes,
            least=UNIT_BYTES_MAX + UNIT_COLUMNS_BYTES_MAX,
            why="the largest unit must fit",
        )
        check_setting("compaction_bytes_s", self.compaction_bytes_s, least=0)
        check_setting("scrub_bytes_s", self.scrub_bytes_s, least=0)
        check_setting("rebuild_bytes_s", self.rebuild_bytes_s, least=MIB)
        if self.cold_url:
            check_place(self.cold_url)
            if "://" not in self.cold_url and not Path(self.cold_url).is_absolute():
                problem = "is a relative path: name the folder as file:///PATH"
                raise InvalidSettings("cold_url", repr(self.cold_url), problem)
        check_setting("cold_after_s", self.cold_after_s, least=0, most=COLD_AFTER_S_MAX)
        check_setting("hot_bytes", self.hot_bytes, least=0)
        if self.hot_bytes and not self.cold_url:
            raise InvalidSettings("hot_bytes", str(self.hot_bytes), "is no use without `cold_url`")
        check_setting("cold_cache_bytes", self.cold_cache_bytes, least=0)
        check_setting("view_poll_s", self.view_poll_s, least=0.01, most=60)
        check_setting("sync_delay_ms", self.sync_delay_ms, least=0, most=10_000)
