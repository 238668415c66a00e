"""What an operator may tune of a sequencer.

Decides nothing else. Hard limits are in `bokilog/limits.py`; where values come from is
`bokilog/io/settings.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bokilog.io.addresses import parse_address
from bokilog.io.open_views import check_views
from bokilog.io.settings import SyncName, check_setting
from bokilog.limits import MIB
from bokilog.sequencer.controller_settings import ControllerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SequencerSettings(ControllerSettings):
    """One sequencer process."""

    node_id: str
    """Its name in the view, such as `sequencer-1`."""
    views_dir: Path | None = None
    """The view store that all nodes of the cluster see, when it is a directory."""
    views_url: str = ""
    """The same in etcd: `etcd://HOST:PORT[,HOST:PORT...][/PREFIX]`; it wins over `views_dir`."""
    data_dir: Path
    """Its own: the journals of the metalogs."""
    address: str
    """Where storage nodes and engines dial: `unix:PATH` or `tcp:HOST:PORT`."""
    sync: SyncName = "fdatasync"
    """How a metalog entry of class `sync` is made durable; `none` loses order with the machine's
    power, and is for tests and for measuring what syncs cost."""
    sync_delay_ms: float = 0.0
    """Added to every sync, to see how the cluster would do on a slower disk."""
    segment_bytes: int = 8 * MIB
    """Of journal files. A cut takes tens of bytes, so this is about a hundred thousand of them."""
    headroom_bytes: int = 16 * MIB
    """Left free on the disk for what must go on when it is full: trims and the next view."""
    keep_metalog: bool = False
    """Whether its metalogs are kept whole though no storage node needs their older entries any more
    (P16): for audits of everything that was ever ordered."""
    metrics_address: str = ""
    """Where Prometheus finds its metrics: `tcp:HOST:PORT`; empty: nowhere."""
    view_poll_s: float = 0.25
    """How often the view store is asked for a newer term, beside what peers tell: it bounds how
    long a deposed primary believes in itself while nobody talks to it."""

    def __post_init__(self) -> None:
        ControllerSettings.__post_init__(self)
        check_views(self.views_url, self.views_dir)
        parse_address(self.address)
        check_setting("sync_delay_ms", self.sync_delay_ms, least=0, most=10_000)
        check_setting("segment_bytes", self.segment_bytes, least=MIB, most=1024 * MIB)
        check_setting("headroom_bytes", self.headroom_bytes, least=0)
        check_setting("view_poll_s", self.view_poll_s, least=0.01, most=60)
