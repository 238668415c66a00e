"""Which ports nobody listens on now, for clusters of tests, benchmarks and demos.

Decides where to look: below the ports that operating systems give to connections that are made
meanwhile (from 32768 on Linux, from 49152 elsewhere), since one of those may be in use again before
the cluster listens on it. Two that look at the same time start at different places.
"""

from __future__ import annotations

import random
import socket
from typing import Final

FIRST: Final = 12_000
END: Final = 32_000
_TRIES: Final = 100
_SOURCE: Final = random.SystemRandom()
"""Not the seeded one: the tests of several processes would find the same ports."""


def free_ports(count: int = 1, *, host: str = "127.0.0.1") -> int:
    """The first of `count` ports in a row that nobody listens on.

    Raises:
        OSError: none was found in 100 tries.
    """
    for _ in range(_TRIES):
        first = _SOURCE.randrange(FIRST, END - count)
        if all(_is_free(host, first + number) for number in range(count)):
            return first
    raise OSError(f"no {count} free ports in a row between {FIRST} and {END} in {_TRIES} tries")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
