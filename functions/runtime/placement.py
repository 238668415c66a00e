"""Which host a call goes to.

Decides by what this host knows itself: who is up, who refused lately, how many of its own calls
each has. The host that holds the arguments is preferred, with some exceptions by chance, so that
one popular record does not keep one host busy for ever; otherwise calls stay here, and only what
this host has no room for goes to the less busy of two others drawn by chance. Large fan-outs are
split in equal parts (a tree start).

Invariants: a host that is down or has asked for time is never chosen; the same seed and the same
calls give the same choices. Does not know what a call is. Source: Cloudburst (locality first,
random exceptions), the power of two choices.
"""

from __future__ import annotations

from typing import Final

EXCEPTIONS: Final = 16
"""One of so many calls ignores where its data is."""
PART_CALLS_MIN: Final = 16
"""A fan-out is not split into parts smaller than this."""
_MASK: Final = (1 << 64) - 1


class _Host:
    __slots__ = ("name", "not_before_s", "under_way")

    def __init__(self, name: str) -> None:
        self.name = name
        self.under_way = 0
        self.not_before_s = 0.0


class Placement:
    """What one host knows of the others.

    Args:
        seed: of its draws.
    """

    __slots__ = ("_hosts", "_name", "_state")

    def __init__(self, name: str, *, seed: int) -> None:
        self._name = name
        self._hosts: dict[str, _Host] = {}
        self._state = seed & _MASK

    @property
    def alone(self) -> bool:
        """No other host is up."""
        return not self._hosts

    def up(self, name: str) -> None:
        """A link to that host stands."""
        self._hosts[name] = _Host(name)

    def down(self, name: str) -> None:
        """It does not any more."""
        self._hosts.pop(name, None)

    def refused(self, name: str, *, until_s: float) -> None:
        """That host has no room."""
        host = self._hosts.get(name)
        if host is not None:
            host.not_before_s = max(host.not_before_s, until_s)

    def began(self, name: str, count: int = 1) -> None:
        """So many calls were passed to it."""
        host = self._hosts.get(name)
        if host is not None:
            host.under_way += count

    def over(self, name: str) -> None:
        """One of them is over."""
        host = self._hosts.get(name)
        if host is not None and host.under_way > 0:
            host.under_way -= 1

    def choose(self, now_s: float, *, near: str, waiting: int | None) -> str:
        """Where one call runs; empty: here.

        Args:
            near: the host that holds its arguments; empty: none does.
            waiting: how many calls wait here; None: there is room.
        """
        hosts = self._hosts
        if not hosts:
            return ""
        if near and near != self._name:
            host = hosts.get(near)
            if host is not None and host.not_before_s <= now_s and self._draw(EXCEPTIONS):
                return near
        if waiting is None:
            return ""
        free = [host for host in hosts.values() if host.not_before_s <= now_s]
        if not free:
            return ""
        one, other = free[self._draw(len(free))], free[self._draw(len(free))]
        best = one if one.under_way <= other.under_way else other
        return best.name if best.under_way <= waiting else ""

    def shares(self, now_s: float, count: int) -> list[tuple[str, int]]:
        """How a fan-out of so many calls is split: host ("": this one) and its number of calls."""
        free = [host.name for host in self._hosts.values() if host.not_before_s <= now_s]
        parts = min(len(free) + 1, max(count // PART_CALLS_MIN, 1))
        if parts == 1:
            return [("", count)]
        start = self._draw(len(free))
        chosen = ["", *(free[start:] + free[:start])[: parts - 1]]
        each, left = divmod(count, parts)
        return [(name, each + (place < left)) for place, name in enumerate(chosen)]

    def _draw(self, below: int) -> int:
        """A number from 0, evenly (splitmix64)."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return (mixed ^ (mixed >> 31)) % below
