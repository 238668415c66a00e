"""Objects in an S3-compatible store, and the only import of obstore.

Decides how long a call may take and what its failures mean: a store that does not answer, or
refuses, is unreachable; only a plain "no such object" means that there is none. Who may write where
is told to obstore by its usual environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION
and, for a store that is not Amazon's, AWS_ENDPOINT_URL.

Does not know what objects hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from bokilog.errors import InvalidSettings, NodeUnreachable

TIMEOUT_S: Final = 30
"""For one request: an object of 16 MiB over a slow line."""
RETRY_S: Final = 60
"""Requests are repeated for so long before the store is called unreachable."""
RETRIES_MAX: Final = 5
ENDPOINTS: Final = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT")
"""Variables that may name a store that is not Amazon's."""


class ObjectStore:
    """A bucket, or a part of it under a prefix.

    Args:
        url: `s3://BUCKET[/PREFIX]`.
        retries_max: how often a request that failed is made again.
        patience_s: about how long a call may take in all; None: `TIMEOUT_S` for each request, and
            `RETRY_S` for those that are made again.

    Raises:
        InvalidSettings: the store cannot be named like that, here or in the environment.
    """

    def __init__(
        self, url: str, *, retries_max: int = RETRIES_MAX, patience_s: float | None = None
    ) -> None:
        _check_endpoints()
        self.where = url
        timeout = timedelta(seconds=TIMEOUT_S if patience_s is None else patience_s / 2)
        again = timedelta(seconds=RETRY_S if patience_s is None else patience_s / 2)
        try:
            self._store = S3Store.from_url(
                url,
                # An endpoint that is named says itself whether it speaks plain HTTP.
                client_options={"timeout": timeout, "allow_http": True},
                retry_config={
                    "max_retries": retries_max,
                    "retry_timeout": again,
                },
            )
        except BaseError as error:
            raise InvalidSettings("place", repr(url), f"does not work: {_line(error)}") from None

    def names(self) -> Iterable[str]:
        """See `Place.names`."""
        try:
            for listed in obstore.list(self._store):
                for each in listed:
                    yield each["path"]
        except (BaseError, OSError) as error:
            raise self._unreachable(error) from None

    def put(self, name: str, data: bytes) -> None:
        """See `Place.put`."""
        try:
            obstore.put(self._store, name, data)
        except (BaseError, OSError) as error:
            raise self._unreachable(error) from None

    def get(self, name: str) -> bytes | None:
        """See `Place.get`."""
        try:
            return bytes(obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise self._unreachable(error) from None

    def get_range(self, name: str, start: int, until: int) -> bytes | None:
        """Bytes `[start, until)` of an object; None if there is none of that name."""
        try:
            return bytes(obstore.get_range(self._store, name, start=start, end=until))
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise self._unreachable(error) from None

    def delete(self, name: str) -> None:
        """One that is not there is no error."""
        try:
            obstore.delete(self._store, name)
        except FileNotFoundError:
            pass
        except (BaseError, OSError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> NodeUnreachable:
        return NodeUnreachable(self.where, _line(error))


def _check_endpoints() -> None:
    """Refuse what obstore would end the process for, with its first request."""
    for name in ENDPOINTS:
        value = os.environ.get(name)
        if value is None:
            continue
        try:
            parts = urlsplit(value)
            is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and value.isascii()
            is_url = is_url and value.isprintable() and " " not in value and parts.port != 0
        except ValueError:  # as of a port that is no number
            is_url = False
        if not is_url:
            problem = "is no URL http(s)://HOST[:PORT]: leave it out for Amazon's own store"
            raise InvalidSettings(name, repr(value), problem)


def _line(error: Exception) -> str:
    """What the library says, without its pages of context."""
    return " ".join(str(error).partition("Debug source")[0].split())[:500]
