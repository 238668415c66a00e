"""Settings of an engine: what an operator may tune, within the limits of `bokilog/limits.py`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from bokilog.errors import InvalidSettings
from bokilog.limits import INFLIGHT_BYTES_MAX, MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Bounds and delays of one engine; bounds of appends are per log space."""

    unordered_frames_max: int = 16_384
    """Frames taken and not yet ordered; past it appends are refused as `Overloaded` (P32)."""
    unordered_bytes_max: int = INFLIGHT_BYTES_MAX
    """Bytes of such frames. One frame is always taken, however large: it may be one whole unit."""
    lag_records_max: int = 262_144
    """Records that the followed index replica may be behind the order; past it appends wait (P32).
    With 1 KiB each, about what a storage node keeps in memory until it is folded: beyond that it
    reads frames back from its disk, and only falls further behind.
    """
    overloaded_retry_s: float = 0.02
    """`retry_after_s` of a refused append: about what a busy log space needs to order what is
    there.
    """
    retry_s: float = 1.0
    """Whatever is unanswered for this long is asked again: far above a slow sync, far below a
    caller's patience.
    """
    gap_asks_max: int = 15
    """How often metalog entries that are missing are asked for before the frames they ordered count
    as lost.
    """
    facts_bytes: int = 64 * MIB
    """Memory for facts; 0 turns them off (embedded: the storage core is in the same process)."""
    cache_bytes: int = 256 * MIB
    """Memory for record bytes: half for this engine's own frames, half for records read; 0: none.
    """
    followed_books_max: int = 4_096
    """LogBooks whose entries are streamed here; the one read longest ago is dropped."""
    reads_max: int = 65_536
    """Reads waiting for an answer; past it they are refused as `Overloaded`."""
    held_messages_max: int = 4_096
    """Messages of a term whose view is not installed yet (P17)."""
    held_bytes_max: int = 64 * MIB
    """Bytes of such messages."""
    trace_events: int = 256
    """Events remembered for a crash report, without their payloads."""

    def __post_init__(self) -> None:
        for field in fields(EngineSettings):
            value = getattr(self, field.name)
            least = 0 if field.name in _MAY_BE_ZERO else 1e-6
            if not value >= least:
                problem = "is not 0 or more" if least == 0 else "is not more than 0"
                raise InvalidSettings(field.name, str(value), problem)

    @property
    def keeps_facts(self) -> bool:
        """Whether reads are answered here; else each is passed on to the storage node."""
        return bool(self.facts_bytes)


_MAY_BE_ZERO = {"facts_bytes", "cache_bytes", "trace_events"}
