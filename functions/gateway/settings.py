"""What an operator may tune of a gateway.

It listens on this machine only: a gateway asks nobody who they are and speaks no TLS yet.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from bokilog.errors import InvalidSettings
from bokilog.io.settings import PORT_MAX, check_setting
from bokilog.limits import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """How the gateway of one host serves HTTP."""

    http_host: str = "127.0.0.1"
    """Where it listens: an address of this machine's loopback, or `localhost`."""
    http_port: int = 7380
    """0: any free one."""
    body_bytes_max: int = 64 * MIB
    """A larger body is refused with 413 as soon as that is known."""
    body_timeout_s: float = 60.0
    """A client that takes longer to send its body is answered 408."""
    send_timeout_s: float = 60.0
    """A client that takes nothing of a stream for so long loses its connection; it can resume."""
    wait_s_max: float = 60.0
    """How long one long poll may wait; the client asks again."""
    drain_s: float = 5.0
    """How long a stop waits for answers that are on their way; then they are told."""
    show_traces: bool = False
    """Whether a failed function's traceback is part of the answer, as `bokilog dev` wants it."""

    def __post_init__(self) -> None:
        check_setting("http_port", self.http_port, least=0, most=PORT_MAX)
        check_setting("body_bytes_max", self.body_bytes_max, least=1 << 10, most=1 << 30)
        for name in ("body_timeout_s", "send_timeout_s", "wait_s_max", "drain_s"):
            check_setting(name, getattr(self, name), least=0.01, most=3_600)
        if not is_loopback(self.http_host):
            problem = (
                "is not on this machine's loopback: a gateway knows neither passwords nor TLS yet, "
                "so everybody who reaches it may do everything; put a proxy that does before it"
            )
            raise InvalidSettings("http_host", self.http_host, problem)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address means this machine and no other can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
