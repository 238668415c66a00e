"""Settings of a host process: which app, where it listens, which log it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bokilog.errors import InvalidSettings
from bokilog.functions.runtime.settings import SchedulerSettings
from bokilog.io.addresses import parse_address
from bokilog.io.settings import check_app, check_setting

NAME_BYTES_MAX: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """One host process of a function node."""

    node_id: str
    """Its name, such as `host-1`: printable, 1 to 128 bytes of UTF-8."""
    app: str
    """What is run: `module:app`, or a file `path/to/module.py:app`."""
    app_dir: Path = Path()
    """The first folder on the import path of the app."""
    addresses: tuple[str, ...]
    """Where it listens for workers, callers and other hosts; the first is a unix socket, for
    workers."""
    advertised: tuple[str, ...] = ()
    """What others are told to dial, if that is not `addresses`."""
    log_url: str
    """The log that the app's functions use: the engine of this function node."""
    watch: bool = False
    """The app is loaded again when one of its files changes."""
    watch_s: float = 0.25
    """How often its files are looked at."""
    memory_poll_s: float = 0.25
    """How often the memory of workers is looked at, for functions that limit it."""
    worker_silent_s: float = 5.0
    """A worker of many calls at once gets no more of them once its loop stood still for so long."""
    drain_calls_s: float = 5.0
    """A host that is told to stop lets calls run so long."""
    outputs_max: int = 1_000
    """Calls whose output is kept for `bokilog logs`."""
    output_bytes_max: int = 65_536
    """Of one call's output that are kept: the last ones."""
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    """Delays of its scheduler."""

    def __post_init__(self) -> None:
        _check_name(self.node_id)
        check_setting("watch_s", self.watch_s, least=0.01, most=60)
        check_setting("memory_poll_s", self.memory_poll_s, least=0.01, most=60)
        check_setting("worker_silent_s", self.worker_silent_s, least=0.1, most=3_600)
        check_setting("drain_calls_s", self.drain_calls_s, least=0.0, most=600)
        check_setting("outputs_max", self.outputs_max, least=1, most=1_000_000)
        check_setting("output_bytes_max", self.output_bytes_max, least=1_024, most=1 << 30)
        if not self.addresses or not self.addresses[0].startswith("unix:"):
            problem = "does not begin with a unix socket, which workers need"
            raise InvalidSettings("addresses", str(list(self.addresses)), problem)
        for address in (*self.addresses, *self.advertised):
            parse_address(address)
        check_app(self.app)
        _check_folder(self.app_dir)


def _check_name(name: str) -> None:
    """Other hosts are told of it, and people read it."""
    size_bytes = len(name.encode(errors="surrogateescape"))
    if not 1 <= size_bytes <= NAME_BYTES_MAX:
        shown = name if len(name) <= 20 else f"{name[:20]}..."
        problem = f"has {size_bytes} bytes: the name of a host has 1 to {NAME_BYTES_MAX}"
        raise InvalidSettings("name", repr(shown), problem)
    if not name.isprintable():
        problem = "holds what cannot be printed: the name of a host is text in one line"
        raise InvalidSettings("name", repr(name), problem)


def _check_folder(folder: Path) -> None:
    """Templates say which files they have imported."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise InvalidSettings("app_dir", repr(str(folder)), "is not UTF-8") from None
