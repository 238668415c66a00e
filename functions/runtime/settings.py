"""Delays and bounds of the core that schedules calls on one host.

Decides their ranges. What concerns one function is in its options (`options.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from bokilog.errors import InvalidSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """What an operator may tune of a host's scheduler."""

    grace_s: float = 0.5
    """Past a call's deadline its worker may take so long to say that the call is over; then the
    worker is stuck."""
    cancel_grace_s: float = 1.0
    """A cancelled call may take so long to end; then its caller is told all the same."""
    worker_drain_s: float = 5.0
    """What else runs in a stuck worker gets so long before the worker is killed; so does a worker
    that was told to end."""
    worker_start_s: float = 30.0
    """A worker that is not ready after so long is killed."""
    exit_wait_s: float = 0.2
    """After a worker's connection is gone, its exit status is waited for so long."""
    stall_s: float = 0.05
    """While calls wait longer than this, workers are added whatever the averages say."""
    back_off_s_min: float = 0.1
    """Before a template or a worker that could not start is started again; doubled each time."""
    back_off_s_max: float = 5.0
    """Where that doubling ends."""
    peer_back_off_s: float = 0.5
    """A host that refused a call is left alone for so long, or for as long as it asked for."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not 0.001 <= value <= 600:
                raise InvalidSettings(name, str(value), "is outside 0.001..600")
        if self.back_off_s_max < self.back_off_s_min:
            problem = f"is less than back_off_s_min={self.back_off_s_min}"
            raise InvalidSettings("back_off_s_max", str(self.back_off_s_max), problem)

    def back_off_s(self, failures: int) -> float:
        """After so many failures in a row, what could not start is left alone for so long."""
        return float(min(self.back_off_s_min * 2 ** min(failures - 1, 16), self.back_off_s_max))
