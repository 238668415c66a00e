"""Errors as HTTP answers: status, headers, and a problem body (RFC 9457).

Decides which status an error has. The body carries what `BokilogError` says: its class as `type`,
its text as `detail`, `retryable` and `definite`, and its attributes by name, so that a client in
any language may conclude what a Python one may. Does not know requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from math import ceil
from typing import Final

from bokilog import call_errors, errors
from bokilog.errors import BokilogError

CONTENT_TYPE: Final = "application/problem+json"
_STATUS: Final[Mapping[type[BokilogError], int]] = {
    errors.UnknownLogBook: 404,
    errors.LogBookConflict: 409,
    errors.NotSupported: 501,
    errors.RecordTooLarge: 413,
    errors.UnitTooLarge: 413,
    errors.KeyReused: 422,
    errors.TagsEnded: 410,
    errors.Closed: 503,
    errors.ConditionFailed: 412,
    errors.ReadTimeout: 504,
    errors.AppendUnknown: 504,
    errors.Overloaded: 429,
    errors.ReadOnly: 507,
    errors.Trimmed: 410,
    errors.HistoryChanged: 409,
    call_errors.FunctionFailed: 500,
    call_errors.UnknownFunction: 404,
    call_errors.InvalidArguments: 400,
    call_errors.CallTimeout: 504,
    call_errors.CallCancelled: 409,
    call_errors.WorkerLost: 502,
    call_errors.CallTooDeep: 508,
    call_errors.ResultUnusable: 500,
    call_errors.UnknownCall: 404,
    call_errors.AppFailed: 503,
}
_FAMILY: Final = ((errors.UsageError, 400), (errors.UnavailableError, 503), (BokilogError, 500))
_RETRY_AFTER_S: Final = 1
"""What 429 and 503 say at least: the header has whole seconds."""
_TRACES: Final = frozenset({"trace"})
_TOO_DEEP: Final = call_errors.CallTooDeep


@dataclass(frozen=True, slots=True)
class Problem:
    """One answer that says what is wrong."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def of_error(error: BokilogError, *, call_id: str = "", show_traces: bool = False) -> Problem:
    """The answer for an error; `call_id` is named where there is a call."""
    kind = type(error)
    status = _STATUS.get(kind)
    if status is None:
        status = next(each for family, each in _FAMILY if isinstance(error, family))
    if isinstance(error, call_errors.FunctionFailed) and error.type_name == _TOO_DEEP.__name__:
        status = _STATUS[_TOO_DEEP]  # it was raised far below, and came up through all of them
    shown = {
        name: value
        for name, value in vars(error).items()
        if isinstance(value, (int, float, str)) or value is None
        if show_traces or name not in _TRACES
    }
    extra: dict[str, object] = {"code": error.code, "retryable": error.retryable}
    extra |= {"definite": error.definite, **shown}
    if call_id:
        extra["call"] = call_id
    retry_after_s = error.retry_after_s if isinstance(error, errors.Overloaded) else 0.0
    return _problem(status, kind.__name__, str(error), extra, retry_after_s=retry_after_s)


def of_request(status: int, detail: str, **extra: object) -> Problem:
    """The answer to a request that is wrong by itself, before any function or LogBook is asked."""
    title = HTTPStatus(status).phrase.replace(" ", "")
    may_conclude = {"retryable": status == HTTPStatus.REQUEST_TIMEOUT, "definite": True}
    return _problem(status, title, detail, may_conclude | extra)


def _problem(
    status: int,
    title: str,
    detail: str,
    extra: Mapping[str, object],
    *,
    retry_after_s: float = 0.0,
) -> Problem:
    body = {"type": f"urn:bokilog:{title}", "title": title, "status": status, "detail": detail}
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(max(ceil(retry_after_s), _RETRY_AFTER_S))
    told = {name: value for name, value in extra.items() if name not in body}
    return Problem(status, json.dumps(body | told).encode(), headers)
