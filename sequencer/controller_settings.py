"""What an operator may tune of view changes.

Decides nothing else. All times are the controller's own monotonic clock's; safety rests on none of
them, only how soon a change begins and how often one begins without need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bokilog.errors import InvalidSettings

REPLACE_AFTER_S_MAX: Final = 30 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings:
    """Delays of the controller in every sequencer process."""

    heartbeat_s: float = 0.2
    """How often each sequencer tells the others that it lives, looks whom it suspects, and asks for
    the lease of the active controller: so much later a change may begin. A few messages a second
    cost nothing."""
    suspicion_s: float = 3.0
    """A sequencer that was silent for so long is suspected while its link stands, and one that was
    never heard of after the start. A process starved of the processor, stopped by its disk or
    paused by a collection comes back within that; a needless change costs every append a pause."""
    link_down_suspicion_s: float = 0.3
    """The same once its link is down. A killed process's links end at once, so this is most of the
    silence that clients see; a reset connection is made again within it."""
    clock_ahead_max_s: float = 5.0
    """A sequencer whose wall clock is further ahead of the others' is not made primary: cuts would
    carry its time for good, and end times to live too early (P10). Far above what clocks that are
    set by the network differ."""
    retry_s: float = 0.2
    """An unanswered step of a change is asked again after this, then after twice as long, ..."""
    retry_max_s: float = 2.0
    """... up to this: while a majority is missing nothing else can be done."""
    replace_after_s: float = 300.0
    """A storage node that is gone for so long is replaced, in every log space that it is a replica
    of, by one that is not, which then copies all records: far longer than a restart takes. What
    only the old one holds is given up. 0: never."""

    def __post_init__(self) -> None:
        for name, least_s in (
            ("heartbeat_s", 0.01),
            ("suspicion_s", 2 * self.heartbeat_s),
            ("link_down_suspicion_s", 0.0),
            ("clock_ahead_max_s", 0.1),
            ("retry_s", 0.01),
            ("retry_max_s", self.retry_s),
        ):
            value_s = getattr(self, name)
            if not least_s <= value_s <= 3600:
                problem = f"is outside {least_s:g}..3600"
                raise InvalidSettings(name, str(value_s), problem)
        least_s, most_s, value_s = self.suspicion_s, REPLACE_AFTER_S_MAX, self.replace_after_s
        if value_s and not least_s <= value_s <= most_s:
            problem = f"is neither 0 nor within {least_s:g}..{most_s:g}"
            raise InvalidSettings("replace_after_s", str(value_s), problem)
