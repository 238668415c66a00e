"""A function of an app: called here as ever, or run by the app's function nodes.

Decides what each way of calling sends, and what of the caller goes along: its session, its depth,
what is left of its time. `f(...)` is the plain local call; `remote`, `map`, `stream` and `spawn`
go to a host. What carries them is the call that the code runs in, or the app's connection.

Does not know: links, how calls run, how durable calls are recorded (found by name, since that is
built upon this).
"""

from __future__ import annotations

import asyncio
import inspect
import random
import sys
import typing
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, update_wrapper
from importlib import import_module
from typing import Final, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import cloudpickle

from bokilog.call_errors import CallTimeout, CallTooDeep, UnknownFunction, WorkerLost
from bokilog.client.admin import ClientLog
from bokilog.client.session import Session
from bokilog.errors import InvalidSettings, NotSupported, UnavailableError, from_wire
from bokilog.framing import Buffer
from bokilog.functions.runtime import references
from bokilog.functions.runtime.caller import HostCalls, OpenCall, Request, error_of
from bokilog.functions.runtime.context import Context, LoopBridge, Place, current
from bokilog.functions.runtime.messages import DEPTH_MAX, Done, Encoding, Flag
from bokilog.functions.runtime.options import FunctionOptions
from bokilog.functions.runtime.streaming import SLICE_BYTES, MapResults, Stream, Window
from bokilog.functions.runtime.values import Values

P = ParamSpec("P")
L = TypeVar("L")
"""What a plain local call gives."""
R = TypeVar("R")
"""What it comes to: the result, or what it yields."""
R_co = TypeVar("R_co", covariant=True)

CONCURRENCY_ASYNC: Final = 100
"""Calls at once per worker of an async function that says nothing else."""
PICKLED: Final = "$pickled"
"""The function that every app has: it runs another one, which came along in its arguments."""
_CALLS_HOME: Final = "bokilog.functions.calls.api"


class Caller(Protocol):
    """What carries calls: the call that code runs in (`Context`), or a connection of the app."""

    @property
    def calls(self) -> HostCalls:
        """Where they go."""
        ...

    @property
    def child_depth(self) -> int:
        """Their depth."""
        ...

    @property
    def left_s(self) -> float:
        """They have no more time than this."""
        ...

    @property
    def trace(self) -> str:
        """What they belong to, as a W3C traceparent."""
        ...

    @property
    def host(self) -> str:
        """Of the node that the caller is on; empty: none."""
        ...

    @property
    def place(self) -> Place:
        """The process."""
        ...

    @property
    def children(self) -> set[OpenCall]:
        """Those under way."""
        ...

    def token(self) -> str:
        """What they have to see."""
        ...

    def merge(self, token: str) -> None:
        """One of them has seen this."""
        ...

    def session_for(self, log: ClientLog) -> Session:
        """For payloads by reference."""
        ...

    async def connected_log(self) -> ClientLog | None:
        """The log; None where there is none."""
        ...


class Home(Protocol):
    """What a function needs of its app."""

    @property
    def name(self) -> str:
        """Of the app."""
        ...

    def caller(self) -> Caller:
        """What carries calls made here and now; raises `NotReady` where nothing does."""
        ...

    def knows(self, function: str) -> bool:
        """Whether hosts have a function of that name, as far as is known here."""
        ...


class Body(Protocol):
    """The user's code, where its parameters are a matter of run time."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Run it."""
        ...


class CallStatus(Protocol):
    """How a durable call stands; `functions/calls/api.py` has more of it."""

    @property
    def state(self) -> str:
        """waiting, running, finished, failed or cancelled."""
        ...

    @property
    def attempt(self) -> int:
        """How often it was started again."""
        ...


class SpawnedCall(Protocol[R_co]):
    """A durable call, as `spawn` gives it: a `bokilog.Call` whose result has a type."""

    @property
    def id(self) -> str:
        """What people and records call it by."""
        ...

    async def result(self, timeout_s: float | None = None) -> R_co:
        """Wait for it."""
        ...

    async def cancel(self, reason: str = "") -> bool:
        """It is not wanted any more; False: it was over already."""
        ...

    async def status(self) -> CallStatus:
        """How it stands now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """How calls through one `with_options` differ from the function's own options."""

    key: str | None = None
    timeout_s: float | None = None
    retries: int | None = None


_AS_DECLARED: Final = CallOptions()


class Function(Generic[P, L, R]):
    """A function that was given to `@app.function`.

    Args:
        home: its app.
        body: what the user wrote.
        name: what it is called by.
        options: how it is run.
    """

    __name__: str

    def __init__(
        self, home: Home, body: Callable[P, L], *, name: str, options: FunctionOptions
    ) -> None:
        self.home = home
        self.body = body
        self.name = name
        self.options = options
        self.call_options = _AS_DECLARED
        self.yields_async = inspect.isasyncgenfunction(body)
        self.yields = self.yields_async or inspect.isgeneratorfunction(body)
        """It is a stream."""
        self.is_async = inspect.iscoroutinefunction(body)
        self._values: Values | None = None
        self._context_name: str | None = None
        self._context_at = 0
        update_wrapper(self, body)

    def __repr__(self) -> str:
        return f"<function {self.name!r} of app {self.home.name!r}>"

    def __reduce__(self) -> tuple[object, ...]:
        # Functions that are sent along may use this one: it finds its app where it arrives.
        said = (self.home, self.body, self.name, self.options, self.call_options)
        return _function_of, said

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> L:
        """The plain local call: runs the user's code here and now."""
        if self.context_name is not None:
            given = any(isinstance(each, Context) for each in (*args, *kwargs.values()))
            here = current.get()
            if not given and here is not None:
                positional, named = self.with_context(here, list(args), dict(kwargs))
                return cast("L", cast("Body", self.body)(*positional, **named))
        return self.body(*args, **kwargs)

    # --- what hosts and workers need ---

    @property
    def values(self) -> Values:
        """How its arguments and result travel; found out at first use, when all names are there."""
        if self._values is None:
            self._values = self._look()
        return self._values

    @property
    def context_name(self) -> str | None:
        """The parameter that gets the call's `Context`, if there is one."""
        if self._values is None:
            self._values = self._look()
        return self._context_name

    @property
    def concurrency(self) -> int:
        """Calls at once per worker."""
        is_async = self.is_async or self.yields_async
        return self.options.max_concurrency or (CONCURRENCY_ASYNC if is_async else 1)

    @property
    def help_line(self) -> str:
        """What the first line of its docstring says."""
        return (inspect.getdoc(self.body) or "").partition("\n")[0]

    @property
    def row(self) -> list[object]:
        """[name, options, signature, help line], as hosts tell one another."""
        plain = self.options.to_plain()
        plain["max_concurrency"] = self.concurrency  # only here it is known what the default is
        return [self.name, plain, self.values.signature, self.help_line]

    def with_context(
        self, context: Context, positional: list[object], named: dict[str, object]
    ) -> tuple[list[object], dict[str, object]]:
        """The arguments with the call's context, where the function asks for one."""
        if self.context_name is not None:
            if len(positional) > self._context_at:
                positional.insert(self._context_at, context)
            else:
                named[self.context_name] = context
        return positional, named

    def _look(self) -> Values:
        hints = _hints_of(self.body)
        parameters = []
        for at, each in enumerate(inspect.signature(self.body).parameters.values()):
            annotation = hints.get(each.name, inspect.Parameter.empty)
            if _is_context(annotation):
                if each.kind in (each.POSITIONAL_ONLY, each.VAR_POSITIONAL, each.VAR_KEYWORD):
                    problem = "is a Context that cannot be given by name"
                    raise InvalidSettings(f"{self.name}({each.name})", str(each), problem)
                self._context_name, self._context_at = each.name, at
            else:
                parameters.append(each.replace(annotation=annotation))
        result = hints.get("return", inspect.Parameter.empty)
        if self.yields:
            result = next(iter(typing.get_args(result)), inspect.Parameter.empty)
        return Values(self.name, parameters, result=result)

    # --- calls ---

    async def remote(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it on a function node and wait for its result.

        Raises:
            InvalidArguments: they do not fit; nothing was sent.
            CallTimeout, CallTooDeep, WorkerLost, Overloaded: it could not be run to its end.
            FunctionFailed: it raised something that cannot be sent; else the exception itself is
                raised, with the remote traceback as a note.

        If cancelled, the call and the calls that it made are cancelled, but may be over already.
        """
        if self.yields:
            raise NotSupported(f"{self.name}.remote", f"it yields: use {self.name}.stream(...)")
        if self.call_options.key is not None:
            return await (await self.spawn(*args, **kwargs)).result()
        caller = self.home.caller()
        name, encoding, payload = self._travelling(args, kwargs)
        attempts_left = self.call_options.retries or 0
        attempt = 0
        while True:
            try:
                done = await self._run(caller, name, (encoding, payload), attempt)
            except UnavailableError:
                if attempt >= attempts_left:
                    raise
            else:
                if attempt >= attempts_left or not _was_lost(done):
                    return await self._result(caller, done)
            attempt += 1
            await asyncio.sleep(_retry_delay_s(self.options.retry_delay_s, attempt))

    def call(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """`remote` for sync functions: it blocks this thread, never an event loop.

        Raises:
            WrongLoop: this thread runs an event loop: there, `await f.remote(...)`.
        """
        here = current.get()
        if here is None:
            raise NotSupported(f"{self.name}.call", "it is for functions that run in threads")
        return LoopBridge(here.place.loop).call(self.remote(*args, **kwargs))

    async def spawn(self, *args: P.args, **kwargs: P.kwargs) -> SpawnedCall[R]:
        """Have it run even if everything here dies: once this returns, the call is in the log.

        With a key (`with_options(key=...)`) the same call again gives the first one.

        Raises:
            InvalidArguments: they do not fit; nothing was recorded.
            NotSupported: there is no log here.

        If cancelled, the call may have been recorded.
        """
        caller = self.home.caller()
        depth = caller.child_depth
        if depth > DEPTH_MAX:
            raise CallTooDeep(self.name, depth, DEPTH_MAX)
        name, encoding, payload = self._travelling(args, kwargs)
        log = await caller.connected_log()
        if log is None:
            problem = "durable calls are records, and no log is connected here"
            raise NotSupported(f"{self.name}.spawn", problem)
        if caller.place.before_spawn is not None:
            await caller.place.before_spawn()
        call = await _spawn()(
            log,
            self.home.name,
            name,
            encoding=encoding,
            payload=payload,
            key=self.call_options.key,
            timeout_s=self._timeout_s,
            retries=self._retries,
            retry_delay_s=self.options.retry_delay_s,
            session=caller.session_for(log),
            decode=self.values.decode_result,
            trace=caller.trace,
            stream=self.yields,
            depth=depth,
        )
        return cast("SpawnedCall[R]", call)

    def map(
        self, *iterables: Iterable[object], ordered: bool = True, progress: bool = False
    ) -> MapResults[R]:
        """Call it for each item (of several iterables: for each tuple), as `async for` asks.

        Args:
            iterables: as of the built-in `map`; not read further ahead than calls are under way.
            ordered: results in the order of the items, else as they come.
            progress: show a bar on stderr.

        The first error is raised where its result would stand, and ends the others.
        """
        if not iterables:
            raise InvalidSettings("iterables", "()", "is empty: map needs something to call with")
        caller = self.home.caller()

        def start(slices: Sequence[Sequence[object]]) -> Coroutine[object, None, list[OpenCall]]:
            return self._start_many(caller, slices)

        def result(done: Done) -> Coroutine[object, None, R]:
            return self._result(caller, done)

        total = min(
            (len(each) for each in iterables if isinstance(each, typing.Sized)), default=None
        )
        return MapResults(
            zip(*iterables, strict=False),
            start=start,
            result=result,
            calls=caller.calls,
            window=self._window(),
            ordered=ordered,
            shown=self.name if progress else None,
            total=total,
        )

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> Stream[R]:
        """Run it on a function node and take what it yields: `async for item in f.stream(...)`.

        No more than a window of items is under way, so a slow reader slows the function. Leaving
        the loop early (`aclose`, or `async with`) cancels the call.
        """
        caller = self.home.caller()
        name, encoding, payload = self._travelling(args, kwargs)

        async def start() -> OpenCall:
            await caller.calls.wait_up(min(self._timeout_s, caller.left_s))
            carried = await self._carried(caller, encoding, payload)
            request = self._request(caller, name, carried[0], flags=Flag.STREAM)
            return _child(caller, caller.calls.start(request, carried[1]))

        async def item(encoding: int, payload: Buffer) -> R:
            return await self._decoded(caller, encoding, payload)

        async def end(done: Done) -> None:
            caller.merge(done.token)
            if done.error:
                raise error_of(done)

        return Stream(start=start, item=item, end=end, calls=caller.calls)

    def with_options(
        self, *, key: str | None = None, timeout_s: float | None = None, retries: int | None = None
    ) -> Function[P, L, R]:
        """The same function, its calls with other options.

        Args:
            key: the same key again gives the result of its first call: it is recorded, as by
                `spawn`.
            timeout_s: instead of the function's own.
            retries: how often a call is started again when its worker or its host is lost.
        """
        said = {"timeout_s": timeout_s, "retries": retries}
        # Checked as the function's own are, and refused by the same words.
        replace(self.options, **{name: each for name, each in said.items() if each is not None})  # type: ignore[arg-type]
        changed = CallOptions(key=key, timeout_s=timeout_s, retries=retries)
        other: Function[P, L, R]
        other = _function_of(self.home, self.body, self.name, self.options, changed)
        other._values, other._context_name = self.values, self._context_name
        other._context_at = self._context_at
        return other

    # --- the ways of all calls ---

    def _window(self) -> Window:
        at_once = self.concurrency * self.options.max_workers
        room = self.options.queue_limit // 2
        first = max(self.concurrency, min(2 * at_once, room))
        return Window(first, at_once + room, timeout_s=self._timeout_s)

    @property
    def _timeout_s(self) -> float:
        return self.call_options.timeout_s or self.options.timeout_s

    @property
    def _retries(self) -> int:
        said = self.call_options.retries
        return self.options.retries if said is None else said

    def _travelling(
        self, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[str, Encoding, bytes]:
        """(function, encoding, payload): hosts that do not know the function get it along."""
        encoding, payload = self.values.encode_arguments(args, kwargs)
        if self.home.knows(self.name):
            return self.name, encoding, payload
        if self.body.__module__ in sys.modules and not _is_made_here(self.body):
            hint = f": no host of app {self.home.name!r} has it (an older version of the app?)"
            raise UnknownFunction(self.name, hint)
        pickled: bytes = cloudpickle.dumps(([self.body, *args], dict(kwargs)))
        return PICKLED, Encoding.PICKLE, pickled

    def _request(
        self, caller: Caller, name: str, encoding: int, *, attempt: int = 0, flags: int = 0
    ) -> Request:
        depth = caller.child_depth
        if depth > DEPTH_MAX:
            raise CallTooDeep(self.name, depth, DEPTH_MAX)
        timeout_s = min(self._timeout_s, caller.left_s)
        if timeout_s <= 0:
            raise CallTimeout(self.name, self._timeout_s)
        return Request(
            name,
            encoding,
            timeout_s,
            depth,
            attempt,
            flags,
            f"{random.getrandbits(64):016x}",
            caller.token(),
            caller.trace,
        )

    async def _run(
        self, caller: Caller, name: str, carried: tuple[int, bytes], attempt: int
    ) -> Done:
        if len(carried[1]) > references.BY_REFERENCE_BYTES:
            carried = await self._carried(caller, *carried)
        if not caller.calls.up:
            await caller.calls.wait_up(min(self._timeout_s, caller.left_s))
        request = self._request(caller, name, carried[0], attempt=attempt)
        opened = caller.calls.start(request, carried[1])
        caller.children.add(opened)
        try:
            return await caller.calls.wait(opened)
        finally:
            caller.children.discard(opened)

    async def _carried(self, caller: Caller, encoding: int, payload: bytes) -> tuple[int, bytes]:
        if len(payload) <= references.BY_REFERENCE_BYTES:
            return encoding, payload
        log = await caller.connected_log()
        if log is None:
            return encoding, payload
        return await references.keep(
            log,
            self.home.name,
            encoding=encoding,
            payload=payload,
            host=caller.host,
            session=caller.session_for(log),
        )

    async def _start_many(
        self, caller: Caller, slices: Sequence[Sequence[object]]
    ) -> list[OpenCall]:
        """Calls for several tuples of arguments, in as few messages as they allow."""
        await caller.calls.wait_up(min(self._timeout_s, caller.left_s))
        opened: list[OpenCall] = []
        together: list[Buffer] = []
        kind, size_bytes = (self.name, 0), 0
        try:
            for arguments in slices:
                name, encoding, payload = self._travelling(arguments, {})
                carried = await self._carried(caller, encoding, payload)
                if kind != (name, carried[0]) or size_bytes + len(carried[1]) > SLICE_BYTES:
                    opened += self._start_together(caller, kind, together)
                    together, size_bytes = [], 0
                kind = name, carried[0]
                together.append(carried[1])
                size_bytes += len(carried[1])
            opened += self._start_together(caller, kind, together)
        except BaseException:
            for each in opened:
                caller.calls.cancel(each, "others of its map could not be started")
            raise
        return opened

    def _start_together(
        self, caller: Caller, kind: tuple[str, int], payloads: Sequence[Buffer]
    ) -> list[OpenCall]:
        if not payloads:
            return []
        opened = caller.calls.start_many(self._request(caller, *kind), payloads)
        return [_child(caller, each) for each in opened]

    async def _result(self, caller: Caller, done: Done) -> R:
        caller.merge(done.token)
        if done.error:
            raise error_of(done)
        return await self._decoded(caller, done.encoding, done.payload)

    async def _decoded(self, caller: Caller, encoding: int, payload: Buffer) -> R:
        if encoding == Encoding.REFERENCE:
            log = await caller.connected_log()
            if log is None:
                problem = "its result is a record, and no log is connected here"
                raise NotSupported(self.name, problem)
            encoding, payload = await references.fetch(log, payload, caller.session_for(log))
        return cast("R", self.values.decode_result(encoding, payload))


def _function_of(
    home: Home, body: Callable[P, L], name: str, options: FunctionOptions, changed: CallOptions
) -> Function[P, L, R]:
    function: Function[P, L, R] = Function(home, body, name=name, options=options)
    function.call_options = changed
    return function


AnyFunction: TypeAlias = Function[[], object, object]
"""One whose types are a matter of run time."""


class Spawn(Protocol):
    """How a durable call is recorded; `functions/calls/api.py` has it."""

    async def __call__(
        self,
        log: ClientLog,
        app: str,
        function: str,
        *,
        encoding: int,
        payload: bytes,
        key: str | None,
        timeout_s: float,
        retries: int,
        retry_delay_s: float,
        session: Session,
        decode: Callable[[int, Buffer], object],
        trace: str,
        stream: bool,
        depth: int,
    ) -> object:
        """Append it and return its handle."""
        ...


@cache
def _spawn() -> Spawn:
    """Found once: to look a module up takes as long as to encode a call."""
    return cast("Spawn", import_module(_CALLS_HOME).spawn)


def _was_lost(done: Done) -> bool:
    """Whether it is no fault of the function that the call is over."""
    return bool(done.error) and isinstance(from_wire(done.error), (WorkerLost, UnavailableError))


def _child(caller: Caller, opened: OpenCall) -> OpenCall:
    """A call that its caller does not wait for at once is cancelled with it all the same."""
    caller.children.add(opened)
    opened.done.add_done_callback(lambda _: caller.children.discard(opened))
    return opened


def _hints_of(body: Callable[P, L]) -> dict[str, object]:
    """The annotations that can be made out; a name that is there for type checkers only is none."""
    try:
        return typing.get_type_hints(body, include_extras=True)
    except NameError:
        texts = getattr(body, "__annotations__", {})
    found: dict[str, object] = {}
    for name, annotation in texts.items():
        known = {**getattr(body, "__globals__", {}), "Context": Context}
        try:
            found[name] = eval(annotation, known) if isinstance(annotation, str) else annotation
        except Exception:  # whatever a half-known annotation raises
            if isinstance(annotation, str) and annotation.endswith("bokilog.Context"):
                found[name] = Context
    return found


def _is_context(annotation: object) -> bool:
    return annotation is Context or Context in typing.get_args(annotation)


def _is_made_here(body: Callable[P, L]) -> bool:
    """Whether it was written into a program or a notebook: no other process can import it."""
    return body.__module__ == "__main__" or "<locals>" in body.__qualname__


def _retry_delay_s(first_s: float, attempt: int) -> float:
    doubled: float = min(first_s * 2.0 ** (attempt - 1), 60.0)
    return doubled * (1.0 - random.random() / 2.0)
