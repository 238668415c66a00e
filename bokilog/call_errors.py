"""The errors of functions and calls; the same taxonomy as `errors.py`, whose table they join.

Decides what a caller may conclude from a call that failed. A file of its own, since a log is opened
without them: whoever deals in calls imports this module, and only then their codes are known.
"""

from __future__ import annotations

from bokilog.errors import BokilogError, UsageError, register

__all__ = [
    "AppFailed",
    "CallCancelled",
    "CallTimeout",
    "CallTooDeep",
    "FunctionFailed",
    "InvalidArguments",
    "ResultUnusable",
    "UnknownCall",
    "UnknownFunction",
    "WorkerLost",
]


class FunctionFailed(BokilogError):
    """The function raised: the name of the exception's type, its text, and its traceback."""

    code = 100
    definite = False
    text = "{function} raised {type_name}: {problem}"
    function: str
    type_name: str
    problem: str
    trace: str = ""

    def __str__(self) -> str:
        return super().__str__().removesuffix(": ")  # many exceptions have no text of their own


class UnknownFunction(UsageError):
    """The app has no function of that name; `hint` names what it has."""

    code = 101
    text = "no function {function!r}{hint}"
    function: str
    hint: str = ""


class InvalidArguments(UsageError):
    """An argument is missing, is not known, or is not of its type."""

    code = 102
    text = "{function}: argument {argument!r} {problem}"
    function: str
    argument: str
    problem: str


class CallTimeout(BokilogError, TimeoutError):
    """The call was not over at its deadline; it may have done part or all of its work."""

    code = 103
    definite = False
    text = "{function} was not over within {timeout_s:g} s"
    function: str
    timeout_s: float


class CallCancelled(BokilogError):
    """The call was cancelled; it may have done part of its work."""

    code = 104
    definite = False
    text = "{function} was cancelled: {reason}"
    function: str
    reason: str


class WorkerLost(BokilogError):
    """The process that ran the call is gone; what the call had done is unknown."""

    code = 105
    retryable = True
    definite = False
    text = "the worker that ran {function} is gone: {reason}"
    function: str
    reason: str


class CallTooDeep(UsageError):
    """Functions call one another without end, or nearly."""

    code = 106
    text = "{function} would run at depth {depth} of calls within calls: the limit is {limit}"
    function: str
    depth: int
    limit: int


class ResultUnusable(BokilogError):
    """The function is over, but what it returned cannot be sent back."""

    code = 107
    definite = False
    text = "{function} is over, but its result {problem}"
    function: str
    problem: str


class UnknownCall(UsageError):
    """No call of that id is known, or it is over for longer than calls are kept."""

    code = 108
    text = "no call {call_id!r}"
    call_id: str


class AppFailed(BokilogError):
    """The app could not be imported or initialised; `reason` has the traceback."""

    code = 109
    text = "app {app!r} could not be loaded: {reason}"
    app: str
    reason: str


register(
    *(FunctionFailed, UnknownFunction, InvalidArguments, CallTimeout, CallCancelled, WorkerLost),
    *(CallTooDeep, ResultUnusable, UnknownCall, AppFailed),
)
