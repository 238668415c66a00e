"""Every knob of a function, with its default, its range and what it costs.

Decides what may be said at `@app.function(...)`, and how it travels: as a plain dict, whose unknown
names are refused by the name of the nearest known one. Does not know what any of it leads to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Final, Literal, Self, get_args

from bokilog.errors import InvalidSettings

Overlap = Literal["skip", "allow", "cancel_running"]
CatchUp = Literal["none", "last", "all"]
TIMEOUT_S_MAX: Final = 86_400.0
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "timeout_s": (0.001, TIMEOUT_S_MAX),
    "retries": (0, 100),
    "retry_delay_s": (0.0, 3_600.0),
    "max_concurrency": (1, 10_000),
    "queue_limit": (0, 1_000_000),
    "min_workers": (0, 1_000),
    "max_workers": (1, 1_000),
    "idle_s": (0.0, 86_400.0),
    "memory_bytes": (0, 1 << 50),
    "catch_up_window_s": (0.0, 31 * 86_400.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionOptions:
    """How one function is run.

    Raises `InvalidSettings` where it is made, naming the option and its range.
    """

    timeout_s: float = 60.0
    """From the start of the call, waiting included; calls within it get what is left."""
    retries: int = 0
    """How often a call is started again: when its worker is lost; of durable calls also when the
    function raised. 0: at most one start."""
    retry_delay_s: float = 0.5
    """Before the first retry of a durable call; doubled each time, up to a minute."""
    max_concurrency: int = 0
    """Calls at once per worker; 0: 100 of async functions, 1 of sync ones (they run in threads)."""
    queue_limit: int = 1_000
    """Calls that may wait on a host; one more is refused as `Overloaded`."""
    min_workers: int = 0
    """Kept ready on each host even when nobody calls."""
    max_workers: int = 16
    """On each host."""
    idle_s: float = 60.0
    """A worker without calls for so long ends, down to `min_workers`."""
    memory_bytes: int = 0
    """A worker that takes more memory of its own is ended, and its calls are lost; 0: no limit."""
    fresh: bool = False
    """Every call gets a worker of its own, forked for it: nothing is left of the call before."""
    schedule: str = ""
    """When it runs by itself: `*/5 * * * *` (cron), or `every 30s` (s, m, h, d)."""
    time_zone: str = "UTC"
    """Of the schedule, as in the IANA database."""
    overlap: Overlap = "skip"
    """When a scheduled call is due and the one before is not over."""
    catch_up: CatchUp = "last"
    """Which of the due times that passed while nobody ran are made up for."""
    catch_up_window_s: float = 3_600.0
    """How far back it catches up."""

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if name == "max_concurrency" and value == 0:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InvalidSettings(name, repr(value), "is not a number")
            if isinstance(least, int) and not isinstance(value, int):
                raise InvalidSettings(name, repr(value), "is not a whole number")
            if not least <= value <= most:
                raise InvalidSettings(name, str(value), f"is not in {least:g}..{most:g}")
        if self.min_workers > self.max_workers:
            problem = f"is more than max_workers={self.max_workers}"
            raise InvalidSettings("min_workers", str(self.min_workers), problem)
        for name, kind in (("fresh", bool), ("schedule", str), ("time_zone", str)):
            if not isinstance(getattr(self, name), kind):
                problem = f"is not {'a text' if kind is str else 'True or False'}"
                raise InvalidSettings(name, repr(getattr(self, name)), problem)
        for name, allowed in (("overlap", Overlap), ("catch_up", CatchUp)):
            if getattr(self, name) not in get_args(allowed):
                known = ", ".join(get_args(allowed))
                raise InvalidSettings(name, repr(getattr(self, name)), f"is none of {known}")

    def to_plain(self) -> dict[str, object]:
        """As it travels."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, object]) -> Self:
        """What `to_plain` gave, or what a user said by name.

        Raises:
            InvalidSettings: a name is not known, or a value is out of its range.
        """
        known = [field.name for field in fields(cls)]
        for name in plain:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f": did you mean {near[0]!r}?" if near else ""
                raise InvalidSettings(name, repr(plain[name]), f"is no option of a function{hint}")
        return cls(**plain)  # type: ignore[arg-type]  # `__post_init__` checks each
