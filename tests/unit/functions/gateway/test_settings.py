"""A gateway listens where only this machine reaches it."""

from __future__ import annotations

import pytest

from bokilog.errors import InvalidSettings
from bokilog.functions.gateway.settings import GatewaySettings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_the_loopback_is_served(host: str) -> None:
    assert GatewaySettings(http_host=host).http_host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.com", ""])
def test_anything_else_is_refused_with_a_sentence(host: str) -> None:
    with pytest.raises(InvalidSettings, match="neither passwords nor TLS yet"):
        GatewaySettings(http_host=host)
