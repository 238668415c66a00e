"""Settings of an engine process: what the core is tuned by, and where the process stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bokilog.functions.engine.settings import EngineSettings
from bokilog.io.addresses import parse_address
from bokilog.io.open_views import check_views
from bokilog.io.settings import check_setting
from bokilog.limits import MIB
from bokilog.shared_records import BYTES_MIN


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProcessSettings(EngineSettings):
    """One engine process of a function node."""

    node_id: str
    """Its name in the view, such as `engine-1`."""
    views_dir: Path | None = None
    """The view store that all nodes of the cluster see, when it is a directory."""
    views_url: str = ""
    """The same in etcd: `etcd://HOST:PORT[,HOST:PORT...][/PREFIX]`; it wins over `views_dir`."""
    addresses: tuple[str, ...]
    """Where it listens for clients and for `bokilog status`: `unix:PATH`, `tcp:HOST:PORT`."""
    shared_bytes: int = 32 * MIB
    """Memory that workers on this machine read cached records from without a message; a file beside
    the first unix socket, `PATH.records`. 0: none."""
    metrics_address: str = ""
    """Where Prometheus finds its metrics: `tcp:HOST:PORT`; empty: nowhere."""
    view_poll_s: float = 0.25
    """How often the view store is asked for a newer term, beside what peers tell."""
    greeting_timeout_s: float = 5.0
    """How long a client waits for the primary's tails before it is told to come back."""

    def __post_init__(self) -> None:
        EngineSettings.__post_init__(self)
        check_views(self.views_url, self.views_dir)
        for address in self.addresses:
            parse_address(address)
        if self.shared_bytes:
            check_setting("shared_bytes", self.shared_bytes, least=BYTES_MIN, most=1 << 34)
        check_setting("view_poll_s", self.view_poll_s, least=0.01, most=60)
        check_setting("greeting_timeout_s", self.greeting_timeout_s, least=0.1, most=60)
